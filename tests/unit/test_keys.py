"""An environment file with keys: read as those who read such files do, and handed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import StoreError
from runner.launch.docker.handed import keys_of
from runner.launch.variables import to_hand_over, values_elsewhere
from runner.resolve import resolve_spec
from runner.spec import JobSpec
from runner.store.keys import NAMES, session
from runner.store.uri import StoreUri

BUCKET = StoreUri.parse("s3://bucket/jobs")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It is named by the variable; the process itself has other keys."""
    for name in NAMES:
        monkeypatch.setenv(name, "old")
    monkeypatch.setenv("LASTRUN_ENV_FILE", str(tmp_path / "keys.env"))
    return tmp_path / "keys.env"


@pytest.fixture
def config(tmp_path: Path) -> JobSpec:
    (tmp_path / "job.yaml").write_text("model: nano\ndataset: synthetic\n")
    return resolve_spec(tmp_path / "job.yaml", None, []).config


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b+/=\n", ("a", "b+/=", None)),
        ("\ufeffexport AWS_ACCESS_KEY_ID=a\r\n# one\r\n\r\nAWS_SECRET_ACCESS_KEY = 'b'\r\n", ("a", "b", None)),
        ('PATH=/bin\nHERE\n AWS_ACCESS_KEY_ID="a"\nAWS_SECRET_ACCESS_KEY=b\nAWS_SESSION_TOKEN=c', ("a", "b", "c")),
        ("AWS_ACCESS_KEY_ID=before\nAWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\nAWS_SESSION_TOKEN=\n", ("a", "b", None)),
    ],
)
def test_keys_are_read_as_a_shell_systemd_and_docker_read_them(
    text: str, keys: tuple[str, str, str | None], file: Path, config: JobSpec
) -> None:
    file.write_text(text)
    found = session().get_credentials()
    assert found is not None
    assert (found.access_key, found.secret_key, found.token) == keys
    assert tuple(values_elsewhere(BUCKET, config).get(name) for name in NAMES) == keys


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "LASTRUN_ENV_FILE: {}: No such file or directory"),
        (b"\xff\xfe", "LASTRUN_ENV_FILE: {}: no text in UTF-8"),
        (b"AWS_ACCESS_KEY_ID=a", "LASTRUN_ENV_FILE: {} has no line AWS_SECRET_ACCESS_KEY=..."),
        (b"AWS_ACCESS_KEY_ID=\n#AWS_SECRET_ACCESS_KEY=b", "has no line AWS_ACCESS_KEY_ID=... and no line AWS_SECRET"),
    ],
)
def test_a_file_without_keys_is_told_and_nothing_else_is_taken(content: bytes | None, told: str, file: Path) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        session()
    assert told.format(file) in str(caught.value)


def test_of_the_file_an_engine_elsewhere_gets_the_keys_alone() -> None:
    text = "HF_TOKEN=secret\nexport AWS_ACCESS_KEY_ID=a\n AWS_SECRET_ACCESS_KEY='b'\n# AWS_SESSION_TOKEN=old\nAWS_PROFILE=x\n"
    assert keys_of(text) == "export AWS_ACCESS_KEY_ID=a\n AWS_SECRET_ACCESS_KEY='b'\n"


def test_the_file_goes_where_it_can_be_read_and_its_keys_where_it_cannot(
    file: Path, config: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    file.write_text("AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\n")
    assert "LASTRUN_ENV_FILE" in to_hand_over(config, BUCKET)
    elsewhere = values_elsewhere(BUCKET, config)
    assert "LASTRUN_ENV_FILE" not in elsewhere
    assert elsewhere["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_supported"
    assert values_elsewhere(StoreUri.parse("/a/folder"), config) == {}
