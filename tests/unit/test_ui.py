"""``lastrun ui`` against those who mean no good, and what it asks a store for."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from runner.errors import StoreError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests import groups
from tests.conftest import Cli, Figures
from tests.counting.store import CountingStore
from tests.jobs import PATIENCE, wait_until
from tests.reports import made_up
from tests.ui import Ui, ui
from tests.unit.test_report import HOSTILE
from tests.unit.test_round_trips import make_job

pytestmark = pytest.mark.slow  # the lowest versions have no starlette


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def env(home: Path) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LASTRUN_WAITS", "LASTRUN_SHUTDOWN") if name in os.environ
    }
    return {**kept, "HOME": str(home), "LASTRUN_STORE": str(home / "store")}


@pytest.fixture(scope="module")
def store(home: Path) -> DirectoryStore:
    return DirectoryStore(home / "store")


@pytest.fixture(scope="module")
def job(store: DirectoryStore, home: Path) -> Job:
    """One that has ended, all of whose names somebody else has chosen."""
    made = made_up(store, home, **{name: "".join(HOSTILE) for name in ("name", "host", "message", "origin")})
    last = made.attempts.names()[-1]
    store.put(made.paths.log(last, 1), b"begins here\n" + 20_000 * b"a line of the log\n")
    store.put(made.paths.log(last, 2), b"\x1b[7m</script><b>the end\n")
    return made


@pytest.fixture(scope="module")
def pages(env: dict[str, str], job: Job) -> Iterator[Ui]:
    """With a browser that has come in."""
    with ui(env) as one:
        assert one.enter().status == 200
        one.next_address()
        yield one


def routes(pages: Ui, job: Job) -> list[str]:
    own = ["", "clouds", f"compare?job={job.id}", f"job/{job.id}", f"job/{job.id}/report", "static/list.js"]
    api = ["jobs", "clouds", f"compare?job={job.id}", f"job/{job.id}", f"job/{job.id}/log"]
    return [f"{pages.root}/{path}" for path in [*own, *(f"api/{one}" for one in api)]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- who is let in ------------------------------------------------------------------------------------------------------


def test_without_the_cookie_nothing_is_shown(pages: Ui, job: Job) -> None:
    wrong = pages.cookie[:-1] + ("A" if pages.cookie[-1] != "A" else "B")
    for path in [*routes(pages, job), "/", "/favicon.ico", "/static/list.js"]:
        for cookie in (None, wrong, "lastrun-ui=", 'lastrun-ui="', pages.cookie.replace("lastrun-ui", "other")):
            answer = pages.ask(path, cookie=cookie)
            assert (answer.status, job.id in answer.text) == (401, False), path
    for path in (f"{pages.root}/api/run", f"{pages.root}/"):
        assert pages.ask(path, "POST", b"{}", cookie=None, origin=f"http://{pages.host}").status == 401
    assert pages.ask("/", cookie=pages.cookie).status == 404, "all is below a path that nobody else knows"


def test_a_token_lets_in_once_and_the_cookie_is_for_this_path_alone(env: dict[str, str], job: Job) -> None:
    with ui(env) as one:
        for token in ("token=", "token=x", f"token={one.token[6:-1]}", "token=%00", "token=%C3%A9"):
            assert one.ask(f"{one.root}/?{token}").status in (401, 403)
        assert one.ask(f"{one.root}/clouds?{one.token}").status == 401, "at the beginning alone"
        entered = one.enter()
        cookie = entered.headers["Set-Cookie"]
        assert re.fullmatch(rf"lastrun-ui=[\w-]{{43}}; Path={re.escape(one.root)}/; HttpOnly; SameSite=Strict", cookie)
        assert len(one.root) >= 20
        assert one.token[6:] not in entered.text, "where it goes on the token is not in the address"
        assert one.ask(f"{one.root}/").status == 200
        assert one.ask(f"{one.root}/?{one.token}", cookie=None).status == 403, "it was used"
        second = one.next_address()
        assert one.ask(second[second.index(one.root) :], cookie=None, sec_fetch_site="cross-site").status == 200, (
            "opened by a file"
        )


def test_cookies_of_others_on_this_machine_keep_nobody_out_or_busy(pages: Ui) -> None:
    for others in ('theme={"dark": 1}', "a b=c", "lastrun-ui=theirs", "\xe9=\xff", "$Version=1", '"', "=", "", "x" * 4000):
        for cookies in (f"{pages.cookie}; {others}", f"{others}; {pages.cookie}"):
            assert pages.ask(f"{pages.root}/", cookie=cookies).status == 200, cookies
    from runner.ui.guard import Keys

    keys, long = Keys(lambda: None), 'x="' + 20_000 * '\\"' + '"'
    began = time.process_time()
    assert not keys.fits(long)
    assert time.process_time() - began < 0.5, "of a cookie as long as a request's may be"


def test_one_comes_in_though_nobody_reads_what_is_printed(env: dict[str, str]) -> None:
    with ui(env) as one:
        assert one.process.stdout is not None
        one.process.stdout.close()
        assert one.enter().status == 200
        assert one.ask(f"{one.root}/").status == 200


def test_under_another_name_this_is_no_host(pages: Ui, job: Job) -> None:
    """A page of evil.example, whose name is bound anew to 127.0.0.1, has this server in its own origin."""
    own, port = pages.host, pages.port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        f"127.0.0.1:{port + 1}",
        "",
        f"{own}.evil.example",
        f"x@{own}",
    ):
        for path in (*routes(pages, job), f"{pages.root}/?{pages.token}"):
            answer = pages.ask(path, host=host, origin=f"http://{host}")
            assert (answer.status, job.id in answer.text) == (403, False), (host, path)
    assert pages.ask(f"{pages.root}/", host=f"localhost:{port}").status == 200
    for raw in (b"", b"Host: evil.example\r\n" + f"Host: {own}\r\n".encode()):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(f"GET {pages.root}/ HTTP/1.1\r\nCookie: {pages.cookie}\r\n".encode() + raw + b"\r\n")
            assert re.match(rb"HTTP/1.1 40[03] ", connection.recv(100))
    forwarded = pages.ask(
        f"{pages.root}/", host="evil.example", x_forwarded_host=own, x_forwarded_for="127.0.0.1", forwarded=f"host={own}"
    )
    assert forwarded.status == 403


def test_another_site_has_nothing_done_and_reads_nothing(pages: Ui, job: Job) -> None:
    body, path = json.dumps({"command": "stop", "name": job.id}).encode(), f"{pages.root}/api/run"
    own = f"http://{pages.host}"
    for origin in (
        None,
        "null",
        "http://evil.example",
        f"https://{pages.host}",
        f"http://127.0.0.1:{pages.port + 1}",
        f"{own}.evil.example",
        f"{own}/",
    ):
        refused = pages.ask(path, "POST", body, origin=origin, content_type="application/json")
        assert refused.status == 403, origin
    for site in ("cross-site", "same-site"):  # the second: of another port of this machine
        assert pages.ask(path, "POST", body, origin=own, sec_fetch_site=site, content_type="application/json").status == 403
        assert pages.ask(f"{pages.root}/api/jobs", sec_fetch_site=site).status == 403
    assert pages.ask(f"{pages.root}/api/jobs", origin="http://evil.example").status == 403
    for kind in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what a form can send
        assert pages.ask(path, "POST", body, origin=own, content_type=kind).status == 415
    answer = pages.ask(f"{pages.root}/api/jobs", origin=own)
    assert answer.status == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    assert job.store.get(job.paths.record)
    assert job.requests.keys() == []


def test_looking_changes_nothing(pages: Ui, job: Job, home: Path) -> None:
    before = contents(home / "store")
    for path in routes(pages, job):
        assert pages.ask(path).status == 200, path
        assert pages.ask(path, "HEAD").status == 200
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert pages.ask(path, method, b"{}", origin=f"http://{pages.host}").status == 405, path
    assert pages.ask(f"{pages.root}/api/run").status == 405
    assert pages.ask(f"{pages.root}/api/run?command=stop&name={job.id}").status == 405
    assert contents(home / "store") == before


def test_every_answer_forbids_what_pages_do_not_need(pages: Ui, job: Job) -> None:
    for path in [*routes(pages, job), "/", f"{pages.root}/nothing"]:
        headers = pages.ask(path).headers
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        if path.endswith("/report"):
            assert policy.startswith("sandbox allow-scripts;"), "in an origin of its own, which has no cookie"
        else:
            assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
            assert "require-trusted-types-for 'script'" in policy, "no script makes elements of text"
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == ("private, max-age=86400, immutable" if "/static/" in path else "no-store")
        assert "Server" not in headers


# --- what is reached ----------------------------------------------------------------------------------------------------


def test_no_path_leads_to_anything_but_jobs(pages: Ui, job: Job, store: DirectoryStore, home: Path) -> None:
    store.put("other/job.json", b'{"secret": 1}')
    store.put("settings/keys.json", b'{"secret": 1}')
    (home / "secret").write_text("secret")
    group = groups.group_of(store, home, "{grid: {training.lr: [0.1, 0.2]}}")
    odd = [
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fsecret",
        "%2e%2e%2fsecret",
        ".index",
        "other",
        "settings",
        group.id,
        "%00",
        "A",
        "-x",
        "a" * 90,
    ]
    odd += [
        f"{job.id}%2fattempts",
        f"{job.id}/attempts",
        f"{job.id}%2f..%2f..%2fsecret",
        f"..%2f{home.name}",
        "file:%2f%2f%2fetc",
        "%ff",
        "é".encode().hex(),
    ]
    for name in odd:
        for path in (f"job/{name}", f"api/job/{name}", f"api/job/{name}/log", f"job/{name}/report"):
            answer = pages.ask(f"{pages.root}/{path}")
            assert (answer.status, "secret" in answer.text) in ((404, False), (503, False)), (path, answer.text)
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "..%5capp.py", "app.py", "", "%00", "/etc/passwd", "layout.html"):
        assert pages.ask(f"{pages.root}/static/{name}").status == 404, name
    asked = pages.ask(f"{pages.root}/api/compare?job=other&job=..%2fsecret&group=x")
    assert (asked.status, "secret" in asked.text) == (404, False)
    assert pages.ask(f"{pages.root}/api/compare?" + "&".join(["job=a"] * 1001)).status == 400
    assert pages.ask(f"{pages.root}/api/compare").status == 400
    assert pages.ask(f"{pages.root}/api/jobs?since=-1").status == 200
    assert pages.ask(f"{pages.root}/api/jobs?since=" + "9" * 5000).status == 200


def test_names_that_others_have_chosen_are_text(pages: Ui, job: Job) -> None:
    told = pages.ask(f"{pages.root}/api/job/{job.id}")
    assert told.headers["Content-Type"] == "application/json"
    assert "\\u001b" not in told.text, "control characters are made visible"
    assert told.json()["title"].startswith(HOSTILE[0])
    page = pages.ask(f"{pages.root}/job/{job.id}").text
    assert "<script>" not in page, "pages hold no name of anybody's"
    report = pages.ask(f"{pages.root}/job/{job.id}/report").text
    assert "alert(1)</script>" not in report


def test_the_end_of_a_log_is_told_and_no_more(pages: Ui, job: Job) -> None:
    answer = pages.ask(f"{pages.root}/api/job/{job.id}/log")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    text = "".join(json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith('data: "'))
    assert text.startswith(f"[earlier lines: lastrun logs {job.id}]\n")
    assert text.endswith("a line of the log\n\\x1b[7m</script><b>the end\n")
    assert len(text) < 270_000
    assert answer.text.endswith("event: end\ndata: \n\n"), "it does not run"


def test_what_keeps_a_log_from_being_read_is_told_once_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.ui.follow import Followers

    monkeypatch.setattr("runner.ui.follow.FOLLOW_SECONDS", 0.1)
    store = CountingStore(tmp_path / "store")
    away, turns = make_job(store, 1), iter(range(4))

    def scan(prefix: str, after: str = "") -> Any:
        raise StoreError("no answer from https://me:hunter2hunter2@host/ \x1b[2J")

    async def told() -> list[str]:
        followers = Followers(lambda: next(turns, None) is None)
        return [event async for event in followers.events(away)]

    monkeypatch.setattr(store, "scan", scan)
    monkeypatch.setattr(store, "folders", scan)
    events = asyncio.run(told())
    assert len([event for event in events if event.startswith("data:")]) == 1, events
    assert "no answer from https://" in events[0]
    assert "hunter2" not in events[0]
    assert json.loads(events[0][6:]).endswith(" \\x1b[2J]\n")


def test_of_a_log_no_more_is_held_at_once_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.job.job._PIECES_BYTES", 12)
    store = CountingStore(tmp_path / "store")
    long = make_job(store, 1)
    keys = [long.paths.log(long.attempts.names()[0], number) for number in range(1, 6)]
    for key, text in zip(keys, (b"one\n", b"two\n", b"three\n", b"a line that is longer\n", b"five\n")):
        store.put(key, text)
    store.calls.clear()
    read = [(piece, sum(call in {f"get {key}" for key in keys} for call in store.calls)) for piece in long.log()]
    assert [count for _, count in read[-5:]] == [2, 2, 3, 4, 5], store.calls
    assert "".join(piece for piece, _ in read).endswith("\none\ntwo\nthree\na line that is longer\nfive\n")


# --- what is run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [
        {"command": "rm"},
        {"command": "stop", "name": "--all"},
        {"command": "stop", "name": "-h"},
        {"command": "resume", "name": "/tmp/store/x"},
        {"command": "resume", "name": "file:///tmp/store/x"},
        {"command": "resume", "name": "made; touch x"},
        {"command": "resume", "env": "gcp --yes"},
        {"command": "resume", "flags": ["now"]},
        {"command": "resume", "flags": ["set"]},
        {"command": "stop", "env": "local"},
        {"command": "stop", "words": ["--all"]},
        {"command": ["stop"]},
        {"command": "stop", "name": "x" * 5000},
    ],
    ids=str,
)
def test_nothing_is_run_but_what_a_page_offers(pages: Ui, job: Job, order: dict[str, Any]) -> None:
    answer = pages.order(**{"name": job.id, **order})
    assert answer.status in (400, 404, 413), answer.text
    assert "number" not in answer.text


def test_the_command_that_is_shown_is_run(pages: Ui, job: Job) -> None:
    order = {"command": "resume", "name": job.id, "env": "local", "flags": ["trust", "here"]}
    shown = pages.order(**order, only_show=True).json()["command"]
    assert shown == f"lastrun resume {job.id} --detach --env local --here --trust"
    told = pages.order(**order).json()
    tasks = Path(f"/proc/{pages.process.pid}/task").glob("*/children")
    (child,) = [int(one) for task in tasks for one in task.read_text().split()]
    assert os.getsid(child) == child, "Ctrl-C at the terminal is not for it"
    assert told["command"] == shown
    wait_until(lambda: pages.api(f"run/{told['number']}")["code"] is not None)
    ended = pages.api(f"run/{told['number']}")
    assert ended["code"] == 2, ended
    assert "error: " in ended["output"], "as on a terminal: it has completed, and is not gone on with"
    assert pages.ask(f"{pages.root}/api/run/99").status == 404


def test_what_a_command_would_have_asked_is_asked(pages: Ui, job: Job, store: DirectoryStore, home: Path) -> None:
    config = {**job.record()["config"], "tracking": "wandb"}
    foreign = Job.create(store, "foreign", config, dict.fromkeys(config, "job.yaml:3"), "0")

    def asks(**order: Any) -> Any:
        number = pages.order(command="resume", name=foreign.id, **order).json()["number"]
        wait_until(lambda: pages.api(f"run/{number}")["code"] is not None)
        told = pages.api(f"run/{number}")
        assert told["code"] == 2, told
        return told["asks"]

    assert asks() == ["trust"], "somebody else's job names a tracker"
    assert foreign.attempts.all() == []
    store.clear(foreign.paths.all)
    group = groups.group_of(store, home, "{grid: {training.lr: [0.1, 0.2]}}")
    shown = pages.order(command="stop", name=group.id, flags=["now"], only_show=True)
    assert shown.json()["command"] == f"lastrun stop {group.id} --now"


# --- how it begins and ends -----------------------------------------------------------------------------------------------


def test_so_many_follow_a_log_and_ctrl_c_ends_it_all_the_same(
    env: dict[str, str], home: Path, store: DirectoryStore, figure: Figures
) -> None:
    one = Job.create(store, "runs", made_up(store, home).record()["config"], {}, "0")
    running = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    one.attempts.write(running)
    one.attempts.write_heartbeat(running, {})
    with ui(env) as started:
        started.enter()
        headers = {"Host": started.host, "Cookie": started.cookie}

        @contextmanager
        def followed() -> Iterator[bytes]:
            with closing(http.client.HTTPConnection("127.0.0.1", started.port, timeout=PATIENCE)) as connection:
                connection.request("GET", f"{started.root}/api/job/{one.id}/log", headers=headers)
                with connection.getresponse() as answer:
                    yield answer.readline()

        def has_room() -> bool:
            with followed() as line:
                return b"attempt 1" in line

        assert all(has_room() for _ in range(5))
        with ExitStack() as many:
            assert b"attempt 1" in [many.enter_context(followed()) for _ in range(16)][-1]
            assert not has_room()
        wait_until(has_room)  # those who have left hold nothing up
        with followed():
            began = time.monotonic()
            started.process.send_signal(signal.SIGINT)
            assert started.process.wait(PATIENCE) == 0
            figure("lastrun ui with a log that is followed: from Ctrl-C to its end", f"{time.monotonic() - began:.2f} s")
    store.clear(one.paths.all)


def test_a_browser_is_opened_without_the_token_on_a_command_line(env: dict[str, str], job: Job, home: Path) -> None:
    """Everybody on a machine sees command lines. One that ends when it is closed holds nothing up."""
    seen, script = home / "seen", home / "browser"
    script.write_text(f'#!/bin/sh\necho $$ "$@" > {seen}.part\nmv {seen}.part {seen}\nexec sleep 60 > /dev/null\n')
    script.chmod(0o755)
    command = [sys.executable, "-m", "runner", "ui"]
    own = {**env, "BROWSER": str(script), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=own, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until(seen.exists)
            opened, words = seen.read_text().split()
            path = Path(words.removeprefix("file://"))
            assert "token" not in words
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            (address,) = re.findall(r"url=(http://127.0.0.1:\d+/[\w-]+/\?token=[\w-]{43})", path.read_text())
            with urlopen(address, timeout=PATIENCE) as answer:
                assert answer.status == 200
            os.kill(int(opened), signal.SIGTERM)  # it is open still
        finally:
            process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out
    assert "is shown, to this machine alone, at\n  http://127.0.0.1:" in out
    assert out.endswith("ended; jobs go on\n")
    assert not path.parent.exists()


_HANGS = """
import threading
from runner.store.directory import DirectoryStore
scan = DirectoryStore.scan
DirectoryStore.scan = lambda store, prefix, after="": (
    threading.Event().wait() if prefix.startswith("runs/") else scan(store, prefix, after)
)
from runner.__main__ import main
main()
"""


def test_ctrl_c_waits_for_no_store_that_does_not_answer(env: dict[str, str], job: Job) -> None:
    """Such as a folder of a network whose server is gone: who reads there cannot be interrupted."""
    command = [sys.executable, "-c", _HANGS.replace("runs/", f"{job.id}/"), "ui", "--json", "--no-browser"]
    with subprocess.Popen(command, env=env, cwd=env["HOME"], stdout=subprocess.PIPE, text=True) as process:
        try:
            one = Ui(process)
            one.enter()
            with closing(http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)) as connection:
                connection.request("GET", f"{one.root}/api/job/{job.id}", headers={"Host": one.host, "Cookie": one.cookie})
                assert one.ask(f"{one.root}/api/run/99").status == 404  # what was asked before hangs by now
                process.send_signal(signal.SIGINT)
                assert process.wait(30) == 0
        finally:
            process.kill()


def test_a_port_that_is_taken_and_an_extra_that_is_missing_are_told(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("ui", "--port", str(port), "--no-browser")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"error: --port {port}: Address already in use; name another one, or leave it out for any that is free\n"
    )
    code = "import sys; sys.modules['starlette'] = None; sys.argv = ['lastrun', 'ui']; from runner.__main__ import main; main()"
    env = {**os.environ, "HOME": str(tmp_path), "LASTRUN_STORE": str(tmp_path / "store")}
    missing = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert missing.stderr == "error: lastrun ui needs starlette and uvicorn; from a clone of lastrun: pip install '.[ui]'\n"
    assert missing.returncode == 6


# --- what it asks a store for -------------------------------------------------------------------------------------------


def test_of_jobs_that_have_ended_the_attempts_are_listed_and_those_that_run_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.ui.jobs import Jobs

    monkeypatch.setattr("runner.ui.jobs._RECENT_SECONDS", 0.01)
    store = CountingStore(tmp_path / "store")
    running = make_job(store, 1)
    for _ in range(5):
        ended = make_job(store, 1)
        done = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True, reason="completed")
        done.scores = {"best_top1": 0.5, "best_epoch": 1}
        ended.attempts.write(done)
    jobs = Jobs(store, 100)
    try:
        wait_until(lambda: jobs.since(0)["unread"] == 0)
        first = jobs.since(0)
        assert sorted(facts["state"] for facts in first["jobs"]) == ["running", *["succeeded"] * 5]
        listed = f"list {ended.paths.attempts}"
        wait_until(lambda: store.calls.count(listed) >= 3)  # what it had then is known
        store.calls.clear()
        running.attempts.write_heartbeat(running.attempts.all()[0], {"last_epoch": {"epoch": 7.0}})
        wait_until(lambda: any(facts["epoch"] == 7 for facts in jobs.since(first["version"])["jobs"]))
        wait_until(lambda: listed in store.calls)
        assert {call for call in store.calls if ended.id in call} == {listed}
        told = jobs.since(jobs.since(0)["version"])
        assert (told["jobs"], told["ids"]) == ([], None), "what is as it was is not told again"
        resumed = Attempt("0002-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
        ended.attempts.write(resumed)
        ended.attempts.write_heartbeat(resumed, {})
        wait_until(lambda: [facts["state"] for facts in jobs.since(0)["jobs"]].count("running") == 2)
        ended.delete()
        wait_until(lambda: ended.id not in jobs.since(0)["ids"])
        newest = make_job(store, 1)
        wait_until(lambda: newest.id in {facts["id"] for facts in jobs.since(0)["jobs"]})
    finally:
        jobs.close()


def test_what_is_done_while_a_job_is_read_is_read_at_once_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.ui import jobs as shown
    from runner.view.status import summary_or_error

    monkeypatch.setattr(shown, "_RECENT_SECONDS", 1000.0)
    store = CountingStore(tmp_path / "store")
    ended = make_job(store, 1)
    ended.attempts.write(Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", 1e9, phase="ended", began=True, reason="time_limit"))
    read: list[int] = []

    def summary(job: Job) -> dict[str, Any] | None:
        facts = summary_or_error(job)
        read.append(len(store.calls))
        jobs.again(job.id)
        return facts

    monkeypatch.setattr(shown, "summary_or_error", summary)
    jobs = shown.Jobs(ended.store, 100)
    try:
        wait_until(lambda: bool(jobs.since(0)["jobs"]) and f"list {ended.paths.attempts}" in store.calls[read[0] :])
    finally:
        jobs.close()


def test_a_store_that_is_away_is_told_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.ui.jobs import Jobs

    store = CountingStore(tmp_path / "store")
    job = make_job(store, 1)

    def away(prefix: str, after: str = "") -> Any:
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "scan", away)
        jobs = Jobs(store, 100)
        wait_until(lambda: jobs.since(0)["problem"] == "the store is away")
    try:
        wait_until(lambda: [facts["id"] for facts in jobs.since(0)["jobs"]] == [job.id])
        assert jobs.since(0)["problem"] == ""
    finally:
        jobs.close()
    shutil.rmtree(store.root)


def test_what_was_read_of_jobs_at_rest_is_there_the_next_time_unless_they_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.ui.jobs import Jobs

    store = CountingStore(tmp_path / "store")
    ended, resumed, deleted, running = (make_job(store, 1) for _ in range(4))
    for job in (ended, resumed, deleted):
        done = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True, reason="completed")
        job.attempts.write(done)

    def shown() -> dict[str, str]:
        jobs = Jobs(store, 100)
        try:
            wait_until(lambda: jobs.since(0)["unread"] == 0 and not any(one.read_at is None for one in jobs._known.values()))
            return {facts["id"]: facts["state"] for facts in jobs.since(0)["jobs"]}
        finally:
            jobs.close()
            jobs._thread.join(PATIENCE)

    first = shown()
    assert first[ended.id] == "succeeded"
    (kept,) = (tmp_path / "cache" / "lastrun" / "ui").glob("*.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert running.id not in json.loads(kept.read_text())["jobs"], "what changes by itself is not kept"
    attempt = Attempt("0002-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    resumed.attempts.write(attempt)
    resumed.attempts.write_heartbeat(attempt, {})
    deleted.delete()
    store.calls.clear()
    again = shown()
    assert again == {**{name: state for name, state in first.items() if name != deleted.id}, resumed.id: "running"}
    assert {call.partition(" ")[0] for call in store.calls if ended.id in call} == {"list"}, "its records are not read again"

    of_another = kept.read_text().replace('"version": "', '"version": "0').replace("succeeded", "failed")
    for damage in (
        of_another,
        "",
        "[]",
        '{"version": 1}',
        '{"version": "0", "jobs": 1}',
        kept.read_text().replace(ended.id, "other"),
    ):
        kept.write_text(damage)
        assert shown() == again, damage[:20]
