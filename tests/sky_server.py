"""A real server of SkyPilot on loopback, whose machines are processes of this one (:mod:`tests.sky_cloud`), with a catalogue of
its own: gcp has a T4, two T4, an L4 and an A100, as spot, too; lambda has an A10 and an A100, none as spot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv" / "sky" / "bin" / "python"

_HEAD = "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Price,SpotPrice,Region,AvailabilityZone"
_GCP = [
    ("n1-standard-8,8,30", "", 0.38, 0.08),
    ("g2-standard-4,4,16", "", 0.20, 0.08),
    ("a2-highgpu-1g,12,85", "", 0.74, 0.30),
    ("n2-standard-8,8,32", "", 0.39, 0.09),
    ("n1-highmem-8,8,52", "", 0.47, 0.10),
    (",,", "T4", 0.35, 0.11),
    (",,", "2 T4", 0.70, 0.22),
    (",,", "L4", 0.50, 0.20),
    (",,", "A100", 2.90, 0.90),
]
_MEMORY = {"T4": 16, "L4": 24, "A10": 24, "A100": 40}


def why_no_sky() -> str | None:
    """Why there is no SkyPilot for tests."""
    return None if PYTHON.exists() else f"no SkyPilot in {PYTHON.parents[1].name} of .venv: make .venv/.sky"


class SkyServer:
    """At :attr:`url`; its machines keep their files in :attr:`machines`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.machines = folder, folder / "machines"
        self.machines.mkdir(parents=True)
        catalog = folder / "home" / ".sky" / "catalogs" / "v8"
        for name in ("gcp", "lambda", "common"):
            (catalog / name).mkdir(parents=True)
        rows = [
            f"{machine},{gpu},{number or (1 if gpu else '')},{_about(gpu)},{price},{spot},us-central1,us-central1-{zone}"
            for zone in "ab"
            for machine, gpus, price, spot in _GCP
            for number, _, gpu in [gpus.rpartition(" ")]
        ]
        (catalog / "gcp" / "vms.csv").write_text("\n".join([_HEAD, *rows]) + "\n")
        images = [f"skypilot:custom-{kind}" for kind in ("cpu-ubuntu-2204", "gpu-ubuntu-2204", "gpu-ubuntu-2204-cuda13")]
        (catalog / "gcp" / "images.csv").write_text(
            "Tag,Region,OS,OSVersion,ImageId,CreationDate\n"
            + "".join(f"{tag},,ubuntu,22.04,projects/x/global/images/{tag[9:]},20260101\n" for tag in images)
        )
        (catalog / "gcp" / "accelerator_quota_mapping.csv").write_text("Accelerator,UnpreemptibleCode,PreemptibleCode\n")
        head = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice\n"
        lambdas = [("gpu_1x_a10", "A10", 0.75), ("gpu_1x_a100", "A100", 1.29)]
        (catalog / "lambda" / "vms.csv").write_text(
            head + "".join(f"{name},{gpu},1,30,200,{price},us-east-1,{_about(gpu)},\n" for name, gpu, price in lambdas)
        )
        (catalog / "common" / "accelerators.csv").write_text(
            'AcceleratorName,Clouds\nT4,gcp\nL4,gcp\nA10,lambda\nA100,"gcp,lambda"\n'
        )
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        plugin = {"class": "tests.sky_cloud.Plugin", "parameters": {"folder": str(self.machines), "path": path}}
        (folder / "home" / ".sky" / "plugins.yaml").write_text(json.dumps({"plugins": [plugin]}))
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (folder / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers, which takes long the first time."""
        own = {"HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LASTRUN_", "KAGGLE_", "HF_"))
        }
        port = {"SKYPILOT_API_SERVER_LOCAL_PORT": str(self.port)}
        self._process = subprocess.Popen(
            [str(PYTHON), "-m", "sky.server.server", "--host", "127.0.0.1", "--port", str(self.port)],
            env={**kept, **own, **port, "PATH": f"{PYTHON.parent}:{os.environ['PATH']}"},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.url}/api/health", timeout=5).close()
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, "SkyPilot's server does not answer"
            time.sleep(0.2)

    def close(self) -> None:
        """End it and what runs there."""
        for name in self.running():
            end_machine(self.machines / name)
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()

    def environment(self) -> dict[str, str]:
        """That of who uses it: its program is found, as that of an environment of its own."""
        own = {"SKYPILOT_API_SERVER_ENDPOINT": self.url, "PATH": f"{PYTHON.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"}
        return own | {"PATH": f"{os.environ['PATH']}:{PYTHON.parent}"}

    def set(self, name: str, text: str = "") -> None:
        """How clouds behave: ``closed`` (none may be used), ``wrong_key`` (which clouds do not take it), ``full`` (of which
        clouds or machines there are none), ``slow``, ``broken`` (an image cannot be pulled), ``stuck``."""
        (self.machines / name).write_text(text)

    def clear(self) -> None:
        """They behave, and nothing runs there any more."""
        for name in ("closed", "wrong_key", "full", "slow", "broken", "stuck", "asked", "dry"):
            (self.machines / name).unlink(missing_ok=True)
        for name in self.running():
            end_machine(self.machines / name)
            shutil.rmtree(self.machines / name, ignore_errors=True)

    def running(self) -> list[str]:
        """Names of machines that there are."""
        return sorted(path.name for path in self.machines.iterdir() if path.is_dir())

    def tried(self, how: str = "asked") -> list[str]:
        """Kinds of machines that were asked of a cloud, in their order, or (``dry``) looked at without that."""
        path = self.machines / how
        return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []

    def asked(self, name: str) -> dict[str, Any]:
        """What a machine was asked for, also when it is gone."""
        there = self.machines / name / "asked.json"
        found: dict[str, Any] = json.loads((there if there.exists() else self.machines / f"{name}.asked.json").read_text())
        return found

    def take_away(self, name: str) -> None:
        """As a cloud takes a spot machine."""
        end_machine(self.machines / name)
        (self.machines / name / "taken").touch()


def end_machine(home: Path) -> None:
    """All that runs on it, whatever groups it has made, at once."""
    own = f"HOME={home}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if own in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


def _about(gpu: str) -> str:
    if not gpu:
        return ""
    size = _MEMORY[gpu] * 1024
    return f"\"{{'Gpus': [{{'Name': '{gpu}', 'MemoryInfo': {{'SizeInMiB': {size}}}}}], 'TotalGpuMemoryInMiB': {size}}}\""


def _free_port() -> int:
    """Its queue of requests has one that follows from this one."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = one.getsockname()[1]
        with suppress(OSError), socket.create_server(("127.0.0.1", port + 3431)):
            return int(port)
