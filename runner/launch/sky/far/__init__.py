"""What runs by the Python that has SkyPilot."""
