"""Which builds of torch fit which GPUs and drivers, and whose fault a failure is. No GPU is needed for that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from last_e import gpu
from last_e.cli import main
from last_e.environment import usable_cores
from last_e.gpu import build_architectures, describe, is_lost, runs_on, why_none
from runner.errors import Reason, State
from runner.launch.docker.look import driver_fits
from runner.machine import driver_version, memory_kills

CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((6, 0), CU126, True),  # a P100
        ((6, 0), CU130, False),
        ((6, 1), CU126, True),  # of the same major version
        ((7, 5), CU130, True),  # a T4
        ((8, 9), CU130, True),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # compiled by the driver
        ((7, 0), ["compute_75"], False),
        ((12, 1), CU130, True),
        ((10, 3), ["sm_100a"], False),
        ((10, 0), ["sm_100a"], True),
        ((8, 0), [], False),
    ],
)
def test_what_a_build_runs_on(capability: tuple[int, int], architectures: list[str], fits: bool) -> None:
    assert runs_on(capability, architectures) is fits


@pytest.mark.parametrize(
    ("driver", "cuda", "fits"),
    [
        ("535.129.03", "12.6", True),
        ("535.129.03", "13.0", False),
        ("580.65.06", "13.0", True),
        ("580.9", "13.0", False),
        ("470.57.02", "11.8", True),
        ("470.57.02", "12.1", False),
        ("100.1", "99.0", True),  # of that nothing is known
    ],
)
def test_which_driver_is_new_enough(driver: str, cuda: str, fits: bool) -> None:
    assert driver_fits(driver, cuda) is fits


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (u@h)  Sun Jul 27", "580.65.06"),
        ("nothing of the kind", None),
    ],
)
def test_the_driver_tells_its_version(tmp_path: Path, line: str, version: str | None) -> None:
    file = tmp_path / "proc" / "driver" / "nvidia" / "version"
    file.parent.mkdir(parents=True)
    file.write_text(f"{line}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n")
    assert driver_version(tmp_path) == version
    assert driver_version(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be", True),
        ("CUDA error: unknown error", True),
        ("CUDA error: the launch timed out and was terminated", True),
        ("Unexpected: CUDA driver error: GPU is lost", True),
        ("CUDA error: device-side assert triggered", False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("an unknown error of something else", False),
    ],
)
def test_a_failing_gpu_is_told_from_a_failing_program(text: str, lost: bool) -> None:
    assert is_lost(RuntimeError(text)) is lost
    assert not is_lost(ValueError(text))


def test_what_torch_says_of_itself_here() -> None:
    facts = describe()
    assert facts["torch"] == torch.__version__
    if torch.version.cuda is None:
        assert build_architectures() == []
        assert "a build without CUDA" in why_none()
        assert facts["problem"] == why_none()


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/user.slice/a.scope\n", "user.slice/a.scope/memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("0::/\n", "memory.events", "oom_kill 2\n"),  # in a container
        ("5:memory:/docker/ab\n3:cpu,cpuacct:/\n", "memory/docker/ab/memory.oom_control", "under_oom 0\noom_kill 2\n"),
        ("5:memory:/docker/ab\n", "memory/memory.oom_control", "oom_kill 2\n"),  # in a container
    ],
)
def test_the_kernel_counts_what_it_ends_for_want_of_memory(tmp_path: Path, groups: str, file: str, text: str) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    assert memory_kills(tmp_path) == 0
    place = tmp_path / "sys" / "fs" / "cgroup" / file
    place.parent.mkdir(parents=True)
    place.write_text(text)
    assert memory_kills(tmp_path) == 2


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # docker run --cpus 2, from inside
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 2),  # the limit of a pod
        ("0::/a\n", {"a/cpu.max": "10000 100000\n"}, 1),
        ("0::/a\n", {"a/cpu.max": "6400000 100000\n"}, 8),
        ("0::/a\n", {"a/cpu.max": "what 0\n", "cpu.max": "1 0\n"}, 8),
        ("4:memory:/\n3:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "300000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, 3),
        ("3:cpu,cpuacct:/d\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ("3:cpu,cpuacct:/d\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_share_of_the_cores_is_counted_as_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores
    assert usable_cores() >= 1


@pytest.mark.parametrize(("text", "lost"), [("CUDA error: unknown error", True), ("CUDA error: device-side assert", False)])
def test_a_run_whose_gpu_fails_ends_so_that_it_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, lost: bool
) -> None:
    """No GPU fails on demand: its error stands in for it."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("last_e.train.run", fail)
    words = ["--model", "nano", "--dataset", "synthetic", "--out", str(tmp_path / "run")]
    if not lost:
        with pytest.raises(RuntimeError, match=text):
            main(words)
        return
    assert main(words) == Reason.GPU_LOST.ending.exit_code
    said = capsys.readouterr().err
    assert f"the GPU or its driver failed ({text}); there is no checkpoint yet: it will begin at step 0" in said
    assert Reason.GPU_LOST.ending.resumable
    assert Reason.GPU_LOST.ending.state is State.PAUSED


@pytest.mark.parametrize(
    ("name", "capability", "version", "architectures", "words"),
    [
        ("Tesla P100-PCIE-16GB", (6, 0), "2.13.0+cu130", CU130, "torch==2.13.0+cu126"),
        ("Tesla V100-SXM2-16GB", (7, 0), "2.15.1+cu132", CU130, "torch==2.14.0+cu126"),
        ("NVIDIA B300", (11, 0), "2.8.0+cu126", CU126, "take a newer one"),
        ("Tesla K80", (3, 7), "2.13.0+cu130", CU130, "take another GPU"),
    ],
)
def test_a_gpu_that_a_build_is_not_for_is_refused_with_the_build_that_is(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    version: str,
    architectures: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(gpu, "build_architectures", lambda: architectures)
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(gpu.NoGpu) as told:
        gpu.check(torch.device("cuda", 0))
    begin = f"torch {version} is not built for {name} (sm_{capability[0]}{capability[1]}) but for {' '.join(architectures)}: "
    assert str(told.value).startswith(begin)
    assert words in str(told.value)
