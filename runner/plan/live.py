"""What launchers ask for their machines today."""

from __future__ import annotations

import datetime

from runner.errors import LastrunError
from runner.launch.market import offers
from runner.launch.protocol import Offer
from runner.plan.figures import Figure, Offered, Plan, Row
from runner.plan.hardware import gpus, known_gpu
from runner.plan.prices import Price


def add_offers(plan: Plan) -> None:
    """Give each row the cheapest machine of every launcher that has its GPUs and a price; who cannot be asked is
    named in the plan's notes."""
    for launcher, found in offers().items():
        if isinstance(found, LastrunError):
            plan.notes.append(f"not asked: {launcher}: {found}")
            continue
        for row in plan.rows:
            fitting = [one for one in found if one.dollars is not None and _fits(one, row)]
            if fitting:
                row.offers.append(_offered(launcher, min(fitting, key=lambda one: one.dollars or 0.0), row))


def _fits(offer: Offer, row: Row) -> bool:
    """As many GPUs of that model, with as much memory or more; of what costs nothing others may idle."""
    number, _, name = offer.gpus.partition(" x ")
    known = known_gpu(name) if number == str(row.machines) or not offer.dollars else None
    if known is None or row.gpu is None:
        return False
    wanted = gpus()[row.gpu]
    return known.name.split()[0] == wanted.name.split()[0] and known.memory_gb >= wanted.memory_gb


def _offered(launcher: str, offer: Offer, row: Row) -> Offered:
    amount, total = offer.dollars or 0.0, row.total_seconds
    price = Price(amount, datetime.date.today().isoformat(), f"{launcher} tells it", own=False)
    cost = None if total is None else Figure(amount * total.value / 3600, total.kind, f"{total.source}; {price}")
    return Offered(launcher, offer.machine, price, cost)
