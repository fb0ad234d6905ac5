"""``python -m last_e``."""

import signal

if __name__ == "__main__":
    # Ctrl-C while modules are still being imported ends us without a traceback; the trainer takes it over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from last_e.cli import main

    raise SystemExit(main())
