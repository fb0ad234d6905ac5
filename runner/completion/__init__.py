"""What a shell asks when somebody presses Tab: answered within a tenth of a second, from what was kept of the last time."""
