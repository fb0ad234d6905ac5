"""A real Podman for the tests, as a service that speaks Docker's interface, with its own socket, data and settings."""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path
from typing import Any

from docker import DockerClient

from tests import debian
from tests.docker_engine import CannotStart
from tests.jobs import PATIENCE

PROGRAMS = ("podman", "runc", "catatonit")


def why_not() -> str | None:
    """Why none can be started here; None when one can. Missing Debian packages are installed first."""
    return debian.why_not(PROGRAMS, PROGRAMS)


class Podman:
    """The service, in ``folder`` (a short path: its socket lies there); root's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/podman.sock"
        self.client: Any = None
        self._service: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """From nothing to a service that answers, with no image.

        Raises:
            CannotStart: the system does not let it run.
        """
        limits = []
        for name, kind in LIMITS.items():  # by itself it gives a container more than root may give here
            most = resource.getrlimit(kind)[1]
            number = 1 << 15 if most == resource.RLIM_INFINITY else min(most, 1 << 15)
            limits.append(f"{name}={number}:{number}")
        settings = self.folder / "containers.conf"
        settings.write_text(
            f"[containers]\ndefault_ulimits = {limits}\n"
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        places = [word for name in ("root", "runroot", "tmpdir") for word in (f"--{name}", f"{self.folder}/{name}")]
        with (self.folder / "log").open("wb") as log:
            self._service = subprocess.Popen(
                ["podman", *places, "system", "service", "--time=0", self.host],
                cwd=self.folder,  # conmon leaves a file named oom where it stands
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder), "CONTAINERS_CONF": str(settings)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not (self.folder / "podman.sock").exists():
            if self._service.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(f"podman: {(self.folder / 'log').read_text().strip().rpartition(chr(10))[2]}")
            time.sleep(0.05)
        self.client = DockerClient(self.host, version="1.41", timeout=600)

    def containers(self) -> list[Any]:
        """All there are, ended ones as well."""
        return list(self.client.containers.list(all=True, ignore_removed=True))

    def container(self) -> Any:
        """The container of an attempt, once it runs."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for one in self.client.containers.list(filters={"label": "lastrun.attempt"}, ignore_removed=True):
                return one
            time.sleep(0.05)
        raise AssertionError("no container runs")

    def remove_containers(self) -> None:
        """Kill and remove all there are."""
        for container in self.containers():
            container.kill() if container.status == "running" else None
            container.remove(force=True, v=True)

    def stop(self) -> None:
        """End the service and everything that it runs."""
        if self.client is not None:
            self.remove_containers()
            self.client.close()
        if self._service is not None:
            self._service.terminate()
            self._service.wait(timeout=60)
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)


LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
