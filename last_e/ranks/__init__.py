"""One training run as several processes, a rank each, with the result of one."""
