"""Machines, a store and time that are made up, and the runner's own code among them: what it does in outages that last minutes."""
