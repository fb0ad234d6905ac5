#!/usr/bin/env python3
"""The reference's command line; the same as ``python -m last_e``."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed works too
    runpy.run_module("last_e", run_name="__main__")
