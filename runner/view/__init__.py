"""What people see; every command also has ``--json``."""
