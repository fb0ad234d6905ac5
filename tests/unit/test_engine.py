"""What NVIDIA's container runtime says, which no test here can provoke, and who is believed about a container's end."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound
from docker.types import DeviceRequest

from runner.errors import EngineError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.job.lease import claim
from runner.launch.docker import engine, gpus, look
from runner.launch.docker.attached import StartedContainer, Watch
from runner.launch.docker.containers import ATTEMPT_LABEL, Trial, _time, engine_id
from runner.launch.docker.explain import as_engine_error, explain
from runner.launch.docker.given import Given, look_around, marked, see_that_it_sees_them, see_that_nothing_is_covered
from runner.launch.docker.handed import _inside, wants_cpu
from runner.launch.docker.launcher import _is_loopback
from runner.launch.docker.look import understood
from runner.launch.docker.tunnel import open_tunnel
from runner.launch.settle import state_of
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.store.uri import StoreUri


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "OCI runtime: nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, please update "
            "your driver to a newer version, or use an earlier cuda container: unknown",
            ["driver is too old for the image's CUDA (cuda>=13.0)", "lastrun image build --base BASE --torch TORCH"],
        ),
        (
            "OCI runtime create failed: nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
            ["cannot hand in the GPU (initialization error: nvml error: driver not loaded", "nvidia-smi"],
        ),
        ("nvidia-container-cli: device error: 7: unknown device: unknown", ["device error: 7: unknown device", "run.gpus"]),
        ("unknown or invalid runtime name: nvidia", ["no NVIDIA runtime", "nvidia-ctk runtime configure"]),
        ("failed to discover GPU vendor from CDI: no known GPU vendor found", ["no NVIDIA runtime", "nvidia-ctk"]),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7: unknown", ["no such GPU (nvidia.com/gpu=7)"]),
        (
            "OCI runtime create failed: runc create failed: unable to start container process: "
            "error running prestart hook #0: exit status 1, stdout: , stderr: Using requested mode 'cdi'\ninvoking the NVIDIA "
            "Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not supported. Please use the NVIDIA "
            "Container Runtime (e.g. specify the --runtime=nvidia flag) instead.: unknown",
            ["through its runtime alone", "run.gpu_request=runtime", "nvidia-ctk runtime configure"],
        ),
        (
            "OCI runtime create failed: error running hook: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'\n"
            "nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig: no such file or directory: unknown",
            ["cannot hand in the GPU (ldcache error: open failed: /sbin/ldconfig: no such file or directory)"],
        ),
        (
            "OCI runtime create failed: stderr: Auto-detected mode as 'cdi'\ntime=now level=info\nfailed to load it: unknown",
            ["the engine refuses: failed to load it"],
        ),
        ('exec: "docker-init": executable file not found in $PATH: unknown', ["the engine lacks its own docker-init"]),
        ('exec: "python": executable file not found in $PATH: unknown', ["the image has no Python, so no lastrun"]),
        ("exec /usr/bin/python: exec format error", ["the image is for another kind of processor"]),
        ("error mounting /a to rootfs: no such file or directory: unknown", ["the engine refuses: error mounting /a"]),
        ("range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs", ["run.cpus: range of CPUs is from 0.01 to 2.00"]),
        ("container create: unable to find network with name or ID nowhere: network not found", ["no network nowhere:"]),
        ("runc: unable to set memory limit to 1048576 (usage: 2818048): OCI", ["run.memory: 1048576 bytes are too little"]),
        ("something else\nsecond line", ["the engine refuses: second line"]),
    ],
)  # fmt: skip
def test_a_start_that_fails_is_explained(text: str, words: list[str]) -> None:
    line = explain(APIError("500 Server Error", explanation=text))
    assert all(word in line for word in words), line
    assert "\n" not in line


NVIDIA = {"Runtimes": {"runc": {}, "nvidia": {}}}
CDI = {"CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}


@pytest.mark.parametrize(
    ("asked", "info", "tried", "has"),
    [
        ("auto", {"Runtimes": None}, ["device"], False),
        ("auto", {"CDISpecDirs": ["/etc/cdi"]}, ["device", "cdi"], False),  # newer engines have the folder by default
        ("auto", NVIDIA, ["device", "runtime"], True),
        ("auto", {**NVIDIA, **CDI}, ["device", "cdi", "runtime"], True),
        ("auto", {"BuildahVersion": "1.28", **NVIDIA}, ["cdi"], True),
        ("cdi", {}, ["cdi"], False),
        ("runtime", CDI, ["runtime"], True),
    ],
)
def test_gpus_are_asked_for_as_the_engine_says_that_it_can(
    asked: str, info: dict[str, Any], tried: list[str], has: bool
) -> None:
    assert (gpus.ways(asked, info), gpus.has_gpus(info)) == (tried, has)


def test_what_is_asked_for_is_the_same_in_every_way() -> None:
    def device(**which: Any) -> dict[str, Any]:
        return {"device_requests": [DeviceRequest(**which)]}

    kind = [["gpu"]]
    assert gpus.request("device", 2) == (device(capabilities=kind, count=2), {})
    assert gpus.request("device", "all") == (device(capabilities=kind, count=-1), {})
    assert gpus.request("device", [1, "GPU-8a"]) == (device(capabilities=kind, device_ids=["1", "GPU-8a"]), {})
    assert gpus.request("cdi", 2) == (device(driver="cdi", device_ids=["nvidia.com/gpu=0", "nvidia.com/gpu=1"]), {})
    assert gpus.request("cdi", "all") == (device(driver="cdi", device_ids=["nvidia.com/gpu=all"]), {})
    assert gpus.request("runtime", [1, "GPU-8a"]) == ({"runtime": "nvidia"}, {"NVIDIA_VISIBLE_DEVICES": "1,GPU-8a"})


def test_the_first_way_that_works_is_taken_and_else_what_was_said_of_each() -> None:
    said = {
        "device": 'could not select device driver "" with capabilities: [[gpu]]',
        "cdi": "failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=0: unknown",
    }

    def make(way: str) -> str:
        if way in said:
            raise as_engine_error(APIError("500", explanation=said[way]))
        return way

    assert gpus.first_that_works(["device", "cdi", "runtime"], make) == ("runtime", "runtime")
    with pytest.raises(EngineError, match=r"no NVIDIA runtime: .* \(as cdi: failed to inject .* nvidia\.com/gpu=0\)$"):
        gpus.first_that_works(["device", "cdi"], make)
    said["device"] = "something else, which no other way would mend"
    with pytest.raises(EngineError, match="the engine refuses: something else"):
        gpus.first_that_works(["device", "cdi", "runtime"], make)


def trial(code: int, errors: str = "", out: str = "") -> Trial:
    return Trial(code, False, out.encode(), errors.encode())


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (trial(1, "python: No module named runner"), "image i holds no lastrun (python: No module named runner)"),
        (trial(127, "[FATAL tini (7)] exec python failed: No such file"), "image i has no Python that can be started"),
        (trial(126, "[FATAL tini (7)] exec python failed: Exec format error"), "image i is for another kind of processor"),
        (trial(132), "in image i Python does not work: it was ended by SIGILL (this CPU lacks instructions"),
        (trial(6, "error: not enough shared memory"), "not enough shared memory"),
        (trial(0), "image i does not answer as lastrun's does (code 0; it says nothing)"),
        (trial(0, "Usage: ...", "hello"), "image i does not answer as lastrun's does (code 0; it says: Usage: ...)"),
    ],
)  # fmt: skip
def test_an_image_that_will_not_do_is_told_by_its_cause(done: Trial, words: str) -> None:
    with pytest.raises(EngineError) as error:
        understood(done, "i")
    assert str(error.value).startswith(words)
    assert understood(trial(0, "a warning", '{"version": "1", "code": "c"}'), "i") == {"version": "1", "code": "c"}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "import os; os.kill(os.getpid(), 4)",
            "it was ended by SIGILL (this CPU lacks instructions that this build uses: another",
        ),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by SIGKILL (the system ended it"),
        ("raise SystemExit(3)", "it ended with code 3"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ],
)
def test_a_torch_that_does_not_work_says_how(monkeypatch: pytest.MonkeyPatch, code: str, problem: str) -> None:
    monkeypatch.setattr(look, "run_module", lambda _: [sys.executable, "-c", code])
    found = look.probe(torch=True)
    assert found["torch"] is None
    assert found["problem"].startswith(problem)


def test_podman_is_known_by_what_stays_the_same() -> None:
    info = {"ID": "another at each call", "BuildahVersion": "1.28.2", "Name": "host", "DockerRootDir": "/var/lib/containers"}
    assert engine_id(info) == "podman host /var/lib/containers"
    assert engine_id({"ID": "the same"}) == "the same"


def test_paths_and_hosts_as_a_container_sees_them() -> None:
    assert _inside("~/x/y") == "/cache/x/y"
    assert _inside("~") == "/cache"
    assert _inside("/a/b") == "/a/b"
    assert _inside("/a/gone/../b") == "/a/b"
    assert [_is_loopback(host) for host in ("localhost", "127.8.8.8", "::1", "s3.example.org", "10.0.0.1")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def folder(path: str, source: str | None = None) -> Given:
    return Given("store", Path(source or path), path, read_only=False)


@pytest.mark.parametrize(
    "path",
    [
        "/cache",
        "/",
        "/usr",
        "/opt/lastrun",
        "/app",
        "/lastrun-data",
        "/tmp",
        "//tmp",
        "/tmp/",
        "/lib",
        "/bin",
        "/dev",
        "/proc/1/x",
    ],
)
def test_no_folder_of_the_callers_takes_a_place_of_the_containers_own(path: str) -> None:
    with pytest.raises(UsageError, match=r"store: .* would stand in the way of the container's own"):
        see_that_nothing_is_covered([folder(path)])


def test_folders_beside_and_below_the_containers_own_are_taken() -> None:
    for path in ("/data", "/home/me/store", "/cache/lastrun", "/opt/stores", "/application", "/tmp/x", "/dev/shm/x"):
        see_that_nothing_is_covered([folder(path), folder(path), folder(f"{path}/below")])
    with pytest.raises(UsageError, match="would both be /data in a container"):
        see_that_nothing_is_covered([folder("/data"), folder("/data", "/other")])


def looked(given: list[Given], *, answers: bool = True, there: dict[str, Path] | None = None) -> None:
    """As a container that has ``there`` at the places inside."""
    with marked(given) as markers:
        places = {one.target: str((there or {}).get(one.target, one.source)) for one in given}
        found = look_around(json.dumps({places[target]: marker for target, marker in markers.items()}))
        if not answers:
            for path in Path(given[0].source).glob("*-answer"):
                path.unlink()
        see_that_it_sees_them(given, markers, {one.target: found[places[one.target]] for one in given if one.target in markers})


def test_a_container_that_sees_other_files_and_folders_than_the_caller_is_found_out(tmp_path: Path) -> None:
    store = Given("store", tmp_path / "new" / "store", "/store", read_only=False)
    file = Given("data", tmp_path / "file", "/lastrun-data/file")
    file.source.write_text("some clips")
    looked([store, store, file])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # what was made for the look is gone
    (tmp_path / "other").mkdir()
    for one, words in ((store, "store: a container has something else at .*/new/store than"), (file, "data: a container has")):
        with pytest.raises(UsageError, match=words):
            looked([one], there={one.target: tmp_path / "other"})
    with pytest.raises(UsageError, match=r"store: this user may use .*, but a container may not: .*SELinux"):
        looked([store], answers=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]
    see_that_it_sees_them([store], {}, None)  # an image of other code than this


def test_a_folder_in_which_nobody_may_write_is_left_to_who_wants_to(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with marked([folder(str(small_disk / "store"))]) as markers:
        assert markers == {}


@pytest.mark.parametrize("words", [["run.gpus=1", "hardware.device=cpu"], ["run.gpus=0"], ["hardware.device=cpu"]])
def test_who_says_cpu_gets_no_gpu(tmp_path: Path, words: list[str]) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("model: nano\ndataset: irds\nrun: {launcher: docker}\n")
    assert wants_cpu(resolve_spec(job, "local", words).config)


def attempt(store: Path, **container: str) -> tuple[Job, Attempt]:
    job = Job(DirectoryStore(store), "j")
    one = Attempt("0001-aabbccdd", "m", 7, "1", time.time(), phase="running", host="h", container=container or None)
    job.attempts.write(one)
    return job, one


def test_without_its_engine_a_container_counts_by_its_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    job, one = attempt(tmp_path, name="n", token="aabbccdd", engine="e", image="i")
    assert state_of(job)[0].value == "running"
    os.utime(tmp_path / "j" / "attempts" / one.id / "attempt.json", (time.time() - 3600,) * 2)
    assert state_of(job)[0].value == "lost"
    assert job.attempts.all()[0].phase == "running"
    gc.collect()


def test_an_attempt_that_was_found_dead_is_superseded_by_the_next(tmp_path: Path) -> None:
    job, one = attempt(tmp_path)
    job.attempts.write_lost(one, "container n was killed")
    assert state_of(job)[0].value == "lost"
    following = claim(job, token="01234567")
    assert following.id == "0002-01234567"
    assert following.supersedes == [one.id]
    one.phase = "running"  # what it had written before comes late
    job.attempts.write(one)
    state, newest, _ = state_of(job)
    assert (state.value, newest and newest.id) == ("running", following.id)


def test_an_engines_clock_and_its_containers_are_compared_in_the_same_zone() -> None:
    assert _time("2026-11-23T14:00:00.123456789+02:00") == _time("2026-11-23T12:00:00.5Z")
    assert _time("2026-11-23T07:00:00-05:00") == _time("2026-11-23T12:00:00Z")


class Narrow(io.StringIO):
    """A terminal that knows ASCII alone."""

    encoding = "ascii"

    def write(self, text: str) -> int:
        return super().write(text.encode("ascii").decode())


class Ended:
    """What a container that has ended answers."""

    def __init__(self, code: object) -> None:
        self.code = code

    def logs(self, **_: object) -> list[bytes]:
        return ["loss → 0.5\n".encode()]

    def wait(self, **_: object) -> dict[str, object]:
        return {"StatusCode": self.code}


def test_a_terminal_that_lacks_a_character_costs_neither_output_nor_exit_code() -> None:
    out = Narrow()
    watch = Watch(Ended(5), out)
    watch.run()
    assert (watch.code, watch.error) == (5, None)
    assert out.getvalue() == "loss \\u2192 0.5\n"


class Removed:
    """A container that was there a moment ago."""

    name, labels, status = "lastrun-j-0001", {ATTEMPT_LABEL: "0123abcd"}, "running"

    def reload(self) -> None:
        raise NotFound("No such container")


def test_who_removes_a_container_wants_no_other_one(tmp_path: Path) -> None:
    """So that ``run.auto_continue`` begins none."""
    job = Job(DirectoryStore(tmp_path), "j")
    job.attempts.write(Attempt("0001-0123abcd", "elsewhere", 1, "1", time.time(), phase="running", began=True))
    started = StartedContainer(job, Removed(), None)
    assert (started.wait(0), started.cancelled) == (1, True)
    assert job.attempts.all()[0].phase == "lost"


def test_a_watch_that_breaks_off_is_no_success() -> None:
    watch = Watch(Ended("not a number"), io.StringIO())
    watch.run()
    assert watch.code != 0
    assert "broke off" in str(watch.error)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ssh://MyBox", ["--", "MyBox"]),
        ("ssh://me%40lab@Host:2222/run/d.sock", ["-p", "2222", "--", "me@lab@Host"]),
    ],
)
def test_ssh_is_asked_for_the_name_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, words: list[str]
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\nexit 255\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(EngineError, match="ssh does not get to the engine"):
        open_tunnel(uri)
    given = (tmp_path / "words").read_text().splitlines()
    assert given[-1 - len(words) : -1] == words
    assert "ControlMaster=no" in given


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(EngineError, match="allowed: ssh://"):
        open_tunnel("ssh://[bad")


def test_a_store_is_named_without_the_way_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "sub")
    for uri in ("../store", f"{tmp_path}/project/sub/../store", f"file://{tmp_path}/project/sub/../store"):
        assert StoreUri.parse(uri).prefix == f"{tmp_path}/project/store"


def test_who_asks_at_the_same_moment_connects_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def slow() -> object:
        asked.append(1)
        time.sleep(0.05)
        return object()

    monkeypatch.setattr(engine, "_connected", lru_cache(maxsize=1)(slow))
    with ThreadPoolExecutor(8) as pool:
        found = set(map(id, pool.map(lambda _: engine.connect(), range(8))))
    assert (len(asked), len(found)) == (1, 1)
