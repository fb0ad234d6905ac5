"""``python -m runner`` and the ``lastrun`` script."""

import atexit
import gc
import os
import signal
import sys


def main() -> None:
    """Run the command line."""
    # Ctrl-C while modules are still being imported ends us without a traceback; who has something to save takes it over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Before it ends Python goes through all there is for garbage, which the system takes back anyhow: a tenth of most commands.
    atexit.register(gc.freeze)
    # pydantic would read the metadata of every installed package in search of plugins, which have no business in a job.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from last_e.process import have_standard_streams, import_nothing_from_here, importing

    have_standard_streams()
    import_nothing_from_here()
    if sys.argv[1:2] == ["__complete"]:  # a shell that waits for somebody who has pressed Tab
        from runner.completion.answer import main as complete

        complete(sys.argv[2:])
        return
    with importing():
        from runner.commands.app import main as run

    run()


if __name__ == "__main__":
    main()
