"""Some worlds of each kind; ``python -m tests.simulation.claims`` and ``attempts`` try any number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.errors import ClaimedError
from runner.job.attempts import Attempt, Attempts
from runner.job.checkpoints import Checkpoints
from runner.job.job import Job
from runner.job.lease import claim
from runner.job.paths import ATTEMPT_RECORD, Paths
from runner.job.requests import Requests
from tests.simulation import attempts, claims


@pytest.mark.parametrize("machines", [2, 3, 4, 5])
def test_in_the_end_one_machine_has_the_job_and_the_others_know(machines: int) -> None:
    ends = {seed: claims.trial(seed, machines)[0] for seed in range(100 * machines, 100 * machines + 60)}
    assert {seed: end for seed, end in ends.items() if end != "one"} == {}


@pytest.mark.parametrize("machines", [2, 3, 5])
def test_nothing_acknowledged_is_lost(machines: int) -> None:
    found = {seed: attempts.trial(seed, machines).violations for seed in range(1000 * machines, 1000 * machines + 12)}
    assert {seed: violations for seed, violations in found.items() if violations} == {}


@pytest.mark.parametrize(("machines", "seed"), [(2, 7380071), (2, 8072420), (3, 7202640), (4, 7208127), (5, 7303098)])
def test_worlds_that_once_ended_badly_end_well(machines: int, seed: int) -> None:
    assert attempts.trial(seed, machines).violations == []


def test_a_world_shows_when_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attempts, "superseded", lambda self, attempt: False)
    assert any(claims.trial(seed, 4)[0] == "two" for seed in range(60))


def test_a_world_shows_when_one_steps_back_that_has_taken_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def claim_and_look_again(job: Job, takeover: bool) -> Attempt:
        attempt = claim(job, takeover)
        if any(other.phase == "running" and other.order < attempt.order for other in job.attempts.all()):
            job.attempts.write(replace(attempt, phase="withdrawn"))
            raise ClaimedError("another runs")
        return attempt

    monkeypatch.setattr(claims, "claim", claim_and_look_again)
    assert any(claims.trial(seed, 4)[0] == "none" for seed in range(100))


def test_a_world_shows_when_checkpoints_are_chosen_before_the_job_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Checkpoints.sweep
    monkeypatch.setattr(Checkpoints, "sweep", lambda self, *by: right(self, *by)[:-1])
    assert any("was acknowledged" in text for seed in range(30) for text in attempts.trial(seed, 3).violations)


def test_a_world_shows_when_nobody_hears_that_the_job_was_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "is_deleted", lambda self: False)
    assert any("the job was deleted" in text for seed in (406, 456, 489) for text in attempts.trial(seed, 2).violations)


def test_a_world_shows_when_an_end_can_be_hidden_by_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Paths, "end", Paths.attempt)
    monkeypatch.setattr(attempts, "END_RECORD", ATTEMPT_RECORD)
    found = [text for seed in range(7, 8 * 60, 8) for text in attempts.trial(seed, 2).violations]
    assert {text for text in found if "the job was completed and is" in text} == {"the job was completed and is lost"}


def test_a_world_shows_when_what_was_left_on_a_disk_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "clear_leftovers", lambda *which: None)
    assert any("was acknowledged" in text for seed in range(30) for text in attempts.trial(seed, 3).violations)


def test_a_world_shows_when_a_request_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Requests, "new", lambda self, known: {})
    assert any("passed over" in text for seed in range(30) for text in attempts.trial(seed, 3).violations)
