"""SkyPilot's library, made up, with a server that is a file: for what the real one cannot be brought to, such as an answer
that is lost.

It is what the Python that has SkyPilot imports as ``sky``; what launches come to is told beforehand (:func:`install`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

VARIABLE = "MADE_UP_SKY"


class Server:
    """What it knows, in a folder.

    Args:
        folder: an own one.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "server.json"

    def read(self) -> dict[str, Any]:
        """``requests``, ``clusters`` by their names, ``launches``: what the next come to, and whether it is ``away``."""
        found: dict[str, Any] = json.loads(self._file.read_text())
        return found

    def write(self, **values: Any) -> None:
        """Set some of these."""
        old = self.read() if self._file.exists() else {"requests": [], "clusters": {}, "launches": [], "away": False}
        self._file.with_suffix(".new").write_text(json.dumps(old | values))
        self._file.with_suffix(".new").replace(self._file)

    def request(self, name: str, cluster: str, status: str, error: str = "") -> str:
        """Keep one; returns its ID."""
        kept = self.read()["requests"]
        about = {"request_id": f"{len(kept)}", "name": f"sky.{name}", "cluster_name": cluster, "status": status}
        self.write(requests=[*kept, {**about, "created_at": time.time(), "error": error}])
        return f"{len(kept)}"

    def seen(self, name: str) -> list[str]:
        """What has become of the requests of a name."""
        return [one["status"] for one in self.read()["requests"] if one["name"] == f"sky.{name}"]


def install(folder: Path) -> tuple[Server, dict[str, str]]:
    """In a folder: the server, and the variables by which it is found. Each launch is one of ``full``; ``up``; ``lost``: it
    stands in the queue, and its answer is lost; ``held``: so does it, and no answer comes; ``never``: it does not get there;
    ``no``: it is refused."""
    folder.mkdir()
    shutil.copy(__file__, folder / "sky.py")
    (folder / "sky").write_text(f"#!{sys.executable}\n")
    (folder / "sky").chmod(0o755)
    server = Server(folder)
    server.write()
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return server, {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": path, VARIABLE: str(folder)}


class _Errors(ModuleType):
    class ResourcesUnavailableError(Exception):
        failover_history: tuple[Exception, ...] = ()

    class NoCloudAccessError(Exception): ...

    class ApiServerConnectionError(Exception): ...

    class ServerTemporarilyUnavailableError(Exception): ...

    class ClusterDoesNotExist(Exception): ...

    class ClusterNotUpError(Exception): ...


class _Sdk(ModuleType):
    """As ``sky.client.sdk`` has them; an answer that is no request is its own."""

    @property
    def _server(self) -> Server:
        server = Server(Path(os.environ[VARIABLE]))
        if server.read()["away"]:
            raise _Errors.ApiServerConnectionError("it is away")
        return server

    def launch(self, task: Any, cluster_name: str, **how: Any) -> str:
        server = self._server
        what, *rest = server.read()["launches"]
        server.write(launches=rest)
        if what == "no":
            raise ValueError("a task like that is not taken")
        if what in ("lost", "held"):
            server.request("launch", cluster_name, "PENDING")
        if what == "held":
            time.sleep(60)
        if what in ("lost", "never"):
            raise _Errors.ApiServerConnectionError("the connection was reset")
        if what == "full":
            return server.request("launch", cluster_name, "FAILED", "full")
        server.write(clusters={**server.read()["clusters"], cluster_name: "UP"})
        return server.request("launch", cluster_name, "SUCCEEDED")

    def down(self, cluster_name: str) -> str:
        server = self._server
        there = server.read()["clusters"]
        if there.pop(cluster_name, None) is None:
            return server.request("down", cluster_name, "FAILED", "none")
        server.write(clusters=there)
        return server.request("down", cluster_name, "SUCCEEDED")

    def api_status(self, request_ids: list[str] | None = None, all_status: bool = False, **how: Any) -> list[Any]:
        """As of a server that is too old to filter by a cluster's name."""
        found = [one for one in self._server.read()["requests"] if request_ids is None or one["request_id"] in request_ids]
        return [SimpleNamespace(**one) for one in found if request_ids or all_status or one["status"] == "PENDING"]

    def api_cancel(self, request_ids: list[str], silent: bool) -> list[str]:
        kept = self._server.read()["requests"]
        found = [one for one in kept if one["request_id"] in request_ids and one["status"] == "PENDING"]
        for one in found:
            one["status"] = "CANCELLED"
        self._server.write(requests=kept)
        return [one["request_id"] for one in found]

    def get(self, asked: Any) -> Any:
        if not isinstance(asked, str):
            return asked
        error = self._server.read()["requests"][int(asked)]["error"]
        if error == "none":
            raise _Errors.ClusterDoesNotExist("no such cluster")
        if error == "full":
            unavailable = _Errors.ResourcesUnavailableError("none")
            unavailable.failover_history = (RuntimeError("QUOTA_EXCEEDED"),)
            raise unavailable
        return None

    def status(self, names: list[str] | None = None, refresh: Any = None) -> list[Any]:
        about = {"init_kind": None, "handle": None, "launched_at": time.time(), "cloud": "GCP"}
        return [
            SimpleNamespace(name=name, status=SimpleNamespace(value=state), **about)
            for name, state in self._server.read()["clusters"].items()
            if names is None or name in names
        ]

    def job_status(self, cluster: str) -> dict[int, Any]:
        return {1: SimpleNamespace(value="SETTING_UP")}

    def enabled_clouds(self) -> list[str]:
        return ["GCP"]

    def list_accelerators(self, **how: Any) -> dict[str, list[Any]]:
        about = {"cloud": "GCP", "accelerator_name": "T4", "accelerator_count": 1.0, "device_memory": 16.0}
        prices = {"n1": 0.1, "n2": 0.2}
        return {"T4": [SimpleNamespace(instance_type=it, price=1.0, spot_price=usd, **about) for it, usd in prices.items()]}

    def optimize(self, dag: Any) -> None: ...


class _Dag:
    def __enter__(self) -> _Dag:
        return self

    def __exit__(self, *words: object) -> None: ...

    def add(self, task: Any) -> None: ...


if __name__ == "sky":
    Task, Dag = SimpleNamespace(from_yaml_config=lambda task: task), _Dag
    exceptions, client, utils = _Errors("sky.exceptions"), ModuleType("sky.client"), ModuleType("sky.utils")
    vars(client)["sdk"] = _Sdk("sky.client.sdk")
    vars(utils)["common"] = SimpleNamespace(StatusRefreshMode=SimpleNamespace(AUTO="AUTO"))
    for one in (exceptions, client, utils):
        sys.modules[one.__name__] = one
