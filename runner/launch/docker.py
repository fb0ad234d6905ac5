"""An attempt in a container, on a local engine or one that ``DOCKER_HOST`` or a context names."""

from __future__ import annotations

import errno
import ipaddress
import json
import math
import os
import secrets
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from last_e.datafile import DataError, data_path, is_remote
from last_e.text import absolute, expand, plain
from runner import containers, data_cache, machine
from runner.agent import PREEMPTED_SECONDS, STOP_PATIENCE_SECONDS
from runner.engine import NO_RUNTIME, SHORT_SECONDS, connect, explained, is_local, patience
from runner.errors import EngineError, Exit, LastrunError, PausedError, Reason, StoreError, UsageError
from runner.image import BUILD, code_digest, default_image, lastrun_version
from runner.job import Job
from runner.launch.attached import Watch, hand_over
from runner.signals import LEAVING, handled, interrupt
from runner.spec import JobSpec
from runner.store import StoreUri
from runner.waits import VARIABLE

if TYPE_CHECKING:
    from docker import DockerClient

HOME = "/cache"
"""The home folder inside: downloaded data, compiled kernels and the like stay in a volume there."""
DATA = "/lastrun-data"
"""Where the data file is mounted. Not in the volume: what a file is mounted on stays there, empty, when the file is gone."""
_OWN = tuple(map(Path, (HOME, DATA, "/app", "/opt/lastrun", "/usr/bin", "/etc", "/dev", "/proc", "/sys")))
"""Folders of the container's own, which a folder of the caller's must not cover."""
STOP_SECONDS = int(STOP_PATIENCE_SECONDS + PREEMPTED_SECONDS) + 5
"""What ``docker stop`` allows before it kills: a save and a drain."""
START_SECONDS = 60.0
STORE_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What a bucket needs: naming one as the store names these, too."""
_FILE_VARIABLES = ("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "REQUESTS_CA_BUNDLE")
_AWS_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}


class DockerLauncher:
    """Starts attempts in containers."""

    def __init__(self, config: JobSpec) -> None:
        self._config = config
        self._image = config.run.image or default_image()

    def preflight(self, store: str) -> None:
        """See :class:`~runner.launch.Launcher`. A container with the very same limits is started and says what is in it."""
        client = connect()
        uri = StoreUri.parse(store)
        self._see_to_the_store(client, uri)
        self._see_to_the_data(client)
        missing = [name for name in self._config.run.pass_env if name not in os.environ]
        if missing:
            raise UsageError(f"run.pass_env: {', '.join(missing)} is not set here")
        found = self._probe(client, uri)
        if found["version"] != lastrun_version():
            raise EngineError(
                f"image {self._image} holds lastrun {found['version']}, this is {lastrun_version()}: {BUILD} makes one of it"
            )
        if found["driver"] and not self._wants_cpu() and not self._gpus(client):
            raise EngineError(
                f"the engine's machine has NVIDIA's driver {found['driver']}, but the engine has no NVIDIA runtime: "
                f"it would train on the CPU; {NO_RUNTIME}"
            )
        if found["code"] != code_digest():
            print(f"note: image {self._image} was built from other code than this; {BUILD} renews it", file=sys.stderr)

    def run(self, job: Job, arguments: list[str], *, quiet: bool) -> int:
        """See :class:`~runner.launch.Launcher`."""
        asked: list[int] = []
        next_look = math.inf
        with handled(asked.append):
            container = self._start(job, arguments)
            watch = Watch(container, sys.stderr if quiet else sys.stdout)
            watch.start()
            while watch.is_alive():
                watch.join(0.1)
                # Who has asked us to leave does not wait for an engine that hangs: it has to take the signal, and from then on
                # to answer until the container has ended.
                while asked:
                    self._call(job, container, partial(container.kill, signal.Signals(asked.pop(0)).name))
                    next_look = time.monotonic() + SHORT_SECONDS
                if time.monotonic() >= next_look:
                    self._call(job, container, container.reload)
                    next_look = time.monotonic() + SHORT_SECONDS
        return self._exit_code(job, container, watch)

    def _call(self, job: Job, container: Any, what: Callable[[], object]) -> None:
        """Something that the engine has to answer soon; that the container has ended is an answer, too."""
        from docker.errors import APIError

        try:
            with patience(container.client, SHORT_SECONDS), explained(), suppress(APIError):
                what()
        except EngineError as error:
            raise _out_of_sight(job, error) from None

    def _exit_code(self, job: Job, container: Any, watch: Watch) -> int:
        """What the container's end means; where the engine does not tell, as the store has it."""
        token, attempt = container.labels[containers.ATTEMPT_LABEL], None
        with suppress(StoreError):
            attempt = next((a for a in job.attempts() if a.id.endswith(f"-{token}")), None)
        if watch.error is not None:
            if attempt is None or attempt.open:
                raise _out_of_sight(job, watch.error)
            return Reason(attempt.reason).ending.exit_code if attempt.reason else Exit.FAILED
        with suppress(LastrunError), patience(container.client, SHORT_SECONDS), explained():
            containers.remove_if_told(job, container)
        if watch.code - 128 in LEAVING and (attempt is None or attempt.phase == "claiming"):
            return Exit.PAUSED  # it had not taken the job yet: nothing is lost
        return watch.code if watch.code in Exit._value2member_map_ else Exit.FAILED

    def detach(self, job: Job, arguments: list[str]) -> None:
        """See :class:`~runner.launch.Launcher`."""
        container = self._start(job, arguments)
        token = container.labels[containers.ATTEMPT_LABEL]
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                with explained():
                    container.reload()
            except EngineError as gone:
                raise _out_of_sight(job, gone) from None
            ended = container.status in ("exited", "dead")  # asked first: it may claim, run and end between two looks
            if any(a.id.endswith(f"-{token}") and a.phase != "claiming" for a in job.attempts()):
                return
            if ended:
                code = int(container.attrs["State"]["ExitCode"])
                words = plain(container.logs().decode(errors="replace")).strip().splitlines()
                containers.remove(container)
                last = words[-1].removeprefix("error: ") if words else f"the container ended with code {code}"
                error = LastrunError(last)
                error.exit_code = Exit(code) if code in Exit._value2member_map_ else Exit.FAILED
                raise error
            time.sleep(0.2)
        raise StoreError(
            f"{job.id}: no sign of the attempt within {START_SECONDS:.0f} s; docker logs {container.name} may tell"
        )

    # --- what can be seen before anything is started -----------------------------------------------------------------

    def _see_to_the_store(self, client: DockerClient, uri: StoreUri) -> None:
        if uri.scheme == "file":
            if not is_local(client):
                raise UsageError(f"store {uri}: the engine is on another machine, which has no such folder: take a bucket")
            _uncovered(f"store {uri}", Path(uri.prefix))
            return
        self._see_to_a_server(client, f"store {uri}", uri)

    def _see_to_a_server(self, client: DockerClient, what: str, place: StoreUri) -> None:
        """See that a container can reach a bucket's server, and trust it."""
        if "ca_bundle" in place.options and not is_local(client):
            raise UsageError(
                f"{what}: the engine is on another machine, which has no {place.options['ca_bundle']}: name the file in "
                "AWS_CA_BUNDLE instead, and it is handed over"
            )
        named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        host = urlsplit(place.options.get("endpoint_url") or named).hostname
        if host is not None and _is_loopback(host) and self._config.run.network != "host":
            whose = "this machine's" if is_local(client) else "that of the engine's machine"
            raise UsageError(
                f"{what}: {host} means the container itself in a network of its own: --set run.network=host shares {whose}"
            )

    def _buckets(self, store: StoreUri) -> list[StoreUri]:
        """The buckets that the attempt uses."""
        found = [] if store.scheme == "file" else [store]
        if is_remote(self._config.data.uri):
            found.append(data_cache.parse(str(self._config.data.uri), self._config.store.model_dump(exclude={"uri"})))
        return found

    def _see_to_the_data(self, client: DockerClient) -> None:
        if is_remote(self._config.data.uri):
            uri = str(self._config.data.uri)
            self._see_to_a_server(client, f"data.uri {uri}", self._buckets(StoreUri("file", "", "", {}))[0])
            return
        if not is_local(client):  # the attempt itself will look
            return
        try:
            data_path(self._config)
        except DataError as error:
            raise UsageError(str(error)) from None

    def _probe(self, client: DockerClient, uri: StoreUri) -> dict[str, str | None]:
        """What ``lastrun probe`` says in such a container."""
        with explained(self._image):
            done = containers.trial(client, self._image, ["probe"], **self._options(client, uri, {}))
        if done.out_of_memory:
            raise EngineError(f"run.memory={self._config.run.memory} is too little even to start: allow more")
        try:
            found = json.loads(done.out)
            return {"version": str(found["version"]), "code": str(found["code"]), "driver": found.get("driver")}
        except (ValueError, KeyError, TypeError):
            words = plain(done.errors.decode(errors="replace")).strip().splitlines()
            if words and words[-1].startswith("error: "):
                raise EngineError(words[-1].removeprefix("error: ")) from None
            why = words[-1] if words else f"code {done.code}"
            raise EngineError(f"image {self._image} holds no lastrun ({why}): {BUILD} makes one that does") from None

    def _wants_cpu(self) -> bool:
        return self._config.run.gpus == 0 or self._config.hardware.device == "cpu"

    def _gpus(self, client: DockerClient) -> Any:
        """Which GPUs to ask the engine for. Where there is a driver they are asked for, so that an engine that cannot hand them
        in says so: nobody is to train on the CPU of a machine with a GPU without having said so."""
        if self._wants_cpu():
            return 0
        if self._config.run.gpus is not None:
            return self._config.run.gpus
        driver = is_local(client) and machine.driver_version() is not None
        with explained():
            runtime = "nvidia" in client.info().get("Runtimes", {})
        return int(driver or runtime or self._config.hardware.device == "cuda")

    # --- starting ------------------------------------------------------------------------------------------------------

    def _start(self, job: Job, arguments: list[str]) -> Any:
        """A running container with an attempt in it."""
        with handled(interrupt):
            try:
                return self._started(job, arguments)
            except KeyboardInterrupt:
                raise PausedError(
                    f"{job.id}: interrupted before its attempt began; lastrun resume {job.reference} begins it"
                ) from None

    def _started(self, job: Job, arguments: list[str]) -> Any:
        client = connect()
        with explained():
            containers.sweep(client, str(os.getuid()))
        job.state()
        containers.mark_dead_processes(job)
        uri, _ = StoreUri.parse(job.uri).parent()
        if uri.scheme == "file":
            Path(uri.prefix).mkdir(parents=True, exist_ok=True)
        token, name = secrets.token_hex(4), f"lastrun-{job.id}-{job.next_number()}"
        labels = {
            containers.JOB_LABEL: job.id,
            containers.STORE_LABEL: str(uri),
            containers.USER_LABEL: str(os.getuid()),
            containers.ATTEMPT_LABEL: token,
        }
        with explained(self._image):
            try:
                image = client.images.get(self._image)
                about = {
                    "name": name,
                    "token": token,
                    "engine": client.info()["ID"],
                    "image": next(iter(image.attrs.get("RepoDigests") or []), image.id),
                }
                if self._gpus(client):
                    about["device"] = "cuda"
                if is_local(client):
                    about["scratch"] = str(self._scratch(make=True))
                    if data := self._data(client):
                        about["data"] = data[1]
                options = self._options(client, uri, about)
                made = client.api.create_container(
                    image.id,
                    ["attempt", job.uri, "--read-env", *arguments],
                    name=name,
                    entrypoint=containers.PROGRAM,
                    labels=labels,
                    stdin_open=True,
                    **options,
                )
                container = client.containers.get(made["Id"])
                hand_over(client, made["Id"], container.start, self._given(client, uri))
            except BaseException:
                # Whoever asks a second time to leave would leave a container behind.
                with handled(lambda _: None), patience(client, SHORT_SECONDS), suppress(LastrunError), explained():
                    containers.discard(client, f"{containers.ATTEMPT_LABEL}={token}")
                raise
        return container

    def _options(self, client: DockerClient, uri: StoreUri, about: dict[str, str]) -> dict[str, Any]:
        """How the container is confined, and what it may reach."""
        from docker.types import DeviceRequest, LogConfig

        run, gpus = self._config.run, self._gpus(client)
        security = client.info().get("SecurityOptions") or []
        rootless = any("name=rootless" in option for option in security)
        requests = []
        if gpus:
            which = {"device_ids": list(map(str, gpus))} if isinstance(gpus, list) else {"count": -1 if gpus == "all" else gpus}
            requests.append(DeviceRequest(capabilities=[["gpu"]], **which))
        host = client.api.create_host_config(
            mounts=self._mounts(client, uri, real=bool(about)),
            tmpfs={"/tmp": "rw,nosuid,nodev,mode=1777"},  # noqa: S108
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
            device_requests=requests,
            # An engine that gives users other numbers inside would write files of nobody into the caller's folders.
            userns_mode="host" if is_local(client) and any("name=userns" in option for option in security) else None,
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
        )
        # A folder of the attempt's own in the volume: what is mounted below /cache belongs to the engine's root.
        environment = {machine.CONTAINER_VARIABLE: json.dumps(about), "XDG_CACHE_HOME": f"{HOME}/own"}
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

    def _mounts(self, client: DockerClient, uri: StoreUri, real: bool) -> list[Any]:
        """What the container sees of this machine. A trial makes nothing: no volume, no folder."""
        from docker.types import Mount

        mounts = [Mount(HOME, f"lastrun-cache-{os.getuid()}", type="volume")] if real else []
        if not is_local(client):
            return mounts

        def bind(source: Path, target: str, read_only: bool = True) -> None:
            if target not in [mount["Target"] for mount in mounts] and source.exists():
                mounts.append(Mount(target, str(absolute(source)), type="bind", read_only=read_only))

        if uri.scheme == "file":
            bind(Path(uri.prefix), uri.prefix, read_only=False)
        if self._uses_buckets(uri):
            files = [os.environ[name] for name in _FILE_VARIABLES if os.environ.get(name)]
            for file in [*files, *_AWS_FILES.values(), *(place.options.get("ca_bundle", "") for place in self._buckets(uri))]:
                if file and stat.S_ISREG(_mode(expand(file))):
                    bind(expand(file), _inside(file))
        scratch = self._scratch(make=real)
        bind(scratch, str(scratch), read_only=False)
        if data := self._data(client):
            bind(*data)
        return mounts

    def _data(self, client: DockerClient) -> tuple[Path, str] | None:
        """The data file here, if there is one, and where a container of this machine's engine has it."""
        if is_local(client):
            with suppress(DataError):
                found = data_path(self._config)
                return None if found is None else (absolute(found), f"{DATA}/{found.name}")
        return None

    def _scratch(self, make: bool) -> Path:
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
        _uncovered("hardware.scratch_root", folder)
        return folder

    def _uses_buckets(self, store: StoreUri) -> bool:
        return store.scheme != "file" or is_remote(self._config.data.uri)

    def _given(self, client: DockerClient, uri: StoreUri) -> dict[str, dict[str, str]]:
        """The variables that the job names: ``run.pass_env``, and those of its bucket; for an engine elsewhere with the files
        that they name."""
        names = [*self._config.run.pass_env, *(STORE_VARIABLES if self._uses_buckets(uri) else ())]
        variables, files = {name: os.environ[name] for name in names if name in os.environ}, {}
        if not stat.S_ISREG(_mode(expand(variables.get("REQUESTS_CA_BUNDLE", "")))):
            variables.pop("REQUESTS_CA_BUNDLE", None)  # it may name a folder, which nobody mounts
        named = {name: variables[name] for name in _FILE_VARIABLES if variables.get(name)}
        if self._uses_buckets(uri) and is_local(client):
            variables |= {name: _inside(path) for name, path in named.items()}
        elif self._uses_buckets(uri):
            for name, path in {**_AWS_FILES, **named}.items():
                if stat.S_ISREG(_mode(expand(path))):
                    variables[name] = f"/tmp/{name}"  # noqa: S108
                    files[variables[name]] = expand(path).read_text(errors="replace")
        return {"variables": variables, "files": files}


def _uncovered(what: str, folder: Path) -> None:
    """See that a folder of this machine, which has its own path inside, takes the place of nothing that a container needs.

    Raises:
        UsageError: it would.
    """
    covered = [own for own in _OWN if own == folder or folder in own.parents]
    if covered:
        raise UsageError(f"{what}: {folder} would stand in the way of the container's own {covered[0]}; take a folder below it")


def _out_of_sight(job: Job, error: EngineError) -> EngineError:
    return EngineError(
        f"{error}. lastrun status {job.reference} tells what becomes of the job; if it goes on, lastrun stop {job.reference} "
        "has it save and end"
    )


def _inside(path: str | Path) -> str:
    """A path as the container sees it: the same, but for a home folder of its own."""
    text = str(path)
    return f"{HOME}{text[1:]}" if text == "~" or text.startswith("~/") else str(absolute(text))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
