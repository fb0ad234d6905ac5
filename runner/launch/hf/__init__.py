"""Attempts as jobs of Hugging Face: a machine by the minute, and gone when the attempt is over."""
