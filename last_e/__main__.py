"""``python -m last_e``."""

import os
import signal
import sys
from contextlib import suppress

if __name__ == "__main__":
    # Ctrl-C while modules are still being imported ends us without a traceback; the trainer takes it over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from last_e.light import import_torch_lightly
    from last_e.process import have_standard_streams, import_nothing_from_here, importing

    have_standard_streams()
    import_nothing_from_here()
    import_torch_lightly()
    with importing():
        from last_e.cli import main

    code = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it any more, or it was closed before
            stream.flush()
    os._exit(code)  # all is written and closed: taking torch apart would take another half second
