"""Attempts on machines of clouds, through SkyPilot: one cluster for each, and gone when the attempt is over."""
