"""``lastrun plan``: what a job would take on each profile, from measurements where there are some."""
