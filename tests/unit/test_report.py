"""What a report says, of jobs whose numbers are known."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import time
from array import array
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from last_e.predictions import FILE, Predictions, read_predictions
from runner.attempt.report import KeptReport, Own
from runner.errors import StoreError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from runner.view.report.facts import job_facts, thinned
from runner.view.report.gather import gather
from runner.view.report.page import page_at_the_end, page_of, render
from runner.view.report.right_and_wrong import interval_of, right_and_wrong
from runner.view.report.several import facts_of_several
from runner.view.report.write import see_that_it_may_be_written, write
from tests import groups
from tests.conftest import Cli, Figures
from tests.reports import epoch, made_up, made_up_predictions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryStore:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return DirectoryStore(tmp_path / "store")


class Page(HTMLParser):
    """The elements of a page, and its text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._inside, []).append(data)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    values: dict[str, Any] = json.loads(found[1])
    return values


# --- one job --------------------------------------------------------------------------------------------------------


def test_a_report_says_what_came_out_in_how_long_at_what_cost_and_with_what_spread(
    store: DirectoryStore, tmp_path: Path
) -> None:
    facts = job_facts(gather(made_up(store, tmp_path)))
    top1 = epoch(12, 12)["test_top1"]
    assert facts["sentence"].startswith(
        f"nano_e_v3 on synthetic xsub reached {100 * top1:.2f}% test top-1 in epoch 12 of 12, in 6h00m of 3 attempts on "
        "laptop's CPU, 2 x Tesla T4, NVIDIA A10, at a cost of $2.25 without 1 attempt of which no price is known ("
    )
    assert "in 95% by 240 clips; with one seed, whose spread is not known" in facts["sentence"]
    # A laptop has no price; a rented machine has that of its own record.
    assert [one["cost"] for one in facts["attempts"]][::2] == [None, 2.25]
    assert [one["ended"] for one in facts["attempts"]] == ["time_limit", "preempted", "completed"]
    assert [one["gpu"] for one in facts["attempts"]] == ["none", "2 x Tesla T4", "NVIDIA A10"]
    assert facts["attempts"][2]["clips_per_second"] == f"{50 * 40 / (3 * 3600):,.0f}"
    assert [one["bar_at"] for one in facts["attempts"]] == [0.0, pytest.approx(393.7), pytest.approx(787.4)]
    page = render(facts)
    for words in ("rented-3, cluster lastrun-1", "torch 2.13.0", "0123456789abcdef" * 4, "training.lr", "AMD EPYC, 4 cores"):
        assert words in page
    assert re.search(r"<td>training.lr</td><td class=\"value\">0.05</td><td>--set</td>", page)


def test_curves_have_each_epoch_once_and_every_move_with_from_to_and_why(store: DirectoryStore, tmp_path: Path) -> None:
    facts = job_facts(gather(made_up(store, tmp_path)))
    charts = {chart["title"]: chart for chart in facts["data"]["charts"]}
    assert list(charts) == ["Loss", "Top-1", "Top-5", "Learning rate"]
    loss = charts["Loss"]
    assert loss["x"] == list(range(1, 13))
    assert [line["label"] for line in loss["series"]] == ["training", "test"]
    # The second attempt trained epochs 3 and 4 again, the third one epoch 8.
    wobble = [round(1000 * (value - epoch(n, 12)["train_loss"])) for n, value in enumerate(loss["series"][0]["values"], 1)]
    assert wobble == [1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    assert [(move["epoch"], move["from"], move["to"]) for move in facts["moves"]] == [
        (2.0, "laptop (local)", "kaggle-7 (kaggle, 2 x Tesla T4)"),
        (7.0, "kaggle-7 (kaggle, 2 x Tesla T4)", "rented-3 (lambda, NVIDIA A10)"),
    ]
    assert facts["moves"][1]["why"] == "preempted (saved at step 80)"
    assert [mark["x"] for mark in facts["data"]["marks"]] == [2.0, 7.0]


def test_of_a_job_that_validates_it_tells_the_test_of_the_best_weights(store: DirectoryStore, tmp_path: Path) -> None:
    job = made_up(store, tmp_path)
    for attempt in job.attempts.names():
        lines = [json.loads(line) for line in store.get(job.paths.metrics(attempt)).decode().splitlines()]
        for line in lines:
            line.update({name.replace("test", "validation"): line[name] for name in ("test_loss", "test_top1", "test_top5")})
            line["validation_top1"] -= 0.3 if line["epoch"] > 6 else 0
            line.update(dict.fromkeys(("test_loss", "test_top1", "test_top5")))
            line["test_top1"] = 0.75 if line["epoch"] == 12 else None
        store.put(job.paths.metrics(attempt), "".join(json.dumps(line) + "\n" for line in lines).encode())
    facts = job_facts(gather(job))
    sixth = f"{100 * epoch(6, 12)['test_top1']:.2f}%"
    assert f"75.00% test top-1 with the weights of epoch 6 of 12, the best by validation ({sixth})" in facts["sentence"]
    labels = [[line["label"] for line in chart["series"]] for chart in facts["data"]["charts"]]
    assert labels[1] == ["training", "validation", "test"]
    assert facts["right_and_wrong"]["part"] == "test", "what the last attempt found, though another trained the best epoch"
    several = render(facts_of_several([job, made_up(store, tmp_path)], "both"))
    assert "validation best" in several


def test_the_page_admits_its_own_script_and_style_alone(store: DirectoryStore, tmp_path: Path) -> None:
    text, _ = page_of([made_up(store, tmp_path)], "")
    page = Page(text)
    (policy,) = [about["content"] for tag, about in page.elements if about.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == "'none'"
    for name, element in (("script-src", "script"), ("style-src", "style")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        hashed = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{hashed}'"
    assert not any("style" in about or any(name.startswith("on") for name in about) for _, about in page.elements)
    places = [value for _, about in page.elements for name, value in about.items() if name in ("src", "href", "action")]
    assert places == ["data:,"]


HOSTILE = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{7*7}}{% for x in y %}", "<!--", "\x1b[7m"]


def test_names_that_somebody_else_has_chosen_are_only_text(store: DirectoryStore, tmp_path: Path) -> None:
    mild = [name.replace("\x1b", "") for name in HOSTILE]
    names = {name: "".join(mild) for name in ("host", "message", "origin", "name")}
    job = made_up(store, tmp_path, **names, classes=[f"{mild[n % 5]}{n}" for n in range(12)])
    good = Page(page_of([made_up(store, tmp_path)], "")[0])
    for page in (page_of([job], "")[0], page_of([job, made_up(store, tmp_path, **names)], mild[0])[0]):
        assert "alert(1)</script>" not in page
        seen = Page(page)
        assert {tag for tag, _ in seen.elements} <= {tag for tag, _ in good.elements}
        assert sum(tag == "script" for tag, _ in seen.elements) == 2
        data_of(page)  # and what the script reads is whole
    raw = render({**job_facts(gather(job)), "title": HOSTILE[-1]})
    assert "\x1b" not in raw


def test_of_120_epochs_of_ntu60_it_is_small_and_quick(store: DirectoryStore, tmp_path: Path, figure: Figures) -> None:
    job = made_up(store, tmp_path, epochs=120, clips=16_487)
    attempt = job.attempts.all()[-1]
    own = Own(attempt, {}, store.get(job.paths.metrics(attempt.id)).decode(), store.get(job.paths.predictions(attempt.id)))
    began = time.process_time()
    page = page_at_the_end(Job(store, job.id), own)
    seconds = time.process_time() - began
    figure("a report of 120 epochs and 16,487 clips", f"{len(page.encode()) / 1e6:.2f} MB, {seconds:.2f} s")
    assert len(page.encode()) < 2e6
    assert seconds < 3


def test_however_large_a_job_is_its_page_is_not(store: DirectoryStore, tmp_path: Path) -> None:
    assert len(thinned([{"epoch": n} for n in range(1, 50_001)])) <= 2000
    assert thinned([{"epoch": n} for n in range(1, 50_001)])[-1] == {"epoch": 50_000}
    job = made_up(store, tmp_path, epochs=3, clips=9000, classes=[f"{n} {'long name ' * 15}" for n in range(3000)])
    facts = job_facts(gather(job))
    assert len(facts["right_and_wrong"]["classes"]) == 200
    assert len(facts["data"]["matrix"]["names"]) == facts["right_and_wrong"]["in_matrix"] == 120
    facts["attempts"] = facts["attempts"] * 67
    assert len(render(facts).encode()) < 2e6


def test_the_attempt_that_ends_tells_what_the_store_does_not_have_yet(store: DirectoryStore, tmp_path: Path) -> None:
    job = made_up(store, tmp_path)
    last = job.attempts.all()[-1]
    own = Own(last, {}, store.get(job.paths.metrics(last.id)).decode(), store.get(job.paths.predictions(last.id)))
    whole = page_of([Job(store, job.id)], "")[0]
    store.delete([job.paths.metrics(last.id), job.paths.predictions(last.id), job.paths.end(last.id)])
    kept = KeptReport(job, own, page_at_the_end)
    assert kept.wait(time.monotonic() + 60) == ""
    made = re.compile(r"Made \S+ \S+ UTC")
    assert made.sub("", store.get(job.paths.report(last.id)).decode()) == made.sub("", whole)


def test_a_report_that_cannot_be_made_or_takes_long_is_told_in_a_line(store: DirectoryStore, tmp_path: Path) -> None:
    job = made_up(store, tmp_path)
    own = Own(job.attempts.all()[-1], {}, "", None)

    def broken(job: Job, own: Own) -> str:
        raise StoreError("it does not answer\nat all")

    told = KeptReport(job, own, broken).wait(time.monotonic() + 60)
    assert told.startswith("no report is kept of this attempt (StoreError: it does not answer); lastrun report ")
    slow = KeptReport(job, own, lambda job, own: time.sleep(0.5) or "")
    assert "(it takes too long)" in slow.wait(time.monotonic())
    slow.join()


def test_where_no_thread_is_to_be_had_an_attempt_ends_without_a_report(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: KeptReport) -> None:
        raise RuntimeError("can't start new thread")

    job = made_up(store, tmp_path)
    own = Own(job.attempts.all()[-1], {}, "", None)
    monkeypatch.setattr(KeptReport, "start", refused)
    assert "(can't start new thread)" in KeptReport(job, own, lambda job, own: "").wait(time.monotonic() + 60)


@pytest.mark.parametrize("what", ["without predictions", "damaged", "cut", "no attempt", "no epoch"])
def test_of_what_is_not_there_it_says_why(store: DirectoryStore, tmp_path: Path, what: str) -> None:
    job = made_up(store, tmp_path)
    last = job.attempts.all()[-1]
    key, words = job.paths.predictions(last.id), ["None has begun yet", "No epoch has been finished yet"]
    if what == "without predictions":
        store.delete([key])
        words = ["Attempt 3, which trained the best epoch, has kept none (older versions did not)", "lastrun evaluate "]
    elif what == "damaged":
        store.put(key, bytes(1000))
        words = ["is damaged, or of another version (no header of a safetensors file)"]
    elif what == "cut":
        store.put(key, store.get(key)[:-1])
        words = ["is damaged, or of another version (cut short)"]
    elif what == "no attempt":
        for attempt in job.attempts.names():
            store.clear(job.paths.attempt(attempt, ""))
    else:
        for attempt in job.attempts.names():
            store.delete([job.paths.metrics(attempt)])
        words = ["No epoch has been scored yet", "has no epoch to its name yet, after 6h00m of 3 attempts"]
    page, _ = page_of([Job(store, job.id)], "")
    for word in words:
        assert word in page, word


# --- right and wrong ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Predictions:
    path = tmp_path_factory.mktemp("predictions") / FILE
    made_up_predictions(path, 7, 600)
    return read_predictions(path.read_bytes())


def test_right_and_wrong_are_counted(predictions: Predictions) -> None:
    found = right_and_wrong(predictions)
    label, said = np.array(predictions.label), np.array(predictions.said)
    confusion = np.zeros((60, 60), int)
    np.add.at(confusion, (label, said), 1)
    matrix = np.zeros((60, 60), int)
    for true, other, count in found["matrix"]["cells"]:
        matrix[true, other] = count
    assert (matrix == confusion).all()
    assert found["matrix"]["clips"] == confusion.sum(1).tolist()
    shares = [row["found"] for row in found["classes"]]
    assert shares == sorted((confusion.diagonal() / confusion.sum(1)).tolist())
    assert found["classes"][0]["name"] == predictions.about.classes[int((confusion.diagonal() / confusion.sum(1)).argmin())]
    np.fill_diagonal(confusion, 0)
    assert [pair["count"] for pair in found["pairs"]] == sorted(confusion[confusion > 0].tolist(), reverse=True)[:30]
    assert found["more_pairs"] == max(0, int((confusion > 0).sum()) - 30)


def test_the_interval_is_the_published_one(predictions: Predictions) -> None:
    """Of Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I."""
    for right, clips, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        about = predictions.about.model_copy(update={"top1": right / clips})
        found = interval_of(replace(predictions, about=about, clip=array("i", range(clips))))
        assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_the_clips_to_look_at_are_the_surest_mistakes_not_too_many_alike(predictions: Predictions) -> None:
    rows = [look.row for look in predictions.about.shown]
    wrong = [row for row in range(600) if predictions.label[row] != predictions.said[row]]
    assert len(rows) == 8
    assert set(rows) <= set(wrong)
    sure = [predictions.confidence[row] for row in rows]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] == max(predictions.confidence[row] for row in wrong)
    pairs = [(predictions.label[row], predictions.said[row]) for row in rows]
    assert max(map(pairs.count, pairs)) <= 2
    for look, joints in zip(predictions.about.shown, predictions.joints):
        assert len(joints) == look.people * look.frames * 25 * 3 * 2 <= 60_000
        assert look.fps == pytest.approx(30 * look.frames / 90, rel=0.05)  # as long as the clip was


def test_predictions_that_lie_are_refused(tmp_path: Path) -> None:
    made_up_predictions(tmp_path / FILE, 7, 60)
    data = (tmp_path / FILE).read_bytes()
    for length in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"."):
            read_predictions(data[:length])
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = json.loads(header["__metadata__"]["about"])

    def told(**changes: Any) -> bytes:
        other = {**header, "__metadata__": {"about": json.dumps({**about, **changes})}}
        text = json.dumps(other).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    assert read_predictions(told()).about.epoch == 7
    look = about["shown"][0]
    for changes in (
        {"classes": ["one", "two"]},
        {"classes": ["\x1b[7m", *about["classes"][1:]]},
        {"version": 2},
        {"shown": [{**look, "row": 60}]},
        {"shown": [{**look, "frames": 64, "people": 2}] * 8},
        {"shown": [{**look, "frames": 10**9}]},
        {"drawn": {**about["drawn"], "bones": [[0, 25]]}},
        {"drawn": {**about["drawn"], "turn": "NaN"}},
    ):
        with pytest.raises(ValueError, match=r"."):
            read_predictions(told(**changes))


WITHOUT_NUMPY = """\
import sys
sys.modules["numpy"] = sys.modules["torch"] = sys.modules["safetensors"] = None
from runner.job.find import find_job
from runner.view.report.page import page_of
print(page_of([find_job("made-up", sys.argv[1])], "")[0])
"""


def test_a_report_needs_no_numpy(store: DirectoryStore, tmp_path: Path) -> None:
    job = made_up(store, tmp_path)
    command = [sys.executable, "-c", WITHOUT_NUMPY, store.uri]
    page = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "Confusion matrix" in page
    assert job.id in page


# --- several jobs -----------------------------------------------------------------------------------------------------------


def trained(job: Job, number: int, shift: float, state: str | None = "completed", epochs: int = 9) -> None:
    one = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", 1000.0, phase="ended" if state else "running", began=True, reason=state)
    one.env, one.ended_at = "gcp", 1000.0 + 3600 if state else None
    job.attempts.write(one)
    lines = [epoch(n, 9) for n in range(1, epochs + 1)]
    text = "".join(json.dumps({**line, "test_top1": line["test_top1"] + shift}) + "\n" for line in lines)
    job.store.put(job.paths.metrics(one.id), text.encode())


def test_several_jobs_share_a_table_and_curves_with_mean_and_band_over_seeds(store: DirectoryStore, tmp_path: Path) -> None:
    group = groups.group_of(store, tmp_path, "{grid: {training.lr: [0.1, 0.2]}, seeds: 3}")
    group.complete()
    jobs = group.jobs()
    by_lr: dict[float, list[Job]] = {}
    for job in jobs:
        by_lr.setdefault(job.record()["config"]["training.lr"], []).append(job)
    for lr, shifts in {0.1: (0.0, 0.01, 0.02), 0.2: (-0.3, -0.2, -0.1)}.items():
        for number, (job, shift) in enumerate(zip(by_lr[lr], shifts)):
            trained(job, number, shift, epochs=9 if (lr, number) != (0.2, 2) else 4, state="completed")
    store.put(jobs[0].paths.record.replace(jobs[0].id, "broken-20260101-000000-0000"), b"{")
    facts = facts_of_several([*jobs, Job(store, "broken-20260101-000000-0000")], "both")
    top1 = epoch(9, 9)["test_top1"]
    assert facts["sentence"].startswith("6 jobs (6 finished) took 6h00m in all, ")
    assert facts["sentence"].endswith(f"; best is lr 0.1 with {100 * (top1 + 0.01):.2f}% ± 1.00 top-1 (over 3 seeds).")
    assert list(facts["without"]) == ["broken-20260101-000000-0000"]
    charts = {chart["title"]: chart for chart in facts["data"]["charts"]}
    first, second = charts["Top-1, test"]["series"]
    assert [first["label"], second["label"]] == ["lr 0.1", "lr 0.2"]
    assert first["values"][-1] == pytest.approx(top1 + 0.01)
    assert [first["low"][-1], first["high"][-1]] == [pytest.approx(top1), pytest.approx(top1 + 0.02)]
    assert second["values"][-1] == pytest.approx(top1 - 0.25)  # of the two that have come so far
    page = render(facts)
    for words in ("± 1.00", "Mean and standard deviation over seeds", "Without broken-20260101-000000-0000", jobs[5].id):
        assert words in page
    assert "Compared" in page
    assert data_of(page)["charts"][0]["series"][0]["label"] == "lr 0.1"


def test_of_several_jobs_none_of_which_has_begun_it_says_so(store: DirectoryStore, tmp_path: Path) -> None:
    group = groups.make(store, tmp_path)
    group.complete()
    facts = facts_of_several(group.jobs(), "none yet")
    assert facts["sentence"].endswith("none has finished, so there is no result yet.")
    assert "No epoch has been finished yet" in render(facts)


# --- the command ------------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_report_over_a_report_and_over_nothing_else(
    cli: Cli, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    job = made_up(DirectoryStore(Path(clean_env["LASTRUN_STORE"])), tmp_path)
    done = cli("report", "made-up")
    assert done.returncode == 0, done.stderr
    sentence, told = done.stdout.splitlines()
    assert sentence.startswith("nano_e_v3 on synthetic xsub reached ")
    assert told.startswith(f"{job.id}.html: open it in a browser (0.")
    page = tmp_path / f"{job.id}.html"
    assert sentence.replace("'", "&#39;") in page.read_text()
    found = json.loads(cli("report", job.id, job.id, "--out", page, "--json").stdout)
    assert found["jobs"] == [job.id]
    assert found["bytes"] == len(page.read_bytes())
    assert cli("report", "nobody").returncode == 3
    other = made_up(DirectoryStore(Path(clean_env["LASTRUN_STORE"])), tmp_path)
    before = (tmp_path / f"{job.id}.html").read_bytes()
    assert cli("report", job.id, other.id).returncode == 0
    assert (tmp_path / f"{job.id}-and-1-more.html").is_file()
    assert (tmp_path / f"{job.id}.html").read_bytes() == before


def test_where_a_report_is_written_to(tmp_path: Path) -> None:
    other = tmp_path / "thesis.html"
    other.write_text("years of work")
    with pytest.raises(UsageError, match=r"is there already, and is no report: name another file, or say --overwrite"):
        see_that_it_may_be_written(other, False)
    see_that_it_may_be_written(other, True)
    with pytest.raises(UsageError, match="is a folder: name a file"):
        see_that_it_may_be_written(tmp_path, True)
    with pytest.raises(UsageError, match="cannot be written there: No such file or directory"):
        see_that_it_may_be_written(tmp_path / "none" / "page.html", False)
    page = tmp_path / "page.html"
    assert write(page, "<!doctype html>\n<!-- lastrun report -->") == 39
    see_that_it_may_be_written(page, False)
