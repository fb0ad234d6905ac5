"""Where the best is chosen, and when a run is over: clips that validate, test looked at once, ``training.patience``."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from last_e import train
from last_e.checkpoint import checkpoints, load
from last_e.config import TrainConfig
from last_e.data import OwnClip, Split, write_clips, write_dataset
from last_e.data.splits import parts_of
from last_e.data.synthetic import synthetic_clips
from last_e.events import Ended, EpochDone, Event, Started, describe
from last_e.manifest import newest_whole
from last_e.predictions import FILE as PREDICTIONS
from last_e.predictions import read_predictions
from runner.store.open import open_store
from runner.view.compare import compare
from tests.conftest import Cli
from tests.integration.test_trainer_resume import StopAfter, go, here, tiny  # noqa: F401
from tests.jobs import jobs_in

pytestmark = pytest.mark.usefixtures("here")
VALIDATES = ("data.validation=0.3", "training.epochs=3", "checkpoint.keep_last=20")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "synthetic.safetensors"
    write_clips(copy.deepcopy(synthetic_clips(6, 72)), path)
    return path


def newest(out: Path) -> Path:
    found = newest_whole(out / "checkpoints", lambda word: None)
    assert found is not None
    return found


def files(out: Path) -> tuple[str, str]:
    """The history, and everything that training changes, by their sha256."""
    state, written = load(newest(out))[0], io.BytesIO()
    for group in state["optimizer"]["param_groups"]:
        del group["lr"]  # set anew before each step
    torch.save(state, written)
    return (out / "metrics.jsonl").read_text(), hashlib.sha256(written.getvalue()).hexdigest()


def epochs(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips are scored from now on, each time."""
    seen: list[int] = []
    evaluate = train.evaluate

    def counting(model: Any, batches: Any, *rest: Any) -> Any:
        seen.append(len(batches.index))
        return evaluate(model, batches, *rest)

    monkeypatch.setattr(train, "evaluate", counting)
    return seen


def test_the_best_is_chosen_where_it_validates_and_test_is_looked_at_once(data, tmp_path, monkeypatch):
    seen = scored(monkeypatch)
    config = tiny(data, *VALIDATES)
    ended, events = go(config, tmp_path / "run")
    (started,) = (event for event in events if isinstance(event, Started))
    assert (started.train_clips, started.validation_clips, started.test_clips) == (36, 12, 24)
    assert "36 clips to train, 12 to validate, 24 to test; 3 epochs" in str(describe(started))
    assert seen == [12, 12, 12, 24]
    found = epochs(tmp_path / "run")
    assert [epoch["test_top1"] is None for epoch in found] == [True, True, False]
    best = max(found, key=lambda epoch: (epoch["validation_top1"], -epoch["epoch"]))
    assert (ended.best_top1, ended.best_epoch) == (best["validation_top1"], best["epoch"])
    assert (ended.validation_top1, ended.test_top1) == (found[-1]["validation_top1"], found[-1]["test_top1"])
    assert f"of epoch {best['epoch']}, the best by validation" in ended.message
    # The manifests say which checkpoint that is, and what is tested is that one's weights.
    tops = {about.epoch: about.validation_top1 for _, about in checkpoints(tmp_path / "run/checkpoints")}
    assert tops == {epoch["epoch"]: epoch["validation_top1"] for epoch in found}
    state, about = load(newest(tmp_path / "run"))
    assert (about.test_top1, about.top1) == (None, about.validation_top1)
    path = next(path for path, about in checkpoints(tmp_path / "run/checkpoints") if about.epoch == best["epoch"])
    assert all(torch.equal(state["best_model"][name], value) for name, value in load(path)[0]["model"].items())
    assert state["tested"] == [found[-1][f"test_{name}"] for name in ("loss", "top1", "top5")]
    shown = [str(describe(event)) for event in events if isinstance(event, EpochDone)]
    assert [" test" in line for line in shown] == [False, False, True]
    told = read_predictions((tmp_path / "run" / PREDICTIONS).read_bytes())
    assert (told.about.part, told.about.epoch, len(told.clip)) == ("test", best["epoch"], 24)
    assert told.about.top1 == found[-1]["test_top1"]


def test_a_run_that_validates_is_the_same_wherever_it_is_cut(data, tmp_path, monkeypatch):
    """An epoch looks twice before a step, twice after a batch that validates and at the end thrice after one that tests."""
    config = tiny(data, *VALIDATES)
    go(config, tmp_path / "whole")
    out, resume, ended, stretches = tmp_path / "run", None, None, 0
    while ended is None or ended.reason != "completed":
        ended, _ = go(config, out, resume, StopAfter(5))
        resume, stretches = newest(out), stretches + 1
        assert stretches < 20
    assert stretches >= 3
    assert files(out) == files(tmp_path / "whole")
    seen = scored(monkeypatch)
    again, _ = go(config, out, newest(out))  # over, it is not looked at again
    assert (seen, again.message) == ([], ended.message)


def test_test_clips_are_looked_at_anew_when_their_turn_was_cut(data, tmp_path):
    config = tiny(data, *VALIDATES, "training.epochs=1")
    go(config, tmp_path / "whole")
    for looks in (3, 5):  # while it validates, while it tests
        out = tmp_path / f"cut-{looks}"
        ended, _ = go(config, out, stop=StopAfter(looks))
        assert (ended.reason, ended.test_top1, ended.best_epoch) == ("interrupted", None, None), looks
        go(config, out, newest(out))
        assert files(out) == files(tmp_path / "whole")


def test_who_chooses_otherwise_from_now_on_chooses_anew(data, tmp_path):
    go(tiny(data, *VALIDATES), tmp_path / "run")
    ended, events = go(tiny(data, *VALIDATES, "data.validation=null"), tmp_path / "run", newest(tmp_path / "run"))
    assert any("the best is chosen on other clips than before" in str(event) for event in events)
    assert ended.best_epoch == 3
    assert epochs(tmp_path / "run")[-1]["test_top1"] == ended.best_top1


def trained(config: TrainConfig, out: Path, tops: list[float], monkeypatch: pytest.MonkeyPatch) -> tuple[Ended, list[Event]]:
    """A run whose epochs score so."""
    left = iter(tops)
    evaluate = train.evaluate

    def scores(*asked: Any) -> Any:
        found = evaluate(*asked)
        return None if found is None else found._replace(top1=next(left))

    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", scores)
        return go(config, out)


def test_a_run_ends_when_it_has_not_risen_for_its_patience(data, tmp_path, monkeypatch):
    config = tiny(data, "training.epochs=9", "training.patience=2", "training.min_delta=0.05")
    ended, _ = trained(config, tmp_path / "run", [0.2, 0.5, 0.54, 0.55, 0.9], monkeypatch)
    assert (ended.reason, ended.early_stop_epoch, ended.best_epoch, ended.best_top1) == ("completed", 4, 4, 0.55)
    told = "early stop: test top-1 has not risen by more than 0.05 since 50.00% in epoch 2, 2 epochs ago (training.patience)"
    assert told in ended.message
    assert "best chosen on test clips, as the field does" in ended.message
    assert len(epochs(tmp_path / "run")) == 4
    assert load(newest(tmp_path / "run"))[1].milestone
    again, seen = go(config, tmp_path / "run", newest(tmp_path / "run"))
    assert (again.message, again.early_stop_epoch) == (ended.message, 4)
    assert not [event for event in seen if isinstance(event, EpochDone)]


def test_an_early_stop_comes_at_the_same_epoch_when_cut_and_tests_once(data, tmp_path, monkeypatch):
    config = tiny(data, *VALIDATES, "training.epochs=8", "training.patience=1", "training.min_delta=0.9")
    whole, _ = go(config, tmp_path / "whole")
    assert whole.early_stop_epoch == 2
    assert epochs(tmp_path / "whole")[-1]["test_top1"] is not None
    out, resume, ended = tmp_path / "run", None, None
    for _ in range(20):
        ended, _ = go(config, out, resume, StopAfter(5))
        resume = newest(out)
        if ended.reason == "completed":
            break
    assert ended is not None
    assert ended.message == whole.message
    assert files(out) == files(tmp_path / "whole")
    # More patience lets it go on.
    more = tiny(data, *VALIDATES, "training.epochs=4", "training.patience=9", "training.min_delta=0.9")
    ended, _ = go(more, out, resume)
    assert (ended.early_stop_epoch, len(epochs(out))) == (None, 4)


def test_parts_are_the_same_for_one_seed_and_others_for_another(data):
    clips = synthetic_clips(6, 72)
    drawn = [parts_of(clips, tiny(data, "data.validation=0.3", *more)) for more in
             ((), ("data.validation_seed=0",), ("data.validation_seed=1",), ("data.validation_by=clip",))]  # fmt: skip
    masks = [parts.validation.tolist() for parts in drawn]
    assert masks[0] == masks[1] != masks[2]
    assert masks[3] not in masks[:3]
    for parts in drawn:
        assert not (parts.train & parts.validation).any()
        assert not (parts.validation & parts.test).any()
        assert (parts.train | parts.validation | parts.test).all()
    people = [set(clips.performer.numpy()[mask].tolist()) for mask in (drawn[0].train, drawn[0].validation, drawn[0].test)]
    assert not people[0] & people[1]
    by_class = [int(drawn[3].validation[clips.label.numpy() == one].sum()) for one in range(6)]
    assert by_class == [2] * 6  # of each class alike: 0.3 of 8


def test_a_job_tells_both_figures_wherever_it_is_shown(cli: Cli, tmp_path: Path) -> None:
    """Of an own set with a validation part nothing needs to be said; the job ends early, and is complete."""
    path = tmp_path / "own.safetensors"
    random = np.random.default_rng(0)
    some = (OwnClip(random.normal(0, 0.3, (20, 17, 3)), n % 2, f"c{n}", f"p{n // 6}") for n in range(48))
    write_dataset(path, some, classes=["sit", "stand"], skeleton="coco17",
                  splits={"people": Split(test=["p7"], validation=["p5", "p6"]), "plain": Split(test=["p7"])})  # fmt: skip
    (tmp_path / "job.yaml").write_text(JOB)
    told = json.loads(cli("validate", "job.yaml", "--json").stdout)["config"]
    assert told["data.validation"] == "people"
    done = cli("submit", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert "30 clips to train, 12 to validate, 6 to test" in done.stdout
    (job,) = jobs_in(open_store(str(tmp_path / "store")))
    facts = json.loads(cli("status", job.id, "--json").stdout)
    last = facts["metrics"]
    assert (facts["chosen_on"], facts["early_stop_epoch"], facts["epoch"], facts["epochs"]) == ("validation", 3, 3, 9)
    assert facts["message"].startswith("early stop: validation top-1 has not risen by more than 0.9 since ")
    assert job.attempts.all()[-1].scores["early_stop_epoch"] == 3
    shown = " ".join(cli("status", job.id).stdout.split())
    assert f"best validation top-1 {100 * facts['best_top1']:.2f}% in epoch {facts['best_epoch']}" in shown
    assert f"test top-1 {100 * last['test_top1']:.2f}%" in shown
    assert "of the best epoch's weights, looked at once" in shown
    assert "as the field does" not in shown + done.stdout
    # What evaluate finds of itself, and of the clips that validate, is that.
    for part, name in (("test", "test"), ("validation", "validation")):
        found = json.loads(cli("evaluate", job.id, "--part", part, "--json").stdout)
        best = {"test": last["test_top1"], "validation": facts["best_top1"]}[name]
        assert (found["top1"], found["chosen_on"]) == (best, "validation")
    found = cli("evaluate", job.id, "--split", "plain", "--part", "train", "--json")
    assert json.loads(found.stdout)["clips"] == 42, found.stderr
    rows = compare([job])["rows"]
    assert (rows[0]["best"], rows[0]["test"]) == (facts["best_top1"], last["test_top1"])
    # It is complete, and its clips are pinned.
    assert "is complete" in cli("resume", job.id).stderr
    refused = cli("resume", job.id, "--set", "data.validation=0.2", "training.epochs=12", "--allow-change", "training.epochs")
    assert "data.validation: found 0.2; allowed: 'people', as the run began" in refused.stderr
    more = "--set", "training.epochs=4", "training.patience=3", "--allow-change", "training.epochs,training.patience"
    refused = cli("resume", job.id, *more[:2], *more[3:4], "training.epochs")
    assert "more patience would, with --set training.patience=N" in refused.stderr
    done = cli("resume", job.id, *more)
    assert done.returncode == 0, done.stderr
    assert len(job.metrics()) == 4


JOB = """\
model: {variant: nano_e_v3, stem_channels: 8, channels: [8, 8], num_blocks: [1, 1], depths: [1, 1], strides: [1, 2]}
dataset: own.safetensors
training: {epochs: 9, batch_size: 10, input_frames: 16, warmup_epochs: 1, patience: 2, min_delta: 0.9}
hardware: {cpu_threads: 1}
"""
