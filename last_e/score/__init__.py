"""Checkpoints scored anew on clips: what they are right and wrong in, and how sure that is."""
