"""How fast the trainer is, against the same written straight down, in one run on one machine."""
