"""What people see of a run: a view on a real terminal, lines everywhere else."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TextIO

import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from rich.cells import cell_len as cells

from last_e.bar import Bar
from last_e.console import ConsoleSink
from last_e.events import Ended, EpochDone, Message, Progress, Started
from last_e.gpu import Usage, figures
from last_e.progress import Standing, cut, in_columns, make_console, view
from last_e.smooth import HALF, Smooth
from last_e.terminal import REDRAW_SECONDS, SECONDS_BETWEEN_LINES, Above, Screen
from runner import machine
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from runner.view.live import Drawn, Watch
from runner.view.status import follow_status, job_status
from tests.jobs import wait_until
from tests.terminals import Terminal

STARTED = Started("nano_e_v3", 75596, "irds", "xsub", 858, 548, 120, 26, 0, "cpu", "float32", "abc")
LONG = "ein-sehr-langer-name-der-nirgends-hinpasst-" * 3
CJK = "骨格からの動作認識-20261130-081215-30d5"


def progress(step: int, epoch: int = 0) -> Progress:
    return Progress(
        step, 3120, epoch, 120, 1.5, 0.098, 1234.0, 7400.0, smooth_loss=1.25, top1=0.625, seconds=60.0, epoch_seconds_left=72.0
    )


def epoch(number: int, best: bool = False) -> EpochDone:
    return EpochDone(number, 120, number * 26, 0.05, 1.25, 0.5, None, 1.5, 0.25, 0.75, 0, best, 3.5)


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says that nobody wants them."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("LASTRUN_PLAIN", "LASTRUN_QUIET", "NO_COLOR", "JPY_PARENT_PID", "KAGGLE_KERNEL_RUN_TYPE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terminal(views: None) -> Iterator[Terminal]:
    one = Terminal(columns=60)
    yield one
    one.close()


@pytest.fixture
def stream(terminal: Terminal) -> Iterator[TextIO]:
    with os.fdopen(os.dup(terminal.inside), "w") as file:
        yield file


def sink_on(stream: TextIO) -> ConsoleSink:
    return ConsoleSink(make_console(stream))


@pytest.mark.parametrize("name", ["short", LONG, CJK])
def test_a_view_fits_sixty_columns_whatever_the_name_and_leaves_a_line_for_each_epoch(
    terminal: Terminal, stream: TextIO, name: str
) -> None:
    with sink_on(stream) as sink:
        sink.also = lambda: {"name": name, "synced_step": 10, "lag_seconds": 90.0}
        sink.emit(STARTED)
        for number in (1, 2):
            sink.emit(progress(26 * number - 1, number - 1))
            wait_until(lambda number=number: f"step {26 * number - 1}/3,120" in terminal.text)
            sink.emit(epoch(number, best=number == 2))
        wait_until(lambda: "epoch 2/120" in terminal.text)
        shown = terminal.lines
        assert terminal.column == 0
    shown_text = "\n".join(shown)
    for word in (
        *(r"loss 1\.2500", r"train top-1 62\.50%", r"lr 0\.09800", "1,234 clips/s"),
        *(r"elapsed \dm\d\ds", r"\dh\d\dm left", r"\d+m\d\ds left"),
    ):
        assert re.search(rf"(^|\s){word}(\s|$)", shown_text, re.MULTILINE), (word, shown)
    assert "test top-1 25.00% (best 25.00%)" in shown or any("test top-1 25.00%" in line for line in shown)
    assert "synced step 10, the rest waits 1m30s" in shown
    assert any(line.startswith(name[:40].rstrip("-") if name is not CJK else name) for line in shown), shown
    assert max(map(cells, shown)) < 60
    wait_until(lambda: "━" not in terminal.text)
    left = terminal.lines
    assert [line[:12].split()[1] for line in left if line.startswith("epoch")] == ["1/120", "2/120"], left
    assert left[-1].endswith("best")
    assert terminal.shows_cursor
    assert b"\x1b[?25l" not in terminal.raw


def test_no_word_is_broken_where_a_line_is_folded(terminal: Terminal, stream: TextIO) -> None:
    with sink_on(stream) as sink:
        sink.emit(STARTED)
        sink.emit(Message("a path of its own stays whole: /" + "x" * 50 + " and what follows it"))
    wait_until(lambda: "follows it" in terminal.text)
    words = f"{STARTED.model} (75,596 parameters) on irds xsub: 858 clips to train, 548 to test; 120 epochs of 26 steps".split()
    assert terminal.text.split()[: len(words)] == words
    assert f"/{'x' * 50}" in terminal.text


def test_changed_sizes_in_mid_run_leave_nothing_behind(terminal: Terminal, stream: TextIO) -> None:
    with sink_on(stream) as sink:
        sink.also = lambda: {"name": "resized"}
        for step, (columns, rows) in enumerate([(100, 24), (45, 24), (120, 40), (30, 40), (72, 10), (72, 4), (90, 30)], 1):
            terminal.resize(columns, rows)
            sink.emit(progress(step))
            if rows > 4:
                wait_until(lambda step=step: re.search(f"step {step}/3,120|^loss", terminal.text, re.MULTILINE))
            sink.emit(Message(f"line {step}"))
            wait_until(lambda step=step: f"line {step}" in terminal.text)
        sink.emit(progress(1000, 38))
        wait_until(lambda: "step 1,000/3,120" in terminal.text)
        shown = terminal.text
    assert [shown.count(word) for word in ("resized", "epoch ", "job ", "loss ", "elapsed ")] == [1] * 5, shown
    wait_until(lambda: "━" not in terminal.text)
    assert re.sub(r"\n+", "\n", terminal.text) == "\n".join(f"line {step}" for step in range(1, 8))


def test_a_view_is_redrawn_four_times_a_second_at_the_most(terminal: Terminal, stream: TextIO) -> None:
    began = time.monotonic()
    with sink_on(stream) as sink:
        for step in range(1, 300):
            sink.emit(progress(step))
            if step % 10 == 0:
                sink.emit(Message(f"line {step}"))
            time.sleep(0.003)
        wait_until(lambda: "step 299/" in terminal.text)
    wait_until(lambda: "━" not in terminal.text)
    frames = terminal.raw.count(b"\x1b[?7l")
    assert 1 <= frames <= (time.monotonic() - began) / REDRAW_SECONDS + 2
    assert [line for line in terminal.lines if line] == [f"line {step}" for step in range(10, 300, 10)]


def test_nobody_waits_for_a_terminal_that_takes_nothing(terminal: Terminal, stream: TextIO) -> None:
    with sink_on(stream) as sink:
        sink.emit(progress(1))
        wait_until(lambda: "loss" in terminal.text)
        terminal.hold()
        began = time.monotonic()
        for number in range(500):
            sink.emit(Message(f"line {number} {'x' * 100}"))
            sink.emit(progress(number))
        assert time.monotonic() - began < 5
        terminal.go_on()
    wait_until(lambda: b"line 499\r" in terminal.raw)
    assert [int(number) for number in re.findall(rb"line (\d+)\r", terminal.raw)] == list(range(500))


def test_a_terminal_that_is_closed_ends_nothing(views: None) -> None:
    closed = Terminal()
    with os.fdopen(closed.inside, "w") as stream, sink_on(stream) as sink:
        sink.emit(progress(1))
        wait_until(lambda: "loss" in closed.text)
        closed.close()
        for step in range(5):
            sink.emit(Message("nobody reads this"))
            sink.emit(progress(step))


@pytest.mark.parametrize(
    ("name", "value"), [("LASTRUN_PLAIN", "1"), ("TERM", "dumb"), ("TERM", ""), ("JPY_PARENT_PID", "1")], ids=lambda word: word
)
def test_plain_lines_for_who_wants_them_and_for_terminals_that_can_do_no_more(
    terminal: Terminal, stream: TextIO, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with sink_on(stream) as sink:
        sink.emit(progress(1))
        sink.emit(epoch(1))
        sink.emit(Ended("completed", "fine", 10, 10))
    wait_until(lambda: "fine" in terminal.text)
    assert not re.search(rb"\x1b\[[^m]*[^0-9;m]|[^\n]\r[^\n]", terminal.raw), terminal.raw
    assert b"clips/s" not in terminal.raw
    assert b"epoch 1/120" in terminal.raw


def test_without_colours_a_bar_still_tells_how_far_it_is(
    terminal: Terminal, stream: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with sink_on(stream) as sink:
        sink.emit(progress(13))
        wait_until(lambda: "loss" in terminal.text)
        bars = [line.count("━") for line in terminal.lines if "━" in line]
    assert bars == [8]  # half an epoch; of the job next to nothing
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]|\x1b\[9", terminal.raw)


def test_a_terminal_that_knows_no_such_letters_gets_others(terminal: Terminal) -> None:
    with os.fdopen(os.dup(terminal.inside), "w", encoding="ascii") as stream, sink_on(stream) as sink:
        sink.also = lambda: {"name": CJK}
        sink.emit(progress(13))
        wait_until(lambda: "loss" in terminal.text)
        assert any(line.startswith("epoch --------") for line in terminal.lines), terminal.lines


def test_a_log_gets_a_line_an_epoch_and_else_one_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with ConsoleSink(make_console(out)) as sink:
        for second in range(400):
            now[0] += 1
            sink.emit(progress(second))
            if second % 150 == 149:
                sink.emit(epoch(second // 150 + 1))
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert sum("train loss" in line for line in lines) == 2
    assert sum("clips/s" in line for line in lines) == 2 + 2 + 1  # of 150, 150 and 100 seconds
    assert SECONDS_BETWEEN_LINES == 60


def test_quiet_tells_warnings_and_the_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTRUN_QUIET", "1")
    out = io.StringIO()
    with ConsoleSink(make_console(out)) as sink:
        for event in (
            STARTED,
            progress(1),
            epoch(1),
            Message("a word"),
            Message("mind", "warning"),
            Ended("completed", "x", 1, 1),
        ):
            sink.emit(event)
    assert out.getvalue() == "warning: mind\ncompleted at step 1 of 1: x\n"


def test_work_that_is_counted_looks_the_same(terminal: Terminal, stream: TextIO) -> None:
    with Bar("recordings", stream=stream) as bar:
        bar.update(0, 0, "loading torch")
        wait_until(lambda: terminal.lines[-1:] == ["loading torch ..."])
        bar.update_bytes("/a/骨格.tar.gz", 10 * 10**6, 40 * 10**6)
        wait_until(lambda: "10 of 40 MB of 骨格.tar.gz" in terminal.text)
        bar.update(150, 300, "S001")
        wait_until(lambda: "150 of 300 recordings" in terminal.text)
        assert terminal.lines[-2:] == ["━━━━━━━━╺━━━━━━━  150 of 300 recordings  - left", "now: S001"]
    wait_until(lambda: terminal.text == "")
    assert terminal.shows_cursor


def test_what_others_print_meanwhile_stays_and_the_view_goes_on_below(terminal: Terminal, stream: TextIO) -> None:
    screen = Screen(stream)
    screen.view(lambda columns, rows: ["one", f"{columns} {rows}"])
    wait_until(lambda: terminal.lines[-2:] == ["one", "60 22"])
    os.write(terminal.inside, b"a word of another\n")
    wait_until(lambda: terminal.lines == ["a word of another", "one", "60 22"])
    terminal.resize(50, 24)
    wait_until(lambda: terminal.lines == ["a word of another", "", "one", "50 22"])
    screen.close()
    wait_until(lambda: terminal.lines == ["a word of another"])


def test_what_an_attempt_elsewhere_says_stands_above_the_view_which_makes_room_for_a_question(
    terminal: Terminal, stream: TextIO
) -> None:
    with closing(Screen(stream)) as screen:
        above = Above(screen, lambda text: screen.line(lambda columns: text))
        screen.view(lambda columns, rows: ["a view"])
        above.write("one\ntw")
        above.write("o\nthree")
        wait_until(lambda: terminal.lines == ["one", "two", "", "a view"])
        with screen.aside():
            wait_until(lambda: terminal.lines == ["one", "two"])
            above.end()
            screen.view(lambda columns, rows: ["another"])
            time.sleep(2 * REDRAW_SECONDS)
            assert terminal.lines == ["one", "two"]
        wait_until(lambda: terminal.lines == ["one", "two", "three", "", "another"])
    wait_until(lambda: terminal.lines == ["one", "two", "three"])


def test_a_view_that_cannot_be_drawn_keeps_no_line_from_being_seen(terminal: Terminal, stream: TextIO) -> None:
    screen = Screen(stream)
    screen.view(lambda columns, rows: [str(columns // 0)])
    wait_until(lambda: terminal.lines == ["", "no view: ZeroDivisionError"])
    screen.line(lambda columns: "a line")
    screen.close()
    wait_until(lambda: terminal.lines == ["a line"])


def test_what_gpus_are_at_is_asked_by_a_thread_and_one_that_tells_nothing_is_left_out() -> None:
    answers = {0: {"used": 1.0, "total": 2.0, "use": 0.5}, 1: None}
    usage = Usage(2, answers.get)
    wait_until(lambda: usage.figures == [answers[0]])
    assert figures(torch.cuda.device_count()) is None


_STOPS = """
import os, sys
os.setpgrp()
from last_e.terminal import Screen
screen = Screen(sys.stdout)
screen.view(lambda *_: ["moving"])
sys.stdin.readline()
screen.close()
"""


def test_ctrl_z_leaves_an_empty_screen_to_the_shell_and_the_view_comes_again(terminal: Terminal) -> None:
    process = subprocess.Popen([sys.executable, "-c", _STOPS], stdin=subprocess.PIPE, stdout=terminal.inside)
    try:
        wait_until(lambda: "moving" in terminal.text)
        process.send_signal(20)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        wait_until(lambda: terminal.text == "")
        process.send_signal(18)
        wait_until(lambda: "moving" in terminal.text)
        process.communicate(b"\n", timeout=60)
        wait_until(lambda: terminal.text == "")
    finally:
        process.kill()


@pytest.mark.parametrize("columns", [20, 30, 44, 60, 80, 132])
@pytest.mark.parametrize("name", ["a", LONG, CJK])
def test_a_view_is_never_wider_than_its_columns(name: str, columns: int) -> None:
    gpu = {"used": 12.3e9, "total": 40e9, "use": 0.97}
    facts = {"ranks": [1.0, 2.0], "gpus": [gpu, {**gpu, "use": None}], "session_seconds_left": 31000.0, "synced_step": 1}
    at = Standing.of({**vars(progress(3000, 119)), **facts}, name=name, note=f"attempt 17 on {name}")
    console = make_console(io.StringIO())
    lines = view(at, console, columns, 50)
    assert all(cells(line) < columns for line in lines), lines
    assert len(view(at, console, columns, 3)) == 3
    wild = Standing(
        step=10**400, total_steps=1, epochs=10**300, epoch=-5, tested=-1.0, ranks=[1e308] * 3, clips_per_second=1e308
    )
    assert all(cells(line) < columns for line in view(wild, console, columns, 50))
    assert columns < 60 or "GPU 0 12.3 of 40 GB, 97%" in "\n".join(lines)


def test_what_does_not_fit_is_left_out_by_its_weight_and_cut_in_the_end() -> None:
    words = [(0, "epoch 1/3"), (3, "lr 0.05"), (1, "top-1 25%"), (2, "best")]
    assert in_columns(words, 40) == "epoch 1/3  lr 0.05  top-1 25%  best"
    assert in_columns(words, 34) == "epoch 1/3  top-1 25%  best"
    assert in_columns(words, 25) == "epoch 1/3  top-1 25%"
    assert in_columns(words, 10) == "epoch 1/3"
    assert in_columns(words, 6) == "epo..."
    assert [cells(cut(CJK, columns)) <= columns for columns in range(3, 60)] == [True] * 57


def test_a_smooth_loss_is_a_mean_of_what_came_since_it_was_looked_at() -> None:
    smooth = Smooth()
    assert smooth.look(0.0, 0, 10) is None
    assert smooth.look(20.0, 10, 10) == pytest.approx(2.0)
    assert smooth.look(20.0 + 10.0 * 20_000, 20_010, 10) == pytest.approx(10.0)
    assert smooth.look(20.0 + 10.0 * 20_000, 20_010, 10) == pytest.approx(10.0)  # nothing has come since
    # A new epoch, of as many steps as halve what was before.
    assert smooth.look(4.0 * 10 * HALF, int(10 * HALF), 10) == pytest.approx(7.0)


@pytest.fixture
def running(tmp_path: Path) -> Job:
    """A job that this process trains, as far as its store knows."""
    config = {"model.variant": "nano_e_v3", "dataset": "irds", "split_type": "xsub", "env": "local", "training.epochs": 120}
    job = Job.create(DirectoryStore(tmp_path), "seen", config, {}, "0")
    one = Attempt("0002-aaaaaaaa", machine.identity(), os.getpid(), machine.process_identity(os.getpid()) or "", time.time())
    one.phase, one.began, one.host, one.env, one.epochs = "running", True, "<b>host</b>", "local", 120
    job.attempts.write(one)
    beat = json.loads(progress(300, 11).to_json())
    job.attempts.write_heartbeat(one, {**beat, "synced_step": 286, "lag_seconds": 5.0, "gpus": [{"used": 1e9, "total": 8e9}]})
    lines = [{"epoch": n, "step": 26 * n, "lr": 0.1, "test_top1": 0.5 + n / 100, "test_top5": 0.9} for n in range(1, 12)]
    job.store.put(job.paths.metrics(one.id), "".join(json.dumps(line) + "\n" for line in lines).encode())
    return job


FIGURES = (
    "12/120  step 14/26  1m12s left",
    "10%  step 300/3,120",
    "loss 1.2500  train top-1 62.50%  test top-1 61.00%",
)


def test_a_notebook_draws_a_jobs_view_into_one_output(running: Job) -> None:
    data, _ = DisplayFormatter().format(Drawn(job_status(running)))
    assert all(figures in data["text/plain"] for figures in FIGURES), data
    assert f"{running.id}  running, attempt 2 on <b>host</b>\n" in data["text/plain"]
    assert "GPU 1.0 of 8 GB" in data["text/plain"]
    assert "━" in data["text/html"]
    assert "<b>" not in data["text/html"]
    assert "&lt;b&gt;host" in data["text/html"]


def test_whoever_watches_sees_each_epoch_once_and_the_figures_of_the_heart(
    running: Job, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.resize(100, 30)
    stream = os.fdopen(os.dup(terminal.inside), "w")
    monkeypatch.setattr(sys, "stdout", stream)
    facts = follow_status(running)
    with closing(Watch()) as watch:
        watch.see(next(facts))
        wait_until(lambda: all(figures in terminal.text for figures in FIGURES) and "synced step 286" in terminal.text)
        key = running.paths.metrics("0002-aaaaaaaa")
        line = {"epoch": 12, "step": 312, "lr": 0.1, "train_loss": 1.0, "test_top1": 0.75, "test_top5": 0.9}
        running.store.put(key, running.store.get(key) + json.dumps(line).encode())
        for _ in range(2):
            watch.see(next(facts))
        wait_until(lambda: "best" in terminal.text)
    wait_until(lambda: "━" not in terminal.text)
    stream.close()
    told = "epoch 12/120  lr 0.10000  train loss 1.0000 top-1 -  test loss - top-1 75.00% top-5 90.00%  best"
    assert terminal.lines == [told]
