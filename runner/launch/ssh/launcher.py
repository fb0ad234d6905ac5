"""An attempt on a machine that ssh reaches."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, TextIO

from last_e.bar import Bar
from last_e.text import plain
from runner.attempt.data_check import check_data
from runner.errors import EngineError, LastrunError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.inside import ONLY
from runner.launch.protocol import BeginsAtOnce, Offer
from runner.launch.ssh import notes, relay
from runner.launch.ssh.connection import NO_SSH, CutError
from runner.launch.ssh.runs import how_it_ended
from runner.launch.ssh.send import send
from runner.launch.ssh.sent import of_this_machine, path_of
from runner.launch.ssh.setup import Host
from runner.launch.ssh.started import StartedThere
from runner.launch.variables import authority, see_that_they_are_set, values_elsewhere, wants_cpu
from runner.settings import read_settings
from runner.signals import handled, interruptible, tidied
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import VARIABLE, WAITS

_FREE_BYTES = 1 << 28
_gpus: dict[str, bool] = {}
"""Whether a host has one, as preflight has seen it."""
_markers: set[Path] = set()
"""Those that are in folders of stores."""


class SshLauncher(BeginsAtOnce):
    """Starts attempts there. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = False

    def __init__(self, config: JobSpec) -> None:
        self._config = config
        self._misfit: str | None = None

    def preflight(self, store: str) -> None:
        """The host says itself whether it has all that an attempt needs, the store and the data as well."""
        if self._config.run.container is not None:
            raise UsageError(ONLY.format(self._config.run.container, "ssh"))
        see_that_they_are_set(self._config)
        host = self._host()
        found = look(host, store, self._config)
        if problems := found["problems"]:
            raise EngineError("\n".join(f"{host.connection.host}: {problem}" for problem in problems))
        _gpus[host.connection.host] = bool(found["facts"]["gpus"])
        self._misfit = misfit(found)

    def see_that_it_fits(self, here: bool) -> None:
        """As the host has told."""
        if self._misfit is not None and not here:
            name = self._host().connection.host
            raise UsageError(
                f"env {self._config.env}: {name} {self._misfit}; take a host that fits, or say --here to train on {name} "
                "with that profile all the same, or name the profile that fits it with --env"
            )

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedThere:
        """Detached there at once; what it is given goes over standard input, to memory alone."""
        host = self._host()
        uri, _ = StoreUri.parse(job.uri).parent()
        relayed = relay.Relay(job, host, relay.name_of(job, token), token) if self._config.run.relay else None
        if host.connection.host not in _gpus:  # the command that has seen it is another one
            self.preflight(str(uri))
        has_gpu = _gpus[host.connection.host]
        about = {"launcher": "ssh", "what": "process on", "name": host.connection.host}
        given: dict[str, Any] = {
            "uri": job.uri,
            "arguments": arguments,
            "token": token,
            "about": {**about, **({"device": "cuda"} if has_gpu and not wants_cpu(self._config) else {})},
            "scratch": str(self._config.hardware.scratch_root or ""),
            "plain": {VARIABLE: os.environ[VARIABLE]} if os.environ.get(VARIABLE) else {},
            "given": values_elsewhere(uri, self._config),
            **authority(uri),
        }
        notes.write(token, host.connection.host, host.folder, relay="" if relayed is None else relayed.name)
        try:
            with interruptible(f"{job.id}: interrupted before its attempt began; lastrun resume {job.reference} begins it"):
                if (data := of_this_machine(self._config)) is not None:
                    with Bar("MB") as bar:
                        seen = output is not None and output.isatty() and bar.screen.redraws
                        given["about"]["data"] = send(host, data, say_of_host, bar.update_bytes if seen else None)
                if relayed is not None:
                    there = relayed.push()
                    given["uri"], given["plain"]["LASTRUN_STORE"] = str(there.child(job.id)), str(there)
                    given["about"]["relay"] = relayed.name
                host.call("start", given=given)
        except BaseException as error:
            try:
                with handled(lambda _: None):  # it may have begun all the same
                    host.call("end", token, seconds=2 * WAITS.engine + 10)
                    if relayed is not None:
                        relayed.drop()
                    if job.attempts.of(token) is None:  # else who looks at it asks the host, which says that it was killed
                        notes.forget(token)
            except LastrunError:
                if isinstance(error, EngineError):
                    told = f"lastrun status {job.reference} tells whether its attempt has begun all the same"
                    raise CutError(f"{error}; {told}") from None
            raise
        return StartedThere(job, host, token, output, relayed)

    def to_bring(self) -> tuple[str | None, Path] | None:
        """A data file that is here."""
        path = path_of(self._config)
        return None if path is None else (self._config.run.host, path)

    def bring(self) -> None:
        """Over a connection of its own."""
        if (data := of_this_machine(self._config)) is not None:
            send(self._host(), data, say_of_host)

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """Only of one that gives no sign is the host asked, and only if this user has started that very attempt from here: the
        store's word sends nobody's keys anywhere."""
        token = str((attempt.container or {}).get("token"))
        note = notes.read(token)
        if note is not None and attempt.is_relayed:
            return relay.settle(job, attempt)
        if note is None or (job.attempts.alive(attempt) and job.attempts.gave_a_sign(attempt, 3 * WAITS.heartbeat)):
            return attempt
        found = Host(note["host"], note["folder"]).ask("state", token, seconds=2 * WAITS.engine + 10)
        if found["alive"] or not found["known"]:
            return attempt
        current = job.attempts.again(attempt)
        if current is not None and current.open:
            job.attempts.write_lost(current, plain(f"its process on {note['host']} {how_it_ended(found['code'])}"))
        notes.forget(token)
        return current

    @staticmethod
    def offers() -> list[Offer]:
        """Those that have a name of this user's; none is asked."""
        hosts = read_settings().hosts
        return [Offer(name, f"lastrun host check {name} tells", None, f"--on {name}") for name in hosts]

    @staticmethod
    def ready() -> str:
        """Its program, and the hosts that have a name; none is asked."""
        if shutil.which("ssh") is None:
            raise EngineError(NO_SSH)
        hosts = read_settings().hosts
        named = (
            f"hosts of config.toml: {', '.join(hosts)}" if hosts else "no hosts in config.toml; --on takes any that ssh reaches"
        )
        return f"{named}; lastrun host check NAME looks at one"

    @staticmethod
    def clean() -> None:
        """What runs leave there goes when they have been followed to their end, or a week after it."""
        notes.sweep()

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """Only where the other machine is this one after all."""
        own = [attempt.container for attempt in attempts if attempt.launcher == "ssh" and attempt.is_here]
        return {Path(found["scratch"]) for found in own if found and found.get("scratch")}

    def _host(self) -> Host:
        if self._config.run.host is None:
            raise UsageError("run.host is not set: --on HOST names the machine, as ssh knows it")
        return Host(self._config.run.host)


def look(host: Host, store: str | None, config: JobSpec | None, env: str | None = None) -> dict[str, Any]:
    """What a host is (``facts``), and what keeps an attempt of a job from starting there (``problems``); without a job, and
    perhaps a store, what can be told without, and whether it fits a profile. This version is put there if it is not.

    Raises:
        LastrunError: the host is not reached, or cannot be set up.
    """
    uri = None if store is None else StoreUri.parse(store)
    relayed = config is not None and config.run.relay
    if relayed and uri is not None and uri.scheme != "file":
        raise UsageError(f"--relay: store {uri} is reached from anywhere; --relay is for one that is a folder here")
    if uri is not None and (bundle := uri.options.get("ca_bundle")):
        raise UsageError(f"store {uri}: {bundle} is not there: name the file in AWS_CA_BUNDLE instead, and it is handed over")
    cpu = config is not None and wants_cpu(config)
    wanted = None if config is None else "cpu" if cpu else "cuda" if config.run.gpus else config.hardware.device
    asked: dict[str, Any] = {
        "store": store,
        "variables": values_elsewhere(uri, config),
        "device": wanted,
        "free": _FREE_BYTES,
        "env": env if config is None else None if config.env == "auto" else config.env,  # it finds out itself what that is
        **authority(uri),
    }
    if config is not None:
        asked["config"] = config.model_dump(mode="json")
        if (data := of_this_machine(config)) is not None:
            check_data(config)
            asked["data"] = {"sha256": data.sha256, "name": data.path.name, "size": data.size}
    if relayed:
        return host.check({**asked, "store": None, "relay": True}, say_of_host)
    if uri is None or uri.scheme != "file":
        return host.check(asked, say_of_host)
    with markers_removed():
        marker = _marker(Path(uri.prefix))
        try:
            return host.check({**asked, "marker": str(marker)}, say_of_host)
        finally:
            marker.rmdir()
            _markers.discard(marker)


def misfit(found: dict[str, Any]) -> str | None:
    """What a host that has been looked at is, where it is none that the profile is for."""
    fitting, what = found["facts"].get("fits") or (True, "")
    return plain(str(what)) if fitting is False else None


def markers_removed() -> AbstractContextManager[None]:
    """Who leaves meanwhile leaves nothing in a store's folder; who looks at hosts on other threads says so on the main one."""

    def tidy() -> None:
        for marker in list(_markers):
            with suppress(OSError):
                marker.rmdir()

    return tidied(tidy)


def say_of_host(text: str) -> None:
    """What is done there, as it is done."""
    sys.stderr.write(plain(f"{text}\n"))


def _marker(folder: Path) -> Path:
    """An empty folder in the store's, or above where that is not there yet: seen from a machine, it has the same store."""
    place = next(one for one in (folder, *folder.parents) if one.exists())
    marker = place / f".lastrun-{secrets.token_hex(8)}"
    _markers.add(marker)
    try:
        marker.mkdir(mode=0o755)
    except OSError as error:
        raise UsageError(f"store {folder}: {place} cannot be written ({error.strerror or error})") from None
    return marker
