"""Machines, a store and time that are made up, and the runner's own code among them, in outages that last for minutes."""
