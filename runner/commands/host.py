"""``lastrun host``: the machines that ``--on`` means, looked at and cleaned; ``runner.launch.ssh`` does it."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.commands.options import JsonOption, StoreOption

host_app = typer.Typer(help="Machines that ssh reaches", no_args_is_help=True, rich_markup_mode=None)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="as ssh or [hosts] of config.toml know it")]


@host_app.command(name="list")
def list_(json: JsonOption = False) -> None:
    """Hosts of your settings, and those that attempts were started on from here."""
    from runner.launch.ssh import notes
    from runner.settings import read_settings
    from runner.view.console import print_json
    from runner.view.host import print_hosts

    settings, started = read_settings(), notes.hosts()
    rows = [
        {"name": name, "ssh": settings.host(name).ssh, "env": settings.host(name).env, "attempts": started.count(name)}
        for name in dict.fromkeys([*settings.hosts, *sorted(started)])
    ]
    if json:
        print_json("host list", {"hosts": rows})
    else:
        print_hosts(rows)


@host_app.command()
def check(name: NameArgument, store: StoreOption = None, json: JsonOption = False) -> None:
    """Set a host up if it is not, and tell what it is and whether jobs of the store could run there."""
    from runner.errors import Exit
    from runner.launch.ssh.launcher import look, misfit
    from runner.launch.ssh.setup import named
    from runner.settings import read_settings
    from runner.store.open import default_store, open_store
    from runner.view.console import print_json
    from runner.view.host import print_host

    env = read_settings().host(name).env
    found = look(named(name), open_store(default_store() if store is None else store).uri, None, env)
    if what := misfit(found):
        found["problems"].append(f"its profile in config.toml is {env}, and it {what}: write the one that fits it, or none")
    if json:
        print_json("host check", {"name": name, **found["facts"], "problems": found["problems"]})
    else:
        print_host(name, found["facts"], found["problems"])
    raise typer.Exit(Exit.NO_ENGINE if found["problems"] else Exit.DONE)


@host_app.command()
def clean(
    name: NameArgument,
    force: Annotated[bool, typer.Option("--force", help="also what attempts could not send to their store")] = False,
    json: JsonOption = False,
) -> None:
    """Remove all that lastrun has put onto a host."""
    from runner.launch.ssh.setup import named
    from runner.view.console import print_json, show

    found = named(name).clean(force)
    if json:
        print_json("host clean", {"name": name, **found})
    else:
        show(f"{name}: {found['removed']} was removed" if found["removed"] else f"{name}: there was nothing of lastrun's")
