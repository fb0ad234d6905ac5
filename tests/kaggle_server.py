"""A server on loopback that speaks what Kaggle's own client calls, in its own types. Each session is the pushed script, run by
a process in a stand-in of Kaggle's file system (:mod:`tests.kaggle`), and has of our environment only where Python is.

The client finds it by its own variables: its endpoint for tests is a fixed port of localhost, and a proxy leads to this one.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kagglesdk.blobs.types.blob_api_service import ApiStartBlobUploadRequest, ApiStartBlobUploadResponse
from kagglesdk.datasets.types.dataset_api_service import (
    ApiCreateDatasetRequest,
    ApiCreateDatasetResponse,
    ApiDeleteDatasetRequest,
    ApiDeleteDatasetResponse,
    ApiGetDatasetStatusRequest,
    ApiGetDatasetStatusResponse,
)
from kagglesdk.datasets.types.dataset_enums import DatabundleVersionStatus
from kagglesdk.kernels.types.kernels_api_service import (
    ApiAcceleratorQuota,
    ApiGetAcceleratorQuotaStatisticsResponse,
    ApiGetKernelSessionLogsStreamRequest,
    ApiGetKernelSessionStatusRequest,
    ApiGetKernelSessionStatusResponse,
    ApiKernelSessionOutputFile,
    ApiListKernelSessionOutputRequest,
    ApiListKernelSessionOutputResponse,
    ApiSaveKernelRequest,
    ApiSaveKernelResponse,
)
from kagglesdk.kernels.types.kernels_enums import KernelWorkerStatus
from kagglesdk.security.types.oauth_service import IntrospectTokenResponse
from kagglesdk.users.types.account_service import GenerateAccessTokenRequest, GenerateAccessTokenResponse

from tests.kaggle import SECRETS, Session


@dataclass
class Pushed:
    """A session, by the script that was pushed for it."""

    request: ApiSaveKernelRequest
    folder: Path
    state: str = "QUEUED"
    message: str = ""
    log: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    watch: threading.Thread | None = None

    @property
    def working(self) -> Path:
        """``/kaggle/working`` there; the session's output once it has ended."""
        return self.folder / "working"


class KaggleServer:
    """For user ``me`` with the key :attr:`key`; its sessions keep their files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, "madeUpForTests0" * 2
        self.pushed: dict[str, list[Pushed]] = {}
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, tuple[str, bytes]] = {}
        self.attached: dict[str, dict[str, str]] = {}
        """The user's secrets by the script they are attached to, in its page alone: each push detaches them."""
        self.machines = True
        """Whether there are machines for new sessions."""
        self.hours = 30.0
        """Of GPU, that are left in this week."""
        self.refusal: str | None = None
        """What is said to whoever pushes."""
        self.busy: list[int] = []
        """What the next calls are answered with, instead of what they ask for."""
        self.retry_after: int | None = None
        """After how many seconds it wants to be asked again then."""
        self.unready: dict[str, int] = {}
        """How many more looks say of a data set that it is still being made."""
        self.slow = 0
        """The same of those that are made from now on."""
        self.busy_at: dict[str, list[int]] = {}
        """The same of calls of a name."""
        self.after_push: list[int] = []
        """What the calls after the next push are answered with."""
        self.answers_pushes = threading.Event()
        """Until it is set, who has pushed hears nothing."""
        self.answers_pushes.set()
        self.lost_pushes = 0
        """How many of the next ones begin a session all the same, and say that they have not."""
        self.is_behind = False
        """Whether it does not know yet, whoever asks, of the last session of each script."""
        self.oauth: str | None = None
        """The token of who has logged in, which can be renewed; no other is taken then."""
        self.cuts = 0
        """How many downloads break in the middle."""
        self.cut_logs = 0
        """How many connections with a log end after some lines."""
        self.python = sys.executable
        self.asked_for: list[str] = []
        self.everything = ""
        """All that was ever pushed."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it and what runs there."""
        self.answers_pushes.set()
        for one in self.sessions():
            self.cancel(one)
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """That of who uses it."""
        key = {"KAGGLE_USERNAME": "me", "KAGGLE_KEY": self.key}
        return {"KAGGLE_API_ENVIRONMENT": "TEST", "HTTP_PROXY": self.url, "NO_PROXY": "", "no_proxy": "", **key}

    def sessions(self) -> list[Pushed]:
        """All, the oldest first."""
        return [one for versions in list(self.pushed.values()) for one in versions]

    def cancel(self, one: Pushed) -> None:
        """What a user does in the page."""
        if one.state in ("QUEUED", "RUNNING"):
            one.state = "CANCEL_ACKNOWLEDGED"
        if one.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)
        if one.watch is not None:
            one.watch.join(30)

    def give_machines(self) -> None:
        """Those that wait begin."""
        self.machines = True
        for one in self.sessions():
            if one.state == "QUEUED":
                self._begin(one)

    def save_version(self, slug: str, secrets: dict[str, str]) -> Pushed:
        """What a user does in a script's page: attach secrets, *Save Version*, *Save & Run All*."""
        self.attached[slug] = secrets
        return self._add(self.pushed[slug][-1].request)

    def _add(self, request: ApiSaveKernelRequest) -> Pushed:
        with self._lock:
            versions = self.pushed.setdefault(request.slug, [])
            one = Pushed(request, self.folder / f"{len(self.sessions()) + 1}")
            one.folder.mkdir(parents=True)
            versions.append(one)
        if self.machines:
            self._begin(one)
        return one

    def _begin(self, one: Pushed) -> None:
        inputs = {}
        for ref in one.request.dataset_data_sources:
            place = one.folder / "inputs" / ref.partition("/")[2]
            place.mkdir(parents=True)
            for name, data in self.datasets.get(ref, {}).items():
                (place / name).write_bytes(data)
            inputs[place.name] = place
        session = Session(one.folder, inputs)
        site, home = one.folder / "site", one.folder / "home"
        for path in (site, home):
            path.mkdir()
        (site / "kaggle_secrets.py").write_text(SECRETS)
        (site / "attached.json").write_text(json.dumps(self.attached.get(one.request.slug, {})))
        (one.folder / "script.py").write_text(one.request.text)
        path = f"{Path(self.python).parent}:{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(home), "PYTHONPATH": str(site), "KAGGLE_KERNEL_RUN_TYPE": "Batch"}
        one.process = subprocess.Popen(
            session.command(self.python, one.folder / "script.py"),
            env={**env, "PYTHONUNBUFFERED": "1"},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        one.state = "RUNNING"
        one.watch = threading.Thread(target=self._watch, args=(one,), daemon=True)
        one.watch.start()

    def _watch(self, one: Pushed) -> None:
        assert one.process is not None
        assert one.process.stdout is not None
        with one.process.stdout as lines:
            for line in lines:
                one.log.append(line)
        code = one.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        for name in ("inputs", "site", "home", "root"):
            shutil.rmtree(one.folder / name, ignore_errors=True)
        if one.state == "RUNNING":
            one.state, one.message = ("COMPLETE", "") if code == 0 else ("ERROR", f"Exit code {code}")

    # --- what it answers -------------------------------------------------------------------------------------------

    def _answer(self, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        answers = {
            "SaveKernel": self._save,
            "GetKernelSessionStatus": self._status,
            "ListKernelSessionOutput": self._output,
            "GetAcceleratorQuotaStatistics": self._quota,
            "StartBlobUpload": self._start_upload,
            "CreateDataset": self._create,
            "GetDatasetStatus": self._data_status,
            "DeleteDataset": self._delete,
            "IntrospectToken": self._whose,
            "GenerateAccessToken": self._renew,
        }
        if busy := self.busy_at.get(name) or self.busy:
            return (code := busy.pop(0)), {"code": code, "message": "made up for tests"}
        if name not in answers:
            return 404, {"code": 404, "message": f"no {name}"}
        return answers[name](body)

    def _save(self, body: dict[str, Any]) -> tuple[int, Any]:
        request, answer = ApiSaveKernelRequest.from_dict(body), ApiSaveKernelResponse()
        self.everything += json.dumps(body)
        if self.refusal is not None:
            answer.error = self.refusal
            return 200, answer.to_dict()
        assert request.slug == f"me/{request.new_title}"
        assert request.is_private
        assert request.enable_internet
        self.attached.pop(request.slug, None)
        self._add(request)
        answer.ref, answer.version_number = request.slug, len(self.pushed[request.slug])
        answer.invalid_dataset_sources = [ref for ref in request.dataset_data_sources if ref not in self.datasets]
        self.answers_pushes.wait()
        self.busy, self.after_push = self.busy + self.after_push, []
        if self.lost_pushes:
            self.lost_pushes -= 1
            return 504, {"code": 504, "message": "made up for tests"}
        return 200, answer.to_dict()

    def _find(self, request: Any) -> Pushed | None:
        versions = self.pushed.get(f"{request.user_name}/{request.kernel_slug}", [])
        versions = versions[:-1] if self.is_behind else versions
        number = int((request.version_label or f"v{len(versions)}").removeprefix("v"))
        return versions[number - 1] if 0 < number <= len(versions) else None

    def _status(self, body: dict[str, Any]) -> tuple[int, Any]:
        one = self._find(ApiGetKernelSessionStatusRequest.from_dict(body))
        if one is None:
            return 403, {"code": 403, "message": "Permission 'kernels.get' was denied"}
        answer = ApiGetKernelSessionStatusResponse()
        answer.status, answer.failure_message = KernelWorkerStatus[one.state], one.message
        return 200, answer.to_dict(ignore_defaults=False)

    def _output(self, body: dict[str, Any]) -> tuple[int, Any]:
        request = ApiListKernelSessionOutputRequest.from_dict(body)
        one, answer = self._find(request), ApiListKernelSessionOutputResponse()
        assert one is not None
        paths = [] if one.state in ("QUEUED", "RUNNING") else sorted(p for p in one.working.rglob("*") if p.is_file())
        at = int(request.page_token or 0)
        for path in paths[at : at + 1]:  # a page for each
            file = ApiKernelSessionOutputFile()
            file.file_name, file.url = path.relative_to(one.working).as_posix(), f"http://localhost:7777/file{path}"
            answer.files = [*answer.files, file]
        answer.next_page_token = str(at + 1) if at + 1 < len(paths) else ""
        answer.log = "".join(one.log)
        return 200, answer.to_dict()

    def _quota(self, body: dict[str, Any]) -> tuple[int, Any]:
        answer, gpu = ApiGetAcceleratorQuotaStatisticsResponse(), ApiAcceleratorQuota()
        gpu.time_used, gpu.total_time_allowed = timedelta(0), timedelta(hours=self.hours)
        answer.gpu_quota, answer.quota_refresh_time = gpu, datetime(2026, 12, 5)
        found = answer.to_dict()
        found["gpuQuota"]["totalTimeAllowed"] = f"{self.hours * 3600:.0f}s"  # its own writer leaves days out
        return 200, found

    def _start_upload(self, body: dict[str, Any]) -> tuple[int, Any]:
        request, answer = ApiStartBlobUploadRequest.from_dict(body), ApiStartBlobUploadResponse()
        answer.token = f"blob-{len(self.blobs)}"
        self.blobs[answer.token] = (request.name, b"")
        answer.create_url = f"http://localhost:7777/blob/{answer.token}"
        return 200, answer.to_dict()

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        request, answer = ApiCreateDatasetRequest.from_dict(body), ApiCreateDatasetResponse()
        ref = f"{request.owner_slug}/{request.slug}"
        assert request.is_private
        assert 6 <= len(request.title) <= 50
        if ref in self.datasets:
            answer.status, answer.error = "error", f"The requested slug {request.slug} is already in use"
            return 200, answer.to_dict()
        self.unready[ref] = self.slow
        self.datasets[ref] = dict(self.blobs.pop(one.token) for one in request.files)
        answer.status = "ok"
        return 200, answer.to_dict()

    def _data_status(self, body: dict[str, Any]) -> tuple[int, Any]:
        request, answer = ApiGetDatasetStatusRequest.from_dict(body), ApiGetDatasetStatusResponse()
        ref = f"{request.owner_slug}/{request.dataset_slug}"
        if ref not in self.datasets:
            return 403, {"code": 403, "message": "Permission 'datasets.get' was denied"}
        answer.status = DatabundleVersionStatus.BLOBS_RECEIVED if self.unready[ref] else DatabundleVersionStatus.READY
        self.unready[ref] -= self.unready[ref] > 0
        return 200, answer.to_dict(ignore_defaults=False)

    def _delete(self, body: dict[str, Any]) -> tuple[int, Any]:
        request = ApiDeleteDatasetRequest.from_dict(body)
        if self.datasets.pop(f"{request.owner_slug}/{request.dataset_slug}", None) is None:
            return 404, {"code": 404, "message": "not found"}
        return 200, ApiDeleteDatasetResponse().to_dict()

    def _whose(self, body: dict[str, Any]) -> tuple[int, Any]:
        answer = IntrospectTokenResponse()
        answer.active, answer.username = True, "me"
        return 200, answer.to_dict()

    def _renew(self, body: dict[str, Any]) -> tuple[int, Any]:
        answer = GenerateAccessTokenResponse()
        if GenerateAccessTokenRequest.from_dict(body).refresh_token != f"renews {self.key}":
            return 401, {"code": 401, "message": "Unauthenticated"}
        self.oauth = f"{self.oauth}+"
        answer.token, answer.expires_in = self.oauth, 12 * 3600
        return 200, answer.to_dict()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                path = urlsplit(self.path).path
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.asked_for.append(f"{self.command} {path}")
                own = [f"Basic {base64.b64encode(f'me:{server.key}'.encode()).decode()}", f"Bearer {server.key}"]
                own = own if server.oauth is None else [f"Bearer {server.oauth}"]
                if path.startswith("/file/"):
                    self._file(Path(path.removeprefix("/file")))
                elif path.startswith("/blob/"):
                    token = path.rpartition("/")[2]
                    server.blobs[token] = (server.blobs[token][0], body)
                    self._send(200, {})
                elif self.headers.get("Authorization") not in own and not path.endswith("/GenerateAccessToken"):
                    self._send(401, {"code": 401, "message": "Unauthenticated"})
                elif path.endswith("/GetKernelSessionLogsStream"):
                    self._log(json.loads(body))
                else:
                    self._send(*server._answer(path.rpartition("/")[2], json.loads(body or b"{}")))

            do_GET = do_POST = do_PUT = _do

            def _send(self, code: int, answer: Any) -> None:
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if code == 429 and server.retry_after is not None:
                    self.send_header("Retry-After", str(server.retry_after))
                with suppress(ConnectionError):  # who has asked may be gone
                    self.end_headers()
                    self.wfile.write(data)

            def _file(self, path: Path) -> None:
                """From a byte on, and once in a while not to its end."""
                data, begin = path.read_bytes(), 0
                if asked := self.headers.get("Range"):
                    begin = int(asked.removeprefix("bytes=").rstrip("-"))
                if begin and begin >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206 if begin else 200)
                self.send_header("Content-Length", str(len(data) - begin))
                self.end_headers()
                whole = len(data) < 1000 or not server.cuts
                server.cuts -= not whole
                self.wfile.write(data[begin:] if whole else data[begin : begin + 500])

            def _log(self, body: dict[str, Any]) -> None:
                """As events until the session has ended; of one that has ended as one list."""
                one = server._find(ApiGetKernelSessionLogsStreamRequest.from_dict(body))
                assert one is not None
                if one.state not in ("QUEUED", "RUNNING"):
                    self._send(200, [{"stream_name": "stdout", "time": 0, "data": line} for line in one.log])
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                told = 0
                while True:
                    over = one.state not in ("QUEUED", "RUNNING")
                    while told < len(one.log):
                        self.wfile.write(f"data: {json.dumps({'data': one.log[told]})}\n\n".encode())
                        told += 1
                        if server.cut_logs and told == 2:
                            server.cut_logs -= 1
                            return
                    if over:
                        self.wfile.write(b"data: END_OF_LOG\n\n")
                        return
                    time.sleep(0.05)

            def log_message(self, *words: object) -> None:
                pass

        return Handler
