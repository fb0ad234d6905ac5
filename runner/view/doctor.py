"""What a doctor has found."""

from __future__ import annotations

from runner.doctor.finding import Finding, State
from runner.view.console import make_console, styled

_SIGNS = {
    State.WELL: ("ok", "green"),
    State.NOTE: ("note", "yellow"),
    State.MISSING: ("-", "dim"),
    State.WRONG: ("WRONG", "red"),
}


def print_findings(findings: list[Finding]) -> None:
    """A line for each, under the part that it is of; at the end what it comes to."""
    console = make_console()
    width = max(len(one.name) for one in findings)
    part = ""
    for one in findings:
        if one.part != part:
            part = one.part
            console.print(styled(part, "bold"))
        sign, colour = _SIGNS[one.state]
        console.print("  ", styled(f"{sign:<6}", colour), f"{one.name:<{width}}  {one.said}", sep="")
    wrong = sum(one.state is State.WRONG for one in findings)
    console.print(f"{wrong} of {len(findings)} do not work as they should" if wrong else "all that is set up works")
