"""A report's facts to one HTML page: nothing of it is fetched from anywhere, and no name of a class, a job or a machine can be
more than text in it.

The page's policy (CSP) admits its own script and style alone, by their sha256, and no connection to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.skeletons import PLAYER
from last_e.text import percent, plain
from runner.version import lastrun_version

if TYPE_CHECKING:
    from runner.attempt.report import Own
    from runner.job.job import Job

HERE = Path(__file__).parent
MARK = "<!-- lastrun report -->"
"""Stands at the beginning of every report: what may be replaced by another one."""
_VENDOR = HERE / "vendor"


def page_of(jobs: Sequence[Job], title: str) -> tuple[str, str]:
    """The page of one job, or of several, and the sentence on top of it.

    Raises:
        NoSuchJobError, StoreError: of one: it is not there, or cannot be read.
    """
    from runner.view.report.facts import job_facts
    from runner.view.report.gather import gather
    from runner.view.report.several import facts_of_several

    facts = job_facts(gather(jobs[0])) if len(jobs) == 1 else facts_of_several(jobs, title)
    return render(facts), facts["sentence"]


def page_at_the_end(job: Job, own: Own) -> str:
    """The page that an attempt keeps when it ends."""
    from runner.view.report.facts import job_facts
    from runner.view.report.gather import gather

    return render(job_facts(gather(job, own)))


def render(facts: dict[str, Any]) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    script, style = _script(), _style()
    env = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    env.filters["percent"] = percent
    text: str = env.get_template("report.html").render(
        **facts,
        mark=Markup(MARK),  # noqa: S704  # of this file
        script=Markup(script),  # noqa: S704  # of this package
        style=Markup(style),  # noqa: S704
        script_hash=_hash(script),
        style_hash=_hash(style),
        version=lastrun_version(),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    return text


@cache
def _script() -> str:
    parts = [_VENDOR / "uPlot.iife.min.js", PLAYER, HERE / "curves.js", HERE / "report.js"]
    return "\n".join(part.read_text("utf-8") for part in parts)


@cache
def _style() -> str:
    return "\n".join((folder / name).read_text("utf-8") for folder, name in ((_VENDOR, "uPlot.min.css"), (HERE, "report.css")))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
