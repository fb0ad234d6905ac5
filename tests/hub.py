"""A server on loopback that speaks what Hugging Face's own client calls about jobs. Each job is a process of this machine, and
has of our environment only where Python is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The only revision of each repository."""
HARDWARE = [
    ("cpu-basic", "2 vCPU", "16 GB", None, 0.0),
    ("t4-small", "4 vCPU", "15 GB", ("T4", "1", "16 GB"), 0.4),
    ("a10g-small", "4 vCPU", "15 GB", ("A10G", "1", "24 GB"), 1.0),
    ("a100-large", "12 vCPU", "142 GB", ("A100", "1", "80 GB"), 2.5),
    ("v5e-2x2", "112 vCPU", "188 GB", ("v5e", "4", "64 GB"), 3.0),
    ("l4x4", "48 vCPU", "186 GB", ("L4", "4", "96 GB"), 4.0),
    ("a10g-largex4", "48 vCPU", "184 GB", ("A10G", "4", "96 GB"), 5.0),
    ("a100x4", "48 vCPU", "568 GB", ("A100", "4", "320 GB"), 10.0),
]


@dataclass
class HubJob:
    """One of its jobs."""

    id: str
    asked: dict[str, Any]
    stage: str = "SCHEDULING"
    message: str | None = None
    log: list[tuple[str, str]] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    watch: threading.Thread | None = None

    def told(self) -> dict[str, Any]:
        """What anybody who may see it is told: no values of secrets."""
        return {
            "id": self.id,
            "createdAt": _now(),
            "dockerImage": self.asked["dockerImage"],
            "command": self.asked["command"],
            "arguments": [],
            "environment": self.asked["environment"],
            "secrets": dict.fromkeys(self.asked.get("secrets", {})),
            "flavor": self.asked["flavor"],
            "labels": self.asked.get("labels", {}),
            "status": {"stage": self.stage, "message": self.message},
            "owner": {"id": "1", "name": "me", "type": "user"},
        }


class Hub:
    """At :attr:`url`, for whoever has :attr:`token`; its jobs keep their files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, "hf_" + "madeUpForTests0" * 2
        self.jobs: dict[str, HubJob] = {}
        self.machines = True
        """Whether there are machines for new jobs."""
        self.not_to_be_pulled = ""
        """An image that it does not get."""
        self.together: threading.Barrier | None = None
        """Where those meet who begin a job, before any is begun."""
        self.refusal: tuple[int, str] | None = None
        """What is said to whoever wants to begin one."""
        self.busy: list[int] = []
        """What the next calls are answered with, instead of what they ask for."""
        self.away = False
        """Whether nobody answers as he should."""
        self.lost: list[bool] = []
        """Of the next calls that begin a job the answer is lost: whether it has begun all the same, or does so later."""
        self.late: list[dict[str, Any]] = []
        """Those that begin later (:meth:`arrive`)."""
        self.answers_runs = threading.Event()
        """Until it is set, who has begun a job hears nothing."""
        self.answers_runs.set()
        self.repos: dict[str, dict[str, bytes]] = {}
        """Files of repositories that it holds, by OWNER/NAME and then by their names."""
        self.asked_for: list[str] = []
        self.python = sys.executable
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it and what runs there."""
        self.answers_runs.set()
        for job in self.jobs.values():
            self._end(job)
            if job.watch is not None:
                job.watch.join(30)
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """That of who uses it."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def give_machines(self) -> None:
        """Those that wait begin."""
        self.machines = True
        for job in list(self.jobs.values()):
            if job.stage == "SCHEDULING":
                self._begin(job)

    def arrive(self) -> HubJob:
        """What was asked for a while ago begins."""
        return self._run(self.late.pop(0))

    def _run(self, asked: dict[str, Any]) -> HubJob:
        with self._lock:
            job = HubJob(f"{len(self.jobs) + 1:024x}", asked)
            self.jobs[job.id] = job
        if asked["dockerImage"] == self.not_to_be_pulled:
            job.stage, job.message = "ERROR", f"image {self.not_to_be_pulled} cannot be pulled"
        elif self.machines:
            self._begin(job)
        return job

    def _begin(self, job: HubJob) -> None:
        home = self.folder / job.id
        (home / "tmp").mkdir(parents=True)
        path = f"{Path(self.python).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(home), "TMPDIR": str(home / "tmp"), "JOB_ID": job.id}
        env = {**own, **job.asked["environment"], **job.asked.get("secrets", {})}
        job.process = subprocess.Popen(
            job.asked["command"],
            env=env,
            cwd=home,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        job.stage = "RUNNING"
        job.watch = threading.Thread(target=self._watch, args=(job,), daemon=True)
        job.watch.start()

    def _watch(self, job: HubJob) -> None:
        assert job.process is not None
        assert job.process.stdout is not None
        with job.process.stdout as lines:
            for line in lines:
                job.log.append((_now(), line.rstrip("\n")))
        code = job.process.wait()
        while (self.folder / job.id).exists():  # a machine goes with its job, and with what the job has left running
            with suppress(ProcessLookupError):
                os.killpg(job.process.pid, 9)
            shutil.rmtree(self.folder / job.id, ignore_errors=True)
        if job.stage != "CANCELED":
            job.stage = "COMPLETED" if code == 0 else "ERROR"
            job.message = None if code == 0 else f"Job failed with exit code: {code}. Reason: Error"

    def lose(self, job: HubJob) -> None:
        """Its machine is gone."""
        assert job.process is not None
        os.killpg(job.process.pid, 9)

    def _end(self, job: HubJob) -> None:
        job.stage = job.stage if job.stage in ("COMPLETED", "ERROR") else "CANCELED"
        if job.process is not None and job.process.poll() is None:
            os.killpg(job.process.pid, 9)

    def _answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if self.away or self.busy:
            return 503 if self.away else self.busy.pop(0), {"error": "made up for tests"}
        parts = path.strip("/").split("/")[1:]
        if parts == ["whoami-v2"]:
            return 200, {"name": "me", "type": "user"}
        if parts == ["jobs", "hardware"]:
            return 200, [_hardware(*row) for row in HARDWARE]
        if parts[:1] == ["models"]:
            files = self.repos.get("/".join(parts[1:3]))
            if files is None:
                return 404, {"error": "Repository not found"}
            siblings = [{"rfilename": name, "size": len(file)} for name, file in files.items()]
            return 200, {"id": "/".join(parts[1:3]), "modelId": "/".join(parts[1:3]), "sha": COMMIT, "siblings": siblings}
        if parts[:2] != ["jobs", "me"]:
            return 403, {"error": "forbidden"}
        if method == "POST" and len(parts) == 2:
            if self.together is not None:
                self.together.wait(60)
            if self.refusal is not None:
                return self.refusal[0], {"error": self.refusal[1]}
            return self._asked(json.loads(body))
        if len(parts) == 2:
            wanted = dict(label.split("=", 1) for label in query.get("label", []))
            found = [job for job in self.jobs.values() if job.stage in query.get("stage", [job.stage])]
            return 200, [job.told() for job in found if wanted.items() <= job.asked.get("labels", {}).items()]
        job = self.jobs.get(parts[2])
        if job is None:
            return 404, {"error": "no such job"}
        if parts[3:] == ["cancel"]:
            self._end(job)
        return 200, job.told()

    def _file(self, path: str) -> bytes | None:
        """What lies at OWNER/NAME/resolve/REVISION/FILE."""
        owner, name, what, _, *file = [*path.strip("/").split("/"), "", "", "", ""]
        if what != "resolve" or self.away or self.busy:
            return None
        return self.repos.get(f"{owner}/{name}", {}).get("/".join(file).rstrip("/"))

    def _asked(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if not self.lost:
            return 200, self._run(asked).told()
        if self.lost.pop(0):
            self._run(asked)
        else:
            self.late.append(asked)
        self.answers_runs.wait()
        return 504, {"error": "made up for tests"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.asked_for.append(f"{self.command} {url.path}")
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self._send(401, {"error": "Invalid username or password."})
                elif url.path.endswith("/logs"):
                    self._log(hub.jobs[url.path.split("/")[-2]])
                elif (file := hub._file(url.path)) is not None:
                    self._give(file)
                else:
                    self._send(*hub._answer(self.command, url.path, parse_qs(url.query), body))

            do_GET = do_POST = do_HEAD = _do

            def _give(self, file: bytes) -> None:
                """A file of a repository, with what its client asks for of one."""
                tag = hashlib.sha256(file).hexdigest()[:40]
                self.send_response(200)
                for name, value in {"Content-Length": len(file), "ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(file)

            def _send(self, code: int, answer: Any) -> None:
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _log(self, job: HubJob) -> None:
                """As events, until the job has ended."""
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                told = 0
                while True:
                    over = job.stage in ("COMPLETED", "ERROR", "CANCELED")
                    while told < len(job.log):
                        when, line = job.log[told]
                        self.wfile.write(f"data: {json.dumps({'data': line, 'timestamp': when})}\n\n".encode())
                        told += 1
                    if over:
                        return
                    time.sleep(0.05)

            def log_message(self, *words: object) -> None:
                pass

        return Handler


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _hardware(name: str, cpu: str, ram: str, gpu: tuple[str, str, str] | None, dollars: float) -> dict[str, Any]:
    accelerator = None
    if gpu is not None:
        model, quantity, vram = gpu
        kind = "tpu" if model.startswith("v5e") else "gpu"
        accelerator = {"type": kind, "model": model, "quantity": quantity, "vram": vram, "manufacturer": "Nvidia"}
    price = {"unitCostMicroUSD": int(dollars / 60 * 1e6), "unitCostUSD": dollars / 60, "unitLabel": "minute"}
    return {"name": name, "prettyName": name, "cpu": cpu, "ram": ram, "accelerator": accelerator, **price}
