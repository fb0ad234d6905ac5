"""Everything that is tested. What stands here happens before any test file, and with it torch, is imported."""

from last_e.environment import share_cores

share_cores()  # several test processes at once, and others on the machine: threads that spin would only keep them waiting
