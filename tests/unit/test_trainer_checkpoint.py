"""Checkpoints: whole or absent, every damage noticed, nothing unpickled, the right ones kept."""

import contextlib
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from last_e.checkpoint import Writer, checkpoints, load, prune, save, snapshot
from last_e.manifest import (
    MANIFEST,
    DamagedCheckpoint,
    Manifest,
    describe_file,
    newest_whole,
    read_manifest,
    to_keep,
    verify,
)

CONFIG = '{"dataset": "synthetic"}\n'


def state(value: float = 1.0) -> dict[str, object]:
    return {
        "model": {"weight": torch.full((4, 3), value), "steps": torch.tensor(7)},
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.arange(5.0)}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}],
        },
        "step": 12,
        "last": [0.5, 0.25, None],
        "word": "x",
    }


def written(folder: Path, step: int = 12, value: float = 1.0, **about: object) -> Path:
    return save(folder, state(value), CONFIG, Manifest(step=step, epoch=1, evaluated=True, **about))


def assert_equal(found: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_equal(one, other)
    else:
        assert found == expected


# --- round trip --------------------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(tmp_path):
    path = written(tmp_path, test_top1=0.75, milestone=True)
    assert path == tmp_path / "step-00000012"
    assert sorted(file.name for file in path.iterdir()) == ["MANIFEST.json", "config.json", "state.pt"]
    loaded, about = load(path)
    assert torch.equal(loaded["model"]["weight"], torch.ones(4, 3))
    assert torch.equal(loaded["optimizer"]["state"][0]["momentum_buffer"], torch.arange(5.0))
    assert loaded["optimizer"]["param_groups"] == [{"lr": 0.1, "betas": (0.9, 0.99)}]
    assert (loaded["step"], loaded["last"], loaded["word"]) == (12, [0.5, 0.25, None], "x")
    assert (about.step, about.epoch, about.evaluated, about.test_top1, about.milestone) == (12, 1, True, 0.75, True)
    assert about.files == {name: describe_file(path / name) for name in ("state.pt", "config.json")}
    assert (path / "config.json").read_text() == CONFIG


def test_nothing_temporary_is_left(tmp_path):
    written(tmp_path)
    written(tmp_path, step=13)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000012", "step-00000013"]


def test_the_same_step_saved_again_takes_the_place_of_the_first(tmp_path):
    written(tmp_path, value=1.0)
    path = written(tmp_path, value=2.0, test_top1=0.5)
    loaded, about = load(path)
    assert float(loaded["model"]["weight"][0, 0]) == 2.0
    assert about.test_top1 == 0.5
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    (written(tmp_path) / "state.pt").write_bytes(b"")
    assert load(written(tmp_path))[0]["step"] == 12


def test_a_save_does_not_bring_back_a_run_that_was_removed(tmp_path):
    """As by somebody who clears up after a killed attempt, whose trainer ends a little later."""
    run = tmp_path / "scratch" / "run"
    run.mkdir(parents=True)
    written(run / "checkpoints")
    shutil.rmtree(tmp_path / "scratch")
    with pytest.raises(FileNotFoundError):
        written(run / "checkpoints", step=13)
    assert not (tmp_path / "scratch").exists()


def test_a_save_that_fails_changes_nothing(tmp_path):
    before = written(tmp_path)
    with pytest.raises((TypeError, AttributeError, RuntimeError)):
        save(tmp_path, {"bad": (n for n in ())}, CONFIG, Manifest(12, 1, True))
    assert verify(before).step == 12
    assert len(list(tmp_path.iterdir())) == 1


# --- a writer that is killed -------------------------------------------------------------------------------------------

KILLED = """
import os, resource, signal, sys
from pathlib import Path
import torch
from last_e import checkpoint
from last_e.manifest import Manifest

root = Path(sys.argv[1])

def die_at(count, module, names):
    left = [count]
    for name in names:
        real = getattr(module, name)
        def call(*args, real=real, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        setattr(module, name, call)

def child(folder, replaced, prepare):
    if os.fork() == 0:
        prepare()
        about = Manifest(step=20 if replaced else 30, epoch=1, evaluated=True)
        checkpoint.save(folder, {"value": torch.full((3000,), 3.0)}, "{}", about)
        checkpoint.prune(folder, 1)
        os._exit(0)
    return os.wait()[1]

def limit(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

for replaced in (False, True):
    ends = [(f"call-{n}", lambda n=n: die_at(n, os, ("mkdir", "fsync", "rename", "open", "close"))) for n in range(26)]
    ends += [(f"size-{n}", lambda n=n: limit(n)) for n in (0, 1, 3, 100, 4096, 12_000)]
    for name, prepare in ends:
        folder = root / f"{'same' if replaced else 'new'}-{name}"
        checkpoint.save(folder, {"value": torch.full((3000,), 2.0)}, "{}", Manifest(step=20, epoch=1, evaluated=False))
        code = child(folder, replaced, prepare)
        (folder / "ended").write_text(str(code))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-c", KILLED, str(root)], check=True, capture_output=True)
    return root


def remains(killed: Path, kind: str) -> list[tuple[str, bool, float | None]]:
    """Per way to die: its name, whether the writer was killed, the value in the newest whole checkpoint."""
    found = []
    for folder in sorted(killed.glob(f"{kind}-*")):
        path = newest_whole(folder, lambda word: None)
        value = None if path is None else float(load(path)[0]["value"][0])
        found.append((folder.name, (folder / "ended").read_text() != "0", value))
    return found


@pytest.mark.slow
def test_a_writer_killed_anywhere_leaves_the_old_checkpoint_or_the_new_one(killed):
    found = remains(killed, "new")
    assert sum(was_killed for _, was_killed, _ in found) > 10
    assert any(not was_killed for _, was_killed, _ in found)
    assert [name for name, _, value in found if value not in (2.0, 3.0)] == []
    assert {value for _, was_killed, value in found if was_killed} == {2.0, 3.0}


@pytest.mark.slow
def test_a_writer_killed_anywhere_leaves_no_folder_that_passes_for_whole_and_is_not(killed):
    for folder in killed.iterdir():
        for path in folder.glob("step-*"):
            verify(path)  # a final name is only ever given to a whole checkpoint


@pytest.mark.slow
def test_a_writer_killed_while_it_replaces_the_same_step_leaves_one_of_the_two(killed):
    """With keep_last=1 there is no older one to fall back to."""
    assert [name for name, _, value in remains(killed, "same") if value not in (2.0, 3.0)] == []


def test_leftovers_of_a_killed_writer_are_cleared_by_the_next(killed, tmp_path):
    folder = tmp_path
    written(folder)
    (folder / ".new-abc").mkdir()
    (folder / ".new-abc" / "state.pt").write_bytes(b"half")
    assert prune(folder, 1) == []
    assert [path.name for path in folder.iterdir()] == ["step-00000012"]


# --- damage ------------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_in_a_file_is_noticed(tmp_path):
    path = written(tmp_path)
    for name in ("state.pt", "config.json"):
        content = (path / name).read_bytes()
        for at in range(0, len(content), max(1, len(content) // 60)):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            (path / name).write_bytes(damaged)
            with pytest.raises(DamagedCheckpoint, match=f"{name} is not what was written"):
                verify(path)
        (path / name).write_bytes(content)
        verify(path)


def test_every_flipped_bit_in_the_manifest_is_noticed(tmp_path):
    path = written(tmp_path, test_top1=0.75) / MANIFEST
    content = path.read_bytes()
    unnoticed = set()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        try:
            if verify(path.parent) != Manifest.from_json(content):
                unnoticed.add(content[: at + 1].decode().splitlines()[-1].split(":")[0].strip())
        except DamagedCheckpoint:
            continue
    assert unnoticed == set()


@pytest.mark.parametrize("name", ["state.pt", "config.json", MANIFEST])
def test_a_file_cut_short_or_missing_is_noticed(tmp_path, name):
    path = written(tmp_path)
    content = (path / name).read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 2):
        (path / name).write_bytes(content[:size])
        with pytest.raises(DamagedCheckpoint):
            verify(path)
    (path / name).unlink()
    with pytest.raises(DamagedCheckpoint, match="never finished" if name == MANIFEST else f"{name} is missing"):
        load(path)


def test_a_file_with_more_at_its_end_is_noticed(tmp_path):
    path = written(tmp_path)
    with (path / "state.pt").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DamagedCheckpoint, match=r"state\.pt has \d+ bytes, not \d+"):
        verify(path)


def test_a_folder_in_place_of_a_file_is_noticed(tmp_path):
    path = written(tmp_path)
    (path / "state.pt").unlink()
    (path / "state.pt").mkdir()
    with pytest.raises(DamagedCheckpoint, match=r"state\.pt has"):
        verify(path)


def change_manifest(path: Path, **changes: object) -> None:
    """Change a manifest as an attacker would: its own checksum fits."""
    values = json.loads((path / MANIFEST).read_text()) | changes
    del values["sha256"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (path / MANIFEST).write_text(json.dumps({**values, "sha256": digest}))


ENTRY = {"size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../state.pt": ENTRY}},
        {"files": {"..": ENTRY}},
        {"files": {".": ENTRY}},
        {"files": {"": ENTRY}},
        {"files": {"/etc/passwd": ENTRY}},
        {"files": {"a/b": ENTRY}},
        {"files": {"a/": ENTRY}},
        {"files": {}},
        {"files": []},
        {"files": None},
        {"files": {"state.pt": {"size": 1}}},
        {"files": {"state.pt": 3}},
        {"step": "12"},
        {"step": None},
        {"epoch": 1.5},
        {"test_top1": "good"},
        {"test_top1": float("nan")},
        {"evaluated": "maybe"},
        {"milestone": "maybe"},
        {"step": -1},
        {"format": 2},
        {"format": None},
        {"invented": 1},
    ],
    ids=str,
)
def test_a_manifest_that_says_something_odd_is_refused(tmp_path, changes):
    path = written(tmp_path)
    change_manifest(path, **changes)
    with pytest.raises(DamagedCheckpoint):
        read_manifest(path)


def test_a_file_name_that_the_system_refuses_is_a_damage_and_no_crash(tmp_path):
    path = written(tmp_path)
    for name in ("x" * 300, "a\0b"):
        change_manifest(path, files={name: ENTRY})
        with pytest.raises(DamagedCheckpoint):
            verify(path)


def test_a_file_outside_the_folder_is_never_looked_at(tmp_path):
    outside = tmp_path / "secret"
    outside.write_text("x")
    path = written(tmp_path / "run")
    change_manifest(path, files={"../../secret": describe_file(outside).model_dump()})
    with pytest.raises(DamagedCheckpoint, match="manifest is of another format"):
        verify(path)


KEYS = st.sampled_from(["format", "step", "epoch", "evaluated", "files", "x"])
JSONISH = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)
).map(lambda value: json.dumps(value).encode())


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.binary(max_size=80) | JSONISH)
@pytest.mark.slow
def test_any_bytes_are_a_manifest_or_a_damage(content):
    with contextlib.suppress(DamagedCheckpoint):
        Manifest.from_json(content)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def with_state(folder: Path, content: bytes) -> Path:
    """A checkpoint whose manifest fits any content of state.pt, as an attacker would make it."""
    path = written(folder)
    (path / "state.pt").write_bytes(content)
    change_manifest(path, files={name: describe_file(path / name).model_dump() for name in ("state.pt", "config.json")})
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_code_hidden_in_a_state_is_not_run(tmp_path, zipped):
    trace = tmp_path / "ran"
    torch.save({"model": Bomb(trace)}, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
    path = with_state(tmp_path / "run", (tmp_path / "bad.pt").read_bytes())
    verify(path)
    with pytest.raises(DamagedCheckpoint, match=r"state\.pt cannot be read"):
        load(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" + b"\0" * 200, b"\x80\x02}q\x00."], ids=repr)
def test_a_state_that_is_none_is_a_damage_in_one_line(tmp_path, content):
    path = with_state(tmp_path, content)
    with pytest.raises(DamagedCheckpoint, match=r"^state\.pt [^\n]*$"):
        load(path)


# --- finding and keeping -----------------------------------------------------------------------------------------------


def test_checkpoints_are_listed_oldest_first(tmp_path):
    for step in (30, 4, 100):
        written(tmp_path, step=step)
    assert [about.step for _, about in checkpoints(tmp_path)] == [4, 30, 100]
    assert checkpoints(tmp_path / "none") == []


def test_the_newest_whole_one_is_found_and_damaged_ones_are_skipped_with_a_word(tmp_path):
    paths = [written(tmp_path, step=step) for step in (1, 2, 3, 4)]
    (paths[3] / MANIFEST).unlink()
    (paths[2] / "state.pt").write_bytes(b"x")
    words: list[str] = []
    assert newest_whole(tmp_path, words.append) == paths[1]
    assert [word.split(":")[0] for word in words] == [f"skipping {paths[3]}", f"skipping {paths[2]}"]
    assert newest_whole(tmp_path / "none", words.append) is None


def about(step: int, top1: float | None = None, milestone: bool = False, evaluated: bool = True) -> Manifest:
    return Manifest(step=step, epoch=step // 10, evaluated=evaluated, milestone=milestone, test_top1=top1)


def test_the_newest_the_best_and_the_milestones_are_kept():
    found = [about(10, 0.2), about(20, 0.9), about(30, 0.4, milestone=True), about(40, 0.9), about(45), about(50, 0.1)]
    assert to_keep(found, 2) == [False, True, True, False, True, True]
    assert to_keep(found, 1) == [False, True, True, False, False, True]
    assert to_keep([], 3) == []


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.none() | st.floats(0, 1), st.booleans()), max_size=12, unique_by=lambda t: t[0]),
    st.integers(1, 5),
)
def test_the_retention_rule_holds_in_any_order(rows, keep_last):
    found = [about(*row) for row in rows]
    kept = {m.step for m, keep in zip(found, to_keep(found, keep_last), strict=True) if keep}
    newest = sorted(m.step for m in found)[-keep_last:]
    scored = [m for m in found if m.test_top1 is not None]
    best = {min(m.step for m in scored if m.test_top1 == max(s.test_top1 for s in scored))} if scored else set()
    assert kept == {*newest, *best, *(m.step for m in found if m.milestone)}


def test_pruning_deletes_exactly_what_is_not_kept(tmp_path):
    for step, top1 in ((10, 0.5), (20, 0.9), (30, 0.4), (40, 0.3)):
        written(tmp_path, step=step, test_top1=top1)
    (tmp_path / "step-00000050").mkdir()  # no manifest: nobody's to delete
    gone = prune(tmp_path, 1)
    assert [path.name for path in gone] == ["step-00000010", "step-00000030"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000040", "step-00000050"]


# --- the writer's thread -----------------------------------------------------------------------------------------------


def test_the_writer_saves_what_was_there_when_asked_not_what_came_later(tmp_path):
    saved = []
    writer = Writer(tmp_path, 3, lambda path, about: saved.append((path.name, about.step)))
    tensor = torch.zeros(1000)
    writer.submit({"tensor": tensor, "list": [tensor]}, CONFIG, about(1))
    tensor += 1
    writer.wait()
    writer.close()
    loaded, _ = load(tmp_path / "step-00000001")
    assert not loaded["tensor"].any()
    assert not loaded["list"][0].any()
    assert saved == [("step-00000001", 1)]


def test_the_writer_tells_at_the_next_call_that_it_failed(tmp_path):
    (tmp_path / "file").touch()
    writer = Writer(tmp_path / "file", 3, lambda path, about: None)
    writer.submit(state(), CONFIG, about(1))
    with pytest.raises(OSError, match="file"):
        writer.submit(state(), CONFIG, about(2))
    writer.wait()
    writer.close()


def test_the_writer_keeps_to_the_retention_rule(tmp_path):
    writer = Writer(tmp_path, 2, lambda path, about: None)
    for step in (1, 2, 3, 4):
        writer.submit(state(), CONFIG, about(step))
    writer.close()
    writer.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_snapshot_is_of_its_moment():
    original = state()
    original["optimizer"]["state"][1] = {}
    original["optimizer"]["state"][2] = {
        "step": torch.tensor(7.0),
        "square": torch.eye(3).T,
        "bf16": torch.ones(2, 0).bfloat16(),
    }
    before = copy.deepcopy(original)
    on_host = snapshot(original)
    original["model"]["weight"].zero_()
    original["optimizer"]["state"][0]["momentum_buffer"].zero_()
    original["optimizer"]["state"][1]["momentum_buffer"] = torch.ones(3)  # as an optimizer's first step does
    original["optimizer"]["param_groups"][0]["lr"] = 99.0
    assert_equal(on_host(), before)


def test_what_is_loaded_from_a_snapshot_has_memory_of_its_own_each(tmp_path):
    path = save(tmp_path, snapshot(state())(), CONFIG, about(3))
    loaded, _ = load(path)
    assert_equal(loaded, state())
    assert loaded["model"]["weight"].untyped_storage().nbytes() == loaded["model"]["weight"].nbytes
