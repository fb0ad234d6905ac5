"""What a job that a store holds may decide on this machine: others may write to the store, too.

It decides what is trained. What lies where on this machine, which server gets this user's signature, what is started and what
it is handed counts only where this user gave it: submitted it from here, or took it once for that store with ``--trust``. Value
by value that is remembered in a folder of this user's own. Each key's field says what holds for it (:mod:`last_e.set_by`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from last_e.datafile import is_remote
from last_e.layers import Resolved, known_keys, package_layer, set_by
from last_e.problems import whole
from runner.errors import UsageError
from runner.folders import data_folder
from runner.resolve import FROM_JOB
from runner.settings import read_settings
from runner.spec import JobSpec
from runner.store.uri import StoreUri


class UntrustedError(UsageError):
    """A stored job names what only this user decides."""


class Trust:
    """What is taken of jobs of one store.

    Args:
        store: where the job was found, as this user named it.
        given: marks (:func:`mark`) that whoever starts this attempt has taken already.
        all_of_it: this user says to take what the job brings along, whatever it is.
    """

    def __init__(self, store: str, given: Iterable[str] = (), all_of_it: bool = False) -> None:
        self.store = StoreUri.parse(store)
        self._given, self._all = set(given), all_of_it
        self.refused: dict[str, Any] = {}
        """What was asked for and not taken."""

    @property
    def options(self) -> dict[str, str] | None:
        """How its bucket is reached; None: it is no bucket."""
        return None if self.store.scheme == "file" else self.store.options

    @property
    def takes_all(self) -> bool:
        """Whether it is one of the stores whose jobs may do as they like, by the user's settings."""
        return self._is_trusted

    def takes(self, key: str, value: Any) -> bool:
        """Whether a job of the store may set this key so."""
        taken = self._takes(key, value)
        if not taken:
            self.refused[key] = value
        return taken

    def _takes(self, key: str, value: Any) -> bool:
        if self._all or mark(key, value) in self._given or (key == "data.uri" and self._is_beside_the_jobs(value)):
            return True
        with suppress(UsageError):  # no home folder, and so no memory
            if (self._folder() / mark(key, value)).is_file():
                return True
        return self._is_trusted

    @cached_property
    def _is_trusted(self) -> bool:
        """By the user's settings, read once."""
        return any(StoreUri.typed(uri).place == self.store.place for uri in read_settings().trusted)

    def remember(self, values: Mapping[str, Any]) -> None:
        """Take these values from now on; where nothing can be remembered, the next resume asks."""
        with suppress(UsageError, OSError):
            for key, value in values.items():
                self._folder().mkdir(parents=True, exist_ok=True, mode=0o700)
                path = self._folder() / mark(key, value)
                if not path.exists():
                    opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
                    with os.fdopen(opened, "w") as file:  # for people: that it is there is what counts
                        file.write(json.dumps({"store": self.store.place, "key": key, "value": value}) + "\n")

    def _folder(self) -> Path:
        return data_folder() / "trusted" / hashlib.sha256(self.store.place.encode()).hexdigest()[:32]

    def _is_beside_the_jobs(self, uri: Any) -> bool:
        """Whether data lie in the store itself: whoever writes to it could read them anyway, and nobody else is asked."""
        if not isinstance(uri, str) or not is_remote(uri) or self.store.scheme == "file":
            return False
        try:
            data = StoreUri.parse(uri).with_options(self.store.options)
        except UsageError:
            return False
        if any(part in ("", ".", "..") for part in data.prefix.split("/")):  # who knows what a server makes of it
            return False
        same = (data.scheme, data.bucket, data.options) == (self.store.scheme, self.store.bucket, self.store.options)
        return same and data.prefix.startswith(f"{self.store.prefix}/" if self.store.prefix else "")


def mark(key: str, value: Any) -> str:
    """What stands for one value of one key: nobody finds another value with the same."""
    return hashlib.sha256(json.dumps([key, value], sort_keys=True).encode()).hexdigest()[:32]


def words(values: Mapping[str, Any]) -> list[str]:
    """Arguments that tell an attempt what its job may decide: it may be on a machine that remembers nothing."""
    return [word for key, value in values.items() for word in ("--trusted", mark(key, value))]


def brought(resolved: Resolved[JobSpec], by: str = "") -> dict[str, Any]:
    """What more than learning a job would decide on a machine: what is another value than there would be without a word of
    anybody, and whose origin begins with ``by``."""
    who = set_by(JobSpec)
    return {key: value for key, value in _said(resolved, by).items() if who[key].who != "learning"}


def _said(resolved: Resolved[JobSpec], by: str) -> dict[str, Any]:
    """The same of all keys."""
    config, fields = resolved.config, known_keys(JobSpec)
    usual = package_layer(config.model.variant, config.dataset, resolved.env, config.recipe)
    return {
        key: value
        for key, value in resolved.items().items()
        if value != (usual[key].value if key in usual else fields[key].get_default())
        and resolved.origins[key].name.startswith(by)
    }


def table(values: Mapping[str, Any]) -> str:
    """A line for each value, with what it would do."""
    said = {f"{key} = {whole(value)}": set_by(JobSpec)[key].does for key, value in values.items()}
    width = min(max(map(len, said)), 60)
    return "\n".join(f"  {setting:<{width}}  {does}" for setting, does in said.items())


def notes_of_file(resolved: Resolved[JobSpec], path: Path) -> list[str]:
    """What a job's file would have done beside training; somebody else may have written it. Its launcher is told anyway."""
    who, folder = set_by(JobSpec), path.absolute().parent
    told = {
        key: value
        for key, value in _said(resolved, by=str(path)).items()
        if who[key].does and key != "run.launcher" and not _lies_in(value, folder)
    }
    return [f"note: {path} does more than train:\n{table(told)}"] if told else []


def _lies_in(value: Any, folder: Path) -> bool:
    """Whether a path leads into a folder, also by way of links."""
    if not isinstance(value, str) or not value.startswith("/"):
        return False
    return Path(os.path.realpath(value)).is_relative_to(os.path.realpath(folder))


def see_that_it_is_taken(resolved: Resolved[JobSpec], trust: Trust) -> dict[str, Any]:
    """See that a stored job asks for nothing that this user has not taken; returns what it brings along.

    Raises:
        UntrustedError: all that it asks for.
    """
    values = brought(resolved, by=FROM_JOB)
    asked = {key: value for key, value in values.items() if set_by(JobSpec)[key].who == "asks" and not trust.takes(key, value)}
    if asked:
        given = {key for key, origin in resolved.origins.items() if origin.name.startswith("--")}
        now = resolved.items()  # what else would be taken with it
        asked |= {key: value for key, value in trust.refused.items() if key not in given and value != now[key]}
        raise UntrustedError(
            f"the job asks for what you alone decide; you have not given it from here, and others may write to {trust.store}. "
            f"Nothing was started.\n{table(asked)}\n"
            "--trust takes all of it, and remembers that for this store; --set KEY=VALUE gives something else"
        )
    return values


def see_that_nothing_is_gained(trust: Trust, home: Trust) -> None:
    """See that a job gains nothing by being copied from one store into another.

    Raises:
        UntrustedError: jobs of the other one may do as they like, and this one names what was not taken from the first.
    """
    if home.takes_all and trust.refused:
        raise UntrustedError(
            f"your settings trust all jobs of {home.store}; one that is copied there from {trust.store} could set from then on "
            f"what it may not set now. Nothing was copied.\n{table(trust.refused)}\n"
            "--trust takes all of it; LASTRUN_STORE=STORE copies it into another store"
        )
