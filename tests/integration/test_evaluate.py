"""``lastrun evaluate``: the trainer's own numbers, what is more to tell, and what does not fit."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from runner.store.open import open_store
from tests.conftest import Cli
from tests.jobs import jobs_in, result

pytestmark = pytest.mark.slow


def evaluated(cli: Cli, *words: str | Path) -> dict[str, Any]:
    done = cli("evaluate", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(cli: Cli, *words: str | Path, code: int = 2) -> str:
    done = cli("evaluate", *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_the_trainer_found_is_found_again_and_more(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    assert cli("submit", tiny, "--set", "checkpoint.keep_last=10").returncode == 0
    (job,) = jobs_in(open_store(str(tmp_path / "store")))
    epochs = result(job)[1]
    last = evaluated(cli, job.id, "--last")
    assert {name: last[name] for name in ("top1", "top5", "loss")} == {
        name: epochs[-1][f"test_{name}"] for name in ("top1", "top5", "loss")
    }
    best = evaluated(cli, job.id)
    assert best["top1"] == max(one["test_top1"] for one in epochs)
    assert (best["chosen_on"], last["chosen_on"]) == ("test", None)
    assert "best chosen on test clips, as the field does" in cli("status", job.id).stdout.replace("\n", " ")
    assert sum(map(sum, best["confusion"])) == best["clips"] == 120
    assert sum(best["confusion"][one][one] for one in range(6)) == round(best["top1"] * 120)

    # The same from a folder; said of each clip; with itself it says the same, and with more crops nearly so.
    assert cli("pull", job.id, tmp_path / "best", "--best").returncode == 0
    told = cli("evaluate", tmp_path / "best", "--csv", tmp_path / "said.csv", "--quiet", **who_ends_by_itself(tmp_path))
    assert (told.returncode, told.stderr) == (0, "")
    (ended,) = (tmp_path / "ended").read_text().splitlines()
    assert " -m runner evaluate " in ended, "who has scored leaves without taking torch apart"
    assert "120 clips of test, 6 classes" in told.stdout
    with (tmp_path / "said.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    assert sum(row["label"] == row["said"] for row in rows) == round(best["top1"] * 120)
    assert "is there already: name another file, or say --overwrite" in refused(cli, job.id, "--csv", tmp_path / "said.csv")
    assert {row["label_name"] for row in rows} == {f"class {number}" for number in range(6)}
    both = evaluated(cli, job.id, "--with", f"{tmp_path / 'best'}:0.5")
    assert both["confusion"] == best["confusion"]
    chosen = evaluated(cli, job.id, "--with", tmp_path / "best", "--weigh-on", "train")
    assert chosen["weights"] == [0.5, 0.5]
    assert (chosen["weighed_on"]["clips"], chosen["confusion"]) == (240, best["confusion"])
    spoilt = evaluated(cli, job.id, "--crops", "3", "--part", "train", "--noise", "0.2", "--missing", "0.3", "--motion", "0.5")
    assert (spoilt["clips"], spoilt["spoil"]) == (240, {"noise": 0.2, "missing": 0.3, "motion": 0.5})

    # Nobody knows what these clips are in a mirror, and no average was kept.
    assert "mirror: synthetic has no mirror image: nobody knows which" in refused(cli, job.id, "--mirror")
    assert "the checkpoint has no average of its weights (it was trained without training.ema): leave --ema out" in refused(
        cli, job.id, "--ema"
    )
    assert "--missing: found 1.5; allowed: 0 to 1" in refused(cli, job.id, "--missing", "1.5")

    # What does not fit.
    assert "damaged checkpoint" in refused(cli, damaged(tmp_path), code=1)
    assert "split_type: found 'nowhere'" in refused(cli, job.id, "--split", "nowhere")
    assert "--part: found both; allowed: test, train, validation" in refused(cli, job.id, "--part", "both")
    assert "split xsub has no clips for validation" in refused(cli, job.id, "--part", "validation")
    assert "--weigh-on test: weights that are chosen on" in refused(cli, job.id, "--with", job.id, "--weigh-on", "test")
    assert "name another one with --with" in refused(cli, job.id, "--weigh-on", "train")
    assert "and --with has one too" in refused(cli, job.id, "--with", f"{job.id}:2", "--weigh-on", "train")
    assert "a weight is above 0" in refused(cli, job.id, "--with", f"{job.id}:-1")
    assert "no job nobody" in refused(cli, job.id, "--with", "nobody", code=3)
    assert "is one checkpoint: --last and --step choose among those of a job" in refused(cli, tmp_path / "best", "--last")
    other = cli("submit", tiny, "--set", "data.num_classes=5", "training.epochs=1", "training.ema=0.9")
    assert other.returncode == 0, other.stderr
    (another,) = (one for one in jobs_in(open_store(str(tmp_path / "store"))) if one.id != job.id)
    assert "its clips are not those of the first" in refused(cli, job.id, "--with", another.id)
    (epoch,) = result(another)[1]
    averaged = evaluated(cli, another.id, "--ema")
    for name in ("top1", "top5", "loss"):
        assert averaged[name] == pytest.approx(epoch[f"ema_{name}"], rel=1e-6)
    assert averaged["loss"] != pytest.approx(epoch["test_loss"], rel=1e-4)
    assert "average of weights top-1" in cli("logs", another.id).stdout


def who_ends_by_itself(tmp_path: Path) -> dict[str, str]:
    """Variables with which each Python that goes through its end writes a line of it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        f"atexit.register(lambda: open({str(tmp_path / 'ended')!r}, 'a').write(' '.join(sys.orig_argv) + chr(10)))\n"
    )
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))}


def damaged(tmp_path: Path) -> Path:
    """A copy of which a byte has flipped."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in (tmp_path / "best").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1 if file.name == "state.pt" else 0
        (folder / file.name).write_bytes(data)
    return folder
