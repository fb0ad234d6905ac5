"""An attempt on a machine that ssh reaches."""

from __future__ import annotations

import json
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TextIO

from last_e.datafile import is_remote
from last_e.text import expand, plain
from runner.errors import EngineError, LastrunError, UsageError
from runner.folders import data_folder
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.ssh.setup import Host
from runner.launch.ssh.started import StartedThere
from runner.launchers import FEW_GPUS
from runner.signals import interruptible
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import VARIABLE, WAITS

STORE_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_EC2_METADATA_DISABLED", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
)
"""What a bucket needs there. No proxies: there are others there, or none."""
_FREE_BYTES = 1 << 28


class SshLauncher:
    """Starts attempts there. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here: ClassVar[bool] = False

    def __init__(self, config: JobSpec) -> None:
        self._config = config

    def preflight(self, store: str) -> None:
        """The host is reached and set up; then it looks itself whether the store and the data are to be had there."""
        if self._config.run.gpus not in (None, 0, 1, "all"):
            raise UsageError(f"run.gpus: found {self._config.run.gpus}; allowed: {FEW_GPUS.format('ssh')}")
        missing = [name for name in self._config.run.pass_env if name not in os.environ]
        if missing:
            raise UsageError(f"run.pass_env: {', '.join(missing)} is not set here")
        uri = StoreUri.parse(store)
        if ca := uri.options.get("ca_bundle"):
            raise UsageError(f"store {uri}: {ca} is not there: name the file in AWS_CA_BUNDLE instead, and it is handed over")
        host = self._host()
        host.set_up(_say)
        asked = {
            "store": store,
            "variables": self._variables(uri),
            "config": self._config.model_dump(mode="json"),
            "free": _FREE_BYTES,
        }
        if uri.scheme != "file":
            found = host.ask("check", given=asked)
        else:
            marker = _marker(Path(uri.prefix))
            try:
                found = host.ask("check", given={**asked, "marker": str(marker)})
            finally:
                marker.rmdir()
        if problems := found["problems"]:
            raise EngineError("\n".join(f"{host.connection.host}: {problem}" for problem in problems))

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedThere:
        """Detached there at once; what it is given goes over standard input, to memory alone."""
        host = self._host()
        uri, _ = StoreUri.parse(job.uri).parent()
        given = {
            "uri": job.uri,
            "arguments": arguments,
            "token": token,
            "about": {"launcher": "ssh", "name": host.connection.host},
            "scratch": str(self._config.hardware.scratch_root or ""),
            "plain": {VARIABLE: os.environ[VARIABLE]} if os.environ.get(VARIABLE) else {},
            "given": self._variables(uri),
        }
        if uri.scheme != "file" and (ca := os.environ.get("AWS_CA_BUNDLE")):
            given["ca"] = expand(ca).read_text()
        with interruptible(f"{job.id}: interrupted before its attempt began; lastrun resume {job.reference} begins it"):
            _remember(token, host.connection.host)
            host.call("start", given=given)
        return StartedThere(job, host, token, output)

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """The heartbeat decides; only of one that gives no sign is the host asked, and only if this user has started that very
        attempt from here: the store's word sends nobody's keys anywhere."""
        token = str((attempt.container or {}).get("token"))
        name = _remembered(token)
        if name is None or job.attempts.alive(attempt):
            return attempt
        found = Host(name).ask("state", token, seconds=2 * WAITS.engine + 10)
        if found["alive"] or not found["known"]:
            return attempt
        current = job.attempts.again(attempt)
        if current is not None and current.open:
            code = found["code"]
            how = "was killed" if code == -9 else "is gone" if code is None else f"ended with code {code}"
            job.attempts.write_lost(current, f"its process on {name} {how}")
        _note(token).unlink(missing_ok=True)
        return current

    @staticmethod
    def clean() -> None:
        """What runs leave there goes when they have been followed to their end, or a week after it."""

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """Only where the other machine is this one after all."""
        own = [attempt.container for attempt in attempts if attempt.launcher == "ssh" and attempt.is_here]
        return {Path(found["scratch"]) for found in own if found and found.get("scratch")}

    def _host(self) -> Host:
        if self._config.run.host is None:
            raise UsageError("run.host is not set: --on HOST names the machine, as ssh knows it")
        return Host(self._config.run.host)

    def _variables(self, uri: StoreUri) -> dict[str, str]:
        """Those that the job names, and what the store needs. Keys that boto3 has from a file or a service of this machine are
        handed over as they are now."""
        bucket = uri.scheme != "file" or is_remote(self._config.data.uri)
        names = [*self._config.run.pass_env, *(STORE_VARIABLES if bucket else ())]
        found = {name: os.environ[name] for name in names if name in os.environ}
        if bucket and "AWS_ACCESS_KEY_ID" not in found:
            import boto3  # slow to import

            if keys := boto3.Session().get_credentials():
                frozen = keys.get_frozen_credentials()
                found |= {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
                found |= {"AWS_SESSION_TOKEN": frozen.token} if frozen.token else {}
        return found


def _say(text: str) -> None:
    sys.stderr.write(plain(f"{text}\n"))


def _marker(folder: Path) -> Path:
    """An empty folder in the store's, or above where that is not there yet: seen from a machine, it has the same store."""
    place = next(one for one in (folder, *folder.parents) if one.exists())
    marker = place / f".lastrun-{secrets.token_hex(8)}"
    try:
        marker.mkdir(mode=0o755)
    except OSError as error:
        raise UsageError(f"store {folder}: {place} cannot be written ({error.strerror or error})") from None
    return marker


def _note(token: str) -> Path:
    return data_folder() / "ssh" / f"{token}.json"


def _remember(token: str, host: str) -> None:
    """Where this user has started it: that is what is asked later, whatever the store says."""
    with suppress(UsageError, OSError):
        _note(token).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _note(token).write_text(json.dumps({"host": host}))


def _remembered(token: str) -> str | None:
    if not all(character in "0123456789abcdef" for character in token):
        return None
    with suppress(LastrunError, OSError, ValueError, KeyError):
        found: Any = json.loads(_note(token).read_text())
        return str(found["host"])
    return None
