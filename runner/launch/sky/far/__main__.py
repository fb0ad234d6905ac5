"""Runs by the Python that has SkyPilot, which need not be ours: its library cannot lie beside that of Hugging Face.

A line of JSON in, a line of JSON out, each with one word of :data:`WORDS`; with ``logs CLUSTER`` it copies a log instead. Only
SkyPilot and Python's own library.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from typing import Any

if not getattr(sys.flags, "safe_path", False):
    sys.path.pop(0)  # this folder is no place for modules
os.environ.setdefault("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")  # what lastrun asks is nobody's business
_OUT = sys.stdout
sys.stdout = sys.stderr  # it talks to people there

import sky  # noqa: E402
from requests import exceptions as transport  # noqa: E402
from sky import exceptions  # noqa: E402
from sky.client import sdk  # noqa: E402
from sky.utils import common  # noqa: E402

_DONE = ("SUCCEEDED", "CANCELLED", "FAILED")


def clouds() -> list[str]:
    """Those that it may use, by its own records; asked again where there are none."""
    found = sdk.get(sdk.enabled_clouds())
    if not found:
        sdk.get(sdk.check(infra_list=None, verbose=False))
        found = sdk.get(sdk.enabled_clouds())
    return sorted(str(one).lower() for one in found)


def offers() -> list[dict[str, Any]] | None:
    """Machines with GPUs, on each cloud that it may use; None: there is no such cloud."""
    there = clouds()
    if not there:
        return None
    found = sdk.get(sdk.list_accelerators(gpus_only=True, clouds=there))
    rows = []
    for row in (row for rows_of_gpu in found.values() for row in rows_of_gpu):
        for spot, dollars in ((False, row.price), (True, row.spot_price)):
            is_whole = row.accelerator_count >= 1 and row.accelerator_count % 1 == 0  # there are parts of GPUs
            if row.instance_type and is_whole and dollars is not None and math.isfinite(dollars):
                about = {"cloud": row.cloud.lower(), "instance": row.instance_type, "gpu": row.accelerator_name}
                about["number"] = int(row.accelerator_count)
                memory = row.device_memory if row.device_memory and math.isfinite(row.device_memory) else 0
                rows.append({**about, "memory": memory, "spot": spot, "dollars": float(dollars)})
    return rows


def feasible(task: dict[str, Any]) -> str | None:
    """Why its optimizer finds no machine for a task; None: it finds one."""
    made = sky.Task.from_yaml_config(task)
    with sky.Dag() as dag:
        dag.add(made)
    try:
        sdk.get(sdk.optimize(dag))
    except exceptions.ResourcesUnavailableError as error:
        return str(error)
    return None


def launch(task: dict[str, Any], cluster: str, idle: int, dryrun: bool = False) -> str:
    """Ask for a machine that runs a task, and is given back when it has done nothing for so many minutes."""
    made = sky.Task.from_yaml_config(task)
    how: dict[str, Any] = {"down": True, "idle_minutes_to_autostop": idle, "retry_until_up": False, "dryrun": dryrun}
    return str(sdk.launch(made, cluster_name=cluster, **how))


def dry_run(task: dict[str, Any], cluster: str, idle: int) -> None:
    """The same without asking for one: its server does all that comes before."""
    sdk.get(launch(task, cluster, idle, dryrun=True))


def result(request: str) -> bool:
    """Whether a request has been carried out; raises what came of it."""
    [found] = sdk.api_status([request], fields=["request_id", "status"])
    if found.status not in _DONE:
        return False
    sdk.get(request)
    return True


def cancel(request: str) -> None:
    """Ask for nothing any more."""
    sdk.get(sdk.api_cancel([request], silent=True))


def down(cluster: str) -> bool:
    """Give it back; whether it was there, or was to come: one that was asked for and stands in the queue is no cluster yet."""
    asked = _launches(cluster)
    withdrawn = bool(asked and sdk.get(sdk.api_cancel(asked, silent=True)))
    try:
        sdk.get(sdk.down(cluster))
    except exceptions.ClusterDoesNotExist:
        return withdrawn
    return True


def is_asked_for(cluster: str) -> bool:
    """Whether it stands in the queue, or is being made."""
    return bool(_launches(cluster))


def _launches(cluster: str) -> list[str]:
    return [one.request_id for one in _requests(cluster) if one.name.endswith("sky.launch") and one.status not in _DONE]


def clusters(prefix: str) -> list[dict[str, Any]]:
    """This user's of that name."""
    found = []
    for one in sdk.get(sdk.status()):
        if not one.name.startswith(prefix):
            continue
        made = getattr(one.handle, "launched_resources", None)
        about = {"name": one.name, "state": one.status.value, "since": one.launched_at, "cloud": (one.cloud or "").lower()}
        about |= {"instance": getattr(made, "instance_type", None), "spot": bool(getattr(made, "use_spot", False))}
        gpu, number = next(iter((getattr(made, "accelerators", None) or {}).items()), (None, 0))
        about |= {"gpu": gpu, "number": int(number)}
        found.append(about)
    return found


def look(cluster: str) -> dict[str, Any]:
    """What has become of one: ``state`` of the cluster (``gone``: there is none; ``UNHEALTHY``: something of it is missing),
    ``job`` of what runs there, and whether somebody has given it back."""
    found = sdk.get(sdk.status([cluster]))
    if found and found[0].status.value == "INIT" and found[0].init_kind != "unhealthy":
        return {"state": "INIT", "job": None, "given_back": False}  # while it is made its cloud is not asked: that would wait
    found = sdk.get(sdk.status([cluster], refresh=common.StatusRefreshMode.AUTO)) if found else []
    if not found:
        return {"state": "gone", "job": None, "given_back": _is_given_back(cluster)}
    state, job = found[0].status.value, None
    if state == "INIT" and found[0].init_kind == "unhealthy":
        state = "UNHEALTHY"
    if state == "UP":
        try:
            job = next(iter(sdk.get(sdk.job_status(cluster)).values()), None)
        except (exceptions.ClusterNotUpError, exceptions.ClusterDoesNotExist):  # since a moment ago
            state = "UNHEALTHY"
    return {"state": state, "job": None if job is None else job.value, "given_back": False}


def _is_given_back(cluster: str) -> bool:
    """Whether somebody has taken it down since it was last asked for: a kind of which there was none had its name, too."""
    asked = _requests(cluster, all_status=True)
    begun = max((one.created_at for one in asked if one.name.endswith("sky.launch")), default=0.0)
    downs = [one for one in asked if one.name.endswith("sky.down") and one.status != "FAILED"]
    return any(one.created_at > begun for one in downs)


def _requests(cluster: str, all_status: bool = False) -> list[Any]:
    """Those of one name that are not done, or all; an older server tells those of every name."""
    fields = ["request_id", "name", "cluster_name", "status", "created_at"]
    found = sdk.api_status(all_status=all_status, cluster_name=cluster, fields=fields)
    return [one for one in found if one.cluster_name == cluster]


def last_lines(cluster: str) -> list[str]:
    """Of its log."""
    lines = sdk.tail_logs(cluster, None, follow=False, tail=20, preload_content=False)
    return [line for line in lines if line and line.strip()]


WORDS = {
    one.__name__: one
    for one in (offers, feasible, launch, dry_run, result, cancel, down, is_asked_for, clusters, look, last_lines)
}


_KEYS = re.compile(
    r"credential|CloudUserIdentity|unauthorized|forbidden|permission.denied|invalid.api.key|invalid_grant|reauthenticat", re.I
)
"""In what clouds say of keys that they do not take; each has errors of its own."""


_SILENT = (
    exceptions.ApiServerConnectionError,
    exceptions.ServerTemporarilyUnavailableError,
    *(transport.ConnectionError, transport.Timeout, transport.ChunkedEncodingError),
)
"""What comes of a server that cannot be reached, or not now."""


def _kind(error: BaseException, history: list[str]) -> str:
    if isinstance(error, exceptions.ResourcesUnavailableError):
        return "infeasible" if not history else "keys" if all(_KEYS.search(one) for one in history) else "full"
    if isinstance(error, exceptions.NoCloudAccessError):
        return "closed"
    return "silent" if isinstance(error, _SILENT) else "other"


def main() -> None:
    """Until nobody asks any more."""
    if sys.argv[1:2] == ["logs"]:
        sdk.tail_logs(sys.argv[2], None, follow=True, output_stream=_OUT)
        return
    for line in sys.stdin:
        word, about = json.loads(line)
        try:
            answer = {"answer": WORDS[word](**about)}
        except (Exception, SystemExit) as error:
            history = [f"{type(one).__name__}: {one}" for one in getattr(error, "failover_history", None) or []]
            name = type(error).__name__
            says = name if isinstance(error, transport.RequestException) else str(error)  # which is an address, and long
            answer = {"error": _kind(error, history), "says": says, "kind": name, "history": history}
        _OUT.write(json.dumps(answer) + "\n")
        _OUT.flush()


if __name__ == "__main__":
    main()
