"""Kernels for GPUs on a machine that has none: their numbers, and what they take of each kind of GPU.

Triton reads what it is to do with a kernel from the environment as it is imported, so each is asked of a process of its own.
"""
