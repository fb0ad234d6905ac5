"""Which machines an attempt may get through SkyPilot, the cheapest first, and for how much."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from runner.errors import UsageError
from runner.launch import bill
from runner.launch.protocol import Offer, Rented
from runner.launch.sky.engine import ended_by, sky
from runner.spec import JobSpec

_KNOWN = ("T4", "L4", "A10", "A10G", "A100", "A100-80GB")
"""GPUs that the trainer was made for: what a job gets that does not say."""


@dataclass(frozen=True)
class Wanted:
    """What will do; None: anything."""

    cloud: str | None
    gpus: tuple[str, ...]
    spot: bool | None
    region: str | None = None
    number: int = 1
    """Of GPUs; a machine with more would be paid for without need."""

    def takes(self, one: Machine) -> bool:
        """Whether a machine is one of these."""
        return (
            self.cloud in (None, one.cloud)
            and one.gpu.lower() in [gpu.lower() for gpu in self.gpus]
            and self.spot in (None, one.spot)
            and self.number == one.number
        )

    def __str__(self) -> str:
        kind = {True: "spot ", False: "", None: ""}[self.spot]
        number = f"{self.number} x " if self.number > 1 else ""
        return f"a {kind}machine with {number}{' or '.join(self.gpus)}{f' on {self.cloud}' if self.cloud else ''}"


_FITTING = {
    "gcp": Wanted("gcp", ("T4", "L4", "A100"), True),
    "kaggle": Wanted(None, ("T4",), None),
    "lambda": Wanted("lambda", ("A10", "A100"), False),
    "a100": Wanted(None, ("A100", "A100-80GB"), None),
}
"""What comes next to a profile's machine. A spot machine is what profile gcp is about."""


@dataclass(frozen=True)
class Machine:
    """A kind of machine."""

    cloud: str
    instance: str
    gpu: str
    memory: float
    """Of the GPU, in GB."""
    spot: bool
    dollars: float
    """For an hour of all of it."""
    number: int = 1
    """Of its GPUs."""

    @property
    def gpus(self) -> str:
        """In words."""
        return f"{self.number} x {self.gpu}" + (f", {self.memory:g} GB" if self.memory else "")

    def __str__(self) -> str:
        spot = ", spot" if self.spot else ""
        return f"{self.cloud} {self.instance} ({self.gpus}{spot}), {self.dollars:.2f} USD an hour"

    def resources(self, config: JobSpec) -> dict[str, Any]:
        """What is asked of SkyPilot for it."""
        run = config.run
        infra = f"{self.cloud}/{run.resources.region}" if run.resources.region else self.cloud
        asked: dict[str, Any] = {"infra": infra, "instance_type": self.instance, "accelerators": f"{self.gpu}:{self.number}"}
        asked |= {"use_spot": self.spot}
        asked |= {"image_id": f"docker:{run.image}"} if run.image else {}
        asked |= {"max_hourly_cost": run.max_price} if run.max_price is not None else {}
        return asked


def wanted(config: JobSpec) -> Wanted:
    """What the job names, else what comes next to its profile. Nothing that may be taken away, where nobody begins another
    (``run.auto_continue``), unless that is what the profile or the job is about."""
    own, usual = config.run.resources, _FITTING.get(config.env or "", Wanted(None, _KNOWN, None))
    cloud = own.cloud or usual.cloud
    of_the_profile = usual.cloud in (None, cloud)
    gpus = (own.gpu,) if own.gpu else usual.gpus if of_the_profile else _KNOWN
    spot = own.spot
    if spot is None and of_the_profile and usual.spot is not None:
        spot = usual.spot
    elif spot is None and not config.run.auto_continue:
        spot = False
    asked = config.run.gpus
    return Wanted(cloud, gpus, spot, own.region, max(1, asked) if isinstance(asked, int) else 1)


def machines(config: JobSpec) -> list[Machine]:
    """All that will do, the cheapest first; each is tried when there is none of the one before.

    Raises:
        UsageError: there is none, with the nearest that there is; or none for the price that the job allows.
        EngineError: nobody answers.
    """
    meant, there = wanted(config), everything()
    found = [one for one in there if meant.takes(one)]
    if not found:
        raise UsageError(f"run.resources: found {meant}; no cloud that SkyPilot may use has one{_nearest(meant, there)}")
    most = config.run.max_price
    cheap = [one for one in found if most is None or one.dollars <= most]
    if not cheap:
        others = [one for one in there if most is not None and one.dollars <= most and one.number == meant.number][:3]
        none = f"no {'GPU is' if meant.number == 1 else f'{meant.number} GPUs are'} to be had there for that"
        ways = f"; for that there is {', '.join(map(str, others))}" if others else f"; {none}"
        raise UsageError(f"run.max_price: found {most:g} USD an hour, and {found[0]}{ways}")
    return [one for one in cheap if bill.pays_for(config, one, 0.0)] or cheap[:1]  # of which is told what is missing


@cache
def everything() -> list[Machine]:
    """All that can be had, the cheapest first; asked once."""
    found = [Machine(**row) for row in sky().offers()]
    return sorted(found, key=lambda one: (one.dollars, one.cloud, one.instance))


def price_of(config: JobSpec, found: list[Machine]) -> str:
    """What will be paid, and what is tried when there is none."""
    told = bill.words(config, found[0], "machines")
    rest = ", ".join(map(str, found[1:]))
    return f"{told}{f'; where there is none: {rest}' if rest else ''}"


def offers() -> list[Offer]:
    """The same as offers."""
    return [
        Offer(
            f"{one.cloud} {one.instance}{' spot' if one.spot else ''}",
            one.gpus,
            one.dollars,
            f"--launcher sky --set {f'run.gpus={one.number} ' if one.number > 1 else ''}run.resources.cloud={one.cloud} "
            f"run.resources.gpu={one.gpu} run.resources.spot={str(one.spot).lower()}",
        )
        for one in everything()
    ]


def rented() -> list[Rented]:
    """What there is of ours now."""
    there = sky().clusters()
    known = everything() if there else []
    prices = {(one.cloud, one.instance, one.spot, one.gpu, one.number): one.dollars for one in known}
    return [
        Rented(
            id=one.name,
            job=one.job,
            state="waits" if one.state == "INIT" else "runs",
            machine=f"{one.cloud} {one.instance or '?'}{' spot' if one.spot else ''}",
            since=float(one.since),
            dollars=prices.get((one.cloud, one.instance or "", one.spot, one.gpu or "", one.number)),
            ended_by=ended_by(one.name),
        )
        for one in there
    ]


def _nearest(meant: Wanted, there: list[Machine]) -> str:
    gpus = [gpu.lower() for gpu in meant.gpus]
    same = [one for one in there if one.gpu.lower() in gpus and meant.cloud in (None, one.cloud)]
    elsewhere = [one for one in there if one.gpu.lower() in gpus]
    beside = [one for one in there if meant.cloud in (None, one.cloud)]
    near = sorted(same or elsewhere or beside or there, key=lambda one: abs(one.number - meant.number))[:3]
    return f"; the nearest are {', '.join(map(str, near))}" if near else ""
