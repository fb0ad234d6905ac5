"""When an attempt that has lost a rank goes on by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from last_e.manifest import MANIFEST, Manifest, describe_file
from runner.attempt import restarts
from runner.attempt.restarts import Again, Restarts
from runner.job.attempts import Attempt

ATTEMPT = Attempt("0001-aaaaaaaa", "here", 1, "1", 0.0)


def save(scratch: Path, step: int) -> Path:
    """A checkpoint of the attempt's own."""
    folder = scratch / "run" / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_text(f"step {step}")
    about = Manifest(step=step, epoch=0, evaluated=False, files={"state.pt": describe_file(folder / "state.pt")})
    (folder / MANIFEST).write_text(about.to_json())
    return folder


def test_as_often_as_the_job_says_and_only_while_it_makes_progress(tmp_path: Path) -> None:
    some = Restarts(2, tmp_path)
    told = "lost; not gone on with by itself, for nothing was saved since it began"
    assert some.after("lost", ATTEMPT, begun=True) == Again(False, told)
    first = save(tmp_path, 3)
    assert some.after("lost", ATTEMPT, begun=True) == Again(True, "lost; going on from step 3 (1 of run.max_restarts 2)")
    assert some.own == first
    assert some.after("lost", ATTEMPT, begun=True) == Again(False, told)
    second = save(tmp_path, 4)
    assert some.after("lost", ATTEMPT, begun=True) == Again(True, "lost; going on from step 4 (2 of run.max_restarts 2)")
    assert some.own == second
    save(tmp_path, 5)
    assert some.after("lost", ATTEMPT, begun=True) == Again(False, "lost")


def test_machines_that_did_reach_each_other_are_tried_for_a_while_which_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = Restarts(1, tmp_path)
    assert not some.after("n2 is away", ATTEMPT, begun=False).goes_on, "it was never there"
    own = save(tmp_path, 3)
    assert some.after("n2 was lost", ATTEMPT, begun=True).goes_on
    for _ in range(2):  # back and away again is told anew
        said = [some.after("n2 is away", ATTEMPT, begun=False) for _ in range(3)]
        assert [one.goes_on for one in said] == [True] * 3
        assert [one.message for one in said][1:] == ["", ""]
        assert said[0].message == ("n2 is away; tried again for 15 minutes, or until the cluster gives the job other machines")
        assert some.own == own
        monkeypatch.setattr(restarts, "AWAY_SECONDS", 0.0)
        assert some.after("n2 is away", ATTEMPT, begun=False) == Again(False, "n2 is away")
        monkeypatch.undo()
        assert not some.after("n2 was lost", ATTEMPT, begun=True).goes_on
