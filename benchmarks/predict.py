"""How fast `lastrun predict` is on a CPU: each clip in batches, and how long it takes to begin; in the same run a plain PyTorch
module with the same weights, and onnxruntime with the network's export, where both are there.

    python benchmarks/predict.py [--model base] [--rounds 7] [--starts 5]

Clips are made up (20 to 80 frames, one in three with two bodies). What is measured of a clip is all that is done with it once
it is read: centring, turning, resampling, streams, network, probabilities. The contenders work in turns, so that whoever else
uses the machine slows all of them; a ratio is the median of the rounds' ratios. Exit code 1: a clip takes 15 ms or more in
batches of 64, it begins after 2 s or more, or is less than twice as fast as the plain module; where others use the machine that
says nothing of lastrun.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from last_e import checkpoint
from last_e.bench.plain import PlainLastE
from last_e.config import TrainConfig
from last_e.data.batches import TestBatches, average_bodies
from last_e.data.clips import Clips
from last_e.data.synthetic import synthetic_clips
from last_e.environment import cpu_name
from last_e.layers import resolve
from last_e.manifest import Manifest
from last_e.model.network import LastE
from last_e.predict.network import Network
from last_e.problems import Origin
from last_e.reading import Entry

ROOT = Path(__file__).parents[1]
SIZES = (1, 16, 64)
MOST_MS, MOST_START, LEAST_RATIO = 15.0, 2.0, 2.0
CLASSES = 60

Array = npt.NDArray[np.int16]
Contender = Callable[[list[Array]], npt.NDArray[Any]]
"""(n, classes) probabilities of n clips, each (M, T, 25, 3) millimetres."""


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="base", help="nano, small, base or large (default: base)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each contender is measured (default: 7)")
    parser.add_argument("--starts", type=int, default=5, help="how often the command is started (default: 5)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = _config(given.model)
        path = _checkpoint(Path(folder), config)
        network = Network(path, config)
        contenders: dict[str, Contender] = {"lastrun": network.probabilities, "plain": _plain(network, config)}
        contenders |= _onnx(path, Path(folder))
        torch_version = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        print(f"{date.today()}, {cpu_name()}, {os.cpu_count()} cores; Python {platform.python_version()}, {torch_version}")
        print(f"load before: {_load()}")
        ms, ratio = _measure(contenders, given.rounds)
        print(f"load after:  {_load()}")
        start = _starts(path, Path(folder), given.starts)
    too_slow = [f"{ms:.1f} ms a clip"] if ms >= MOST_MS else []
    too_slow += [f"{ratio:.1f} times as fast as the plain module"] if ratio < LEAST_RATIO else []
    too_slow += [f"{start:.2f} s to begin"] if start >= MOST_START else []
    if too_slow:
        print(f"not as fast as it should be: {', '.join(too_slow)}")
    return int(bool(too_slow))


def _config(model: str) -> TrainConfig:
    said = {"model.variant": model, "dataset": "synthetic", "data.num_classes": CLASSES}
    layer = {key: Entry(value, Origin("benchmark")) for key, value in said.items()}
    return resolve([layer], TrainConfig, detect=lambda: ("local", "")).config


def _checkpoint(folder: Path, config: TrainConfig) -> Path:
    """Of a network with random weights."""
    torch.manual_seed(0)
    model = LastE(config.model, CLASSES)
    about = Manifest(step=1, epoch=1, evaluated=True, milestone=True)
    return checkpoint.save(folder, {"model": model.state_dict()}, json.dumps(config.model_dump(mode="json")), about)


def _plain(network: Network, config: TrainConfig) -> Contender:
    """The same network written straight down, with batches that are made alike."""
    model = PlainLastE(config.model, CLASSES).eval()
    model.load_state_dict(network._model.state_dict())

    @torch.no_grad()
    def probabilities(clips: list[Array]) -> npt.NDArray[Any]:
        length, bodies = (torch.tensor([clip.shape[side] for clip in clips]) for side in (1, 0))
        joints = torch.cat([torch.from_numpy(clip.reshape(-1, 25, 3)) for clip in clips])
        nothing = torch.zeros_like(length)
        together = Clips(joints, length, bodies, nothing, nothing, nothing, nothing)
        (batch,) = TestBatches(together, torch.arange(len(clips)), config.training.input_frames, len(clips))
        found: npt.NDArray[Any] = average_bodies(model(batch.streams), batch).softmax(1).numpy()
        return found

    return probabilities


def _onnx(path: Path, folder: Path) -> dict[str, Contender]:
    """The export in onnxruntime, which prepares clips itself."""
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "last_e.export")):
        print("onnxruntime: not measured, for it or the export is not installed")
        return {}
    import onnxruntime

    command = [sys.executable, "-m", "runner", "export", str(path), str(folder / "export"), "--format", "onnx"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    if done.returncode:
        print(f"onnxruntime: not measured: {done.stderr.strip()}")
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    (model,) = (folder / "export").glob("*.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def probabilities(clips: list[Array]) -> npt.NDArray[Any]:
        frames = np.array([clip.shape[1] for clip in clips])
        people = np.array([clip.shape[0] for clip in clips])
        keypoints = np.zeros((len(clips), 3, frames.max(), 25, 2), np.float32)
        for row, clip in zip(keypoints, clips):
            row[:, : clip.shape[1], :, : clip.shape[0]] = clip.transpose(3, 1, 2, 0) / 1000
        (logits, *_) = session.run(None, {"keypoints": keypoints, "frames": frames, "people": people})
        odds = np.exp(logits - logits.max(1, keepdims=True))
        found: npt.NDArray[Any] = odds / odds.sum(1, keepdims=True)
        return found

    return {"onnxruntime": probabilities}


def _measure(contenders: dict[str, Contender], rounds: int) -> tuple[float, float]:
    """Milliseconds a clip in the largest batches, and how many times as long the plain module takes."""
    clips = synthetic_clips(CLASSES, max(SIZES))
    every = [
        clips.joints[begin : begin + frames * bodies].numpy().reshape(bodies, frames, 25, 3)
        for begin, frames, bodies in zip(clips.start.tolist(), clips.length.tolist(), clips.bodies.tolist())
    ]
    names = list(contenders)
    print(f"{'clips a batch':<15}" + "".join(f"{name + ' ms a clip':>28}" for name in names) + f"{'plain : lastrun':>18}")
    ms = ratio = 0.0
    for size in SIZES:
        batch = every[:size]
        said = {name: ask(batch) for name, ask in contenders.items()}  # also warms up
        for name in names[1:]:
            if (apart := float(np.abs(said[name] - said["lastrun"]).max())) > 1e-4:
                raise AssertionError(f"{name} says something else: probabilities differ by {apart:.2g}")
        took: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, ask in contenders.items():
                times = max(1, 16 // size)
                begin = time.perf_counter()
                for _ in range(times):
                    ask(batch)
                took[name].append(1000 * (time.perf_counter() - begin) / size / times)
        ms = statistics.median(took["lastrun"])
        ratio = statistics.median(plain / own for plain, own in zip(took["plain"], took["lastrun"]))
        cells = (f"{statistics.median(took[name]):.1f} ({min(took[name]):.1f} to {max(took[name]):.1f})" for name in names)
        print(f"{size:<15}" + "".join(f"{cell:>28}" for cell in cells) + f"{ratio:>18.1f}")
    return ms, ratio


def _starts(path: Path, folder: Path, starts: int) -> float:
    """Seconds from the command to when the network is ready, of one clip."""
    clip = synthetic_clips(CLASSES, 1)
    np.save(folder / "one.npy", clip.joints.numpy() / 1000)
    command = [sys.executable, "-m", "runner", "predict", str(path), str(folder / "one.npy"), "--json"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    ready, whole = [], []
    for start in range(starts + 1):
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        if start:  # the first writes the byte code
            whole.append(time.perf_counter() - begin)
            ready.append(whole[-1] - json.loads(done.stdout)["speed"]["seconds"])
    median = statistics.median(ready)
    span = f"{min(ready):.2f} to {max(ready):.2f}"
    print(f"start-up: ready after {median:.2f} s ({span}); the command with one clip {statistics.median(whole):.2f} s")
    return median


def _load() -> str:
    return ", ".join(f"{one:.1f}" for one in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
