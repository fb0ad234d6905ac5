"""``lastrun completion``: what a shell has to read so that Tab completes commands, options, keys and jobs."""

from __future__ import annotations

from typing import Annotated

import typer


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="the shell that is to read it")],
) -> None:
    """Print what makes Tab complete commands, options, keys and jobs: eval "$(lastrun completion bash)" in ~/.bashrc."""
    from runner.errors import UsageError
    from runner.view.console import show
    from runner.view.shells import SCRIPTS

    if shell not in SCRIPTS:
        raise UsageError(f"completion: found {shell!r}; allowed: {', '.join(SCRIPTS)}")
    show(SCRIPTS[shell], end="")
