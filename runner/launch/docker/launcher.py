"""An attempt in a container, on a local engine or one that ``DOCKER_HOST`` or a context names."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

from last_e.datafile import is_remote
from last_e.text import plain
from runner import machine
from runner.attempt.data_check import check_data
from runner.errors import EngineError, LastrunError, UsageError
from runner.gpus import FOLDER, Asked
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.docker import containers, locks
from runner.launch.docker.attached import StartedContainer, hand_over
from runner.launch.docker.containers import KILLED
from runner.launch.docker.engine import SHORT_SECONDS, connect, explained, is_local, patience
from runner.launch.docker.explain import NO_RUNTIME, NOT_HANDED_IN
from runner.launch.docker.given import LOOK_VARIABLE, marked, see_that_it_sees_them
from runner.launch.docker.gpus import first_that_works
from runner.launch.docker.handed import Handed
from runner.launch.docker.image import BUILD, code_digest, default_image
from runner.launch.docker.look import ASKED_VARIABLE, understood
from runner.launch.docker.where import where
from runner.launch.inside import ONLY
from runner.launch.protocol import BeginsAtOnce
from runner.launch.variables import see_that_they_are_set, wants_cpu
from runner.signals import handled, interruptible
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.version import lastrun_version

if TYPE_CHECKING:
    from docker import DockerClient


_NO_LOCKS = (
    f"the engine hands in no {FOLDER} of its machine, where attempts lock their GPUs: those in its containers are not kept "
    "apart, and two may get the same; run.gpus=[INDEX] names one"
)


class DockerLauncher(BeginsAtOnce):
    """Starts attempts in containers. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = False

    def __init__(self, config: JobSpec) -> None:
        self._config = config
        self._image = config.run.image or default_image()
        self._way: str | None = None  # in which GPUs are asked for, once one has worked
        self._locks: bool | None = None  # whether containers get the locks of GPUs, once that is known
        self._busy: tuple[str, list[str]] | None = None  # that they were not free, and for whose jobs

    def preflight(self, store: str) -> None:
        """A container with the very same limits is started and says what is in it."""
        if self._config.run.container is not None:
            raise UsageError(ONLY.format(self._config.run.container, "docker"))
        if "://" in self._image or self._image.endswith(".sif"):
            raise UsageError(f"run.image: {self._image} is for run.container=apptainer; launcher docker takes a name")
        client = connect()
        handed = self._handed(client)
        uri = StoreUri.parse(store)
        self._see_to_the_store(client, uri)
        self._see_to_the_data(client, handed)
        see_that_they_are_set(self._config)
        found = self._probe(client, handed, uri)
        if found["version"] != lastrun_version():
            raise EngineError(
                f"image {self._image} holds lastrun {found['version']}, this is {lastrun_version()}: {BUILD} makes one of it"
            )
        self._busy = (found["lacks"], found["busy"]) if found.get("busy") is not None else None
        if found.get("lacks") and self._busy is None:
            raise EngineError(found["lacks"])
        if found["driver"] and not wants_cpu(self._config) and not handed.gpus():
            raise EngineError(
                f"the engine's machine has NVIDIA's driver {found['driver']}, but the engine has no NVIDIA runtime: "
                f"it would train on the CPU; {NO_RUNTIME}"
            )
        if handed.podman and handed.gpus() and found.get("gpu_files") == 0:
            raise EngineError(NOT_HANDED_IN)
        if found["code"] != code_digest():
            note = f"note: image {self._image} was built from other code than this; {BUILD} renews it\n"
            sys.stderr.write(plain(note))

    def see_that_gpus_are_free(self, job: str) -> None:
        """As the container has found it that ``preflight`` has started."""
        if self._busy is not None and (not job or job not in self._busy[1]):
            raise EngineError(self._busy[0])

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedContainer:
        """A container of the image's very digest; its variables come through its standard input."""
        with interruptible(f"{job.id}: interrupted before its attempt began; lastrun resume {job.reference} begins it"):
            container = self._start(job, arguments, token)
        return StartedContainer(job, container, output)

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """Only the engine that ran the container is believed, and only about the container whose token the attempt carries."""
        return containers.settle(job, attempt)

    @staticmethod
    def ready() -> str:
        """The engine, and whether it has the image."""
        client, image = connect(), default_image()
        with explained(image):
            version = plain(str(client.version().get("Version")))
            client.images.get(image)
        return f"engine {version} at {plain(where().host)} has image {image}; lastrun image check looks into it"

    @staticmethod
    def clean() -> None:
        """Containers that have ended, and those that were forgotten."""
        client = connect()
        with explained():
            containers.sweep(client, str(os.getuid()))

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """Scratch folders have the same path in a container as on its machine."""
        told = {attempt.container.get("scratch") for attempt in attempts if attempt.container}
        return {machine.container_scratch(), *(Path(place) for place in told if place)}

    def _handed(self, client: DockerClient) -> Handed:
        """What containers get; where there are GPUs, with their locks."""
        handed = Handed(self._config, client)
        if handed.gpus():
            if self._locks is None:
                self._locks = locks.are_there(client, self._image)
                if not self._locks:
                    sys.stderr.write(plain(f"note: {_NO_LOCKS}\n"))
            handed.locks = self._locks
        return handed

    # --- what can be seen before anything is started -----------------------------------------------------------------

    def _see_to_the_store(self, client: DockerClient, uri: StoreUri) -> None:
        if uri.scheme == "file":
            if not is_local(client):
                raise UsageError(f"store {uri}: the engine is on another machine, which has no such folder: take a bucket")
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

    def _see_to_the_data(self, client: DockerClient, handed: Handed) -> None:
        if is_remote(self._config.data.uri):
            uri = str(self._config.data.uri)
            self._see_to_a_server(client, f"data.uri {uri}", handed.buckets(StoreUri("file", "", "", {}))[0])
            return
        if not is_local(client):  # the attempt itself will look
            return
        check_data(self._config)

    def _probe(self, client: DockerClient, handed: Handed, uri: StoreUri) -> dict[str, Any]:
        """What ``lastrun probe`` says in such a container, once it was seen that the container sees what it was given."""
        given = handed.given(uri)
        with marked(given) as markers:

            def look(way: str) -> containers.Trial:
                options = handed.options(uri, {}, way)
                options["environment"][LOOK_VARIABLE] = json.dumps(markers)
                if handed.gpus():
                    options["environment"][machine.CONTAINER_VARIABLE] = json.dumps({"launcher": "docker", "engine": ""})
                    options["environment"][ASKED_VARIABLE] = json.dumps(Asked.of(self._config))
                with explained(self._image):
                    return containers.trial(client, self._image, ["probe"], **options)

            done, self._way = first_that_works(handed.ways, look)
            if done.out_of_memory or (done.code == KILLED and self._config.run.memory):  # not every engine says which it was
                raise EngineError(f"run.memory={self._config.run.memory} is too little even to start: allow more")
            found = understood(done, self._image)
            see_that_it_sees_them(given, markers, found.get("seen"))
        return found

    def _start(self, job: Job, arguments: list[str], token: str) -> Any:
        """A running container with an attempt in it."""
        client = connect()
        handed = self._handed(client)
        uri, _ = StoreUri.parse(job.uri).parent()
        if uri.scheme == "file":
            Path(uri.prefix).mkdir(parents=True, exist_ok=True)
        name = f"lastrun-{job.id}-{job.attempts.next_number()}"
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
                    "engine": containers.engine_id(client.info()),
                    "image": next(iter(image.attrs.get("RepoDigests") or []), image.id),
                }
                if handed.gpus():
                    about["device"] = "cuda"
                if is_local(client):
                    about["scratch"] = str(handed.scratch(make=True))
                    if data := handed.data():
                        about["data"] = data[1]
                options = handed.options(uri, about, self._way or handed.ways[0])
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
                hand_over(client, made["Id"], container.start, handed.told(uri))
            except BaseException:
                # Whoever asks a second time to leave would leave a container behind.
                with handled(lambda _: None), patience(client, SHORT_SECONDS), suppress(LastrunError), explained():
                    containers.discard(client, f"{containers.ATTEMPT_LABEL}={token}")
                raise
        return container


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
