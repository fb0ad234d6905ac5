"""Attempts in containers of a Docker engine, here or elsewhere."""
