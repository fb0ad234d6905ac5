#!/usr/bin/env python3
"""The reference's command line; the same as ``python -m last_e``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed works too

from last_e.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
