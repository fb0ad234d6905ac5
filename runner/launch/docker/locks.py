"""The folder in which attempts lock GPUs, of the engine's machine: handed into containers, so that those of all its users and
processes outside are kept apart. No more of that machine is seen in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runner.errors import EngineError
from runner.gpus import FOLDER, HANDED, is_open_to_all, make_folder
from runner.launch.docker import containers
from runner.launch.docker.containers import PROGRAM, TRIAL_LABEL, USER_LABEL, logs
from runner.launch.docker.engine import explained, is_local

if TYPE_CHECKING:
    from docker import DockerClient

ABOVE = "/lastrun-gpus-above"
"""Where a trial container sees the folder in which the locks' own folder is to be."""
_NOBODY = "65534:65534"


def mount() -> Any:
    """What a container is given."""
    from docker.types import Mount

    return Mount(str(HANDED), str(FOLDER), type="bind")


def are_there(client: DockerClient, image: str) -> bool:
    """Whether containers of an engine can be given that folder; where it is missing, it is made: here, or by a trial container
    that sees the folder above for a moment, as nobody's, and without a network.

    Raises:
        EngineError: no engine answers, or it has no such image.
    """
    if is_local(client):
        make_folder(FOLDER)
        if not is_open_to_all(FOLDER):  # an engine would follow a link to whatever it leads to
            return False
    if _is_mountable(client, image):
        return True
    try:
        _make(client, image)
    except EngineError:
        return False
    return _is_mountable(client, image)


def _is_mountable(client: DockerClient, image: str) -> bool:
    """By a container that is made and never started."""
    from docker.errors import APIError

    labels = {TRIAL_LABEL: "locks", USER_LABEL: str(os.getuid())}
    with explained(image):
        client.images.get(image)
        host = client.api.create_host_config(mounts=[mount()])
        try:
            made = client.api.create_container(image, ["probe"], entrypoint=PROGRAM, labels=labels, host_config=host)
        except APIError:
            return False
        client.api.remove_container(made["Id"], v=True, force=True)
    return True


def _make(client: DockerClient, image: str) -> None:
    from docker.types import Mount

    host = client.api.create_host_config(
        mounts=[Mount(ABOVE, str(FOLDER.parent), type="bind")],
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        read_only=True,
        shm_size="1g",
        log_config=logs(),
    )
    with explained(image):
        containers.trial(client, image, ["probe"], host_config=host, user=_NOBODY, use_config_proxy=False)
