"""The other side: what is called there by this very version, over ssh. ``python -m runner.launch.ssh.far VERB ...``.

Each call is a start of Python, for which somebody waits: what a verb does not need is not imported.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.errors import LastrunError
from runner.launch.ssh.install import machine as this_machine
from runner.launch.ssh.install import own_folder

_ELSEWHERE = {
    **{verb: ("runs", verb) for verb in ("start", "watch", "follow", "state", "end", "remove", "clean")},
    "signal": ("runs", "send"),
    "have": ("sent", "tell"),
    "receive": ("sent", "receive"),
    **{f"relay-{verb}": ("relayed", verb) for verb in ("tell", "give", "take", "drop")},
}
"""Verbs that other modules of this folder have, with their names there."""


def main(**more: Callable[..., None]) -> None:
    """Call what the first word names, of these and ``more``; errors of ours are one line."""
    name = sys.argv[1]
    verbs: dict[str, Callable[..., None]] = {"check": check, **more}
    try:
        module, verb = _ELSEWHERE.get(name, ("", ""))
        call: Callable[..., None] = verbs[name] if not module else getattr(import_module(f"runner.launch.ssh.{module}"), verb)
        call(*sys.argv[2:])
    except LastrunError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None
    except OSError as error:  # a disk that has filled since it was looked at; a folder that is not this user's
        then = "free some room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to it there"
        why = f"{error.filename or own_folder()}: {error.strerror or error}"
        sys.stderr.write(f"error: {why}: {then}, then the same command again\n")
        raise SystemExit(1) from None


def check() -> None:
    """What this machine is, and all that keeps an attempt from starting here, looked at with what that will be given."""
    from last_e.environment import fits
    from runner import machine
    from runner.launch.ssh import runs

    asked = json.loads(sys.stdin.readline())
    os.environ.update(asked["variables"])
    runs.take_authority(asked, os.environ)
    torch = _torch()
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.get("torch"),
        "gpus": [gpu["name"] for gpu in torch["gpus"]],
        "driver": machine.driver_version(),
        "folder": str(own_folder()),
        "free": shutil.disk_usage(own_folder()).free,
        "runs": runs.count(),
        "fits": fits(env) if (env := asked.get("env")) else None,
    }
    problems = [*_gpu_problems(asked, torch, facts), *store_problems(asked), *disk_problems(asked)]
    if asked.get("config", {}).get("run", {}).get("after") == "shutdown":
        from runner.attempt.shutdown import problem as why_not_off

        problems += [wrong] if (wrong := why_not_off()) is not None else []
    sys.stdout.write(json.dumps({"problems": problems, "facts": facts}))


def _torch() -> dict[str, Any]:
    """What torch has found, tried once after each start of the machine: that takes seconds."""
    from last_e.process import run_module
    from runner.launch.ssh.runs import write_whole

    ready = Path(sys.prefix) / "ready"
    with suppress(OSError, ValueError, KeyError):
        known = json.loads(ready.read_text())
        if known["seen_on"] == this_machine():
            found: dict[str, Any] = known["torch"]
            return found
    tried = subprocess.run(run_module("last_e.gpu"), capture_output=True, text=True, check=False)
    lines = tried.stdout.strip().splitlines()
    if not lines:
        why = (tried.stderr.strip().splitlines() or ["no word"])[-1]
        return {"torch": None, "gpus": [], "problem": f"torch does not compute there any more ({why})"}
    found = json.loads(lines[-1])
    with suppress(OSError):
        write_whole(ready, json.dumps({"seen_on": this_machine(), "torch": found}))
    return found


def _gpu_problems(asked: dict[str, Any], torch: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    if torch["torch"] is None:
        return [torch["problem"]]
    wanted = asked["device"]  # of the job: cpu, cuda, or none said
    broken = [f"{gpu['name']}: {gpu['problem']}" for gpu in torch["gpus"] if gpu["problem"]][:1]
    if wanted == "cpu":
        return []
    if not torch["gpus"] and (wanted == "cuda" or facts["driver"]):
        with_driver = f", though NVIDIA's driver {facts['driver']} is there" if facts["driver"] else ""
        return [f"{torch['problem']}{with_driver}; --set run.gpus=0 trains on its CPU"]
    return broken


def disk_problems(asked: dict[str, Any]) -> list[str]:
    """Of the room that there is for an attempt, and for the data that would be sent."""
    from runner.launch.ssh import sent

    free, needed = shutil.disk_usage(own_folder()).free, asked["free"]
    if data := asked.get("data"):
        known = sent.have(data["sha256"], data["name"])
        needed += 0 if known["whole"] else data["size"] - int(str(known["bytes"]))
    if free >= needed:
        return []
    return [f"its disk has {free >> 20} MiB left in {own_folder()}: {needed >> 20} are needed"]


def store_problems(asked: dict[str, Any]) -> list[str]:
    """Of the store and the data."""
    from runner.attempt.data_check import check_data
    from runner.spec import JobSpec
    from runner.store.directory import DirectoryStore
    from runner.store.open import open_store

    problems = []
    if "marker" in asked and not Path(asked["marker"]).is_dir():
        problems.append(NOT_THERE.format(store=asked["store"]))
    elif asked.get("relay"):
        from runner.launch.ssh.relayed import root

        problems += problem(DirectoryStore(root()).check)
    elif asked["store"] is not None:
        problems += problem(open_store(asked["store"]).check)
    if "config" in asked and "data" not in asked:
        problems += problem(lambda: check_data(JobSpec.model_validate(asked["config"])))
    return problems


NOT_THERE = (
    "store {store} is a folder here, and not the same one there: take a bucket (--store s3://BUCKET/PREFIX), a folder that "
    "both have under the same path, as NFS or sshfs give one, or --relay, which keeps the job there and fetches what comes"
)


def problem(look: Callable[[], object]) -> list[str]:
    """What it raises against it, as a list of at most one."""
    try:
        look()
    except LastrunError as error:
        return [str(error)]
    return []


if __name__ == "__main__":
    main()
