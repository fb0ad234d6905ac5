"""Real jobs that tell how they fare: while they stand still, when they end, when they are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.store.open import open_store
from tests.conftest import Cli
from tests.jobs import LONGER, command_lines, processes_of, some_step_is_stored, wait_until
from tests.receiver import HANG, Receiver

SIGN = "a-key-that-signs-0123456789"


@pytest.fixture
def receiver(clean_env: dict[str, str]) -> Iterator[Receiver]:
    one = Receiver()
    clean_env.update(MY_HOOK=one.address("/hook/part-that-is-secret"), MY_SIGN=SIGN)
    clean_env["LASTRUN_WAITS"] += " notify=2"
    yield one
    one.close()


def test_a_job_that_stands_still_and_ends_is_told_to_all_once(
    run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path, receiver: Receiver
) -> None:
    slow = Receiver()
    clean_env["SLOW_HOOK"] = slow.address("/slow/part-that-is-secret")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sendmail"
    program.write_text(f"#!/bin/sh\ncat >> {tmp_path}/mails\n")
    program.chmod(0o755)
    clean_env["PATH"] = f"{tmp_path}/bin:{clean_env['PATH']}"
    told = f"[sh, -c, 'echo \"$0\" >> {tmp_path}/told', '{{text}}']"
    who = "webhook: MY_HOOK, signed_with: MY_SIGN, slack: SLOW_HOOK, mail: me@example.org"
    tiny.write_text(f"{tiny.read_text()}notify: {{{who}, command: {told}}}\n")
    try:
        current = run("submit", tiny, *LONGER)
        with current.held(some_step_is_stored):
            last = current.job.attempts.all()[-1]
            wait_until(lambda: (current.job.attempts.heartbeat(last).get("idle_seconds") or 0) >= 2)
            commands = " ".join(line.decode("utf-8", "replace") for line in command_lines().values())
            done = cli("watch", "--once", "--stalled-after", "2s")
            assert done.returncode == 0, done.stderr
            assert "told slack, webhook, command, mail: tiny-" in done.stdout
            again = cli("watch", "--once", "--stalled-after", "2s", "--json")
            assert json.loads(again.stdout)["events"] == []
        slow.answers = [HANG]
        code, out = current.end()
    finally:
        slow.close()
    assert code == 0, out
    stalled, completed = (one.json() for one in receiver.messages)
    assert (stalled["data"]["news"], completed["data"]["news"]) == ("stalled", "completed")
    assert completed["data"]["step"] == completed["data"]["total_steps"] == 72
    assert "succeeded: test top-1 " in completed["data"]["text"]
    assert all(one.headers["webhook-signature"].startswith("v1,") for one in receiver.messages)
    assert [line.split()[1] for line in (tmp_path / "told").read_text().splitlines()] == ["stalled:", "succeeded:"]
    mails = (tmp_path / "mails").read_text()
    assert mails.count("To: me@example.org") == 2
    assert mails.count(f"lastrun: {current.job.id} completed") == 1
    line = "not told: notify.slack: the server did not answer in time; lastrun watch"
    assert line in out
    logs = cli("logs", current.job.id).stdout
    assert logs.count(line) == 1
    assert len(slow.messages) == 2
    store = open_store(clean_env["LASTRUN_STORE"])
    kept = [store.get(entry.key).decode("latin-1") for entry in store.scan("")]
    for secret in ("part-that-is-secret", SIGN):
        assert not any(secret in text for text in (out, logs, commands, done.stdout, done.stderr, *kept))
    since = store.age(current.job.paths.end(last.id))
    time.sleep(max(0.0, 4.5 - since))  # until it must have told it itself
    late = Receiver()
    try:
        one = cli("watch", "--once", "--json", SLOW_HOOK=late.address())
    finally:
        late.close()
    [event] = json.loads(one.stdout)["events"]
    assert (event["news"], event["told"], event["failed"]) == ("completed", ["slack"], {})
    assert event["id"] == completed["id"]
    assert len(receiver.messages) == 2


@pytest.mark.xdist_group("ceph")
def test_an_attempt_that_was_killed_in_the_middle_is_told_from_a_bucket(
    bucket: str, run: Any, cli: Cli, tiny: Path, receiver: Receiver
) -> None:
    tiny.write_text(f"{tiny.read_text()}notify: {{webhook: MY_HOOK}}\n")
    current = run("submit", tiny, *LONGER)
    with current.held(some_step_is_stored):
        assert json.loads(cli("watch", "--once", "--json").stdout)["events"] == []
        for pid in (*processes_of(current.process.pid), current.process.pid):
            os.kill(pid, signal.SIGKILL)
    current.process.communicate()
    current.settles_as("lost")
    found = [json.loads(cli("watch", "--once", "--json").stdout)["events"] for _ in range(2)]
    assert [[event["news"] for event in events] for events in found] == [["lost"], []]
    [message] = receiver.messages
    assert message.json()["data"]["job"] == current.job.id
    assert "ended without a word after" in message.json()["data"]["text"]
