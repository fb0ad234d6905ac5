"""The sections of ``benchmarks/gpu.py``: what is right, what is fast, what might be faster."""
