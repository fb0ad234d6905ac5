"""A job that a store holds decides what is trained, and nothing of this machine that its user has not given."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from last_e.config import is_pinned
from last_e.layers import set_by
from runner.job.job import Job
from runner.launch.local import LocalLauncher
from runner.resolve import resolve_attempt, resolve_spec
from runner.spec import JobSpec
from runner.store.directory import DirectoryStore
from runner.trust import Trust, UntrustedError, brought, mark, notes_of_file, see_that_it_is_taken
from tests.conftest import TINY, Cli

NO_ENGINE, NOWHERE = ["--launcher", "docker"], {"DOCKER_HOST": "unix:///nowhere"}
"""Exit code 6, once all has been taken, without any training."""
BUCKET = "s3://team/jobs?endpoint_url=https://s3.example.org"


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def relay() -> Iterator[tuple[str, list[bytes]]]:
    """A server of an attacker's: its address, and what it was sent."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(2)
                        got.append(connection.recv(65536))
                        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", got
        server.shutdown(socket.SHUT_RDWR)


def stored(path: Path, store: Path, **values: Any) -> Job:
    """A job as somebody else may have put it there: any values, any origins."""
    path.write_text(TINY)
    resolved = resolve_spec(path, None, [])
    config = {**resolved.items(), **{key.replace("__", "."): value for key, value in values.items()}}
    return Job.create(DirectoryStore(store), "tiny", config, dict.fromkeys(config, "job.yaml:3"), "0.1.0")


def taken(job: Job, trust: Trust, *settings: str) -> Any:
    config, origins, _ = job.settings()
    resolved, _ = resolve_attempt(config, origins, None, settings, [], takes=trust.takes, options=trust.options)
    return resolved, see_that_it_is_taken(resolved, trust)


# --- the schema ------------------------------------------------------------------------------------------------------------


def test_every_key_says_who_may_set_it() -> None:
    who = {key: mark.who for key, mark in set_by(JobSpec).items()}
    assert {key for key in who if key.startswith(("model.", "training.", "checkpoint.")) and who[key] != "learning"} == set()
    assert {key for key in who if is_pinned(key) and who[key] != "learning"} == {"data.file"}
    assert {key for key in who if key.startswith("store.") and who[key] != "here"} == set()
    assert {key for key, one in who.items() if one == "asks"} == {
        *("data.uri", "data.file", "run.launcher", "run.host", "run.pass_env", "run.image", "run.network", "run.slurm.extra"),
        *("run.after", "run.nodes", "run.hf.namespace", "run.kaggle.private_dataset"),
        *("notify.slack", "notify.discord", "notify.ntfy", "notify.webhook", "notify.signed_with"),
        *("notify.command", "notify.mail", "tracking"),
    }
    assert all(mark.does for mark in set_by(JobSpec).values() if mark.who == "asks"), "what it would do is said"


def test_a_key_that_does_not_say_so_is_no_key() -> None:
    class New(JobSpec):
        """With a key that somebody has forgotten to think about."""

        mount: str | None = Field(None, description="what to mount")

    class Section(BaseModel):
        place: str = Field("x", description="a place")

    class Newer(JobSpec):
        """The same in a section."""

        section: Section = Field(default_factory=Section)

    with pytest.raises(LookupError, match=r"^mount: "):
        set_by(New)
    with pytest.raises(LookupError, match=r"^section\.place: "):
        set_by(Newer)


# --- what is asked ---------------------------------------------------------------------------------------------------------

ASKS: dict[str, Any] = {
    "data.uri": "/home/me/private.safetensors",
    "data.file": "private.safetensors",
    "run.launcher": "docker",
    "run.pass_env": ["HF_TOKEN"],
    "run.host": "root@evil.example.org",
    "run.image": "evil/image",
    "run.nodes": 64,
    "run.network": "host",
    "run.after": "shutdown",
    "notify.webhook": "AWS_SECRET_ACCESS_KEY",
    "notify.command": ["sh", "-c", "evil"],
    "notify.mail": "someone@example.org",
    "tracking": "wandb",
}


def test_all_that_a_job_asks_for_is_told_at_once_with_what_it_would_do(tmp_path: Path) -> None:
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **ASKS, **{"hardware.scratch_root": "~/projects"})
    with pytest.raises(UntrustedError) as refused:
        taken(job, Trust(job.store.uri))
    lines = str(refused.value).splitlines()
    told = {line.split()[0]: line.partition("  ")[2] for line in lines[1:-1]}
    assert set(told) == {*ASKS, "hardware.scratch_root"}
    assert all(told.values())
    assert "run.image = 'evil/image'" in str(refused.value)
    assert "--trust" in lines[-1]


@pytest.mark.parametrize("key", ASKS)
def test_each_is_taken_once_it_was_given_from_here_and_for_that_store_alone(tmp_path: Path, key: str) -> None:
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{key: ASKS[key]})
    with pytest.raises(UntrustedError, match=key):
        taken(job, Trust(job.store.uri))
    Trust(job.store.uri).remember({key: ASKS[key]})
    resolved, values = taken(job, Trust(job.store.uri))
    assert values == {key: ASKS[key]}
    assert resolved.items()[key] == ASKS[key]
    elsewhere = stored(tmp_path / "job.yaml", tmp_path / "another", **{key: ASKS[key]})
    with pytest.raises(UntrustedError, match=key):
        taken(elsewhere, Trust(elsewhere.store.uri))


def test_it_is_remembered_by_content(tmp_path: Path) -> None:
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"run.pass_env": ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY"]})
    Trust(job.store.uri).remember({"run.pass_env": ["HF_TOKEN"], "run.image": "HF_TOKEN"})
    with pytest.raises(UntrustedError, match=r"run\.pass_env"):
        taken(job, Trust(job.store.uri))


def test_what_is_said_now_is_not_asked_again(tmp_path: Path) -> None:
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"data.uri": ASKS["data.uri"]})
    resolved, values = taken(job, Trust(job.store.uri), "data.uri=/mine.safetensors")
    assert values == {}
    assert resolved.config.data.uri == "/mine.safetensors"


def test_origins_are_anothers_word_too(tmp_path: Path) -> None:
    """A pinned value counts whatever its origin; so it asks whatever its origin."""
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"data.file": "private.safetensors"})
    config, origins, _ = job.settings()
    origins = dict.fromkeys(origins, "configs/data/irds.yaml:3")
    trust = Trust(job.store.uri)
    resolved, _ = resolve_attempt(config, origins, None, [], [], takes=trust.takes, options=trust.options)
    with pytest.raises(UntrustedError, match=r"data\.file"):
        see_that_it_is_taken(resolved, trust)


@pytest.mark.parametrize("name", ["../private.safetensors", "*", "a/b", "", "..", "a\nb"])
def test_a_data_files_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"data.file": name})
    with pytest.raises(ValueError, match=r"data\.file"):
        taken(job, Trust(job.store.uri, all_of_it=True))


def test_an_attempt_believes_whoever_starts_it_and_only_about_these_values(tmp_path: Path) -> None:
    """It may be on a machine that remembers nothing; and the job may be replaced before it reads it."""
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"run.image": "evil/image"})
    with pytest.raises(UntrustedError):
        taken(job, Trust(job.store.uri, [mark("run.image", "good/image"), mark("run.network", "evil/image")]))
    assert taken(job, Trust(job.store.uri, [mark("run.image", "evil/image")]))[1] == {"run.image": "evil/image"}


# --- what is of one machine ------------------------------------------------------------------------------------------------


def test_places_of_another_machine_are_left_out(tmp_path: Path) -> None:
    places = {"hardware.scratch_root": "~/projects", "hardware.data_root": "/private", "store.endpoint_url": "http://evil"}
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **places)
    resolved, _ = taken(job, Trust(job.store.uri))
    assert resolved.config.hardware.scratch_root is None
    assert resolved.config.hardware.data_root != "/private"
    assert resolved.config.store.endpoint_url is None
    assert tmp_path / "projects" not in LocalLauncher.places(job, [])
    Trust(job.store.uri).remember(places)
    resolved, values = taken(job, Trust(job.store.uri))
    assert values == places
    assert Path("~/projects").expanduser() in LocalLauncher.places(job, [])


def test_how_many_processes_train_is_not_anothers_word(tmp_path: Path) -> None:
    """Sixty-four of them would take this machine's memory; the result is the same with one."""
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"hardware.ranks": 64})
    assert taken(job, Trust(job.store.uri))[0].config.hardware.ranks is None
    assert taken(job, Trust(job.store.uri), "hardware.ranks=2")[0].config.hardware.ranks == 2
    Trust(job.store.uri).remember({"hardware.ranks": 64})
    assert taken(job, Trust(job.store.uri))[0].config.hardware.ranks == 64


def test_how_many_gpus_train_is_not_anothers_word_but_whether_any_does(tmp_path: Path) -> None:
    """All of this machine's, or a rented one that costs eight times as much."""
    for said, counts in ((8, None), ("all", None), ([0, 1], None), (0, 0), (1, 1)):
        job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"run.gpus": said})
        assert taken(job, Trust(job.store.uri))[0].config.run.gpus == counts
    assert taken(job, Trust(job.store.uri), "run.gpus=2")[0].config.run.gpus == 2


@pytest.mark.parametrize(
    ("settings", "most", "origin"),
    [
        (["hardware.ranks=2"], 20, "what hardware.ranks needs"),
        (["run.gpus=4"], 10, "what run.gpus needs"),
        (["run.nodes=3", "run.launcher=slurm"], 14, "what run.nodes needs"),
        (["hardware.ranks=2", "training.gradient_accumulation_steps=2"], None, "default"),
        (["hardware.ranks=2", "hardware.micro_batch=8"], 8, "--set"),
        (["run.gpus=4", "hardware.device=cpu"], None, "default"),
        (["run.gpus=all"], None, "default"),
    ],
)
def test_who_may_not_be_told_how_many_ranks_there_are_cuts_batches_as_they_do(
    tmp_path: Path, settings: list[str], most: int | None, origin: str
) -> None:
    (tmp_path / "job.yaml").write_text(TINY)
    resolved = resolve_spec(tmp_path / "job.yaml", None, settings)
    origins = {key: str(one) for key, one in resolved.origins.items()}
    assert origins["hardware.micro_batch"] == origin
    job = Job.create(DirectoryStore(tmp_path / "shared"), "tiny", resolved.items(), origins, "0.1.0")
    stored, stored_origins, _ = job.settings()
    other = Trust(job.store.uri)
    taken, _ = resolve_attempt(stored, stored_origins, None, [], [], takes=other.takes, options=other.options)
    hardware = taken.config.hardware
    assert (hardware.ranks, hardware.micro_batch) == (None, most)


def test_a_bucket_is_reached_as_its_user_says(tmp_path: Path) -> None:
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"store.endpoint_url": "http://evil", "store.region": "x"})
    config, origins, _ = job.settings()
    trust = Trust(BUCKET, all_of_it=True)
    resolved, _ = resolve_attempt(config, origins, None, [], [], takes=trust.takes, options=trust.options)
    assert resolved.config.store.model_dump(exclude_defaults=True) == {"endpoint_url": "https://s3.example.org"}


@pytest.mark.parametrize(
    ("uri", "free"),
    [
        ("s3://team/jobs/data/x.safetensors", True),
        ("s3://team/jobs/data/x.safetensors?endpoint_url=https://s3.example.org", True),
        ("s3://team/jobs/data/x.safetensors?endpoint_url=https://s3.example.com", False),
        ("s3://team/jobs/data/x.safetensors?ca_bundle=/tmp/evil.pem", False),
        ("s3://team/jobs-private/x.safetensors", False),
        ("s3://team/x.safetensors", False),
        ("s3://other/jobs/x.safetensors", False),
        ("gs://team/jobs/x.safetensors", False),
        ("/etc/passwd", False),
    ],
)
def test_data_that_lie_with_the_jobs_need_no_word(uri: str, free: bool) -> None:
    assert Trust(BUCKET).takes("data.uri", uri) is free
    assert not Trust(BUCKET).takes("run.image", uri)


# --- commands --------------------------------------------------------------------------------------------------------------


def test_no_request_is_signed_for_a_server_that_a_stored_job_names(
    cli: Cli, tmp_path: Path, relay: tuple[str, list[bytes]]
) -> None:
    server, got = relay
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "mine", "AWS_DEFAULT_REGION": "us-east-1"}
    values = {"data.uri": f"s3://private/x.safetensors?endpoint_url={server}", "dataset": "ntu60", "data.num_classes": 60}
    job = stored(tmp_path / "job.yaml", tmp_path / "store", **values)
    for command in (["resume", job.id], ["attempt", job.uri, "--token", "0123abcd"]):
        refused = cli(*command, **keys)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "data.uri" in refused.stderr
        assert "signed with your credentials" in refused.stderr
        assert "Traceback" not in refused.stderr
    for command in (["status", job.id], ["list"], ["logs", job.id], ["sync", job.id], ["stop", job.id]):
        cli(*command, **keys)
    assert got == []
    assert not job.attempts.all()
    asked = cli("resume", job.id, "--trust", **keys)
    assert asked.returncode == 4, asked.stderr
    assert b"AKIDEXAMPLE" in b"".join(got)  # so it would have been


def test_a_stored_jobs_own_set_is_neither_asked_for_nor_opened(
    cli: Cli, tmp_path: Path, relay: tuple[str, list[bytes]]
) -> None:
    server, got = relay
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "mine", "AWS_DEFAULT_REGION": "us-east-1"}
    uri, local = f"s3://evil/x.safetensors?endpoint_url={server}", tmp_path / "own.safetensors"
    os.mkfifo(local)  # whoever opens it waits for ever
    told = {"data.content": "0" * 64, "data.num_classes": 2, "data.splits": ["a"], "split_type": "a", "data.joints": 17}
    for values, words in (
        ({"dataset": "evil.safetensors", "data.uri": uri}, []),
        ({"dataset": "evil.safetensors", "data.uri": uri}, ["--trust"]),
        ({"dataset": "evil.safetensors", "data.uri": uri, **told, "data.content": None}, []),
        ({"dataset": uri}, ["--set", "training.epochs=4"]),
        ({"dataset": uri, **told}, []),
        ({"dataset": str(local)}, []),
        ({"dataset": "own.safetensors", "data.uri": str(local)}, []),
    ):
        job = stored(tmp_path / "job.yaml", tmp_path / "store", **values)
        if "data.content" not in values:
            record = json.loads((tmp_path / "store" / job.id / "job.json").read_text())
            del record["config"]["data.content"]
            (tmp_path / "store" / job.id / "job.json").write_text(json.dumps(record))
        refused = cli("resume", job.id, *words, **keys)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "a stored job names its own set's file without a place" in refused.stderr
        assert got == []
    # One that says all is as any other: its user decides where its file is.
    job = stored(tmp_path / "job.yaml", tmp_path / "store", **{"dataset": "evil.safetensors", "data.uri": uri, **told})
    refused = cli("resume", job.id, **keys)
    assert (refused.returncode, "signed with your credentials" in refused.stderr, got) == (2, True, []), refused.stderr


def test_trust_is_remembered_and_submitting_from_here_is_enough(cli: Cli, tmp_path: Path) -> None:
    scratch = tmp_path / "own scratch"
    one = stored(tmp_path / "job.yaml", tmp_path / "store", **{"run.pass_env": ["HOME"], "training.epochs": 1})
    refused = cli("resume", one.id)
    assert refused.returncode == 2
    assert "run.pass_env = ['HOME']  hands these variables of yours to the trainer" in refused.stderr
    assert cli("resume", one.id, "--trust", *NO_ENGINE, **NOWHERE).returncode == 6
    [kept] = (tmp_path / ".local/share/lastrun/trusted").glob("*/*")
    assert json.loads(kept.read_text()) == {"store": (tmp_path / "store").as_uri(), "key": "run.pass_env", "value": ["HOME"]}
    assert kept.stat().st_mode & 0o077 == 0
    two = stored(tmp_path / "job.yaml", tmp_path / "store", **{"run.pass_env": ["HOME"], "training.epochs": 1})
    assert cli("resume", two.id, *NO_ENGINE, **NOWHERE).returncode == 6

    (tmp_path / "tiny.yaml").write_text(TINY.replace("epochs: 3", "epochs: 1"))
    words = ["--set", f"hardware.scratch_root={scratch}", "--set", "run.pass_env=[PATH]", "--set", "name=mine"]
    done = cli("submit", tmp_path / "tiny.yaml", *words)
    assert done.returncode == 0, done.stderr
    words = ["--set", "training.epochs=2", "--allow-change", "training.epochs"]
    assert cli("resume", "mine", *words, *NO_ENGINE, **NOWHERE).returncode == 6


def test_a_store_of_ones_own_is_trusted_in_the_settings(cli: Cli, tmp_path: Path) -> None:
    job = stored(tmp_path / "job.yaml", tmp_path / "store", **{"run.pass_env": ["HOME"], "training.epochs": 1})
    (tmp_path / ".config/lastrun").mkdir(parents=True)
    settings = tmp_path / ".config/lastrun/config.toml"
    settings.write_text('trusted = ["/elsewhere"]\n')
    assert cli("resume", job.id, *NO_ENGINE, **NOWHERE).returncode == 2
    settings.write_text('trusted = "/elsewhere"\n')
    assert "trusted has to be a list" in cli("resume", job.id).stderr
    settings.write_text(f'trusted = ["/elsewhere", "{tmp_path}/store/"]\n')
    done = cli("resume", job.id, *NO_ENGINE, **NOWHERE)
    assert done.returncode == 6, done.stderr


def test_a_job_file_says_what_it_does_beside_training(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "sent" / "job.yaml"
    path.parent.mkdir()
    more = "run: {pass_env: [HOME], network: host}\nstore: {endpoint_url: 'http://evil.example'}\n"
    path.write_text(TINY.replace("{cpu_threads: 1}", "{cpu_threads: 1, scratch_root: /var/tmp/x, data_root: data}") + more)
    for words in (["--dry-run"], ["--dry-run", "--json"], NO_ENGINE):
        done = cli("submit", path, *words, **NOWHERE)
        assert done.returncode == (6 if words == NO_ENGINE else 0), done.stderr
        said = done.stdout + done.stderr
        assert "does more than train" in said
        for key in ("run.pass_env", "run.network", "store.endpoint_url", "hardware.scratch_root"):
            assert key in said
        note = said[said.index("does more than train") :].split("environment:")[0]
        assert "data_root" not in note or "is searched" not in note, "a folder beside the file"
    path.write_text(TINY)
    assert "does more" not in cli("submit", path, "--dry-run", "--set", "run.pass_env=[HOME]").stdout


def test_first_weights_that_a_file_names_are_told_before_they_are_looked_for(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "sent" / "job.yaml"
    path.parent.mkdir()
    (path.parent / "own.pt").touch()
    evil = "s3://bucket/jobs/a-job?endpoint_url=http://127.0.0.1:9"
    several = "sweep: {grid: {training.lr: [0.1, 0.2]}}\n"
    for sweep, words in (("", ["--dry-run"]), (several, ["--dry-run", "--json"]), (several, ["--yes"]), ("", [])):
        path.write_text(TINY.replace("{variant", f"{{init: '{evil}', variant") + sweep)
        done = cli("submit", path, *words)
        assert done.returncode == 2, done.stdout + done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert f"does more than train: model.init = '{evil}' reads it, signed with your credentials" in said
        assert "found endpoint_url http://127.0.0.1:9; allowed: that of the job's store (it names none)" in said
    assert not (tmp_path / "store").exists()
    for name, told in (("own.pt", False), ("../other.pt", True), ("some-job", True)):
        path.write_text(TINY.replace("{variant", f"{{init: {name}, variant"))
        resolved = resolve_spec(path, None, [])
        assert bool(notes_of_file(resolved, path)) is told, name
        assert brought(resolved) == {}, "an attempt is told nothing of it: it never opens that"


def test_what_a_submitted_job_brings_is_what_differs_from_what_there_would_be(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(TINY)
    words = ["run.launcher=local", "run.image=null", "run.pass_env=[]", "data.file=null", "store.requester_pays=false"]
    assert brought(resolve_spec(tmp_path / "job.yaml", None, words)) == {}


def test_what_one_is_to_agree_to_is_shown_in_full(tmp_path: Path) -> None:
    uri = f"s3://team-data/{'datasets/' * 30}x.safetensors?endpoint_url=https://evil.example"
    variables = [*(f"HARMLESS_{number}" for number in range(30)), "AWS_SECRET_ACCESS_KEY"]
    job = stored(tmp_path / "job.yaml", tmp_path / "shared", **{"data.uri": uri, "run.pass_env": variables})
    with pytest.raises(UntrustedError) as refused:
        taken(job, Trust(job.store.uri))
    assert uri in str(refused.value)
    assert "'AWS_SECRET_ACCESS_KEY']" in str(refused.value)


@pytest.mark.parametrize("key", ["jobs/../x.safetensors", "jobs/a/../../x.safetensors", "jobs/./x.safetensors", "jobs//x"])
def test_a_way_out_of_the_store_is_not_in_it(key: str) -> None:
    assert not Trust(BUCKET).takes("data.uri", f"s3://team/{key}")


def test_a_link_beside_a_job_file_that_leads_away_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    (folder / "data").symlink_to("/etc")
    (folder / "own").mkdir()
    for name, told in (("data/x.safetensors", True), ("own/x.safetensors", False), ("../x.safetensors", True)):
        (folder / "job.yaml").write_text(TINY + f"data: {{uri: {name}}}\n")
        resolved = resolve_spec(folder / "job.yaml", None, [])
        assert bool(notes_of_file(resolved, folder / "job.yaml")) is told
