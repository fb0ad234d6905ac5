"""Jobs in a bucket on a real Ceph gateway: as good as in a folder, also when the server dies under them."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from last_e.prepare.synth import synthesize
from runner.attempt.data_cache import fetch_data
from runner.errors import State
from runner.job.job import Job
from runner.store.open import open_store
from tests.ceph import SECRET_KEY, Ceph
from tests.conftest import Cli
from tests.jobs import LONGER, assert_same, has_pending, jobs_in, some_step_is_stored, wait_until

pytestmark = pytest.mark.xdist_group("ceph")


@pytest.fixture
def store(bucket: str, clean_env: dict[str, str]) -> str:
    return clean_env["LASTRUN_STORE"]


def test_training_goes_on_while_the_server_is_dead_and_all_is_synced_in_the_end(
    store: str, ceph: Ceph, run: Any, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *LONGER)
    with current.held(some_step_is_stored):
        ceph.kill_gateway()
    time.sleep(2)
    ceph.start_gateway()
    code, out = current.end()
    assert code == 0, out
    assert_same(current.job, uninterrupted)


def test_what_a_dead_server_did_not_get_is_kept_and_sent_later(
    store: str, ceph: Ceph, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *LONGER)
    with current.held(some_step_is_stored) as trainer:
        ceph.kill_gateway()
        current.process.send_signal(signal.SIGTERM)  # the notice of a spot machine: there is no time to wait for the server
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
    code, out = current.end()
    ceph.start_gateway()
    assert code == 4, out
    assert "lastrun sync" in out
    assert current.job.state()[0].value == "lost"
    unsent = " ".join(cli("status", current.job.id).stdout.split())
    assert re.search(rf"unsent .*are in .*/outbox only.*: lastrun sync {current.job.id} sends them", unsent)
    assert unsent.endswith(f"next lastrun sync {current.job.id}")
    sent = cli("sync", current.job.id)
    assert sent.returncode == 0, sent.stderr
    assert "objects sent" in sent.stdout
    assert current.job.state()[0].value == "paused"
    assert "unsent" not in cli("status", current.job.id).stdout
    assert cli("resume", current.job.id).returncode == 0
    assert_same(current.job, uninterrupted)


def test_a_store_that_cannot_be_reached_is_told_in_time(store: str, cli: Cli, tiny: Path) -> None:
    nowhere = "s3://lastrun/x?endpoint_url=https://127.0.0.1:1"
    began = time.monotonic()
    done = cli("submit", tiny, "--store", nowhere)
    assert time.monotonic() - began < 30
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "secret key does not fit"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}, "no credentials"),
        ({"AWS_CA_BUNDLE": ""}, "AWS_CA_BUNDLE"),
    ],
)
def test_a_closed_door_is_told_with_the_key_to_look_for(store: str, cli: Cli, change: dict[str, str], word: str) -> None:
    change.setdefault("REQUESTS_CA_BUNDLE", "")
    done = cli("list", **change)
    assert done.returncode == 4
    assert word in done.stderr
    assert SECRET_KEY not in done.stderr


def test_a_bucket_that_is_not_there(ceph: Ceph, store: str) -> None:
    job = Job(open_store(store.replace("s3://lastrun/", "s3://no-such-bucket/")), "j")
    with pytest.raises(Exception, match="no such bucket"):
        job.requests.ask_to_stop(now=False)


def test_a_job_trains_on_data_in_a_bucket(store: str, cli: Cli, tiny: Path, tmp_path: Path, clean_env: dict[str, str]) -> None:
    clean_env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    made = cli("data", "synth", "--like", "ntu60", "--clips", "200", "--out", tmp_path / "ntu60.safetensors")
    assert made.returncode == 0, made.stderr
    open_store(store).put_file("data/ntu60.safetensors", tmp_path / "ntu60.safetensors")
    where, _, options = store.partition("?")
    tiny.write_text(tiny.read_text().replace("synthetic", "ntu60").replace("epochs: 3", "epochs: 1"))
    settings = ["--set", f"data.uri={where}/data/ntu60.safetensors?{options}"]
    done = cli("submit", tiny, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on ntu60 xsub" in done.stdout
    [cached] = (tmp_path / "cache" / "lastrun" / "remote" / "objects").iterdir()
    assert cached.read_bytes() == (tmp_path / "ntu60.safetensors").read_bytes()
    missing = cli("submit", tiny, "--set", f"data.uri={where}/data/none.safetensors?{options}")
    assert missing.returncode == 2, missing.stdout
    assert "data/none.safetensors" in missing.stderr
    assert missing.stderr.endswith("there is no such object in the bucket lastrun\n")
    assert len(jobs_in(open_store(store))) == 1, "nothing was made"


@pytest.mark.parametrize("how", ["sigterm", "ctrl-c", "stop"])
def test_a_job_that_waits_for_its_data_hears_a_stop(
    how: str, store: str, cli: Cli, run: Any, tiny: Path, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    clean_env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    synthesize("ntu60", tmp_path / "ntu60.safetensors", clips=200)
    open_store(store).put_file("data/ntu60.safetensors", tmp_path / "ntu60.safetensors")
    where, _, options = store.partition("?")
    uri = f"{where}/data/ntu60.safetensors?{options}"
    tiny.write_text(tiny.read_text().replace("synthetic", "ntu60").replace("epochs: 3", "epochs: 1"))
    fetch_data(uri, cache=tmp_path / "cache" / "lastrun" / "remote")
    (lock,) = (tmp_path / "cache").rglob("*.lock")
    with FileLock(lock):
        one = run("submit", tiny, "--set", f"data.uri={uri}")
        assert any("another job is fetching it; waiting" in line for line in one.process.stdout)
        began = time.monotonic()
        if how == "stop":
            assert cli("stop", one.job.id).returncode in (0, 75)
        else:
            (one.press_ctrl_c if how == "ctrl-c" else one.process.terminate)()
        code, out = one.end()
        assert time.monotonic() - began < 30
    assert code == 75, out
    assert one.job.state()[0] is (State.STOPPED if how == "stop" else State.PAUSED)
    assert cli("resume", one.job.id).returncode == 0
