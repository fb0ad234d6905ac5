"""What Hugging Face is asked again, and what is told while it does not answer: its own client against a stand-in."""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import EngineError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch import again, followed
from runner.launch.hf import hub as client
from runner.launch.hf import terms
from runner.launch.hf.hub import Namespace
from runner.launch.hf.launcher import JOB, TOKEN, HfLauncher
from runner.launch.hf.started import StartedThere
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from tests.hub import Hub

ME = Namespace("me")
TINY = {"image": "x", "command": ["true"], "flavor": "cpu-basic", "timeout": 60, "env": {}, "secrets": {}}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """This process is a user of it; nothing begins there by itself."""
    one = Hub(tmp_path / "machines")
    one.machines = False
    for name, value in {**one.environment(), "HOME": str(tmp_path), "XDG_DATA_HOME": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", one.url)
    monkeypatch.setattr(again, "_FIRST_SECONDS", 0.01)
    client._api.cache_clear()
    yield one
    client._api.cache_clear()
    one.close()


def test_a_busy_hub_is_asked_again_for_a_while_but_not_what_it_may_have_heard(
    there: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there.busy = [429, 503]
    id = ME.run(**TINY)
    assert "Hugging Face is busy (error 429): asked again for" in capsys.readouterr().err
    there.busy = [504]
    with pytest.raises(
        EngineError, match="it has no room now, or is down: in some minutes it may have, or another machine has: lastrun gpus"
    ):
        ME.run(**TINY)
    assert list(there.jobs) == [id]
    there.busy = [502, 503, 504]
    assert [one.id for one in ME.find({}, client.WAITING)] == [id]
    monkeypatch.setattr(again, "MOST_SECONDS", 0.1)
    there.busy = [429] * 20
    with pytest.raises(EngineError, match="it has been asked too often; it may answer again in some minutes"):
        client.flavors()
    assert len(there.busy) > 10


def test_who_follows_one_bears_with_a_hub_that_is_away_and_hears_why_it_ended(
    there: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "LOOK_SECONDS", 0.0)
    said = io.StringIO()
    job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261130-000000-abcd")
    one = StartedThere(job, ME, ME.run(**TINY), "0123abcd", said)
    there.away = True
    began = time.monotonic()
    assert one.wait(0.1) is None
    assert one.wait(0.1) is None
    assert time.monotonic() - began < 2  # it is the next look that asks again
    away = "it is busy, or down; it may answer again in some minutes (made up for tests); the attempt is not touched by that"
    assert said.getvalue().count(away) == 1
    monkeypatch.setattr(followed, "SILENCE_SECONDS", 0.0)
    with pytest.raises(EngineError, match=r"lastrun stop \S+ has it save and end; hf jobs cancel \w+ ends it without"):
        one.wait(0.1)
    there.away = False
    assert one.wait(0.1) is None
    [machine] = there.jobs.values()
    machine.stage, machine.message = "ERROR", "no capacity for this flavor"
    assert one.wait(0.1) == 1
    assert f"Hugging Face job {machine.id} (error): no capacity for this flavor\n" in said.getvalue()


def test_who_leaves_while_the_hub_does_not_answer_asks_through_the_store_at_once(there: Hub, tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261130-000000-abcd")
    one = StartedThere(job, ME, ME.run(**TINY), "0123abcd", None)
    [machine] = there.jobs.values()
    there.away, began = True, time.monotonic()
    for _ in range(2):
        one.hand_on(signal.SIGINT)
    assert time.monotonic() - began < 2
    assert sorted(job.requests.new([]).values()) == ["now", "save"]
    there.away = False
    one.hand_on(signal.SIGINT)
    assert (machine.stage, len(job.requests.keys())) == ("CANCELED", 2)  # what has no machine yet is taken back
    assert one.wait(0.1) == 75


def test_nobody_is_asked_about_what_is_over(there: Hub, tmp_path: Path) -> None:
    """What was taken back is no more remembered, and what has written its end, followed or not, waits for nothing."""
    job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261130-000000-abcd")

    def begin(token: str) -> StartedThere:
        id = ME.run(**TINY, labels={JOB: job.id, TOKEN: token})
        client.NOTES.write(token, job=job.id, id=id, namespace="me")
        return StartedThere(job, ME, id, token, None)

    begin("0123abcd")
    assert HfLauncher.waiting([job]) == [job]
    [machine] = there.jobs.values()
    assert HfLauncher.withdraw(job) == f"Hugging Face job {machine.id}"
    assert (machine.stage, client.NOTES.all()) == ("CANCELED", [])

    one = begin("1123abcd")
    one.hand_on(signal.SIGINT)
    assert one.wait(0.1) == 75
    assert client.NOTES.all() == []

    begin("2123abcd")
    there.away, began = True, time.monotonic()
    with pytest.raises(EngineError, match="it is busy, or down"):
        HfLauncher.waiting([job])
    with pytest.MonkeyPatch.context() as gone:
        gone.setattr(client._api(), "endpoint", "http://127.0.0.1:1")
        with pytest.raises(EngineError, match="Hugging Face does not answer"):
            HfLauncher.waiting([job])
    assert time.monotonic() - began < 3  # not as long as its library would ask again
    attempt = Attempt("0001-2123abcd", "elsewhere", 1, "1", 1.0, phase="ended", began=True, reason="stop_requested")
    job.attempts.write(attempt)
    assert HfLauncher.waiting([job]) == []


@pytest.mark.parametrize(
    ("env", "gpus", "flavor"),
    [
        ("gcp", None, "t4-small"),
        ("kaggle", None, "t4-small"),
        ("lambda", None, "a10g-small"),
        ("a100", None, "a100-large"),
        ("local", None, "t4-small"),
        ("local", 0, "cpu-basic"),
        ("lambda", 4, "a10g-largex4"),
        ("a100", 4, "a100x4"),
        ("local", 4, "l4x4"),
        ("gcp", 1, "t4-small"),
    ],
)
def test_a_machine_is_what_comes_next_to_the_profile_and_its_image_what_the_job_names(
    there: Hub, env: str, gpus: int | None, flavor: str
) -> None:
    job = Path(__file__).parents[2] / "jobs" / "quickstart.yaml"
    settings = [] if gpus is None else [f"run.gpus={gpus}"]
    order = HfLauncher(resolve_spec(job, env, settings).config).order("s3://bucket/jobs", "x")
    assert order["flavor"].startswith(f"{flavor} (")
    assert order["flavor"].endswith(" USD an hour")
    assert order["image"].startswith("pytorch/pytorch:")
    ours = resolve_spec(job, env, [*settings, "run.image=ghcr.io/me/lastrun:1"]).config
    assert HfLauncher(ours).order("s3://bucket/jobs", "x")["image"] == "ghcr.io/me/lastrun:1"


def test_too_few_gpus_are_told_with_those_there_are(there: Hub) -> None:
    def refused(*settings: str) -> str:
        job = Path(__file__).parents[2] / "jobs" / "quickstart.yaml"
        with pytest.raises(UsageError) as error:
            HfLauncher(resolve_spec(job, "local", list(settings), "hf").config).order("s3://bucket/jobs", "x")
        return str(error.value)

    several = "l4x4 (4 x L4, 24 GB, 4.00), a10g-largex4 (4 x A10G, 24 GB, 5.00), a100x4 (4 x A100, 80 GB, 10.00)"
    assert refused("run.gpus=4", "run.hf.flavor=t4-small") == (
        f"run.gpus: found 4; t4-small has 1 x T4, 16 GB; there are, with USD an hour: {several}"
    )
    single = "t4-small (1 x T4, 16 GB, 0.40), a10g-small (1 x A10G, 24 GB, 1.00), a100-large (1 x A100, 80 GB, 2.50)"
    assert refused("run.gpus=2") == (
        f"run.gpus: found 2; no machine has so many; there are, with USD an hour: {single}, {several}"
    )
    config = resolve_spec(
        Path(__file__).parents[2] / "jobs" / "quickstart.yaml", "local", ["run.gpus=4", "run.max_price=3"], "hf"
    ).config
    flavor = terms.flavor_of(config)
    with pytest.raises(UsageError, match=r"l4x4 \(4 x L4, .*, 4\.00 USD an hour; no 4 GPUs are to be had there for that"):
        terms.price_of(config, flavor)
