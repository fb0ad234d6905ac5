"""Attempts on other machines, through OpenSSH's own client."""
