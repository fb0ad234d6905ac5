"""All that the store keeps of one job, and who may run it."""
