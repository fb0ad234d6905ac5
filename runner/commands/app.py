"""The command line: wires, decides nothing. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from copy import copy
from typing import Annotated, Any, NoReturn

import typer

from last_e.process import discard_output
from runner.commands import check, groups, judge, keep, look, predict, run, show
from runner.commands.bench import bench
from runner.commands.copy import cp
from runner.commands.data import data_app
from runner.commands.export import demo_page, export
from runner.commands.host import host_app
from runner.commands.image import image_app, probe
from runner.commands.init import init
from runner.commands.shell import completion
from runner.commands.ui import ui
from runner.commands.watch import watch
from runner.version import lastrun_version

app = typer.Typer(
    help="Train LAST-E v3 on whatever machine you can get; when it goes away, go on elsewhere as if nothing had happened.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(short_help="Measure how fast this machine trains, for lastrun plan")(bench)
app.command(short_help="Write a job file for your data; asks for what it needs")(init)
app.command(short_help="Check a job, keep it in the store, and run it")(run.submit)
app.command(short_help="Go on with a job from its newest whole checkpoint")(run.resume)
app.command(short_help="Check a job's file; every mistake is told at once")(check.validate)
app.command(short_help="Print every value of a job with the layer that set it")(check.explain)
app.command(short_help="Show how long a job would take where, and its cost")(check.plan)
app.command(short_help="Look at what works from here, and what mends the rest")(check.doctor)
app.command(short_help="Print what makes Tab complete commands and jobs")(completion)
app.command(name="list", short_help="List the jobs of a store, newest first")(look.list_)
app.command(short_help="Tell which machines can be had, and for how much")(look.gpus)
app.command(short_help="Show where a job is, how it fares, and what to do next")(look.status)
app.command(short_help="Print the log of all attempts of a job")(look.logs)
app.command(short_help="Compare jobs: what differs, top-1, time, cost")(look.compare)
app.command(short_help="Write a page of jobs: curves, attempts, mistakes")(show.report)
app.command(short_help="Show curves of jobs in TensorBoard, as they grow")(show.tensorboard)
app.command(name="open", short_help="Open the report of jobs in the browser")(show.open_)
app.command(short_help="Show the jobs of a store in a browser, live")(ui)
app.command(short_help="Tell of attempts that are lost or stall (notify.*)")(watch)
app.command(short_help="Score a checkpoint anew: accuracy, per class, mix-ups")(judge.evaluate)
app.command(short_help="Say what recordings show, by a trained model")(predict.predict)
app.command(short_help="Write a trained network for other programs (ONNX)")(export)
app.command(name="demo-page", short_help="Write a page that recognises what is dropped into it")(demo_page)
app.command(short_help="Ask a job to save and stop, wherever it runs")(keep.stop)
app.command(short_help="Download a checkpoint, whole or not at all")(keep.pull)
app.command(short_help="Copy a file or a folder out of a job")(cp)
app.command(short_help="Send what an ended attempt left here, or fetch it")(keep.sync)
app.command(short_help="Delete a job, or a group with all its jobs")(keep.rm)
app.add_typer(data_app, name="data")
app.add_typer(host_app, name="host")
app.add_typer(image_app, name="image")
app.command(hidden=True)(run.attempt)
app.command(hidden=True)(run.again)
app.command(hidden=True)(groups.points)
app.command(hidden=True)(probe)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version and leave")] = False) -> None:
    if version:
        from runner.view.console import show

        show(f"lastrun {lastrun_version()}")
        raise typer.Exit


def main() -> NoReturn:
    """Entry point: every error of ours, or of the user's, ends in clear lines and a documented exit code."""
    words = _spread_set(sys.argv[1:])
    _run_app(lambda: _with_only(words[:1])(args=words, prog_name="lastrun", standalone_mode=False))


def _with_only(names: Sequence[str]) -> typer.Typer:
    """The application with the command, or group of commands, of this name alone, where there is one: Typer takes longer to get
    all of them ready than most of them run."""
    commands = [each for each in app.registered_commands if (each.name or getattr(each.callback, "__name__", "")) in names]
    groups = [each for each in app.registered_groups if each.name in names]
    if not commands and not groups:
        return app
    only = copy(app)
    only.registered_commands, only.registered_groups = commands, groups
    return only


def _run_app(call: Callable[[], Any]) -> NoReturn:
    code: Any = 0
    try:
        try:
            code = call() or 0  # of typer.Exit
        except SystemExit as end:
            code = end.code
        except typer.Abort:
            raise KeyboardInterrupt from None
        finally:
            _tell_trouble()
        try:
            sys.stdout.flush()  # here, where a full disk behind it can be told, not when the interpreter ends
        except OSError:
            if code == 0:
                raise
            discard_output()  # what has come of it says more
        raise SystemExit(code)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        discard_output()
        raise SystemExit(code) from None
    except Exception as error:
        from last_e.problems import ConfigError
        from last_e.redact import redact
        from runner.errors import Exit, LastrunError
        from runner.view.console import show

        misused = hasattr(error, "format_message")  # typer's own; the class has moved between its versions
        if misused and not isinstance(error, LastrunError):
            said = str(error.format_message())  # type: ignore[attr-defined]
            if said.startswith("Usage:"):  # called without anything
                show(said, error=True)
                raise SystemExit(int(Exit.USAGE)) from None
            from runner.commands.misuse import in_our_words

            error = in_our_words(error, _spread_set(sys.argv[1:]), typer.main.get_command(app))
        if "--json" in sys.argv and isinstance(error, (ConfigError, LastrunError)):
            from dataclasses import asdict

            problems = [asdict(problem) for problem in error.problems] if isinstance(error, ConfigError) else []
            code = Exit.USAGE if isinstance(error, ConfigError) else error.exit_code
            _tell_as_json({"error": redact(str(error)), "exit_code": int(code), "problems": problems})
        if isinstance(error, ConfigError):
            for problem in error.problems:
                show(f"error: {redact(str(problem))}", error=True)
            raise SystemExit(int(Exit.USAGE)) from None
        if isinstance(error, LastrunError):
            show(f"error: {redact(str(error))}", error=True)
            if error.exit_code in (Exit.STORE, Exit.NO_ENGINE) and sys.stderr.isatty():  # in a log nobody asks what to do next
                show("lastrun doctor looks at this machine, the store and each launcher", error=True)
            raise SystemExit(int(error.exit_code)) from None
        if isinstance(error, OSError):
            why = error.strerror or error
            words = f"{error.filename}: {why}" if error.filename else f"the output cannot be written ({why}): send it elsewhere"
            if "--json" in sys.argv and error.filename:
                _tell_as_json({"error": words, "exit_code": int(Exit.FAILED), "problems": []})
            discard_output()
            show(f"error: {words}", error=True)
            raise SystemExit(int(Exit.FAILED)) from None
        raise


def _tell_as_json(values: dict[str, Any]) -> None:
    """Why a command has failed; to a reader who has gone nothing: the exit code is the same."""
    from runner.view.console import print_json

    try:
        print_json(_command(), values)
        sys.stdout.flush()
    except OSError:
        discard_output()


def _tell_trouble() -> None:
    """What kept a command on Kaggle from reading secrets: perhaps that is why it found nothing."""
    if (kaggle := sys.modules.get("runner.kaggle")) and (words := kaggle.trouble()):
        from runner.view.console import show

        show(words, error=True)


def _command() -> str:
    """What was called: ``submit``, ``data prepare``."""
    return " ".join(sys.argv[1:3] if sys.argv[1] in ("data", "host", "image") else sys.argv[1:2])


def _spread_set(arguments: list[str]) -> list[str]:
    """``--set A=1 B=2`` as in the reference, for a parser that takes one value per option: ``--set A=1 --set B=2``."""
    spread: list[str] = []
    in_set = False
    for word in arguments:
        if word.startswith("-"):
            in_set = word == "--set"
            spread.append(word)
        elif in_set and spread[-1] != "--set" and "=" in word:
            spread += ["--set", word]
        else:
            in_set = in_set and spread[-1] == "--set"
            spread.append(word)
    return spread
