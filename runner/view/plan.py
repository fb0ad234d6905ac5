"""What ``lastrun plan`` shows to people."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from last_e.text import counted, seconds_text
from runner.plan.figures import Figure, Kind, Plan, Row
from runner.view.console import make_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from runner.plan.sweep import Estimate

DIGITS = {Kind.MEASURED: 3, Kind.SCALED: 2, Kind.ESTIMATED: 2}
LEGEND = "no mark: measured; ~ scaled from a measurement; ~? estimated; ! more than its memory holds"
_UNITS = ((120.0, 1.0, "s"), (120 * 60.0, 60.0, "min"), (math.inf, 3600.0, "h"))


def print_plan(plan: Plan, together: Sequence[Estimate] = ()) -> None:
    """The table, and below it what its figures rest on; of a sweep what all of its points take ``together``."""
    console = make_console()
    steps = f"{counted(plan.epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}"
    head = f"{plan.model} on {plan.dataset} {plan.split_type}, {steps}"
    console.print(head)
    console.print(_table(plan.rows))
    for one in together:
        console.print(_together_text(one))
    for line in _lines(plan):
        console.print(line)


def sweep_text(estimate: Estimate) -> str:
    """How many points a sweep has, and what they take together."""
    text = f"{estimate.count} points, {estimate.at_once} at a time"
    if estimate.seconds is None:
        return f"{text}; how long they take is not known here (lastrun bench measures it)"
    text += f": {duration(estimate.seconds)} of computing"
    if estimate.at_once > 1:
        text += (
            f", {duration(replace(estimate.seconds, value=estimate.seconds.value / estimate.at_once))} if none slows another"
        )
    text += f"; cost {money(estimate.cost)}"
    busy = f"; {busy_text(estimate.busy)}" if estimate.busy else ""
    return text + (f"; {estimate.unknown} of them not counted" if estimate.unknown else "") + busy


def _together_text(one: Estimate) -> str:
    """What all points of a sweep take on a machine."""
    head = f"all {one.count} points, one after the other, on {one.where}"
    if one.seconds is None:
        return f"{head}: not known (lastrun bench, run there, measures it)"
    rest = f"; {one.unknown} of them not counted" if one.unknown else ""
    return f"{head}: {duration(one.seconds)}, cost {money(one.cost)}{rest}"


def busy_text(busy: str) -> str:
    """What that a machine is busy means for the times beside it."""
    return f"this machine is {busy}: while it is, all takes longer"


def duration(figure: Figure | None) -> str:
    """``95 s``, ``~35 min``, ``~2.1 h?``; ``-`` when not known."""
    if figure is None:
        return "-"
    number = rounded(figure.value, DIGITS[figure.kind])
    size, unit = next((size, unit) for below, size, unit in _UNITS if number < below)
    return marked(f"{_digits(figure.value / size, DIGITS[figure.kind])} {unit}", figure.kind)


def money(figure: Figure | None) -> str:
    """``$1.23``, ``~$1.2?``, ``free``; ``-`` when not known."""
    if figure is None:
        return "-"
    return "free" if figure.value == 0 else marked(f"${_digits(figure.value, DIGITS[figure.kind])}", figure.kind)


def marked(text: str, kind: Kind) -> str:
    """A figure with its mark; see :data:`LEGEND`."""
    return {Kind.MEASURED: text, Kind.SCALED: f"~{text}", Kind.ESTIMATED: f"~{text}?"}[kind]


def rounded(value: float, digits: int) -> float:
    """So many digits that count."""
    return float(f"{value:.{digits}g}")


def _digits(value: float, digits: int) -> str:
    number = rounded(value, digits)
    places = digits - 1 - math.floor(math.log10(number)) if number > 0 else 0
    return f"{number:,.{max(0, places)}f}"


def _table(rows: list[Row]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("profile", "machine", "micro-\nbatch", "precision"):
        table.add_column(name, overflow="fold", no_wrap=name == "profile")
    for name in ("epoch", "total", "sessions", "cost"):
        table.add_column(name, overflow="fold", justify="right")
    for row in rows:
        sessions = "-" if row.sessions is None else marked(f"{row.sessions.value:,.0f}", row.sessions.kind)
        cells = (row.profile, row.machine, f"{row.micro_batch}{'!' if row.fits is False else ''}", row.precision)
        figures = (duration(row.seconds_per_epoch), duration(row.total_seconds), sessions, money(row.cost))
        table.add_row(*cells, *figures)
    return table


def _lines(plan: Plan) -> list[str]:
    lines = [LEGEND, f"clips: {plan.clips['source']}"]
    lines += [f"{', '.join(names)}: {source}" for source, names in _grouped({row.name: row.source for row in plan.rows})]
    ranks = {row.name: f"{row.ranks} ranks share each step" for row in plan.rows if row.ranks > 1}
    lines += [f"{', '.join(names)}: {shared}" for shared, names in _grouped(ranks)]
    lines += plan.assumptions
    limits = {row.profile: row.session_limit for row in plan.rows if row.session_limit is not None}
    lines += [f"{profile}: a session ends after {seconds_text(limit)}" for profile, limit in limits.items()]
    prices = {row.name: f"price: {row.price}" for row in plan.rows if row.price is not None}
    lines += [f"{', '.join(names)}: {price}" for price, names in _grouped(prices)]
    for row in plan.rows:
        if row.spot_price is not None:
            lines.append(f"{row.name}: on a spot machine {money(row.spot_cost)}: {row.spot_price}")
    for row in plan.rows:
        lines += [f"{row.name}: on {one.launcher} {one.machine} {money(one.cost)}: {one.price}" for one in row.offers]
    lines += [f"{row.name}: {busy_text(row.busy)}" for row in plan.rows if row.busy]
    lines += [f"warning: {warning}" for row in plan.rows for warning in row.warnings]
    return [*lines, *plan.notes]


def _grouped(texts: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Each text once, with the names of those that share it."""
    groups: dict[str, list[str]] = {}
    for name, text in texts.items():
        groups.setdefault(text, []).append(name)
    return list(groups.items())
