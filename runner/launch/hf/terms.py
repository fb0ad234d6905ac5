"""Which machine of Hugging Face an attempt gets, for how long, and for how much."""

from __future__ import annotations

from runner.errors import UsageError
from runner.launch import bill
from runner.launch.hf import hub
from runner.launch.protocol import Offer, Rented
from runner.launch.variables import wants_cpu
from runner.spec import JobSpec

_FITTING = {"gcp": "t4-small", "kaggle": "t4-small", "lambda": "a10g-small", "a100": "a100-large"}
"""What comes next to a profile's machine."""


def flavor_of(config: JobSpec) -> hub.Flavor:
    """What the job names, else what comes next to its profile.

    Raises:
        UsageError: there is no such machine.
    """
    wanted, there = config.run.hf.flavor, hub.flavors()
    fitting = [one for one in there if (one.gpu is None) == wants_cpu(config)]
    if wanted is None and not wants_cpu(config):
        wanted = _FITTING.get(config.env or "")
        wanted = wanted if wanted in [one.name for one in fitting] else None
    if wanted is None and fitting:
        return fitting[0]
    for one in there:
        if one.name == wanted:
            return one
    names = ", ".join(f"{one.name} ({one.dollars:.2f})" for one in fitting) or "none"
    raise UsageError(f"run.hf.flavor: found {wanted or 'nothing'}; there are, with USD an hour: {names}")


def price_of(config: JobSpec, flavor: hub.Flavor) -> str:
    """What will be paid, in words.

    Raises:
        UsageError: it is more than the job allows.
    """
    most = config.run.max_price
    if most is not None and flavor.dollars > most:
        cheaper = [one for one in hub.flavors() if one.gpu is not None and one.dollars <= most]
        ways = f"; for that there is {', '.join(map(str, cheaper))}" if cheaper else "; no GPU is to be had there for that"
        raise UsageError(f"run.max_price: found {most:g} USD an hour, and {flavor}{ways}")
    return bill.words(config, flavor, "jobs")


def offers() -> list[Offer]:
    """All that can be had."""
    found = []
    for one in hub.flavors():
        words = f"--launcher hf --set {'' if one.gpu else 'run.gpus=0 '}run.hf.flavor={one.name}"
        found.append(Offer(one.name, one.gpu or "", one.dollars, words))
    return found


def rented(there: hub.Namespace, label: str) -> list[Rented]:
    """What runs or waits in a namespace with a label, which names its job."""
    prices = {one.name: one.dollars for one in hub.flavors()}
    return [
        Rented(
            id=one.id,
            job=one.labels[label],
            state="waits" if one.stage == hub.WAITING else "runs",
            machine=one.flavor,
            since=one.since,
            dollars=prices.get(one.flavor),
            ended_by=f"hf jobs cancel {one.id} --namespace {there.name}",
        )
        for one in there.find({}, hub.WAITING, hub.RUNNING)
        if label in one.labels
    ]
