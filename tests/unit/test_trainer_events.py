"""What a run tells: events as lines, on a screen, into the metric history; and how it is asked to stop."""

import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from last_e import events, metrics
from last_e.console import ConsoleSink
from last_e.events import CheckpointSaved, Ended, EpochDone, Event, JsonLines, Message, Point, Progress, Started, parse_event
from last_e.metrics import History, read_metrics, read_steps
from last_e.stop import Stop
from tests.jobs import PATIENCE

EPOCH = EpochDone(2, 5, 30, 0.05, 1.25, 0.5, None, 1.5, 0.25, 0.75, 1, True, 3.5)
ALL: list[Event] = [
    Message("text with [markup] and\nnewline", "warning"),
    Started("nano_e_v3", 75596, "irds", "xsub", 858, 548, 2, 26, 0, "cpu", "float32", "abc"),
    Progress(3, 10, 0, 2, 1.5, 0.1, 100.0, 12.0, "test"),
    Point(3, 0.25, 0.1, 1.5, 1.25, 0.5, 1, 100.0),
    EPOCH,
    CheckpointSaved("/a/b", 3, 1),
    Ended("completed", "fine", 10, 10, 0.5, 0.9, 0.5, 2),
]


def epoch(number: int, **changes: object) -> EpochDone:
    return EpochDone(**{**vars(EPOCH), "epoch": number, "step": number * 15, **changes})


@pytest.mark.parametrize("event", ALL, ids=lambda event: event.kind)
def test_an_event_is_one_line_and_reads_back(event):
    line = event.to_json()
    assert "\n" not in line
    assert parse_event(line) == event


def test_a_number_that_is_not_finite_becomes_null():
    line = Progress(1, 2, 0, 1, math.nan, 0.1, math.inf, None).to_json()
    assert json.loads(line)["loss"] is None
    assert json.loads(line)["clips_per_second"] is None


@pytest.mark.parametrize(
    "line", ["", "hello", "{}", "[]", "3", "null", '{"event": "none"}', '{"event": "message"}', '{"event": []}']
)
def test_other_lines_hold_no_event(line):
    assert parse_event(line) is None


def test_lines_are_written_at_once_and_a_reader_that_has_gone_is_noticed():
    read, write = os.pipe()
    gone = []
    with os.fdopen(write, "w") as stream:
        sink = JsonLines(lambda: gone.append(1), stream)
        sink.emit(Message("one"))
        assert parse_event(os.read(read, 1000).decode()) == Message("one")
        os.close(read)
        sink.emit(Message("two"))
        assert gone == [1]
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)  # so that closing has somewhere to put its rest


def test_the_screen_shows_what_a_log_needs():
    out = io.StringIO()
    with ConsoleSink(Console(file=out, soft_wrap=True)) as sink:
        for event in ALL:
            sink.emit(event)
    text = out.getvalue()
    assert "warning: text with [markup]" in text
    assert "nano_e_v3 (75,596 parameters) on irds xsub: 858 clips to train, 548 to test; 2 epochs of 26 steps" in text
    assert "epoch 2/5  lr 0.05000  train loss 1.2500 top-1 50.00%" in text
    assert "completed at step 10 of 10: fine" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45.4, "45s"), (59.6, "1m00s"), (200, "3m20s"), (3720, "1h02m"), (None, "-"), (math.nan, "-"), (math.inf, "-")],
)
def test_durations_are_short(seconds, text):
    assert events.seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        (None, "100 clips/s  "),
        ([100.0], "100 clips/s  "),
        ([60.0, 58.0], "100 clips/s by 2 ranks (58 - 60 each)  "),
        ([60.0, 60.4], "100 clips/s by 2 ranks (60 each)  "),
        ([60.0, 53.0], "100 clips/s by 2 ranks (53 - 60 each; rank 1 is 12% behind)  "),
        ([40.0, 60.0, 50.0, 52.0], "100 clips/s by 4 ranks (40 - 60 each; rank 0 is 23% behind)  "),
        ([0.0, 0.0], "100 clips/s by 2 ranks (0 each)  "),
    ],
    ids=str,
)
def test_ranks_are_told_each_by_itself_and_who_holds_the_others_up(rates, told):
    """It is compared with the median of the others."""
    assert told in events.describe(dataclasses.replace(ALL[2], ranks=rates))
    assert told.removeprefix("100 clips/s").strip() in events.describe(epoch(1, ranks=rates))


def test_what_several_ranks_gain_is_told():
    told = " by 2 ranks, 1.86 times one (58 - 60 each)"
    assert f"100 clips/s{told}  " in events.describe(dataclasses.replace(ALL[2], ranks=[60.0, 58.0], of_one=1.861))
    assert told in events.describe(epoch(1, ranks=[60.0, 58.0], of_one=1.861))


@pytest.mark.parametrize("changes", [{}, {"skipped_steps": 0, "best": False}, {"validation_top1": 0.5, "validation_top5": 1.0}])
def test_the_words_of_an_epoch_are_found_in_its_line(changes):
    done = epoch(2, **changes)
    assert events.words_of_line(events.describe(done)) == events.epoch_words(done)
    assert events.words_of_line("epoch 2/5  step 3/10  loss 1.5  100 clips/s  12s left") is None


# --- the metric history ------------------------------------------------------------------------------------------------


class Silent:
    def emit(self, event: Event) -> None:
        pass


def test_the_history_takes_back_what_will_be_trained_again(tmp_path):
    history = History(tmp_path, 0, 0, 10, Silent())
    for number in (1, 2, 3):
        history.add(epoch(number))
    history.close()
    again = History(tmp_path, 2, 30, 15, Silent())
    again.add(epoch(3, test_top1=0.5))
    again.close()
    lines = read_metrics((tmp_path / "metrics.jsonl").read_text())
    assert [(line["epoch"], line["test_top1"]) for line in lines] == [(1, 0.25), (2, 0.25), (3, 0.5)]


def test_the_history_holds_only_what_is_reproducible(tmp_path):
    history = History(tmp_path, 0, 0, 10, Silent())
    history.add(epoch(1, seconds=1.0))
    history.close()
    first = (tmp_path / "metrics.jsonl").read_bytes()
    history = History(tmp_path, 0, 0, 10, Silent())
    history.add(epoch(1, seconds=99.0, ranks=[10.0, 12.0], of_one=1.9))
    history.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == first


def test_a_last_line_that_was_cut_does_not_count(tmp_path):
    history = History(tmp_path, 0, 0, 10, Silent())
    history.add(epoch(1))
    history.close()
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole + b'{"epoch": 2, "test_t\xff')
    History(tmp_path, 2, 30, 15, Silent()).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def point(step: int, per_epoch: int, loss: float = 1.5) -> Point:
    return Point(step, step / per_epoch, 0.1, loss, 1.25, 0.5, 0, 100.0)


def test_steps_that_will_be_trained_again_are_taken_back_also_where_epochs_have_another_length_now(tmp_path):
    history = History(tmp_path, 0, 0, 4, Silent())
    history.add_steps([point(step, 4) for step in range(1, 8)], lasting=False)
    before = (tmp_path / "steps.jsonl").read_bytes()
    history = History(tmp_path, 1, 6, 4, Silent())
    history.add_steps([point(7, 4)], lasting=True)
    assert (tmp_path / "steps.jsonl").read_bytes() == before
    History(tmp_path, 1, 10, 10, Silent()).add_steps([point(11, 10)], lasting=True)
    lines = read_steps((tmp_path / "steps.jsonl").read_text())
    assert [(line["step"], line["epoch"]) for line in lines] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0), (11, 1.1)]
    assert lines[0].keys() == {"step", "epoch", "lr", "loss", "train_loss", "train_top1", "skipped_steps"}


def test_steps_of_before_stay_where_epochs_have_fewer_steps_now(tmp_path):
    """Whose numbers come again, but not what they stand for."""
    History(tmp_path, 0, 0, 4, Silent()).add_steps([point(step, 4) for step in range(1, 9)], lasting=True)
    for _ in range(2):  # and when it goes on once more
        history = History(tmp_path, 2, 4, 2, Silent())
        history.add_steps([point(5, 2), point(6, 2)], lasting=True)
    epochs = [line["epoch"] for line in read_steps((tmp_path / "steps.jsonl").read_text())]
    assert epochs == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0]


def test_figures_of_steps_never_are_more_than_a_run_that_goes_on_can_read(tmp_path, monkeypatch):
    told: list[Event] = []
    sink = Silent()
    sink.emit = told.append
    monkeypatch.setattr(metrics, "MOST_BYTES", 1000)
    history = History(tmp_path, 0, 0, 100, sink)
    for step in range(1, 21):
        history.add_steps([point(2 * step - 1, 100), point(2 * step, 100)], lasting=False)
    assert [type(one) for one in told] == [Message]
    assert (tmp_path / "steps.jsonl").stat().st_size <= 1000
    History(tmp_path, 1, 40, 100, sink)
    steps = [line["step"] for line in read_steps((tmp_path / "steps.jsonl").read_text())]
    assert steps == list(range(1, len(steps) + 1))
    assert 5 < len(steps) < 20


def test_a_run_that_has_kept_more_steps_than_are_read_at_once_is_gone_on_with(tmp_path):
    lines = [json.dumps({**point(step, 4).figures(), "note": "x" * 60_000}) for step in range(1, 1201)]
    (tmp_path / "steps.jsonl").write_text("\n".join(lines) + "\n")
    History(tmp_path, 2, 10, 4, Silent()).close()
    kept = read_steps((tmp_path / "steps.jsonl").read_text())
    assert [line["step"] for line in kept] == list(range(1, 11))


def test_a_step_that_comes_again_replaces_all_from_there_on_and_what_is_no_line_does_not_count():
    lines = [json.dumps(point(step, 4, loss).figures()) for step, loss in [(1, 1), (2, 2), (3, 3), (2, 4), (4, 5)]]
    found = read_steps("\n".join([*lines, '{"step": 5}', '{"step": 6, "epo', "7"]))
    assert [(line["step"], line["loss"]) for line in found] == [(1, 1), (2, 4), (4, 5)]


def test_tensorboard_files_are_written_where_they_are_asked_for(tmp_path):
    history = History(tmp_path, 0, 0, 10, Silent(), board=True)
    history.add(epoch(1))
    history.add_steps([point(10, 10)], lasting=False)
    history.close()
    (file,) = (tmp_path / "events").iterdir()
    content = file.read_bytes()
    assert all(tag in content for tag in (b"test/top1", b"train/loss", b"step/loss"))
    History(tmp_path / "events", 0, 0, 10, Silent()).add(epoch(1))
    assert {path.name for path in (tmp_path / "events").iterdir()} == {file.name, "metrics.jsonl", "steps.jsonl"}


# --- asking to stop ----------------------------------------------------------------------------------------------------


def test_the_first_reason_counts():
    stop = Stop()
    assert stop.reason is None
    stop.ask("preempted")
    stop.ask("interrupted")
    assert stop.reason == "preempted"


def test_a_deadline_asks_to_stop():
    stop = Stop()
    stop.after(0.05)
    assert stop.reason is None
    time.sleep(0.06)
    assert stop.reason == "time_limit"


def child(code: str, **options: object) -> subprocess.Popen[str]:
    head = "import os, signal, sys, time\nfrom last_e.stop import Stop\nstop = Stop()\n"
    return subprocess.Popen(
        [sys.executable, "-uc", head + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


WAIT = "print('ready')\nwhile stop.reason is None:\n    time.sleep(0.01)\nprint(stop.reason)\n"


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "preempted")])
def test_signals_become_reasons(number, reason):
    with child(f"stop.on_signals(lambda word: None)\n{WAIT}") as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE)[0] == f"{reason}\n"


def test_a_second_interrupt_leaves_at_once_with_130():
    with child(f"stop.on_signals(lambda word: print(word))\n{WAIT}time.sleep(60)\n") as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "saving a checkpoint first" in process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 130


def test_the_end_of_the_runner_asks_to_stop():
    with child(f"stop.when_supervised()\n{WAIT}", stdin=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdin.close()
        process.stdin = None
        assert process.communicate(timeout=PATIENCE)[0] == "lease_lost\n"


def test_under_the_runner_an_interrupt_is_ignored_and_a_termination_is_not():
    with child(f"stop.when_supervised()\n{WAIT}", stdin=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "preempted\n"  # standard input is still open: its end would be another reason


def test_an_interrupt_while_a_line_is_being_printed_does_not_hang():
    """The handler runs on the main thread, in the middle of whatever that was doing."""
    code = """
from rich.console import Console
from last_e.console import ConsoleSink
from last_e.events import Message
class Slow:
    sent = False
    def write(self, text):
        if not self.sent:
            self.sent = True
            signal.raise_signal(signal.SIGINT)
        sys.stdout.write(text)
    def flush(self): sys.stdout.flush()
sink = ConsoleSink(Console(file=Slow()))
stop.on_signals(lambda word: sink.emit(Message(word, "warning")))
sink.emit(Message("an ordinary line"))
print(stop.reason)
"""
    with child(code) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail("Ctrl-C while a line was being printed hung the training")
    assert out.splitlines()[-1] == "interrupted", err
    assert "an ordinary line" in out


def test_events_of_several_threads_do_not_mix():
    out = io.StringIO()
    sink = JsonLines(lambda: None, out)
    threads = [threading.Thread(target=lambda n=n: [sink.emit(Message(f"{n}" * 50)) for _ in range(100)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(out.getvalue().splitlines()) == 400
    assert all(parse_event(line) is not None for line in out.getvalue().splitlines())
