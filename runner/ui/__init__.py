"""A store's jobs in a browser of this machine, live."""
