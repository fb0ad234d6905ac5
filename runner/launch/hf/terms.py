"""Which machine of Hugging Face an attempt gets, for how long, and for how much."""

from __future__ import annotations

from runner.errors import UsageError
from runner.launch import bill
from runner.launch.hf import hub
from runner.launch.protocol import Offer, Rented
from runner.launch.variables import wants_cpu
from runner.spec import JobSpec

_USUAL = {"gcp": "t4-small", "kaggle": "t4-small", "lambda": "a10g-small", "a100": "a100-large"}
"""What comes next to a profile's machine."""


def flavor_of(config: JobSpec) -> hub.Flavor:
    """What the job names, else what comes next to its profile among those with as many GPUs as it asks for.

    Raises:
        UsageError: there is no such machine, or it has fewer GPUs.
    """
    wanted, there = config.run.hf.flavor, hub.flavors()
    fitting = _fitting(config, there)
    if wanted is None and fitting:
        usual = next((one for one in there if one.name == _USUAL.get(config.env or "")), None)
        alike = [one for one in fitting if usual is not None and one.model == usual.model]
        return usual if usual in fitting else (alike or fitting)[0]
    number = _number(config)
    named = next((one for one in there if one.name == wanted), None)
    if named is not None and (number < 2 or named.number >= number):
        return named
    shown = fitting or [one for one in there if one.gpu is not None]
    named_so = [f"{one.name} ({f'{one.gpu}, ' if number > 1 else ''}{one.dollars:.2f})" for one in shown]
    names = f"; there are, with USD an hour: {', '.join(named_so) or 'none'}"
    if number < 2 or (wanted and named is None):
        raise UsageError(f"run.hf.flavor: found {wanted or 'nothing'}{names}")
    has = f"{named.name} has {named.gpu or 'none'}" if named else "no machine has so many"
    raise UsageError(f"run.gpus: found {number}; {has}{names}")


def _number(config: JobSpec) -> int:
    """How many GPUs the job asks for by number; else 0 or 1."""
    return 0 if wants_cpu(config) else config.run.gpus if isinstance(config.run.gpus, int) else 1


def _fitting(config: JobSpec, there: list[hub.Flavor]) -> list[hub.Flavor]:
    """Those with as many GPUs as are asked for, no more: all of a machine is paid for."""
    number = _number(config)
    return [one for one in there if one.number == number]


def price_of(config: JobSpec, flavor: hub.Flavor) -> str:
    """What will be paid, in words.

    Raises:
        UsageError: it is more than the job allows.
    """
    most = config.run.max_price
    if most is not None and flavor.dollars > most:
        number = max(1, _number(config))
        cheaper = [one for one in hub.flavors() if one.number >= number and one.dollars <= most]
        none = "no GPU is to be had there for that" if number == 1 else f"no {number} GPUs are to be had there for that"
        ways = f"; for that there is {', '.join(map(str, cheaper))}" if cheaper else f"; {none}"
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
