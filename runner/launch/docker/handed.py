"""What a container of an attempt is given: limits, folders, GPUs, variables; and nothing else of this machine."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.datafile import DataError, data_path, is_remote
from last_e.text import absolute, expand
from runner import machine
from runner.attempt import data_cache
from runner.attempt.leaving import PREEMPTED_SECONDS, STOP_PATIENCE_SECONDS
from runner.errors import UsageError
from runner.gpus import gpus_to_use
from runner.launch.docker import gpus, locks
from runner.launch.docker.containers import logs
from runner.launch.docker.engine import explained, is_local
from runner.launch.docker.given import DATA, HOME, TMP, Given, see_that_nothing_is_covered
from runner.launch.variables import to_hand_over, uses_buckets, wants_cpu
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import VARIABLE

if TYPE_CHECKING:
    from docker import DockerClient

STOP_SECONDS = int(STOP_PATIENCE_SECONDS + PREEMPTED_SECONDS) + 5
"""What ``docker stop`` allows before it kills: a save and a drain."""
_FILE_VARIABLES = (
    *("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "REQUESTS_CA_BUNDLE"),
    "LASTRUN_ENV_FILE",
)
_AWS_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}


class Handed:
    """For one job's configuration.

    Args:
        config: the job's.
        client: the engine.
    """

    def __init__(self, config: JobSpec, client: DockerClient) -> None:
        self._config, self._client = config, client
        self._local = is_local(client)
        with explained():
            self._info = client.info()
        self.podman = gpus.is_podman(self._info)
        self.locks = False
        """Whether containers can be given the folder of GPU locks (:mod:`~runner.launch.docker.locks`)."""
        self.ways = gpus.ways(config.run.gpu_request, self._info) if self.gpus() else [""]
        """How GPUs may be asked for, in the order to be tried."""

    def options(self, uri: StoreUri, about: dict[str, str], way: str) -> dict[str, Any]:
        """How the container is confined, and what it may reach; GPUs are asked for in a ``way``."""
        run = self._config.run
        security = self._info.get("SecurityOptions") or []
        rootless = any("name=rootless" in option for option in security) or bool(self._info.get("Rootless"))
        asked, variables = gpus.request(way, self._requested()) if self.gpus() else ({}, {})
        host = self._client.api.create_host_config(
            mounts=self._mounts(uri, real=bool(about)),
            tmpfs={TMP: "rw,nosuid,nodev,mode=1777"},
            shm_size=run.shm_size or "1g",
            mem_limit=run.memory,
            memswap_limit=run.memory,  # the same: no swap besides
            nano_cpus=int(run.cpus * 1e9) if run.cpus else None,
            cap_drop=["ALL"],
            group_add=[] if rootless else [str(group) for group in os.getgroups()],
            security_opt=["no-new-privileges:true"],
            read_only=True,
            init=True,
            network_mode=run.network or "bridge",
            # An engine that gives users other numbers inside would write files of nobody into the caller's folders.
            userns_mode="host" if self._local and any("name=userns" in option for option in security) else None,
            log_config=logs(),
            **asked,
        )
        # A folder of the attempt's own in the volume: what is mounted below /cache belongs to the engine's root.
        environment = {machine.CONTAINER_VARIABLE: json.dumps(about), "XDG_CACHE_HOME": f"{HOME}/own", **variables}
        environment["PYTHONSAFEPATH"] = "1"  # its folder is one that can be written
        environment["TMPDIR"] = about.get("scratch", HOME)
        if waits := os.environ.get(VARIABLE):
            environment[VARIABLE] = waits
        # In a rootless engine's container root is the caller; anybody else would be one of its subordinate users.
        user = "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"
        return {
            "host_config": host,
            "environment": environment,
            "user": user,
            "hostname": socket.gethostname()[:63],
            "stop_timeout": STOP_SECONDS,
            "use_config_proxy": False,  # it would show passwords of proxies to all who may ask the engine
        }

    def _mounts(self, uri: StoreUri, real: bool) -> list[Any]:
        """What the container sees of this machine. A trial makes no volume."""
        from docker.types import Mount

        mounts = [Mount(HOME, f"lastrun-cache-{os.getuid()}", type="volume")] if real else []
        mounts += [locks.mount()] if self.locks and self.gpus() else []
        given = self.given(uri, make=real)
        bound = {one.target: one for one in reversed(given) if one.source.exists()}
        return mounts + [Mount(one.target, str(one.source), type="bind", read_only=one.read_only) for one in bound.values()]

    def given(self, uri: StoreUri, make: bool = False) -> list[Given]:
        """Files and folders of this machine that it gets: none on an engine elsewhere.

        Raises:
            UsageError: one of them would cover something, or the scratch folder cannot be made.
        """
        if not self._local:
            return []
        given = []
        if uri.scheme == "file":
            given.append(Given(f"store {uri}", absolute(uri.prefix), uri.prefix, read_only=False))
        scratch = self.scratch(make)
        given.append(Given("hardware.scratch_root", scratch, str(scratch), read_only=False))
        if self._uses_buckets(uri):
            files = [(name, os.environ[name]) for name in _FILE_VARIABLES if os.environ.get(name)]
            bundles = [("store.ca_bundle", place.options.get("ca_bundle", "")) for place in self.buckets(uri)]
            for what, file in [*files, *_AWS_FILES.items(), *bundles]:
                if file and stat.S_ISREG(_mode(expand(file))):
                    given.append(Given(what, absolute(file), _inside(file)))
        if data := self.data():
            given.append(Given("data", *data))
        see_that_nothing_is_covered(given)
        return given

    def data(self) -> tuple[Path, str] | None:
        """The data file here, if there is one, and where a container of this machine's engine has it."""
        if self._local:
            with suppress(DataError):
                found = data_path(self._config)
                return None if found is None else (absolute(found), f"{DATA}/{found.name}")
        return None

    def scratch(self, make: bool) -> Path:
        """The folder for the attempt's files, in the container under the same path: what it could not send outlives it.

        Raises:
            UsageError: it is not there and cannot be made.
        """
        root = self._config.hardware.scratch_root
        folder = absolute(root or machine.container_scratch())
        try:
            if make:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            above = next(path for path in (folder, *folder.parents) if path.exists())
            if not above.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(above, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            hint = "set another with --set hardware.scratch_root=FOLDER"
            raise UsageError(f"hardware.scratch_root: {folder}: {error.strerror or error}; {hint}") from None
        return folder

    def gpus(self) -> Any:
        """Which GPUs to ask the engine for. Where there is a driver they are asked for, so that an engine that cannot hand them
        in says so: nobody is to train on the CPU of a machine with a GPU without having said so."""
        if wants_cpu(self._config):
            return 0
        if self._config.run.gpus is not None:
            return self._config.run.gpus
        driver = self._local and machine.driver_version() is not None
        return int(driver or gpus.has_gpus(self._info) or self._config.hardware.device == "cuda")

    def _requested(self) -> Any:
        """What the engine is asked for: it would hand the same ones in twice. Where attempts in containers see each other's
        locks, they choose among all that this user may use, or that the job names."""
        wanted = self.gpus()
        if not self.locks or isinstance(wanted, list):
            return wanted
        named = os.environ.get("CUDA_VISIBLE_DEVICES") if self._local else None
        return (named and gpus_to_use()) or "all"

    def buckets(self, store: StoreUri) -> list[StoreUri]:
        """The buckets that the attempt uses."""
        found = [] if store.scheme == "file" else [store]
        if is_remote(self._config.data.uri):
            found.append(data_cache.parse(str(self._config.data.uri), self._config.store.model_dump(exclude={"uri"})))
        return found

    def _uses_buckets(self, store: StoreUri) -> bool:
        return uses_buckets(self._config, store)

    def told(self, uri: StoreUri) -> dict[str, dict[str, str]]:
        """The variables that the job names: ``run.pass_env``, those of ``notify`` and of its bucket, and which are secret; for
        an engine elsewhere with the files that they name."""
        names = to_hand_over(self._config, uri)
        variables, files = {name: os.environ[name] for name in names if name in os.environ}, {}
        if not stat.S_ISREG(_mode(expand(variables.get("REQUESTS_CA_BUNDLE", "")))):
            variables.pop("REQUESTS_CA_BUNDLE", None)  # it may name a folder, which nobody mounts
        named = {name: variables[name] for name in _FILE_VARIABLES if variables.get(name)}
        if self._uses_buckets(uri) and self._local:
            variables |= {name: _inside(path) for name, path in named.items()}
        elif self._uses_buckets(uri):
            for name, path in {**_AWS_FILES, **named}.items():
                if stat.S_ISREG(_mode(expand(path))):
                    variables[name] = f"{TMP}/{name}"
                    text = expand(path).read_text(errors="replace")
                    files[variables[name]] = keys_of(text) if name == "LASTRUN_ENV_FILE" else text
        return {"variables": variables, "files": files}


def keys_of(text: str) -> str:
    """The lines of an environment file that are a bucket's keys: what else it holds is nobody's there."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    kept = [line for line in text.splitlines() if line.strip().removeprefix("export ").partition("=")[0].strip() in names]
    return "".join(f"{line}\n" for line in kept)


def _inside(path: str | Path) -> str:
    """A path as the container sees it: the same, but for a home folder of its own."""
    text = str(path)
    return f"{HOME}{text[1:]}" if text == "~" or text.startswith("~/") else str(absolute(text))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
