"""Jobs whose numbers are made up, with all that a report shows of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from last_e.described import Description
from last_e.known import description_of
from last_e.predictions import FILE, write_predictions
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.resolve import resolve_spec
from runner.store.protocol import Store
from tests.conftest import TINY
from tests.ntu_files import motion

PLACES = (("laptop", "local", []), ("kaggle-7", "kaggle", ["Tesla T4", "Tesla T4"]), ("rented-3", "lambda", ["NVIDIA A10"]))
WHY = ("time_limit", "preempted", "completed")


def made_up(store: Store, folder: Path, *, epochs: int = 12, clips: int = 240, **foreign: Any) -> Job:
    """A job that went from a laptop to Kaggle to a rented machine. The second attempt trained two epochs again that the first
    had trained, and the third one.

    ``foreign``: names that somebody else has chosen: ``name`` of the job, ``host``, ``message``, ``origin``, ``classes``.
    """
    (folder / "job.yaml").write_text(TINY)
    resolved = resolve_spec(folder / "job.yaml", None, ["training.epochs=" + str(epochs), "training.lr=0.05"])
    origins = {key: foreign.get("origin", str(origin)) for key, origin in resolved.origins.items()}
    job = Job.create(store, "made-up", resolved.items(), origins, "0.1.0")
    if "name" in foreign:
        record = json.loads(store.get(job.paths.record))
        store.put(job.paths.record, json.dumps({**record, "name": foreign["name"]}).encode())
    for number, (host, env, gpus) in enumerate(PLACES, 1):
        one = Attempt(f"{number:04d}-{number:08x}", "elsewhere", 1, "1", 1e9 + 20_000 * number, phase="ended", began=True)
        first, last = (number - 1) * epochs // 3 + 1, number * epochs // 3
        one.resumed_epoch, one.resumed_step = (0, 0) if number == 1 else (first - 1 - (3 - number) - 1, 0)
        one.resumed_step = 10 * one.resumed_epoch
        one.env, one.host, one.epochs = env, foreign.get("host", host), epochs
        one.ended_at, one.reason = one.started_at + 3600 * number, WHY[number - 1]
        one.message = foreign.get("message", f"saved at step {10 * last}")
        one.hardware = {"gpus": gpus, "cpu": "AMD EPYC", "cores": 4, "system": "Linux-6.1-x86_64"}
        one.versions = {"python": "3.12.3", "lastrun": "0.1.0", "torch": "2.13.0"}
        one.scores, one.data_fingerprint = {"step": 10 * last}, "0123456789abcdef" * 4
        if number == 3:
            one.container = {"launcher": "sky", "what": "cluster", "name": "lastrun-1", "dollars": "0.75"}
        job.attempts.write(one)
        lines = [epoch(n, epochs, wobble=number) for n in range(one.resumed_epoch + 1, last + 1)]
        store.put(job.paths.metrics(one.id), "".join(json.dumps(line) + "\n" for line in lines).encode())
        job.attempts.write_heartbeat(one, {"clips_per_second": 99.0})
    path = folder / FILE
    made_up_predictions(path, epochs, clips, foreign.get("classes"))
    store.put(job.paths.predictions(one.id), path.read_bytes())
    return job


def epoch(number: int, epochs: int, wobble: float = 0.0) -> dict[str, Any]:
    """A line of metrics: better with every epoch. ``wobble`` tells who trained it."""
    rest = math.exp(-3 * number / epochs)
    lr = 0.05 * (1 + math.cos(math.pi * number / epochs))
    scores = {"test_loss": 0.3 + 2 * rest, "test_top1": 0.95 - 0.8 * rest, "test_top5": 0.995 - 0.3 * rest}
    train = {"train_loss": 0.2 + 2 * rest + wobble / 1000, "train_top1": 0.98 - 0.8 * rest}
    return {"epoch": number, "step": 10 * number, "lr": lr, **scores, **train}


def made_up_predictions(path: Path, number: int, clips: int, classes: list[str] | None = None) -> Description:
    """Of a model that takes some classes of NTU-60 for their neighbours."""
    description = description_of("ntu60", 60)
    if classes is not None:
        description = description.model_copy(update={"classes": tuple(classes)})
    count, random = len(description.classes), np.random.default_rng(7)
    label = np.arange(clips) % count
    wrong = random.random(clips) < 0.3 * (label % 5 == 0) + 0.02
    said = np.where(wrong, (label + random.integers(1, 4, clips)) % count, label)
    numbers = {"clip": np.arange(clips) + 100, "label": label, "said": said, "confidence": random.uniform(0.3, 1, clips)}

    def joints_of(clip: int) -> Any:
        return (np.stack([motion(clip % 1000, 90) + np.array([person, 0, 0]) for person in range(1 + clip % 2)]) * 1000).astype(
            np.int16
        )

    write_predictions(path, epoch=number, part="test", description=description, numbers=numbers, joints_of=joints_of)
    return description
