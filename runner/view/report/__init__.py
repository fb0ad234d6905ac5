"""A job's report, or that of several: one HTML page that needs no network."""
