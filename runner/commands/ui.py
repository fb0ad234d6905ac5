"""``lastrun ui``: a store's jobs in a browser, live."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.commands.options import JsonOption, StoreOption


def ui(
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=1, max=65535, help="where; default: any that is free")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open a browser", show_default=False)] = True,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10**5, help="how many jobs, newest first")] = 2000,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show the jobs of a store in a browser of this machine, live: find, follow, compare, stop, resume."""
    from runner.job.find import store_with_jobs
    from runner.ui.serve import serve
    from runner.view.console import json_text, print_json, say

    target = store_with_jobs(store)
    told: list[str] = []

    def tell(address: str) -> None:
        told.append(address)
        facts = {"store": target.uri, "address": address}
        if json and len(told) == 1:
            print_json("ui", facts, line=True)
        elif json:  # who has come in is not thrown out because nobody reads any more
            say(json_text("ui", facts, None))
        elif len(told) == 1:
            say(f"{target.uri} is shown, to this machine alone, at\n  {address}")
            say("(for one browser, once; Ctrl-C ends this, and leaves jobs alone)")
        else:
            say(f"a browser has come in; for another one:\n  {address}")

    serve(target, port=port, limit=limit, browser=browser and not json, tell=tell)
    if not json:
        say("ended; jobs go on")
