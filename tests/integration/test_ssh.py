"""Attempts on a machine that a real sshd leads to: what is told before they start, and what they survive.

That machine is this one, with another home folder, a shell that greets, and a noexec temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.errors import EngineError
from runner.job.job import Job
from runner.launch.ssh.connection import Connection, CutError, FarError
from runner.launch.ssh.setup import Host
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from tests import debian
from tests.conftest import Cli
from tests.jobs import LONGER, PATIENCE, Run, assert_same, at_rest, command_lines, jobs_in, some_step_is_stored, wait_until
from tests.sshd import Sshd
from tests.terminals import Terminal

pytestmark = [pytest.mark.xdist_group("ssh"), pytest.mark.slow]

ON = ("--on", "far")
LONG = ("--set", "training.epochs=5000")


@pytest.fixture
def here(far: Sshd, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The test itself calls ssh."""
    for name in ("PATH", "XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.setenv(name, clean_env[name])
    return far


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent without keys."""
    with tempfile.TemporaryDirectory(prefix="agent-", dir="/tmp") as folder:
        process = subprocess.Popen(["ssh-agent", "-D", "-a", f"{folder}/socket"], stdout=subprocess.DEVNULL)
        wait_until(lambda: Path(folder, "socket").exists())
        monkeypatch.setenv("SSH_AUTH_SOCK", f"{folder}/socket")
        yield
        process.terminate()
        process.wait()


def far_shell_runs(far: Sshd, text: str) -> None:
    """Before what it is asked to run."""
    (far.folder / "home" / "rc").write_text(text)


def there(job: Job) -> Path:
    """The proc folder of the attempt."""
    return Path(f"/proc/{job.attempts.all()[-1].pid}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("changed", "changed: its host key is another than the one that you know"),
        ("unknown", "unknown: its host key is not known here: log in once by hand"),
        ("refused", "refused: it does not let you in: load the key into ssh-agent"),
        ("closed", "closed: nothing listens there"),
        ("badly-jumped", "badly-jumped: the machine that leads to it (ProxyJump) does not let you through"),
    ],
)
def test_why_a_host_is_not_reached_is_told_with_what_to_do(here: Sshd, name: str, told: str) -> None:
    with pytest.raises(CutError) as caught:
        Connection(name).call("true")
    assert str(caught.value).startswith(told)


@pytest.mark.usefixtures("agent")
def test_keys_of_an_agent_and_jump_hosts_are_those_of_the_user(here: Sshd) -> None:
    assert Connection("jumped").call("echo there") == b"there\n"
    assert Connection("far").call('echo "$SSH_CONNECTION"') != Connection("jumped").call('echo "$SSH_CONNECTION"')
    with pytest.raises(CutError, match="it does not let you in"):
        Connection("by-agent").call("true")
    subprocess.run(["ssh-add", "-q", here.folder / "user"], check=True)
    assert Connection("by-agent").call("cat", b"what is \0 binary\n") == b"what is \0 binary\n"


def test_one_connection_is_kept(here: Sshd) -> None:
    sockets = [Connection("far").call('echo "$SSH_CONNECTION"') for _ in range(2)]
    assert sockets[0] == sockets[1]


def test_a_kept_connection_that_holds_on_to_what_ssh_says_keeps_nobody_waiting(
    here: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does of older versions of OpenSSH: until it is closed, a minute after its last use."""
    (tmp_path / "ssh").write_text(f'#!/bin/sh\nsleep 30 </dev/null >/dev/null &\nexec {here.bin}/ssh "$@"\n')
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.monotonic()
    assert Connection("far").call("echo there") == b"there\n"
    with pytest.raises(FarError, match=r"^no room$"):
        Connection("far").call("echo error: no room >&2; exit 1")
    assert time.monotonic() - began < 25


def test_what_takes_minutes_there_is_told_as_it_is_done(here: Sshd) -> None:
    heard: list[str] = []
    Connection("far").follow("read x; echo $x; echo two", b"one\n", 30, heard.append)
    assert heard == ["one", "two"]
    with pytest.raises(FarError, match=r"^no room$"):
        Connection("far").follow("echo three; echo error: no room >&2; exit 1", b"", 30, heard.append)
    assert heard == ["one", "two", "three"]
    with pytest.raises(CutError, match="far does not answer within 1 s"):
        Connection("far").follow("sleep 30", b"x" * (1 << 20), 1, heard.append)
    with pytest.raises(CutError, match="closed: nothing listens there"):
        Connection("closed").follow("true", b"x" * (1 << 20), 30, heard.append)


def test_all_that_a_bare_machine_lacks_is_told_at_once(
    cli: Cli, far: Sshd, tiny: Path, clean_env: dict[str, str], small_disk: Path, tmp_path: Path
) -> None:
    """Another home on a full disk, a PATH without a Python, and the store's folder hidden from it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "df", "tail", "uname", "mkdir", "cat", "chmod", "mv"):
        (programs / name).symlink_to(f"/bin/{name}")
    hidden = 'mount -t tmpfs none "$0" && PATH="$1" exec /bin/sh -c "$2"'
    store = Path(clean_env["LASTRUN_STORE"])
    store.mkdir()
    far_shell_runs(
        far,
        f"export HOME={small_disk}; exec unshare -m /bin/sh -c '{hidden}' {store} {programs} \"$BASH_EXECUTION_STRING\"",
    )
    own = ":".join(place for place in clean_env["PATH"].split(":") if not Path(place, "uv").exists())
    refused = cli("submit", tiny, *ON, PATH=own)
    assert refused.returncode == 6, refused.stderr
    lines = refused.stderr.splitlines()
    assert [line.removeprefix("error: ")[:4] for line in lines] == ["far:"] * len(lines)
    assert f"store file://{store} is a folder here, and not the same one there: take a bucket" in refused.stderr
    assert "its home folder has 2 MiB left" in refused.stderr
    assert "it has no Python of 3.10 or newer with pip or venv, and no uv to bring one" in refused.stderr
    assert list(store.iterdir()) == []
    assert list(small_disk.iterdir()) == []


def test_what_a_prepared_machine_lacks_is_told_at_once(cli: Cli, far: Sshd, tiny: Path, clean_env: dict[str, str]) -> None:
    store = Path(clean_env["LASTRUN_STORE"])
    store.mkdir()
    hidden = 'mount -t tmpfs none "$0" && exec /bin/sh -c "$1"'
    calls = store.with_name("calls")
    far_shell_runs(far, f"echo >>{calls}; exec unshare -m /bin/sh -c '{hidden}' {store} \"$BASH_EXECUTION_STRING\"")
    refused = cli("submit", tiny, *ON, "--set", "run.gpus=1", "dataset=ntu60", "data.uri=/nowhere/ntu60.safetensors")
    assert refused.returncode == 6, refused.stderr
    assert "finds no GPU" in refused.stderr
    assert "run.gpus=0 trains on its CPU" in refused.stderr
    assert "is a folder here, and not the same one there" in refused.stderr
    assert "no file /nowhere/ntu60.safetensors" in refused.stderr
    assert calls.read_text() == "\n", "in one round trip"
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("words", [ON, ("--on", "far,closed", "--set", "sweep.seeds=2")], ids=["one job", "a sweep"])
def test_who_leaves_before_there_is_a_job_leaves_nothing_in_the_stores_folder(
    run: Any, far: Sshd, tiny: Path, tmp_path: Path, clean_env: dict[str, str], words: tuple[str, ...]
) -> None:
    far_shell_runs(far, f'case "$BASH_EXECUTION_STRING" in *" check"*) touch {tmp_path}/asked; exec sleep 60;; esac\n')
    Path(clean_env["LASTRUN_STORE"]).mkdir()
    current: Run = run("submit", tiny, *words)
    wait_until(lambda: (tmp_path / "asked").exists() or current.process.poll() is not None)
    assert list(tmp_path.glob("store/.lastrun-*"))
    current.press_ctrl_c()
    code, out = current.end()
    assert (code, out) == (-signal.SIGINT, "")
    assert list(tmp_path.glob("store/*")) + list(tmp_path.glob("store/.*")) == []


def test_a_connection_that_is_cut_while_it_is_followed_is_made_anew(
    run: Any, far: Sshd, tiny: Path, clean_env: dict[str, str], uninterrupted: Any
) -> None:
    """And what was handed over in secret is in no file and on no command line, here or there."""
    before = left_there(far)  # another test's that nobody followed to its end stays for a week
    secret = "hf_" + "secret" * 5
    clean_env["HF_TOKEN"] = secret
    current: Run = run("submit", tiny, *ON, *LONGER, "run.pass_env=[HF_TOKEN]")
    with current.held(some_step_is_stored):
        assert f"HF_TOKEN={secret}".encode() in environ_of_trainer(current.job)
        assert not [line for line in command_lines().values() if secret.encode() in line]
        wait_until(far.cut)
    code, out = current.end()
    assert code == 0, out
    assert "far: the connection broke; the attempt goes on, and is looked for again\n" in out
    assert [f"epoch {number}/3" in out for number in (1, 2, 3)] == [True] * 3
    assert out.count("epoch 1/3  lr ") == 1  # beside what tells of the middle of a long one
    assert_same(current.job, uninterrupted)
    files = [path for top in (far.folder / "home", Path(clean_env["HOME"])) for path in top.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert left_there(far) == before


def test_a_machine_that_is_restarted_is_told_of_and_its_job_goes_on_there(
    run: Any, far: Sshd, tiny: Path, uninterrupted: Any
) -> None:
    """All that ran there is gone, what is on its disk is not."""
    current: Run = run("submit", tiny, *ON, *LONGER, "run.auto_continue=1")
    with current.held(some_step_is_stored):
        far.end_all()
        far.cut()
    code, out = current.end()
    assert code == 0, out
    assert "lost (its process on far is gone); continued by itself (1 of 1, run.auto_continue)" in out
    assert_same(current.job, uninterrupted)
    assert [attempt.phase for attempt in current.job.attempts.all()] == ["lost", "ended"]


def left_there(far: Sshd) -> set[Path]:
    """Folders of attempts, and what they left to be sent."""
    own = far.folder / "home" / ".cache" / "lastrun"
    return {path for place in (own / "ssh" / "runs", own / "scratch") if place.exists() for path in place.iterdir()}


def environ_of_trainer(job: Job) -> bytes:
    attempt = there(job)
    child = (attempt / "task" / attempt.name / "children").read_text().split()[0]
    return Path(f"/proc/{child}/environ").read_bytes()


def test_at_a_terminal_it_has_the_live_view_and_ctrl_c_asks_whether_to_stop_or_only_to_stop_looking(
    cli: Cli, far: Sshd, tiny: Path, clean_env: dict[str, str]
) -> None:
    """Two at once on one machine: one is left to itself, the other is asked to save."""
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    command = [sys.executable, "-m", "runner", "submit", str(tiny), *ON, *LONG]
    both = [Terminal(80, 30), Terminal(80, 30)]
    processes = [terminal.start(command, clean_env, clean_env["HOME"]) for terminal in both]
    try:
        wait_until(lambda: len([job for job in jobs_in(store) if some_step_is_stored(job)]) == 2)
        for terminal, process, answer in zip(both, processes, ("\n", "stop\n")):
            view = r"(?m)^epoch ━.* left\n+job   ━.* left\n+loss \d.*\n(.*\n)*.*synced step \d"
            wait_until(lambda terminal=terminal, view=view: re.search(view, terminal.text))
            assert re.search(r"(?m)^tiny-\S+  running, attempt 1 on ", terminal.text)
            epoch = r"(?m)^epoch 1/5000  .*test top-1 \S+.*  best$"  # in one line
            wait_until(lambda terminal=terminal, epoch=epoch: re.search(epoch, terminal.text))
            os.kill(process.pid, signal.SIGINT)
            wait_until(lambda terminal=terminal: terminal.lines[-1].endswith(" [stop/LOOK]"))  # and no view below it
            terminal.press(answer)
            assert process.wait(PATIENCE) == 75, terminal.text
            wait_until(lambda terminal=terminal: not re.search("━{3}", terminal.text))
            assert terminal.shows_cursor
        wait_until(lambda: "goes on on far. lastrun status" in both[0].text.replace("\n", " "))
        wait_until(lambda: both[1].lines[-1].startswith("next: lastrun resume "))
    finally:
        for terminal, process in zip(both, processes):
            process.kill()
            process.wait()
            terminal.close()
    phases = {(job.attempts.all()[-1].phase, job.attempts.all()[-1].reason) for job in jobs_in(store)}
    assert phases == {("running", None), ("ended", "interrupted")}
    left = next(job for job in jobs_in(store) if job.attempts.all()[-1].open)
    assert cli("stop", left.id, "--wait").returncode == 0
    assert left.attempts.all()[-1].reason == "stop_requested"


def test_the_host_tells_of_an_attempt_that_gives_no_sign(cli: Cli, far: Sshd, tiny: Path, clean_env: dict[str, str]) -> None:
    assert cli("submit", tiny, *ON, *LONG, "--detach").returncode == 0
    [job] = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    [attempt] = job.attempts.all()
    assert json.loads(next((Path(clean_env["HOME"]) / ".local/share/lastrun/ssh").iterdir()).read_text())["host"] == "far"
    os.kill(attempt.pid, signal.SIGKILL)
    attempt.machine = "another"
    job.attempts.write(attempt)
    wait_until(lambda: cli("status", job.id) and not job.attempts.all()[-1].open)
    [found] = job.attempts.all()
    assert (found.phase, found.message) == ("lost", "its process on far was killed")


def test_what_was_taken_back_does_not_begin(here: Sshd) -> None:
    host = Host("far")
    host.call("end", "0123abcd")
    with pytest.raises(EngineError, match="far: it was taken back before it began"):
        host.call("start", given={"token": "0123abcd"})
    host.call("remove", "0123abcd")
    with pytest.raises(EngineError, match="eight hexadecimal digits"):
        host.call("remove", "../../x")


SYSTEMD_RUN = """\
#!/bin/sh
echo "$*" >>{calls}
[ "$1 $2 $3 $4 $5" = "--user --scope --collect --quiet --" ] || exit 9
shift 5
{then}
"""


@pytest.mark.parametrize(
    ("linger", "then", "calls"),
    [("yes", 'exec "$@"', 2), ("yes", 'echo "Failed to connect to bus" >&2; exit 1', 1), ("no", 'exec "$@"', 0)],
    ids=["works", "fails", "does not linger"],
)
def test_a_login_that_lingers_has_its_attempts_in_a_scope_of_systemd_or_in_a_session(
    cli: Cli, far: Sshd, tiny: Path, tmp_path: Path, linger: str, then: str, calls: int
) -> None:
    """Its two programs are made up: what they are called with, and what follows when they fail. No systemd runs here."""
    programs, log = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    (programs / "systemd-run").write_text(SYSTEMD_RUN.format(calls=log, then=then))
    asked = f"show-user {os.getuid()} --property=Linger --value"
    (programs / "loginctl").write_text(f'#!/bin/sh\n[ "$*" = "{asked}" ] && echo {linger}\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    far_shell_runs(far, f"export PATH={programs}:$PATH; unset XDG_RUNTIME_DIR\n")
    done = cli("submit", tiny, *ON)
    assert done.returncode == 0, done.stdout + done.stderr
    said = log.read_text().splitlines() if log.exists() else []
    assert len(said) == calls, said
    assert [line.split(" -- ")[1].split()[0] for line in said][:1] == ["true"][:calls]
    assert [" watch " in line for line in said] == [False, True][:calls]


def test_a_host_is_listed_looked_at_and_cleaned(cli: Cli, far: Sshd, tiny: Path, clean_env: dict[str, str]) -> None:
    """Under a name of one's own; what is put there lies in one folder, which an attempt that runs keeps."""
    settings = Path(clean_env["HOME"]) / ".config" / "lastrun" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('[hosts.mine]\nssh = "far"\nenv = "local"\n')
    looked = cli("host", "check", "mine", "--json")
    assert looked.returncode == 0, looked.stdout + looked.stderr
    facts = json.loads(looked.stdout)
    assert (facts["gpus"], facts["runs"], facts["problems"]) == ([], 0, [])
    assert facts["folder"] == str(far.folder / "home/.cache/lastrun/ssh")
    assert facts["torch"]

    settings.write_text('[hosts.mine]\nssh = "far"\nenv = "lambda"\n')
    looked = cli("host", "check", "mine")
    assert looked.returncode == 6
    assert "its profile in config.toml is lambda, and it is local (no sign of" in looked.stdout
    refused = cli("submit", tiny, "--on", "mine")
    assert refused.returncode == 2, "and not there, once there is a job"
    assert "error: env lambda: mine is local (no sign of" in refused.stderr
    assert "say --here to train on mine with that profile all the same, or name the profile that fits it with --env" in (
        refused.stderr
    )
    assert not Path(clean_env["LASTRUN_STORE"]).exists()
    assert cli("submit", tiny, "--on", "mine", "--here", "--dry-run").returncode == 0
    settings.write_text('[hosts.mine]\nssh = "far"\nenv = "local"\n')

    assert cli("submit", tiny, "--on", "mine", *LONG, "--detach").returncode == 0
    [job] = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    with at_rest(job):
        assert json.loads(cli("host", "list", "--json").stdout)["hosts"] == [
            {"name": "mine", "ssh": "far", "env": "local", "attempts": 1}
        ]
        refused = cli("host", "clean", "mine")
        assert refused.returncode == 6
        assert "an attempt runs there: lastrun stop JOB has it save and end" in refused.stderr
    assert (job.attempts.all()[0].container or {})["name"] == "mine"
    assert cli("stop", job.id, "--wait").returncode == 0

    # Another home, with an environment that is but looks like one, is enough to see what goes and what is refused.
    home = Path(clean_env["HOME"]) / "other"
    folder = home / ".cache" / "lastrun"
    shutil.copytree(far.folder / "home/.cache/lastrun/ssh", folder / "ssh", symlinks=True)
    (folder / "scratch" / "lastrun-j-0001").mkdir(parents=True)
    (folder / "objects").mkdir()
    far_shell_runs(far, f"export HOME={home}\n")
    refused = cli("host", "clean", "mine")
    assert "what it could not send (lastrun-j-0001)" in refused.stderr
    assert (folder / "ssh").exists()
    assert f"{folder}/ssh was removed" in cli("host", "clean", "mine", "--force").stdout
    assert [path.name for path in folder.iterdir()] == ["objects"]
    assert "there was nothing of lastrun's" in cli("host", "clean", "mine").stdout
    anew = cli("host", "check", "mine")
    assert anew.returncode == 0, anew.stdout + anew.stderr
    told = [line for line in anew.stderr.splitlines() if not line.startswith("mine: still being set up (")]
    assert told[0].startswith("mine: setting lastrun up with ")
    assert told[1:] == ["mine: installing what lastrun needs"]
    assert cli("host", "check", "-oProxyCommand=x").returncode == 2
    assert cli("submit", tiny, "--on", "mine", "--launcher", "local").returncode == 2


@pytest.mark.parametrize("shell", ["tcsh", pytest.param("fish", marks=pytest.mark.full)])
def test_a_login_shell_that_is_none_of_posix_sets_up_and_runs_as_well(
    cli: Cli, far: Sshd, tiny: Path, tmp_path: Path, shell: str
) -> None:
    debian.need(shell, lambda: debian.why_not([shell], [shell]))
    (tmp_path / "home").mkdir()
    far_shell_runs(far, f'export HOME={tmp_path}/home; exec {shell} -c "$BASH_EXECUTION_STRING"\n')
    done = cli("submit", tiny, *ON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "far: setting lastrun up with" in done.stderr
    assert "there was nothing" not in cli("host", "clean", "far").stdout
    assert "there was nothing" in cli("host", "clean", "far").stdout


CUT_ONCE = """\
case "$BASH_EXECUTION_STRING" in *" receive "*)
  if mkdir {once} 2>/dev/null; then head -c 1000000 | bash -c "$BASH_EXECUTION_STRING" 2>/dev/null; kill -9 $PPID; fi;;
esac
"""


def test_data_are_sent_once_and_gone_on_with_after_a_cut(
    cli: Cli, far: Sshd, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "made up.safetensors"
    assert cli("data", "synth", "--like", "ntu60", "--clips", "240", "--out", data).returncode == 0
    assert data.stat().st_size > 2_000_000
    far_shell_runs(far, CUT_ONCE.format(once=tmp_path / "once"))
    words = ("--set", "dataset=ntu60", f"data.uri={data}", "training.epochs=1", "training.warmup_epochs=0")
    words = ("submit", tiny, *ON, *words)
    dry = cli(*words, "--dry-run")
    assert "nothing was written" in dry.stdout, dry.stdout + dry.stderr
    sent = far.folder / "home/.cache/lastrun/ssh/data"
    assert not sent.exists()
    done = cli(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    size = f"{data.stat().st_size / 1e6:.1f} MB"
    assert [line for line in done.stderr.splitlines() if line.startswith("far:")] == [
        f"far: sending made up.safetensors, {size}",
        "far: the connection broke while made up.safetensors was sent; going on with it",
        f"far: sending made up.safetensors, {size}, from 1.0 on",
    ]
    [job] = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    copy = sent / hashlib.sha256(data.read_bytes()).hexdigest() / data.name
    assert (job.attempts.all()[0].container or {})["data"] == str(copy)
    assert [path.name for path in copy.parent.iterdir()] == [data.name]

    # What is damaged on its way is noticed, and taken away.
    damaged = copy.with_name(".part")
    copy.rename(damaged)
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:-1])
    again = cli(*words)
    assert again.returncode == 6, again.stdout + again.stderr
    assert "far: the data that came are not what was sent, and were removed; try again" in again.stderr
    assert list(copy.parent.iterdir()) == []


def test_a_host_that_goes_away_at_the_start_leaves_a_word(cli: Cli, far: Sshd, tiny: Path, clean_env: dict[str, str]) -> None:
    """The attempt may have begun or not: nobody can know, and where to look is told. Then the host is back."""
    far_shell_runs(far, 'case "$BASH_EXECUTION_STRING" in *" start"*|*" end "*) kill -9 $PPID; exit;; esac\n')
    gone = cli("submit", tiny, *ON)
    assert gone.returncode == 6, gone.stdout + gone.stderr
    [job] = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    assert f"; lastrun status {job.id} tells whether its attempt has begun all the same" in gone.stderr
    assert len(gone.stderr.splitlines()) == 1
    far_shell_runs(far, "")
    assert cli("resume", job.id).returncode == 0


def test_keys_of_a_bucket_go_along_to_memory_alone(
    cli: Cli, far: Sshd, bucket: str, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    """Over https with a CA of its own. Keys that boto3 has from a file here are handed over, too; wrong ones are told before
    there is a job, by who tried them there."""
    done = cli("submit", tiny, *ON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [job.attempts.all()[-1].reason for job in jobs_in(open_store(clean_env["LASTRUN_STORE"]))] == ["completed"]
    secret = clean_env["AWS_SECRET_ACCESS_KEY"]
    wrong = cli("submit", tiny, *ON, AWS_SECRET_ACCESS_KEY=secret[::-1])
    assert wrong.returncode == 6
    assert "far: s3://" in wrong.stderr
    assert "the secret key does not fit the access key" in wrong.stderr

    named = [f"{name.lower()} = {clean_env.pop(name)}\n" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    (tmp_path / "credentials").write_text("[default]\n" + "".join(named))
    looked = cli("host", "check", "far", AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "credentials"))
    assert looked.returncode == 0, looked.stdout + looked.stderr
    files = [path for path in (far.folder / "home").rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
