"""Telling people how attempts end and what became of them: what is said, to whom, and who has been told."""
