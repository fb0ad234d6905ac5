"""A whole training step on a CUDA device that is not there: what it is made of, without its numbers.

torch's FakeTensorMode has tensors of every device, with shapes and formats and no memory. A CPU build takes those of CUDA only
where something plays the device for it: ``device.cpp``, which is compiled for the test and loaded before torch, in a process of
its own (``step.py``). There all that torch is asked for is written down (``recorder.py``). It says nothing of speed, and of
kernels and bytes as much as torch's sources say of each operation.
"""
