"""``python -m last_e``."""

from last_e.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
