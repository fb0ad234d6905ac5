"""The job runner. Never imports torch: every command but the training itself works without it."""
