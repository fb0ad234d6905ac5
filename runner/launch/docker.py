"""An attempt in a container, on a local engine or one that ``DOCKER_HOST`` or a context names."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from last_e.datafile import DataError, data_path, is_remote
from last_e.text import expand, plain
from runner import containers, data_cache, machine
from runner.agent import PREEMPTED_SECONDS, STOP_PATIENCE_SECONDS
from runner.engine import connect, explained, is_local
from runner.errors import EngineError, Exit, LastrunError, StoreError, UsageError
from runner.image import BUILD, code_digest, default_image, lastrun_version
from runner.job import Job
from runner.spec import JobSpec
from runner.store import StoreUri

if TYPE_CHECKING:
    from docker import DockerClient

HOME = "/cache"
"""The home folder inside: prepared data, compiled kernels and the like stay in a volume there."""
STOP_SECONDS = int(STOP_PATIENCE_SECONDS + PREEMPTED_SECONDS) + 5
"""What ``docker stop`` allows before it kills: a save and a drain."""
START_SECONDS = 60.0
STORE_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What a bucket needs: naming one as the store names these, too."""
_FILE_VARIABLES = ("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
_AWS_FILES = ("~/.aws/config", "~/.aws/credentials")


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
        if found["code"] != code_digest():
            print(f"note: image {self._image} was built from other code than this; {BUILD} renews it", file=sys.stderr)

    def run(self, job: Job, arguments: list[str], *, quiet: bool) -> int:
        """See :class:`~runner.launch.Launcher`."""
        held: list[Any] = []
        early: list[int] = []

        def hand_on(signum: int, frame: FrameType | None) -> None:
            if not held:
                early.append(signum)  # there is nobody yet to hand it to
                return
            with contextlib.suppress(LastrunError), explained():
                held[0].kill(signal.Signals(signum).name)

        before = {signum: signal.signal(signum, hand_on) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            held.append(self._start(job, arguments))
            for signum in early:
                hand_on(signum, None)
            with explained(self._image):
                _show(held[0], sys.stderr if quiet else sys.stdout)
                code = int(held[0].wait(timeout=None)["StatusCode"])
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        with contextlib.suppress(StoreError):
            containers.remove_if_told(job, held[0])
        if code - 128 in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) and code != Exit.INTERRUPTED_TWICE:
            return Exit.PAUSED  # before the attempt had claimed the job
        return code if code in Exit._value2member_map_ else Exit.FAILED

    def detach(self, job: Job, arguments: list[str]) -> None:
        """See :class:`~runner.launch.Launcher`."""
        container = self._start(job, arguments)
        token = container.labels[containers.ATTEMPT_LABEL]
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with explained(self._image):
                container.reload()
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
            return
        host = urlsplit(uri.options.get("endpoint_url", "")).hostname
        if host is not None and _is_loopback(host) and self._config.run.network != "host":
            raise UsageError(
                f"store {uri}: {host} means the container itself in a network of its own: --set run.network=host shares this "
                "machine's"
            )

    def _see_to_the_data(self, client: DockerClient) -> None:
        if is_remote(self._config.data.uri):
            data_cache.parse(str(self._config.data.uri), {})
            return
        if not is_local(client):  # the attempt itself will look
            return
        try:
            data_path(self._config)
        except DataError as error:
            raise UsageError(str(error)) from None

    def _probe(self, client: DockerClient, uri: StoreUri) -> dict[str, str]:
        """What ``lastrun probe`` says in such a container."""
        options = self._options(client, uri, {})
        with explained(self._image):
            made = client.api.create_container(self._image, ["probe"], entrypoint=["python", "-m", "runner"], **options)
            container = client.containers.get(made["Id"])
            try:
                container.start()
                code = container.wait()["StatusCode"]
                container.reload()
                if container.attrs["State"]["OOMKilled"]:
                    raise EngineError(f"run.memory={self._config.run.memory} is too little even to start: allow more")
                out, errors = container.logs(stderr=False), container.logs(stdout=False)
            finally:
                container.remove(force=True, v=True)
        try:
            found = json.loads(out)
            return {"version": str(found["version"]), "code": str(found["code"])}
        except (ValueError, KeyError, TypeError):
            words = plain(errors.decode(errors="replace")).strip().splitlines()
            if words and words[-1].startswith("error: "):
                raise EngineError(words[-1].removeprefix("error: ")) from None
            why = words[-1] if words else f"code {code}"
            raise EngineError(f"image {self._image} holds no lastrun ({why}): {BUILD} makes one that does") from None

    # --- starting ------------------------------------------------------------------------------------------------------

    def _start(self, job: Job, arguments: list[str]) -> Any:
        """A running container with an attempt in it."""
        client = connect()
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
            image = client.images.get(self._image)
            digest = next(iter(image.attrs.get("RepoDigests") or []), image.id)
            about = {"name": name, "token": token, "engine": client.info()["ID"], "image": digest}
            made = client.api.create_container(
                image.id,
                ["attempt", job.uri, "--read-env", *arguments],
                name=name,
                entrypoint=["python", "-m", "runner"],
                labels=labels,
                stdin_open=True,
                **self._options(client, uri, about),
            )
            container = client.containers.get(made["Id"])
            try:
                _hand_over(client, made["Id"], container.start, self._variables(uri))
            except BaseException:
                container.remove(force=True, v=True)
                raise
        return container

    def _options(self, client: DockerClient, uri: StoreUri, about: dict[str, str]) -> dict[str, Any]:
        """How the container is confined, and what it may reach."""
        from docker.types import DeviceRequest, LogConfig

        run, info = self._config.run, client.info()
        rootless = any("name=rootless" in option for option in info.get("SecurityOptions") or [])
        gpus = run.gpus if run.gpus is not None else int("nvidia" in info.get("Runtimes", {}))
        requests = []
        if gpus:
            which = {"device_ids": list(map(str, gpus))} if isinstance(gpus, list) else {"count": -1 if gpus == "all" else gpus}
            requests.append(DeviceRequest(capabilities=[["gpu"]], **which))
        host = client.api.create_host_config(
            mounts=self._mounts(client, uri),
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
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
        )
        # A folder of the attempt's own in the volume: what is mounted below /cache belongs to the engine's root.
        environment = {machine.CONTAINER_VARIABLE: json.dumps(about), "TMPDIR": HOME, "XDG_CACHE_HOME": f"{HOME}/own"}
        if is_local(client):
            environment["TMPDIR"] = str(self._scratch())
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

    def _mounts(self, client: DockerClient, uri: StoreUri) -> list[Any]:
        from docker.types import Mount

        mounts = [Mount(HOME, f"lastrun-cache-{os.getuid()}", type="volume")]
        if not is_local(client):
            return mounts

        def bind(path: str | Path, read_only: bool = True) -> None:
            source, target = expand(str(path)).absolute(), _inside(path)
            if target not in [mount["Target"] for mount in mounts] and source.exists():
                mounts.append(Mount(target, str(source), type="bind", read_only=read_only))

        if uri.scheme == "file":
            bind(uri.prefix, read_only=False)
        if self._uses_buckets(uri):
            files = [os.environ[name] for name in _FILE_VARIABLES if os.environ.get(name)]
            if "AWS_ACCESS_KEY_ID" not in os.environ:
                files += _AWS_FILES
            for file in [*files, uri.options.get("ca_bundle", "")]:
                if file and stat.S_ISREG(_mode(expand(file))):
                    bind(file)
        scratch = self._scratch()
        bind(self._config.hardware.scratch_root or scratch, read_only=False)
        with contextlib.suppress(DataError):
            data = data_path(self._config)
            if data is not None and self._config.data.uri is None:
                root = self._config.hardware.data_root
                mounts.append(
                    Mount(
                        f"{_inside(root)}/{data.relative_to(expand(root)).as_posix()}",
                        str(data.absolute()),
                        type="bind",
                        read_only=True,
                    )
                )
            elif data is not None:
                bind(data if str(self._config.data.uri).startswith("file://") else str(self._config.data.uri))
        return mounts

    def _scratch(self) -> Path:
        """The attempt's files, on the host and under the same path: what it could not send outlives the container."""
        root = self._config.hardware.scratch_root
        folder = expand(root) if root else machine.container_scratch()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            hint = "set another with --set hardware.scratch_root=FOLDER"
            raise UsageError(f"hardware.scratch_root: {folder}: {error.strerror or error}; {hint}") from None
        return folder.absolute()

    def _uses_buckets(self, store: StoreUri) -> bool:
        return store.scheme != "file" or is_remote(self._config.data.uri)

    def _variables(self, uri: StoreUri) -> dict[str, str]:
        """The variables that the job names: ``run.pass_env``, and those of its bucket."""
        names = [*self._config.run.pass_env, *(STORE_VARIABLES if self._uses_buckets(uri) else ())]
        return {name: os.environ[name] for name in names if name in os.environ}


def _hand_over(client: DockerClient, container: str, start: Any, variables: dict[str, str]) -> None:
    """Start a container and write variables to its standard input: what the engine were told, it would keep in a file and
    show to everybody who may ask it."""
    stream = client.api.attach_socket(container, {"stdin": 1, "stream": 1})
    connection = getattr(stream, "_sock", stream)  # an engine on this machine is read and written through another object
    try:
        start()
        connection.sendall(json.dumps(variables).encode() + b"\n")
    except OSError as error:
        raise EngineError(f"the container ended before it took its variables ({error.strerror or error})") from None
    finally:
        stream.close()
        connection.close()


def _show(container: Any, out: Any) -> None:
    """Copy a container's output until it ends; a reader of ours that goes away does not stop it."""
    for piece in _pieces(container):
        try:
            out.write(piece)
            out.flush()
        except OSError:
            return


def _pieces(container: Any) -> Iterator[str]:
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in container.logs(stream=True, follow=True):
        yield decoder.decode(piece)


def _inside(path: str | Path) -> str:
    """A path as the container sees it: the same, but for a home folder of its own."""
    text = str(path)
    return f"{HOME}{text[1:]}" if text == "~" or text.startswith("~/") else str(Path(text).absolute())


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
