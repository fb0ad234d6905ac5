"""What counts as a secret, and that it is not shown."""

from __future__ import annotations

import pytest

from last_e.redact import MASK, is_secret_name, redact, secret_in

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "password", "DB_PASSWD", "KAGGLE_KEY", "AWS_SESSION_TOKEN"],
)
def test_names_that_hold_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["AWS_WEB_IDENTITY_TOKEN_FILE", "key_lines", "TOKENIZERS_CACHE", "AWS_REGION", "keep_last"])
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
