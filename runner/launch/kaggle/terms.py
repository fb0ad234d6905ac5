"""Which session of Kaggle an attempt gets, for how long, and what is left of the week's GPUs."""

from __future__ import annotations

import math

from last_e.config import parse_duration
from last_e.layers import package_layer
from last_e.text import seconds_text
from runner.errors import UsageError
from runner.launch.kaggle.account import Account, Quota, account
from runner.launch.protocol import Offer
from runner.launch.variables import wants_cpu
from runner.spec import JobSpec


def limit_of(config: JobSpec) -> int:
    """Seconds after which a session is ended there; the attempt leaves before. The profile's for jobs without one."""
    usual = package_layer(config.model.variant, config.dataset, "kaggle")["hardware.session_limit"].value
    return math.ceil(config.hardware.session_limit or parse_duration(usual))


def quota_of(config: JobSpec, there: Account) -> str:
    """What is going to be used, and what there is of it.

    Raises:
        UsageError: less than that.
    """
    limit, times = limit_of(config), config.run.auto_continue + 1
    most = seconds_text(limit)
    each = f", each of up to {times} sessions" if times > 1 else ""
    if wants_cpu(config):
        return f"a session without a GPU, {most} at most{each}"
    quota = there.quota()
    if quota.left < limit:
        hours = math.floor(quota.left / 360) / 10
        ways = f"; --set hardware.session_limit={hours:g}h takes what there is" if hours >= 0.5 else ""
        raise UsageError(f"Kaggle, {there.name}: {_left(quota)}, and the session may take {most}{ways}")
    return f"two T4 for {most} at most{each}; {_left(quota)}"


def offers() -> list[Offer]:
    """The one kind with a GPU, and the one without; neither is paid for."""
    left = _left(account().quota())
    without = Offer("session without a GPU", "", 0.0, "--launcher kaggle --set run.gpus=0")
    return [Offer("session", "2 x T4", 0.0, "--launcher kaggle", left), without]


def _left(quota: Quota) -> str:
    return f"{quota.left / 3600:.1f} h of GPU left{f' until {quota.until}' if quota.until else ' this week'}"
