"""Python imports this first where PYTHONPATH names its folder: the folders of lastrun's processes count, or are far away, and
its trainer says when it begins."""

import os
import sys
import time
from pathlib import Path

with Path(os.environ["LASTRUN_TEST_CALLS"]).open("a") as file:
    file.write(f"{time.time()} {os.getpid()} start 0 {' '.join(sys.orig_argv[1:4])}\n")
if "runner" in sys.orig_argv:
    from runner.store import directory
    from tests.counting.store import DELAY, CountingStore, FarStore

    directory.DirectoryStore = FarStore if DELAY in os.environ else CountingStore
