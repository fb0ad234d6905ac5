"""Who is told, how, and what becomes of it when they do not answer as they should."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from last_e.redact import NAMED, redact
from runner.attempt.telling import unset
from runner.errors import LOST, Reason
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.variables import to_hand_over, values_elsewhere
from runner.notify.event import Event, end_of, loss_of, stall_of
from runner.notify.post import UnsentError
from runner.notify.targets import signature
from runner.notify.tell import tell
from runner.spec import NEWS, JobSpec, NotifyConfig
from runner.store.directory import DirectoryStore
from runner.store.uri import StoreUri
from tests.conftest import Cli
from tests.receiver import ENDLESS, HANG, Receiver

SECRET = "secret-part-of-it"
SIGN = "whsec_MfKQ9r8GKYqUTwUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture
def event(tmp_path: Path) -> Event:
    attempt = Attempt("0002-aaaaaaaa", "m", 7, "p", 1.0, phase="ended", host="far", reason="diverged", ended_at=1.8e9)
    attempt.message, attempt.scores = "loss is <nan> & 'that' is it\nin step 7", {"test_top1": 0.5, "step": 7, "total_steps": 9}
    return end_of(Job(DirectoryStore(tmp_path / "store"), "j-20260101-000000-aaaa"), attempt, Reason.DIVERGED)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> NotifyConfig:
    """A webhook, as the name of a variable."""
    monkeypatch.setenv("HOOK", receiver.address())
    return NotifyConfig(webhook="HOOK")


def test_each_kind_gets_what_it_takes(receiver: Receiver, event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("slack", "discord", "ntfy", "webhook"):
        monkeypatch.setenv(f"THE_{kind}", receiver.address(f"/{kind}?x=1").replace("://", "://me:a%20word@"))
    monkeypatch.setenv("THE_KEY", SIGN)
    config = NotifyConfig(
        slack="THE_slack", discord="THE_discord", ntfy="THE_ntfy", webhook="THE_webhook", signed_with="THE_KEY"
    )
    assert tell(event, config, 10) == {"slack": None, "discord": None, "ntfy": None, "webhook": None}
    came = {one.path.partition("?")[0][1:]: one for one in receiver.messages}
    assert len(receiver.messages) == len(came) == 4
    assert {one.path.partition("?")[2] for one in receiver.messages} == {"x=1"}
    assert {one.headers["authorization"] for one in receiver.messages} == {"Basic bWU6YSB3b3Jk"}
    text = "j-20260101-000000-aaaa failed (diverged): test top-1 50.00%; step 7 of 9; attempt 2 on far (process 7): "
    assert (
        came["slack"].json()["text"].startswith(text + "loss is &lt;nan&gt; &amp; 'that' is it in step 7; next: submit again")
    )
    assert came["discord"].json()["content"].startswith(text + "loss is <nan> & 'that'")
    assert came["discord"].json()["allowed_mentions"] == {"parse": []}
    assert came["ntfy"].body.decode().startswith(text)
    assert came["ntfy"].headers["title"] == "lastrun: j-20260101-000000-aaaa diverged"
    assert came["ntfy"].headers["priority"] == "high"
    told = came["webhook"].json()
    assert (told["id"], told["type"], told["timestamp"]) == (event.id, "lastrun.diverged", "2027-01-15T08:00:00Z")
    assert told["data"]["text"] == event.text
    assert told["data"].items() >= {"state": "failed", "attempt": "0002-aaaaaaaa", "host": "far", "test_top1": 0.5}.items()
    headers = came["webhook"].headers
    assert headers["webhook-id"] == event.id
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    body = came["webhook"].body
    assert body == event.to_json()
    assert headers["webhook-signature"] == signature(SIGN, event.id, int(headers["webhook-timestamp"]), body)


def test_messages_are_signed_as_standard_webhooks_are() -> None:
    """The signature is what the Python library of that standard, 1.1.0, makes of the same."""
    about = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature(SIGN, *about) == "v1,cz/VSxaXMypyy2lzHLbwR+54iONw3SJalYxj7BM20IE="
    assert signature("another", *about) == signature("whsec_YW5vdGhlcg==", *about) == signature("whsec_YW5vdGhlcg", *about)
    with pytest.raises(UnsentError, match="begins with whsec_ and is no base64"):
        signature("whsec_\N{SNOWMAN}", *about)


def test_the_same_news_has_the_same_id_and_other_news_another(tmp_path: Path, event: Event) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "j-20260101-000000-aaaa")
    attempt = Attempt("0002-aaaaaaaa", "m", 7, "p", 1.0, phase="ended", host="far")
    again = end_of(job, attempt, Reason.COMPLETED)
    assert again.id == event.id  # however the end was seen, it is the end of this attempt
    beats = [{"time": 9.0, "idle_seconds": 2.0, "step": step, "total_steps": 9} for step in (3, 4)]
    others = [loss_of(job, attempt, {}), *(stall_of(job, attempt, beat) for beat in beats)]
    assert len({one.id for one in [event, *others]}) == 4
    assert others[1].at == 7.0
    assert "at step 3 of 9; next: lastrun logs" in others[1].text


@pytest.mark.parametrize(
    ("answers", "why", "times"),
    [
        ([500, 200], None, 2),
        ([503, (429, {"Retry-After": "1"}), 200], None, 3),
        ([(429, {"Retry-After": "3600"})], "the server answered 429", 1),
        ([(503, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"})], "the server answered 503", 1),
        ([(503, {"Retry-After": "now or never"}), 204], None, 2),
        ([404], "the server answered 404", 1),
        ([(302, {"Location": "/elsewhere"})], "the server answered 302: it wants to send it elsewhere", 1),
        ([HANG], "the server did not answer in time", 1),
        ([ENDLESS], None, 1),
    ],
    ids=str,
)
def test_a_server_that_answers_oddly(
    receiver: Receiver, event: Event, hook: NotifyConfig, answers: list[Any], why: str | None, times: int
) -> None:
    receiver.answers = list(answers)
    began = time.monotonic()
    found = tell(event, hook, 1.5 if answers == [HANG] else 8.0)["webhook"]
    assert time.monotonic() - began < 9
    assert (found is None) if why is None else str(found).startswith(why)
    assert SECRET not in str(found)
    assert len(receiver.messages) == times
    assert {one.path for one in receiver.messages} == {f"/hooks/{SECRET}"}
    assert len({one.body for one in receiver.messages}) == 1
    if times == 3:
        assert receiver.messages[2].at - receiver.messages[1].at >= 1


def test_one_that_hangs_holds_up_no_other(receiver: Receiver, event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.answers = [HANG]
    monkeypatch.setenv("HOOK", receiver.address())
    config = NotifyConfig(slack="HOOK", command=["true"], mail="me@example.org")
    monkeypatch.setattr("runner.notify.targets.shutil.which", lambda *_, **__: None)
    found = tell(event, config, 1.5)
    assert found["command"] is None
    assert found["slack"] == "the server did not answer in time"
    assert found["mail"] == "there is no sendmail here"
    assert tell(event, config, 1.0, already=["slack", "command"]).keys() == {"mail"}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (f"http://127.0.0.1:9/{SECRET}", "the server cannot be reached"),
        (f"http://no-such-host.invalid/{SECRET}", "the server cannot be reached"),
        (f"ftp://127.0.0.1/{SECRET}", "its variable holds no address that begins with http:// or https://"),
        (f"http://[127/{SECRET}", "its variable holds no address that begins with http:// or https://"),
        (f"http://a:port/{SECRET}", "its variable holds no address that begins with http:// or https://"),
        (f"http:///{SECRET}", "its variable holds no address that begins with http:// or https://"),
        (SECRET, "its variable holds no address that begins with http:// or https://"),
        (" ", "HOOK is not set here"),
    ],
)
def test_an_address_that_leads_nowhere_is_told_without_it(
    event: Event, monkeypatch: pytest.MonkeyPatch, address: str, why: str
) -> None:
    monkeypatch.setenv("HOOK", address)
    assert tell(event, NotifyConfig(slack="HOOK"), 0.5) == {"slack": why}


def test_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, event: Event, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    about = ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *about, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    one = Receiver((certificate, key))
    try:
        monkeypatch.setenv("HOOK", one.address())
        refused = "its certificate is not to be trusted, or it speaks no TLS"
        assert tell(event, NotifyConfig(slack="HOOK"), 5) == {"slack": refused}
        assert one.messages == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert tell(event, NotifyConfig(slack="HOOK"), 5) == {"slack": None}
        monkeypatch.setenv("HOOK", one.address().replace("127.0.0.1", "localhost"))  # it is not its name
        assert tell(event, NotifyConfig(slack="HOOK"), 5) == {"slack": refused}
        monkeypatch.setenv("HOOK", receiver.address().replace("http:", "https:"))
        assert tell(event, NotifyConfig(slack="HOOK"), 5) == {"slack": refused}
    finally:
        one.close()
    assert len(one.messages) == 1


def test_a_proxy_of_this_environment_is_used(receiver: Receiver, event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", f"http://no-such-host.invalid/{SECRET}")
    monkeypatch.setenv("http_proxy", f"http://me:word@{receiver.place}")
    assert tell(event, NotifyConfig(slack="HOOK"), 5) == {"slack": None}
    assert receiver.messages[0].path == f"http://no-such-host.invalid/{SECRET}"
    assert receiver.messages[0].headers["proxy-authorization"] == "Basic bWU6d29yZA=="
    monkeypatch.setenv("no_proxy", "no-such-host.invalid")
    assert tell(event, NotifyConfig(slack="HOOK"), 0.5) == {"slack": "the server cannot be reached"}


def test_a_command_gets_the_text_as_one_word_and_the_facts_on_its_input(tmp_path: Path, event: Event) -> None:
    code = "import json, sys; json.dump([sys.argv[1:], sys.stdin.read()], open('OUT', 'w'))".replace("OUT", f"{tmp_path}/out")
    words = ["{text}", "{job}:{news}", "{}{x} {", "$HOME; ls"]
    assert tell(event, NotifyConfig(command=[sys.executable, "-c", code, *words]), 20) == {"command": None}
    got, told = json.loads((tmp_path / "out").read_text())
    assert got == [event.text, "j-20260101-000000-aaaa:diverged", "{}{x} {", "$HOME; ls"]
    assert json.loads(told) == json.loads(event.to_json())


def test_a_command_that_does_not_end_is_ended_with_what_it_has_started(tmp_path: Path, event: Event) -> None:
    script = f"(sleep 2; touch {tmp_path}/late) & sleep 60"
    assert tell(event, NotifyConfig(command=["sh", "-c", script]), 1.0) == {"command": "sh did not end in time, and was ended"}
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["false"], "false ended with code 1"),
        (["/nowhere/at-all"], "/nowhere/at-all cannot be run (No such file or directory)"),
        (["/etc"], "/etc cannot be run (Permission denied)"),
    ],
)
def test_a_command_that_fails_is_told(event: Event, command: list[str], why: str) -> None:
    assert tell(event, NotifyConfig(command=command), 10) == {"command": why}


def test_mail_goes_through_the_sendmail_of_this_machine(tmp_path: Path, event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\ncat > {tmp_path}/mail\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert tell(event, NotifyConfig(mail="me+x@example.org"), 10) == {"mail": None}
    assert (tmp_path / "words").read_text() == "-i me+x@example.org\n"
    mail = message_from_bytes((tmp_path / "mail").read_bytes())
    assert mail["To"] == "me+x@example.org"
    assert mail["Subject"] == "lastrun: j-20260101-000000-aaaa diverged"
    assert mail["Message-ID"] == f"<{event.id}@lastrun.invalid>"
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert text.decode().split() == event.text.split()
    program.write_text("#!/bin/sh\nexit 75\n")
    assert tell(event, NotifyConfig(mail="me@example.org"), 10) == {"mail": "sendmail ended with code 75"}


def test_every_reason_may_be_named_and_failed_stands_for_those_of_failed_jobs() -> None:
    assert set(NEWS) == {reason.value for reason in Reason if reason not in LOST} | {"failed", "lost", "stalled"}
    usual, some = NotifyConfig(mail="a@b"), NotifyConfig(mail="a@b", on=["failed", "interrupted"])
    assert [news for news in NEWS if not usual.wants(news)] == ["stop_requested", "interrupted", "epoch_reached"]
    assert [reason.value for reason in Reason if some.wants(reason.value)] == [
        *("interrupted", "trainer_error", "data_error", "config_error", "diverged", "out_of_memory", "out_of_disk"),
        *("image_error", "no_gpu", "rank_lost"),
    ]
    assert not NotifyConfig().wants("completed")
    with pytest.raises(ValidationError):
        NotifyConfig(on=["lease_lost"])


def test_what_is_wrong_with_whom_to_tell_is_told_without_addresses(cli: Cli, tiny: Path) -> None:
    address = f"https://example.org/{SECRET}"
    tiny.write_text(
        tiny.read_text() + f"notify:\n  slack: {address}\n  discord: NOT_SET\n  ntfy: SET\n  slak: {address}\n"
        "  command: notify-send\n  mail: -oX/tmp/x@example.org\n  on: [completed, done]\n"
    )
    for words in ((), ("--set", f"notify.webhook={address}")):
        done = cli("validate", tiny, *words, SET=f"https://example.org/{SECRET}")
        assert done.returncode == 2
        assert SECRET not in done.stdout + done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == 6 + bool(words)
        assert any("notify.discord: found NOT_SET, which is not set here" in line for line in lines)
        assert any("notify.slack: found what seems to be an address whose holder can post there" in line for line in lines)


def test_a_variable_that_is_not_set_where_an_attempt_runs_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HOOK", "http://h")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert unset(NotifyConfig(webhook="MY_HOOK", slack="NOT_SET")) == [
        "warning: notify.slack: NOT_SET is not set here, so nobody is told by it"
    ]


def test_what_names_who_is_told_is_handed_over_like_other_secrets(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], JobSpec]
) -> None:
    monkeypatch.setenv("MY_HOOK", f"https://example.org/{SECRET}")
    monkeypatch.setenv("MY_SIGN", "another-one-of-them")
    monkeypatch.setenv(NAMED, "OTHER")
    tiny.write_text(tiny.read_text() + "notify: {webhook: MY_HOOK, signed_with: MY_SIGN}\nrun: {pass_env: [MY_HOOK]}\n")
    config = load(tiny)
    assert to_hand_over(config, StoreUri.parse("file:///s")) == [NAMED, "MY_HOOK", "MY_SIGN"]
    given = values_elsewhere(None, config)
    assert given["MY_SIGN"] == "another-one-of-them"
    assert given[NAMED].split() == ["OTHER", "MY_HOOK", "MY_SIGN"]
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    tracked = config.model_copy(update={"tracking": "wandb"})
    assert tracked.named_variables() == ["MY_HOOK", "MY_SIGN", "WANDB_API_KEY"]
    assert redact(f"posted to https://example.org/{SECRET} by another-one-of-them") == "posted to *** by ***"


@pytest.fixture
def load() -> Callable[[Path], JobSpec]:
    from runner.resolve import resolve_spec

    return lambda path: resolve_spec(path, "local", []).config


def test_what_was_chosen_on_clips_that_validate_is_told_as_that(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "j-20260101-000000-aaaa")
    attempt = Attempt("0001-aaaaaaaa", "m", 1, "1", 0.0, phase="ended", began=True, reason="completed")
    attempt.scores = {"validation_top1": 0.9, "best_top1": 0.93, "test_top1": 0.812, "step": 8, "total_steps": 8}
    said = end_of(job, attempt, Reason.COMPLETED).text
    assert "validation top-1 90.00%, best 93.00%; test top-1 81.20% with the best epoch's weights" in said
    attempt.scores = {"best_top1": 0.93, "test_top1": 0.812}
    assert "succeeded: test top-1 81.20%, best 93.00%; " in end_of(job, attempt, Reason.COMPLETED).text
