"""A run that is cut and goes on ends bit for bit as one that was not; and what happens when it cannot go on."""

import copy
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import last_e
from last_e import train
from last_e.checkpoint import checkpoints, load
from last_e.cli import main
from last_e.config import TrainConfig
from last_e.data import write_clips
from last_e.data.synthetic import synthetic_clips
from last_e.events import Ended, EpochDone, Event, Progress
from last_e.graphs import Graphs
from last_e.layers import resolve
from last_e.manifest import newest_whole, verify
from last_e.model import fused
from last_e.reading import set_layer
from last_e.stop import Stop
from tests.jobs import PATIENCE
from tests.tape import TapeCapture

REPOSITORY = Path(last_e.__file__).parents[1]
STEPS = 6  # an epoch: 48 training clips in batches of 8
EPOCHS = 3
EACH = "checkpoint.log_every_steps=1"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    clips = synthetic_clips(6, 72)
    path = tmp_path_factory.mktemp("data") / "synthetic.safetensors"
    write_clips(copy.deepcopy(clips), path)
    return path


def words(data: Path, out: Path) -> list[str]:
    """A small run that writes a checkpoint at nearly every step."""
    settings = [f"data.uri={data}", "training.input_frames=16", "training.warmup_epochs=1", "training.batch_size=8"]
    settings += ["hardware.cpu_threads=1", "checkpoint.every_minutes=0.001", "checkpoint.keep_last=4", EACH]
    return [
        "--model",
        "nano",
        "--dataset",
        "synthetic",
        "--env",
        "local",
        "--epochs",
        f"{EPOCHS}",
        "--out",
        f"{out}",
        "--set",
        *settings,
    ]


def again(run: Path, *more: str) -> list[str]:
    return [
        "--resume",
        f"{run}",
        "--env",
        "local",
        *more,
        "--set",
        "hardware.cpu_threads=1",
        "checkpoint.every_minutes=0.001",
        EACH,
    ]


def started(arguments: list[str], **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / "train.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finished(arguments: list[str], **options: object) -> tuple[int, str, str]:
    with started(arguments, **options) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def result(run: Path) -> tuple[bytes, dict[str, torch.Tensor]]:
    """The bytes of the figures of epochs and of steps, and the weights and statistics at the end."""
    path = newest_whole(run / "checkpoints", lambda word: None)
    state, about = load(path)
    assert about.step == STEPS * EPOCHS
    return (run / "metrics.jsonl").read_bytes() + (run / "steps.jsonl").read_bytes(), state["model"]


def same(a: tuple[bytes, dict[str, torch.Tensor]], b: tuple[bytes, dict[str, torch.Tensor]]) -> bool:
    return a[0] == b[0] and a[1].keys() == b[1].keys() and all(torch.equal(a[1][name], b[1][name]) for name in a[1])


def steps_saved(run: Path) -> set[int]:
    return {int(path.name[5:]) for path in (run / "checkpoints").glob("step-*") if path.name[5:].isdigit()}


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    """Until something has happened on disk, or the process has ended."""
    end = time.monotonic() + PATIENCE
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    code, out, err = finished(words(data, run))
    assert (code, err) == (0, "")
    assert f"completed at step {STEPS * EPOCHS} of {STEPS * EPOCHS}" in out
    return run


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[None]:
    """For running the command line in this process: its signal handlers and torch's settings are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(deterministic)


@pytest.fixture
def run(uninterrupted, tmp_path) -> Path:
    """A copy of the finished run, to cut back or to damage."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "run"))


def cut_back(run: Path, step: int) -> Path:
    """As if the run had been killed after the checkpoint of ``step``."""
    for path in (run / "checkpoints").glob("step-*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    return run / "checkpoints" / f"step-{step:08d}"


# --- cut by signals ----------------------------------------------------------------------------------------------------


def test_interrupted_in_mid_epoch_and_resumed_is_as_never_interrupted(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    with started(words(data, run)) as process:
        wait_for(lambda: any(step % STEPS for step in steps_saved(run)), process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, err
    assert err == ""
    assert "can go on from there" in out
    assert f"go on with: python -m last_e --resume {run}" in out
    assert max(steps_saved(run)) < STEPS * EPOCHS
    code, out, err = finished(again(run))
    assert (code, err) == (0, "")
    assert "; from step " in out
    assert same(result(run), result(uninterrupted))


def test_killed_again_and_again_and_resumed_is_as_never_killed(data, uninterrupted, tmp_path):
    run, chance = tmp_path / "run", random.Random(5)
    arguments, kills = words(data, run), 0
    for _ in range(3):
        with started(arguments) as process:
            before = steps_saved(run)
            wait_for(lambda before=before: steps_saved(run) - before, process)
            time.sleep(chance.uniform(0, 0.25))
            process.kill()
            process.communicate()
        kills += process.returncode == -signal.SIGKILL
        arguments = again(run)
        for path in (run / "checkpoints").glob("step-*"):
            verify(path)
    assert kills >= 2
    code, _, err = finished(arguments)
    assert (code, err) == (0, "")
    assert same(result(run), result(uninterrupted))
    assert not list((run / "checkpoints").glob(".tmp-*"))


def test_an_interrupt_still_saves_when_whoever_read_the_output_has_gone(data, tmp_path):
    """`train.py | tee log` and Ctrl-C: the signal goes to both, and tee is gone first."""
    run = tmp_path / "run"
    with started([*words(data, run), "checkpoint.every_minutes=60"]) as process:
        while "clips to train" not in process.stdout.readline():
            assert process.poll() is None
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        process.stdout = None
        process.communicate(timeout=PATIENCE)
    assert newest_whole(run / "checkpoints", lambda word: None) is not None
    assert process.returncode == 75


def test_the_time_limit_pauses_the_run(data, tmp_path):
    run = tmp_path / "run"
    limit = ["hardware.session_limit=2s", "hardware.stop_margin=1s", "training.epochs=500"]
    code, out, err = finished([*words(data, run), *limit])
    assert (code, err) == (75, "")
    assert "session limit: 2s; stops 1s before" in out
    assert "time_limit at step" in out


# --- cut anywhere, within this process ---------------------------------------------------------------------------------


class Events:
    def __init__(self) -> None:
        self.seen: list[Event] = []

    def emit(self, event: Event) -> None:
        self.seen.append(event)


class StopAfter(Stop):
    """Asks to stop at the n-th look: training looks before each step and after each test batch."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def reason(self) -> str | None:
        self.looks -= 1
        return "interrupted" if self.looks < 0 else None


def tiny(data: Path, *more: str) -> TrainConfig:
    settings = [f"data.uri={data}", "dataset=synthetic", "env=local", "hardware.cpu_threads=1", "training.input_frames=16"]
    settings += [
        "model=nano",
        "model.stem_channels=4",
        "model.channels=[4,4,4]",
        "model.drop_path_rate=0.2",
        "training.epochs=2",
    ]
    settings += [
        "training.batch_size=16",
        "training.warmup_epochs=1",
        "checkpoint.every_minutes=60",
        "hardware.micro_batch=8",
        EACH,
    ]
    layer, problems = set_layer([*settings, *more])
    return resolve([layer], TrainConfig, problems).config


def go(config: TrainConfig, out: Path, resume: Path | None = None, stop: Stop | None = None) -> tuple[Ended, list[Event]]:
    sink = Events()
    return train.run(config, out, resume, sink, stop or Stop()), sink.seen


def end(out: Path) -> tuple[bytes, dict[str, torch.Tensor]]:
    state, _ = load(newest_whole(out / "checkpoints", lambda word: None))
    return (out / "metrics.jsonl").read_bytes() + (out / "steps.jsonl").read_bytes(), state["model"]


def test_cut_at_every_look_of_an_epoch_and_resumed_is_as_never_cut(data, tmp_path, here):
    """An epoch looks 3 times before a step and 3 times after a test batch: so also just before the test and in its middle."""
    config = tiny(data)
    go(config, tmp_path / "whole")
    for looks in range(1, 8):
        out = tmp_path / f"cut-{looks}"
        ended, _ = go(config, out, stop=StopAfter(looks))
        assert ended.reason == "interrupted"
        resume = newest_whole(out / "checkpoints", lambda word: None)
        assert resume is not None, looks
        ended, _ = go(config, out, resume)
        assert ended.reason == "completed"
        assert same(end(out), end(tmp_path / "whole")), f"cut at look {looks}"


def test_cut_at_every_look_of_one_run_is_as_never_cut(data, tmp_path, here):
    """Each stretch gets one look further than the one before it began."""
    config, out = tiny(data), tmp_path / "run"
    go(config, tmp_path / "whole")
    resume, ended, stretches = None, None, 0
    while ended is None or ended.reason != "completed":
        ended, _ = go(config, out, resume, StopAfter(4))
        resume = newest_whole(out / "checkpoints", lambda word: None)
        stretches += 1
        assert stretches < 10
    assert stretches >= 3
    assert same(end(out), end(tmp_path / "whole"))


def test_a_run_stopped_before_its_first_step_can_go_on(data, tmp_path, here):
    config, out = tiny(data), tmp_path / "run"
    stop = Stop()
    stop.ask("preempted")
    ended, _ = go(config, out, stop=stop)
    assert (ended.reason, ended.message) == ("preempted", "saved at step 0, can go on from there")
    assert newest_whole(out / "checkpoints", lambda word: None) is not None


def test_a_run_that_is_done_is_still_done_when_resumed(data, tmp_path, here):
    config, out = tiny(data), tmp_path / "run"
    go(config, out)
    before = end(out)
    ended, seen = go(config, out, newest_whole(out / "checkpoints", lambda word: None))
    assert ended.reason == "completed"
    assert not [event for event in seen if isinstance(event, EpochDone)]
    assert same(end(out), before)


def test_with_compiled_loops_cut_and_resumed_is_as_never_cut(data, tmp_path, here, monkeypatch):
    monkeypatch.setattr(fused, "LARGE", 0)
    config = tiny(data)
    go(config, tmp_path / "whole")
    ended, _ = go(config, tmp_path / "cut", stop=StopAfter(4))
    assert ended.reason == "interrupted"
    go(config, tmp_path / "cut", newest_whole(tmp_path / "cut/checkpoints", lambda word: None))
    assert same(end(tmp_path / "cut"), end(tmp_path / "whole"))
    monkeypatch.setattr(fused, "LARGE", 1 << 60)
    go(config, tmp_path / "torch")
    assert not same(end(tmp_path / "torch"), end(tmp_path / "whole")), "no loop was taken"


def test_loops_are_loaded_before_the_first_step_where_they_will_be_used(data, tmp_path, here, monkeypatch):
    loaded: list[bool] = []

    def none_here() -> None:
        loaded.append(True)

    monkeypatch.setattr(fused, "loops", none_here)
    _, seen = go(tiny(data), tmp_path / "small", stop=StopAfter(1))
    assert not loaded
    monkeypatch.setattr(fused, "LARGE", 8 * 16 * 25 * 8)  # rows, frames, joints, channels of the widest
    _, seen = go(tiny(data), tmp_path / "large", stop=StopAfter(1))
    told = [str(event) for event in seen]
    assert loaded
    assert any("numba: none that works here" in text for text in told)
    assert torch.get_deterministic_debug_mode() == 2, "operations whose results vary are refused on a CPU"


def test_a_run_with_fewer_epochs_than_it_has_behind_it_ends(data, tmp_path, here):
    """With --allow-change training.epochs."""
    go(tiny(data), tmp_path / "run")
    resume = newest_whole(tmp_path / "run" / "checkpoints", lambda word: None)
    ended, _ = go(tiny(data, "training.epochs=1", "training.warmup_epochs=0"), tmp_path / "run", resume, StopAfter(50))
    assert ended.reason == "completed"


def test_more_epochs_go_on_from_where_it_ended(data, tmp_path, here):
    go(tiny(data), tmp_path / "run")
    resume = newest_whole(tmp_path / "run" / "checkpoints", lambda word: None)
    ended, _ = go(tiny(data, "training.epochs=3"), tmp_path / "run", resume)
    assert (ended.reason, ended.step, ended.total_steps) == ("completed", 9, 9)


@pytest.mark.parametrize(
    ("word", "option", "value"),
    [
        ("training.weight_decay=0.5", "weight_decay", 0.5),
        ("training.momentum=0.5", "momentum", 0.5),
        ("training.nesterov=false", "nesterov", False),
    ],
)
def test_an_allowed_change_of_the_optimizers_numbers_is_in_force(data, tmp_path, here, word, option, value):
    go(tiny(data), tmp_path / "run", stop=StopAfter(2))
    resume = newest_whole(tmp_path / "run" / "checkpoints", lambda word: None)
    go(tiny(data, word), tmp_path / "run", resume)
    state, _ = load(newest_whole(tmp_path / "run" / "checkpoints", lambda word: None))
    assert state["optimizer"]["param_groups"][0][option] == value


def test_an_allowed_change_of_the_optimizer_does_not_crash(data, tmp_path, here):
    go(tiny(data), tmp_path / "run", stop=StopAfter(2))
    resume = newest_whole(tmp_path / "run" / "checkpoints", lambda word: None)
    ended, _ = go(tiny(data, "training.optimizer=adamw", "training.lr=0.01"), tmp_path / "run", resume)
    assert ended.reason == "completed"


@pytest.mark.slow
def test_a_run_of_recorded_steps_is_that_without_also_cut_and_resumed(data, tmp_path, here, monkeypatch):
    """Graphs as far as a CPU goes: tapes, in place of what CUDA records, of steps from before a restoration none."""
    config = tiny(data, "training.epochs=4", "training.batch_size=8", "hardware.micro_batch=null")
    made: list[Graphs] = []

    def without(state, *_):
        state.keep_rate_on_device()  # in float32, as a GPU has it

    def recorded(state, batches, config, precision, ranks, told):
        state.keep_rate_on_device()
        made.append(Graphs(state, batches, config, precision, TapeCapture(), told))
        return made[-1]

    monkeypatch.setattr(train, "graphs_for", without)
    go(config, tmp_path / "without")
    monkeypatch.setattr(train, "graphs_for", recorded)
    go(config, tmp_path / "whole")
    ended, _ = go(config, tmp_path / "cut", stop=StopAfter(17))
    assert (ended.reason, 8 < ended.step < ended.total_steps - 8) == ("interrupted", True)
    go(config, tmp_path / "cut", newest_whole(tmp_path / "cut" / "checkpoints", lambda word: None))
    assert all(graphs.working and graphs.count > 0 for graphs in made)
    (expected, weights), *others = (end(tmp_path / name) for name in ("without", "whole", "cut"))
    for figures, its_weights in others:
        assert figures == expected
        assert [name for name in weights if not torch.equal(its_weights[name], weights[name])] == []


class SlowStop(Stop):
    """Each look takes long enough for progress to be told the next time."""

    @property
    def reason(self) -> str | None:
        time.sleep(1.05)
        return None


def test_a_warm_up_as_long_as_the_run_is_told_and_does_not_crash(data, tmp_path, here):
    """The learning rate is asked for after the last step too, when progress is told: once a second at the most."""
    settings, _ = set_layer(["model=nano_e_v3", "dataset=irds", "training.warmup_epochs=1", "training.epochs=1"])
    assert any("lasts the whole run" in note for note in resolve([settings], TrainConfig).notes)
    sink = Events()
    ended = train.run(tiny(data, "training.warmup_epochs=1", "training.epochs=1"), tmp_path / "run", None, sink, SlowStop())
    assert ended.reason == "completed"
    assert any(isinstance(event, Progress) and event.phase == "test" for event in sink.seen)


# --- diverging ---------------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_ends_so_and_keeps_its_last_good_checkpoint(data, tmp_path):
    run = tmp_path / "run"
    wild = ["training.lr=100", "training.gradient_clip=0", "training.warmup_epochs=0", "training.max_bad_steps=3"]
    ib = ["model.use_ib_loss=true", "training.ib_loss_weight=1e6", "training.epochs=20"]
    # A checkpoint of every good step: there is only the first.
    code, out, err = finished([*words(data, run), *wild, *ib, "checkpoint.every_minutes=1e-7"])
    assert (code, err) == (1, "")
    assert "step skipped" in out
    assert "diverged at step" in out
    assert "3 steps in a row gave a loss or gradient that is not finite" in out
    kept = checkpoints(run / "checkpoints")
    assert kept
    for path, _ in kept:
        state, _ = load(path)
        assert all(tensor.isfinite().all() for tensor in state["model"].values())


# --- a full disk -------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_run_in_one_clear_line_and_harms_no_checkpoint(data, small_disk):
    run = small_disk / "run"
    code, out, err = finished([*words(data, run), "checkpoint.keep_last=2", "training.save_interval=1"])
    assert code == 1
    assert err == ""
    ends = [line for line in out.splitlines() if "out_of_disk" in line]
    assert len(ends) == 1
    assert f"no space left for {run}" in ends[0]
    kept = list((run / "checkpoints").glob("step-*"))
    assert kept
    for path in kept:
        load(path)
    assert not list((run / "checkpoints").glob(".tmp-*"))


# --- damaged checkpoints -----------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_skipped_with_a_word(run, uninterrupted, capsys, here):
    newest = max((run / "checkpoints").glob("step-*"))
    flip(newest / "state.pt")
    assert main(again(run)) == 0
    out, err = capsys.readouterr()
    assert err == f"warning: skipping {newest}: state.pt is not what was written (sha256 differs)\n"
    assert "completed" in out
    assert same(result(run), result(uninterrupted))


@pytest.mark.parametrize("name", ["state.pt", "config.json", "MANIFEST.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_checkpoint_that_is_named_ends_with_one_line_and_a_hint(run, capsys, here, name, how):
    newest = max((run / "checkpoints").glob("step-*"))
    if how == "cut":
        (newest / name).write_bytes((newest / name).read_bytes()[:-9])
    else:
        (newest / name).unlink()
    code = main(again(newest))
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 1
    assert line.startswith(f"error: {newest}: damaged checkpoint: ")
    other = newest_whole(run / "checkpoints", lambda word: None)
    assert other != newest
    assert f"--resume {other}" in line


def test_a_run_without_any_whole_checkpoint_says_so(run, capsys, here):
    for path in (run / "checkpoints").glob("step-*"):
        (path / "MANIFEST.json").unlink()
    assert main(again(run)) == 2
    assert "a folder without a whole checkpoint" in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_other_clips_is_refused_unless_allowed(run, data, tmp_path, capsys, here):
    clips = synthetic_clips(6, 72, seed=1)
    other = tmp_path / "other.safetensors"
    write_clips(copy.deepcopy(clips), other)
    cut_back(run, STEPS * 2)
    assert main([*again(run), f"data.uri={other}"]) == 2
    assert "the clips are not those that the run began with" in capsys.readouterr().err
    assert main([*again(run, "--allow-change", "data"), f"data.uri={other}"]) == 0


# --- going on otherwise than begun -------------------------------------------------------------------------------------


def test_two_trainers_in_one_folder_are_refused(run, capsys, here):
    with FileLock(run / ".lock"):
        assert main(again(run)) == 2
    assert capsys.readouterr().err == f"error: {run}: another training is writing there\n"


def test_a_changed_pinned_value_is_refused_unless_allowed(run, capsys, here):
    cut_back(run, STEPS * 2)
    changed = [*again(run), "training.lr=0.05", "training.label_smoothing=0.2", "hardware.num_workers=1"]
    assert main(changed) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in lines] == ["training.label_smoothing", "training.lr"]
    assert "found 0.05; allowed: 0.1, as the run began" in lines[1]
    assert "--allow-change training.lr" in lines[1]
    assert main([*changed, "--allow-change", "training.lr"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main([*changed, "--allow-change", "training.lr", "training.label_smoothing"]) == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["training"]["lr"], config["training"]["label_smoothing"]) == (0.05, 0.2)


def test_a_batch_cut_into_two_is_allowed_and_another_product_is_not(run, capsys, here):
    cut_back(run, STEPS * 2)
    assert main([*again(run, "--batch_size", "4")]) == 2
    assert "training.batch_size" in capsys.readouterr().err
    assert main([*again(run, "--batch_size", "4"), "training.gradient_accumulation_steps=2"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == EPOCHS


@pytest.mark.parametrize("path", ["{run}", "{run}/checkpoints", "{newest}", "{newest}/state.pt"])
def test_a_run_can_be_named_in_several_ways_and_goes_on_in_its_own_folder(run, capsys, here, path):
    newest = max((run / "checkpoints").glob("step-*"))
    assert main(again(Path(path.format(run=run, newest=newest)))) == 0
    assert f"run: {run}\n" in capsys.readouterr().out


@pytest.mark.parametrize("where", [".", "checkpoints"])
def test_relative_names_mean_the_same(run, monkeypatch, here, where):
    monkeypatch.chdir(run / where)
    name = "." if where == "." else max((run / "checkpoints").glob("step-*")).name
    assert main(again(Path(name))) == 0
    assert not (run / where / "runs").exists(), "it went on in its own folder, not in a new one"


def test_what_the_machine_decides_may_change_on_the_way(run, capsys, here):
    cut_back(run, STEPS * 2)
    assert main([*again(run), "checkpoint.keep_last=1", "training.save_interval=5", "training.max_bad_steps=7"]) == 0
    assert capsys.readouterr().err == ""


def test_the_checkpoints_kept_are_the_newest_the_best_and_the_last_epoch(uninterrupted):
    kept = checkpoints(uninterrupted / "checkpoints")
    assert kept[-1][1].milestone
    assert [about.step for _, about in kept][-1] == STEPS * EPOCHS
    lines = (uninterrupted / "metrics.jsonl").read_text().splitlines()
    best = max((json.loads(line)["test_top1"], -json.loads(line)["step"]) for line in lines)
    assert -best[1] in {about.step for _, about in kept}
    assert len(kept) <= 4 + 2


def test_a_run_folder_that_cannot_be_made_is_one_line(data, tmp_path, capsys, here):
    (tmp_path / "file").touch()
    arguments = words(data, tmp_path / "file" / "run")
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "Not a directory" in line
