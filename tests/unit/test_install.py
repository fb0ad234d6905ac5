"""How ``make demo`` and ``make test`` install: where torch comes from, what is told meanwhile, what is said when pip fails.

A real pip works on a made-up project, from indexes of this test's own; no network is used.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import wait_until
from tests.terminals import Terminal

SCRIPT = Path(__file__).parents[2] / "scripts" / "install.py"
INSTALL: dict[str, Any] = runpy.run_path(str(SCRIPT))

PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """\
import shutil

def build_editable(folder, settings=None, metadata=None):
    shutil.copy("made/alone-1.0-py3-none-any.whl", folder)
    return "alone-1.0-py3-none-any.whl"

def get_requires_for_build_editable(settings=None):
    return []
"""


def wheel(folder: Path, name: str, version: str, needs: tuple[str, ...] = (), size: int = 0) -> Path:
    """A wheel of one module that says which version it is, and ``size`` bytes beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {one}\n" for one in needs)
    files = {
        f"{name}.py": f"VERSION = {version!r}\n".encode(),
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if size:
        files[f"{name}_data.py"] = b"#" * size
    record = f"{about}/RECORD,,\n"
    for file, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{file},sha256={digest},{len(content)}\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, f"{about}/RECORD": record.encode()}.items():
            archive.writestr(file, content)
    return path


class Server(ThreadingHTTPServer):
    """Indexes as folders: ``/pypi/torch/torch-2.0-py3-none-any.whl`` and the like."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.slow = folder, [], 0.0
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                server.asked.append(self.path)

            def do_GET(self) -> None:
                if self.path.endswith(".whl"):
                    time.sleep(server.slow)
                super().do_GET()

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    asked: list[str]

    def url(self, index: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{index}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Of torch 2.0 there is pip's own build, which needs a library, and a CPU build in another index."""
    wheel(tmp_path / "served/pypi/torch", "torch", "2.0", ("cuda",))
    wheel(tmp_path / "served/pypi/torch", "torch", "3.0")
    wheel(tmp_path / "served/pypi/cuda", "cuda", "1.0", size=5_500_000)
    wheel(tmp_path / "served/cpu/torch", "torch", "2.0+cpu")
    wheel(tmp_path / "served/cpu/cuda", "cuda", "6.6")
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Installer = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def install(tmp_path: Path, server: Server, clean_env: dict[str, str]) -> Installer:
    """Calls the script for an environment with nothing but pip in it, and a project that needs torch."""
    project = tmp_path / "project"
    wheel(project / "made", "alone", "1.0", ("torch",))
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "backend.py").write_text(BACKEND)
    (project / "constraints.txt").write_text("torch==2.0\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    packages = next((project / ".venv").glob("lib/python*/site-packages"))
    for part in pip_parts(tmp_path):
        (packages / part.name).symlink_to(part)
    environ = {name: value for name, value in clean_env.items() if not name.startswith(("PIP_", "TORCH_INDEX"))}
    environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_CACHE_DIR": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
    environ["PIP_INDEX_URL"] = server.url("pypi")

    def call(
        *,
        own: bool = False,
        gpu: str | None = None,
        pytorch: str = "",
        first: float = 10.0,
        to: int = subprocess.PIPE,
        **variables: str,
    ) -> Any:
        """``own``: whether it is seen that the index is not pip's own without any settings. ``to``: where it prints."""
        program = [
            f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); sys.dont_write_bytecode = True; import install",
            f"install.gpu, install.PYTORCH, install.FIRST_WORD = lambda: {gpu!r}, {pytorch or server.url('')!r}, {first}",
            "" if own else "install.own_index = lambda: ''",
            "sys.exit(install.main(['.']))",
        ]
        done = subprocess.run(
            [project / ".venv/bin/python", "-c", "\n".join(program)],
            env={**environ, **variables},
            cwd=project,
            stdout=to,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in f"{done.stdout}{done.stderr}"
        return done

    return call


def torch_of(tmp_path: Path) -> str:
    """The version that is installed."""
    code = "import torch; print(torch.VERSION)"
    command = [tmp_path / "project/.venv/bin/python", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one build")
@pytest.mark.slow
def test_without_a_gpu_torch_alone_comes_from_pytorchs_index(install: Installer, server: Server, tmp_path: Path) -> None:
    done = install()
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch_of(tmp_path) == "2.0+cpu"
    assert f"torch: its CPU build from {server.url('cpu')}: no GPU is here; TORCH_INDEX=URL takes another" in done.stdout
    assert [path for path in server.asked if path.startswith("/cpu/") and "torch" not in path] == []
    assert not any(path.startswith("/pypi/torch/") and path.endswith(".whl") for path in server.asked)
    assert re.search(r"^installed in \d+ s$", done.stdout, re.MULTILINE)
    assert "Successfully installed" in (tmp_path / "project/.venv/install.log").read_text()
    server.asked.clear()
    assert install().returncode == 0  # nothing is fetched again
    assert server.asked == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "version", "said"),
    [
        ({"own": True}, "2.0", "torch: as pip finds it, by your own settings (PIP_INDEX_URL); TORCH_INDEX=cpu takes"),
        ({"gpu": "/dev/nvidia0"}, "2.0", "torch: as pip finds it"),
        ({"TORCH_INDEX": ""}, "2.0", "torch: as pip finds it: TORCH_INDEX is empty"),
        ({"own": True, "gpu": "/dev/nvidia0", "TORCH_INDEX": "cpu"}, "2.0+cpu", "/cpu, as TORCH_INDEX says"),
        ({"pytorch": "http://127.0.0.1:9/"}, "2.0", "torch: that index cannot be reached, or has no build that fits"),
    ],
    ids=["own index", "gpu", "empty", "chosen", "out of reach"],
)
def test_where_torch_comes_from(options: dict[str, Any], version: str, said: str, install: Installer, tmp_path: Path) -> None:
    if sys.platform != "linux" and "pytorch" in options:
        pytest.skip("elsewhere there is one build")
    done = install(**options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch_of(tmp_path) == version
    assert said in done.stdout
    if version == "2.0":
        assert re.search(r"^ +\d+ s  (fetching|reading) cuda-1.0 \(5.5 MB\)$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.slow
def test_what_was_chosen_has_to_be_there(install: Installer) -> None:
    done = install(TORCH_INDEX="http://someone:secret@127.0.0.1:9/simple", PIP_RETRIES="1")
    assert done.returncode == 2
    assert "from http://127.0.0.1:9/simple, as TORCH_INDEX says" in done.stdout
    assert re.fullmatch(
        r"error: the package index cannot be reached, so nothing was found for torch==2.0\n"
        r"see that the network works .*, then repeat\nall that pip said: \.venv/install\.log\n",
        done.stderr,
    ), done.stderr
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_that_it_goes_on_is_told_now_and_then(install: Installer, server: Server) -> None:
    server.slow = 2.5
    done = install(gpu="there", first=0.5)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"still (looking for packages|fetching cuda-1.0 \(5.5 MB\))", done.stdout), done.stdout
    assert len(done.stdout.splitlines()) < 25


@pytest.mark.slow
def test_at_a_terminal_one_line_moves_and_nothing_of_it_stays(install: Installer, server: Server) -> None:
    server.slow = 0.8
    terminal = Terminal(columns=60)
    done = install(gpu="there", to=terminal.inside, TERM="xterm", PYTHONIOENCODING="utf-8", COLUMNS="60")
    wait_until(lambda: "installed in" in terminal.text)
    terminal.close()
    assert done.returncode == 0, terminal.text + done.stderr
    assert re.search(rb"\r\x1b\[K(\xe2\x94\x81| )* +\d+ s  (looking for packages|fetching cuda-1.0)", terminal.raw), (
        terminal.raw
    )
    assert not [line for line in terminal.lines if "looking" in line or "━" in line], terminal.text


@pytest.mark.slow
def test_a_version_that_is_not_there_is_told_with_what_to_do(install: Installer, tmp_path: Path) -> None:
    (tmp_path / "project/constraints.txt").write_text("torch==7.0\n")
    done = install(own=True)
    assert done.returncode == 2
    assert re.match(r"error: the package index has nothing for torch.* that fits Python 3\.\d+\.\S+ on \w+ \w+\n", done.stderr)
    assert "make clean demo PYTHON=" in done.stderr
    assert len(done.stderr.splitlines()) == 3


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", 1, "the disk is full ("),
        (
            "WARNING: Retrying (...) after connection broken by 'NewConnectionError'\nConnection refused\n",
            1,
            "cannot be reached",
        ),
        ("Collecting torch\n", -9, "ended by signal 9 (out of memory?)"),
        (
            "error: subprocess-exited-with-error\nERROR: Failed building wheel for x\n",
            1,
            "pip failed: Failed building wheel for x",
        ),
        ("", 3, "pip failed: exit code 3"),
    ],
)
def test_why_pip_failed(said: str, code: int, told: str) -> None:
    assert told in str(INSTALL["why_failed"](said, code))


def test_what_the_user_has_set_counts_as_an_own_index() -> None:
    listed = (
        ":env:.find-links='/wheels'\nglobal.timeout='60'\nglobal.index-url='https://me:secret@mirror/simple'\n"
        "install.extra-index-url='https://a\\nhttps://b'\ndownload.index-url='https://c'\n:env:.no-index='0'\nglobal.find-links=''\n"
    )
    assert list(INSTALL["own_settings"](listed)) == ["PIP_FIND_LINKS", "global.index-url", "install.extra-index-url"]
    assert list(INSTALL["own_settings"](":env:.no-index='1'\n")) == ["PIP_NO_INDEX"]


@pytest.mark.parametrize("sign", ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:01:00.0", "dev/nvhost-gpu"])
def test_a_gpu_is_found_by_what_its_driver_leaves(sign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()  # there without a GPU, too
    assert INSTALL["gpu"](tmp_path) is None
    (tmp_path / sign).mkdir(parents=True)
    assert INSTALL["gpu"](tmp_path) == str(tmp_path / sign)


@pytest.mark.parametrize(
    ("script", "found"), [("echo 'GPU 0: NVIDIA A10'", True), ("echo 'No devices were found'; exit 6", False)]
)
def test_a_gpu_is_found_by_nvidia_smi(script: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (INSTALL["gpu"](tmp_path) is not None) == found


def pip_parts(tmp_path: Path) -> list[Path]:
    """pip and what tells of it: of this environment, else the one that Python brings."""
    found = importlib.util.find_spec("pip")
    if found is not None and found.origin is not None:
        folder = Path(found.origin).parent
        return [folder, *folder.parent.glob("pip-*.dist-info")]
    ensurepip = importlib.util.find_spec("ensurepip")
    assert ensurepip is not None
    assert ensurepip.origin is not None
    with zipfile.ZipFile(next((Path(ensurepip.origin).parent / "_bundled").glob("pip-*.whl"))) as archive:
        archive.extractall(tmp_path / "pip")
    return list((tmp_path / "pip").iterdir())


def test_the_demo_names_the_job_that_it_has_trained_also_when_there_are_several(tmp_path: Path) -> None:
    """``quickstart`` alone would be the beginning of two IDs after the second demo."""
    fake = tmp_path / "bin" / "lastrun"
    fake.parent.mkdir()
    listed = '{\n "jobs": [\n  {\n   "id": "quickstart-2-b",\n   "name": "quickstart"\n  }\n ]\n}'
    fake.write_text(f"#!/bin/sh\n[ \"$1\" = list ] && echo '{listed}' || echo trained\n")
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    for path in fake.parent.iterdir():
        path.chmod(0o755)
    (tmp_path / ".train").touch()
    done = subprocess.run(
        ["make", "demo", f"VENV={tmp_path}"], cwd=SCRIPT.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for command in ("status", "logs", "pull"):
        assert f"lastrun {command} quickstart-2-b" in done.stdout


def test_who_leaves_while_the_environment_is_made_sees_no_traceback(tmp_path: Path) -> None:
    venv, fake = tmp_path / "venv", tmp_path / "python"
    making = "import os, sys, time; os.makedirs(sys.argv[1] + '/bin'); time.sleep(60)"
    fake.write_text(f'#!/bin/sh\n[ "$2" = venv ] && exec {sys.executable} -c "{making}" "$3"\nexit 0\n')
    fake.chmod(0o755)
    words = ["make", "demo", f"VENV={venv}", f"PYTHON={fake}"]
    with subprocess.Popen(
        words, cwd=SCRIPT.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as making_it:
        wait_until((venv / "bin").exists)
        os.killpg(making_it.pid, signal.SIGINT)
        out, error = making_it.communicate(timeout=60)
    assert making_it.returncode != 0
    assert "Traceback" not in out + error
    assert "interrupted; the same command begins again" in error
    assert not venv.exists()
