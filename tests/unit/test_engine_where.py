"""Which engine is meant, what docker's own files say of it, and what answers there; without an engine."""

from __future__ import annotations

import base64
import gc
import http.server
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from requests.exceptions import SSLError

from runner.errors import EngineError
from runner.launch.docker.engine import _connect, spoken
from runner.launch.docker.explain import explain
from runner.launch.docker.registry import NoCredentials, credentials, registry_of
from runner.launch.docker.where import SOCKET, Certificates, where

VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


@pytest.fixture(autouse=True)
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for docker's settings, and nothing else that names an engine."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()
    return tmp_path / ".docker"


def context(docker: Path, name: str, *files: str, **endpoint: object) -> None:
    digest = sha256(name.encode()).hexdigest()
    (docker / "contexts" / "meta" / digest).mkdir(parents=True)
    about = {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
    (docker / "contexts" / "meta" / digest / "meta.json").write_text(json.dumps(about))
    tls = docker / "contexts" / "tls" / digest / "docker"
    tls.mkdir(parents=True)
    for file in files:
        (tls / file).write_text("")


# --- addresses ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", SOCKET),
        ("unix:///run/d.sock", "unix:///run/d.sock"),
        ("ssh://me@there", "ssh://me@there"),
        ("tcp://there", "tcp://there:2375"),
        (" tcp://[::1]:77/ ", "tcp://[::1]:77/"),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, host: str, address: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert where().host == address


@pytest.mark.parametrize(
    "host", ["tcp://h:99999", "tcp://h:0", "tcp://", "tcp://[::1", "tcp://h:1/x", "http://h:1", "npipe://x", "/run/d.sock", "h"]
)
def test_addresses_that_are_none_are_told_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(
        EngineError, match=r"^DOCKER_HOST: .*allowed: unix:///PATH/OF/docker\.sock, ssh://.* or tcp://HOST:PORT"
    ):
        where()


def test_certificates_are_for_an_engine_that_is_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, docker: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://there")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "certs"))
    with pytest.raises(EngineError, match="without DOCKER_TLS_VERIFY=1 whoever answers there would be taken for the engine"):
        where()
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    with pytest.raises(EngineError, match=r"no ca\.pem, cert\.pem, key\.pem in .*/certs: DOCKER_CERT_PATH names"):
        where()
    monkeypatch.delenv("DOCKER_CERT_PATH")
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (docker / name).write_text("")
    own = (str(docker / "cert.pem"), str(docker / "key.pem"))
    assert where().certificates == Certificates(str(docker / "ca.pem"), own)
    assert where().host == "tcp://there:2376"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/d.sock")
    assert where().certificates is None


# --- docker's files -----------------------------------------------------------------------------------------------------------


def test_a_context_needs_no_settings_beside_it(docker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    context(docker, "mine", Host="unix:///run/mine.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    assert where().host == "unix:///run/mine.sock"
    context(docker, "tls", "ca.pem", "cert.pem", "key.pem", Host="tcp://there:1", SkipTLSVerify=False)
    (docker / "config.json").write_text('{"currentContext": "tls", "auths": 7, "credsStore": "desktop", "proxies": []}')
    monkeypatch.delenv("DOCKER_CONTEXT")
    found = where()
    assert found.host == "tcp://there:1"
    assert found.certificates is not None
    assert found.certificates.own is not None
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    (docker / "config.json").write_text("{")  # nobody needs it now
    assert where().host == "unix:///run/other.sock"


@pytest.mark.parametrize(
    ("files", "endpoint", "words"),
    [
        ((), {"Host": "tcp://there:1", "SkipTLSVerify": True}, "takes whoever answers for its engine"),
        (("cert.pem",), {"Host": "tcp://there:1"}, r"key\.pem is missing in"),
        ((), {"Host": "tcp://there:99999"}, "Port out of range"),
        ((), {"host": "x"}, "not what docker writes there"),
    ],
)
def test_contexts_that_cannot_be_followed(
    docker: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], endpoint: dict[str, Any], words: str
) -> None:
    context(docker, "mine", *files, **endpoint)
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    with pytest.raises(EngineError, match=rf"docker context mine \(DOCKER_CONTEXT\).*{words}"):
        where()


def test_the_sdk_reads_none_of_dockers_settings(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stumble over each of these."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    for odd in ('{"auths": {"a": 7}}', '{"auths": {"a": {"auth": "!"}}}', '{"proxies": []}', "[]"):
        (docker / "config.json").write_text(odd)
        with pytest.raises(EngineError, match="no Docker engine answers at unix:///nowhere/docker"):
            _connect()
    assert "DOCKER_CONFIG" not in os.environ
    gc.collect()


# --- what answers -------------------------------------------------------------------------------------------------------------


@contextmanager
def answering(body: str) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"ApiVersion": 7}', '{"ApiVersion": "new"}', ""])
def test_what_is_no_engine_is_told(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    with answering(body) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(
            EngineError, match=f"^what answers at {host} is no Docker engine: is something else listening there"
        ):
            _connect()


def test_an_engine_that_is_too_old_is_told() -> None:
    with pytest.raises(EngineError, match=r"the engine at H is too old \(17\.05, interface 1\.29\): 1\.40 is needed"):
        spoken({"ApiVersion": "1.29", "Version": "17.05"}, "H")
    assert spoken({"ApiVersion": "1.52"}, "H") == "1.52"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert bad certificate", "does not take a client without a certificate"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "does not take a client without"),
        ("[X509: KEY_VALUES_MISMATCH] key values mismatch", "do not belong together"),
        ("[SSL] PEM lib", "is no file of that kind"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "speaks no TLS: is the port right"),
        ("[SSL: SOMETHING] else", "TLS with the engine at unix:///var/run/docker.sock fails"),
    ],
)
def test_a_mistake_with_certificates_is_none_of_rights(said: str, words: str) -> None:
    """Its number, 1, is by chance that of the system for what is not permitted."""
    line = explain(SSLError(ssl.SSLError(1, said)))
    assert words in line
    assert "usermod" not in line


# --- credentials --------------------------------------------------------------------------------------------------------------


def test_an_images_registry_as_dockers_files_name_it() -> None:
    hub = "https://index.docker.io/v1/"
    names = ("python:3.12", "me/image", "docker.io/me/image", "ghcr.io/me/image", "localhost/x", "host:5000/x@sha256:1")
    assert [registry_of(name) for name in names] == [hub, hub, hub, "ghcr.io", "localhost", "host:5000"]


def test_credentials_are_those_of_one_registry_alone(docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = base64.b64encode(b"me:se:cret").decode()
    auths = {
        "ghcr.io": {"auth": secret},
        "token.io": {"identitytoken": "t"},
        "odd.io": {"auth": "!"},
        "list.io": [1],
        "none.io": {},
    }
    helpers = {"helped.io": "mine", "empty.io": "mine", "failing.io": "failing", "gone.io": "gone", "raw.io": "raw"}
    (docker / "config.json").write_text(json.dumps({"auths": auths, "credHelpers": helpers}))
    for name, script in (
        ("mine", 'read r; case $r in helped*) echo "{\\"Username\\": \\"u\\", \\"Secret\\": \\"s\\"}";; *) '
                 'echo "credentials not found in native keychain"; exit 1;; esac'),
        ("failing", "echo not logged in >&2; exit 1"),
        ("raw", "echo hello"),
    ):  # fmt: skip
        program = tmp_path / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert credentials("ghcr.io/a/b:1") == ("ghcr.io", {"Username": "me", "Password": "se:cret"})
    assert credentials("token.io/a") == ("token.io", {"IdentityToken": "t"})
    assert credentials("helped.io/a") == ("helped.io", {"Username": "u", "Password": "s"})
    assert [credentials(f"{name}/a") for name in ("empty.io", "none.io", "other.io")] == [None, None, None]
    for name, words in (
        ("odd.io", r"auths of odd\.io: not what docker writes there: docker login odd\.io"),
        ("list.io", r"auths of list\.io: not what docker writes there"),
        (
            "failing.io",
            r"docker-credential-failing keep the credentials of failing\.io \(credHelpers\), but it fails \(not logged",
        ),
        ("gone.io", r"but it is not installed: docker login gone\.io, or take credHelpers out of that file"),
        ("raw.io", "fails"),
    ):
        with pytest.raises(NoCredentials, match=words):
            credentials(f"{name}/a")
    (docker / "config.json").write_text('{"credsStore": "desktop"}')
    with pytest.raises(
        NoCredentials, match=r"docker-credential-desktop keep .*\(credsStore\), but it is not installed: docker login,"
    ):
        credentials("python:3.12")
