"""Weights that a run begins with: read from whatever file they are in, fitted to its network, frozen in part."""

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
"""Of files that may hold some."""
