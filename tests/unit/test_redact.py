"""What counts as a secret, and that it is not shown."""

from __future__ import annotations

import random
import string
from urllib.parse import unquote

import pytest

from last_e.redact import MASK, is_secret_name, redact, secret_in

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "password", "DB_PASSWD", "KAGGLE_KEY", "AWS_SESSION_TOKEN"),
        *("DB_PASS", "GH_PAT", "MYSQL_PWD", "NPM_AUTH", "SENTRY_DSN", "AZURE_STORAGE_CONNECTION_STRING", "dbPassword"),
    ],
)
def test_names_that_hold_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "key_lines",
        "TOKENIZERS_CACHE",
        "AWS_REGION",
        "keep_last",
        "PWD",
        "OLDPWD",
        "SSH_AUTH_SOCK",
        "run.pass_env",
        "PATH",
    ],
)
def test_names_that_hold_none(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_key", 123456789012),
        ("password", ["hunter2hunter2"]),
        ("secrets.wandb", "hunter2hunter2"),
        ("store.region", "AKIAIOSFODNN7EXAMPLE"),
        ("name", AWS_SECRET),
        ("data.uri", "https://me:hunter2@host/file"),
        ("store.uri", f"s3://AKIAIOSFODNN7EXAMPLE:{AWS_SECRET}@bucket/p"),
        ("run.pass_env", ["HOME", f"AWS_SECRET_ACCESS_KEY={AWS_SECRET}"]),
        ("run.pass_env", ["DB_PASSWORD=short"]),
        ("name", "hf_abcdefghijklmnopqrstuvwxyz"),
        ("name", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
        ("store.secret_key", "x"),
    ],
)
def test_values_that_are_secrets(key: str, value: object) -> None:
    assert secret_in(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.uri", "/data/ntu/NTU60Prepared2026/ntu60xsub/ntu60.safetensors"),
        ("data.uri", "s3://bucket/prefix?endpoint_url=https://s3.example.org:9000"),
        ("name", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),  # a git revision
        ("run.pass_env", ["WANDB_API_KEY", "HF_TOKEN"]),
        ("data.uri", "/mnt/Drive1/datasets/NTU120/prepared/v3x.safetensors"),
        ("hardware.scratch_root", "/home/alice/Projects2026/NTU60/data/Sets"),
        ("training.lr", 0.1),
        ("store.region", None),
    ],
)
def test_values_that_are_none(key: str, value: object) -> None:
    assert secret_in(key, value) is None


def test_the_values_of_secret_variables_are_blacked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    assert redact("login 0123456789abcdef abc") == f"login {MASK} abc"
    assert redact("at https://me:pw@host/") == f"at https://{MASK}@host/"
    assert "WANDB_API_KEY" in str(secret_in("name", "job-0123456789abcdef"))
    monkeypatch.setenv("MY_TOKEN", "synthetic")
    assert secret_in("dataset", "synthetic") is None


def test_a_secret_of_several_lines_and_one_with_quotes_are_blacked_out_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEM_SECRET", "first-line-of-it\nsecond-line-of-it\n")
    monkeypatch.setenv("ODD_TOKEN", 'with"quotes\\and-more')
    text = 'first-line-of-it\nsecond-line-of-it {"x": "with\\"quotes\\\\and-more"} with"quotes\\and-more'
    assert redact(text) == f'{MASK}\n{MASK} {{"x": "{MASK}"}} {MASK}'


# Made up, in the form that each service gives its keys; in two parts, so that nobody who looks for keys in this file finds one.
SHAPES = [
    "gh" + "p_0123456789abcdefghijABCDEFGHIJ012345",
    "git" + "hub_pat_0123456789abcdefghijAB_CDEFGHIJ",
    "gl" + "pat-0123456789abcdefghij",
    "hf" + "_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "sk" + "-proj-0123456789abcdefghijABCDEFGHIJ",
    "sk" + "-ant-api03-0123456789abcdefghij",
    "sk" + "_live_0123456789abcdefghij",
    "np" + "m_0123456789abcdefghijABCDEFGHIJ012345",
    "py" + "pi-AgEIcHlwaS5vcmcCJDAwMDAwMDAwLTAwMDA",
    "xo" + "xb-123456789012-123456789012-abcdefghijkl",
    "SG" + ".0123456789abcdefghij.0123456789abcdefghijABCDEFGHIJ",
    "do" + "p_v1_0123456789abcdef0123456789abcdef0123456789abcdef",
    "da" + "pi0123456789abcdef0123456789abcdef",
    "hv" + "s.0123456789abcdefghijABCD",
    "AI" + "zaSyA0123456789abcdefghijABCDEFGHIJ",
    "Account" + "Key=0123456789abcdefghijABCDEFGHIJ==",
    "123456789:" + "AAabcdefghijklmnopqrstuvwxyzABCDEFGHI",
    "ey" + "JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc_-123",
]


@pytest.mark.parametrize("key", SHAPES, ids=range(len(SHAPES)))
def test_keys_of_the_usual_services_are_known_by_their_form(key: str) -> None:
    assert secret_in("name", f"x {key}")
    assert key[4:] not in redact(f"the server said: {key}!")
    assert redact(f"the server said: {key}").startswith("the server said: ")


@pytest.mark.parametrize("password", ["p/w-with/slash", "p%2Fw%40-xyz", "hunter2hunter2", "a:b:c@d-efgh"])
def test_a_password_in_an_address_is_blacked_out_however_it_is_written(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://me:{password}@proxy.example.org:3128/x"
    assert secret_in("data.uri", address)
    assert redact(f"cannot connect to {address}") == f"cannot connect to http://{MASK}@proxy.example.org:3128/x"
    monkeypatch.setenv("HTTPS_PROXY", address)
    assert redact(f"407 for {password}, {unquote(password)}") == f"407 for {MASK}, {MASK}"


def test_variables_may_be_named_as_secret_whose_names_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE_TO", "somewhere-nice")
    assert redact("to somewhere-nice") == "to somewhere-nice"
    monkeypatch.setenv("LASTRUN_SECRETS", "WHERE_TO")
    assert redact("WHERE_TO is somewhere-nice") == f"WHERE_TO is {MASK}"
    assert secret_in("run.pass_env", ["WHERE_TO"]) is None
    assert secret_in("name", "somewhere-nice") is None  # a plain word may be one all the same
    monkeypatch.setenv("WHERE_TO", "somewhere-nice-1")
    assert secret_in("name", "at somewhere-nice-1")


def test_a_signed_address_shows_no_signature() -> None:
    address = (
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=AKIDEXAMPLE%2F2026&X-Amz-Expires=60&X-Amz-Signature=0123456789abcdef"
    )
    assert secret_in("data.uri", address)
    assert redact(address) == f"https://b.s3.amazonaws.com/k?X-Amz-Credential={MASK}&X-Amz-Expires=60&X-Amz-Signature={MASK}"


@pytest.mark.parametrize(
    "text",
    [
        "epoch 3/5  lr 0.08083  train loss 0.9581 top-1 86.33%  test loss 0.2376 top-1 93.80%  23s  best",
        "http://localhost:9000/bucket/me@home/x.safetensors",
        "s3://bucket/prefix?endpoint_url=http://127.0.0.1:8080&region=eu@x",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "file:///tmp/pytest-of-root/pytest-1/test_keys_0/store/tiny-20261128-185603-82fe",
        "attempt 0001-82fe0a1b on key-server (process 1234567890)",
        "checkpoints/NTU60Base2026Nov/epoch120stp is 40 characters long",
        "cannot read lastrunQuickstart2026/NTU60/prepared001x: no such file",
        "TrainingRun2026Nov29Base64NanoEpoch120xy",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_forty_random_characters_are_a_key() -> None:
    letters = string.ascii_letters + string.digits + "+/"
    keys = ["".join(random.Random(seed).choices(letters, k=40)) for seed in range(2_000)]
    shown = [key for key in keys if redact(f"key {key}.") != f"key {MASK}." and key[0] != "/" and key.count("/") < 3]
    assert len(shown) < 10
