"""Fixtures that many tests share, and the rule that nothing is skipped in CI."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from platformdirs import user_cache_path, user_config_path, user_data_path

# The runner reads it when it is imported. Long enough that on a busy machine nobody who lives counts as dead.
os.environ.setdefault("LASTRUN_WAITS", "heartbeat=1 expiry=30 follow=0.2 read=3 patience=4 pause=2 engine=6 doctor=100")

os.environ["LASTRUN_SHUTDOWN"] = "/bin/false"  # whatever a test does, this machine stays on

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each of the hundreds of starts compiles torch's sources anew

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell without a terminal starts what it leaves behind (&) deaf to it,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and make, which a test interrupts, would stay so

from runner.errors import EngineError
from runner.launch.docker.engine import _connected
from runner.launch.sky.engine import sky
from runner.launch.ssh.launcher import look
from runner.launch.ssh.setup import Host
from runner.store.directory import DirectoryStore
from tests import browser, debian
from tests.ceph import Ceph, why_not
from tests.docker_engine import IMAGE, CannotStart, Engine, SharedImage, removed_by_and_by
from tests.docker_engine import why_not as why_no_engine
from tests.hub import Hub
from tests.jobs import LONGER, PATIENCE, Run, jobs_in, result
from tests.kaggle import why_not as why_no_session
from tests.sky_server import SkyServer, why_no_sky
from tests.slurm import Slurm
from tests.slurm import why_not as why_no_slurm
from tests.sshd import Sshd
from tests.sshd import why_not as why_no_sshd

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TINY = """\
name: tiny
model: {variant: nano_e_v3, stem_channels: 8, channels: [8, 8], num_blocks: [1, 1], depths: [1, 1], strides: [1, 2]}
dataset: synthetic
training: {epochs: 3, batch_size: 40, input_frames: 16, warmup_epochs: 1}
checkpoint: {every_minutes: 0.002, log_every_steps: 5}
hardware: {cpu_threads: 1}
"""
"""A job of a few seconds with several checkpoints in every one of them. It is too small for the compiled loops, which would
take a second of every start."""


def _outside() -> dict[Path, int]:
    """When was written what a lastrun that is no test would use: the user's own folders, and those of Kaggle."""
    folders = [Path("/kaggle"), *(make("lastrun") for make in (user_cache_path, user_config_path, user_data_path))]
    found = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {path: path.lstat().st_mtime_ns for path in found if os.path.lexists(path)}


_BEFORE = _outside()
_LEFT: list[Path] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With LASTRUN_NO_SKIPS=1 (CI), a skipped test is a failure; so is what tests have written outside their own folders."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # one of xdist's workers
        return
    SharedImage(session.config._tmp_path_factory.getbasetemp() / IMAGE).remove()  # type: ignore[attr-defined]
    after = _outside()
    _LEFT[:] = [path for path in after if after[path] != _BEFORE.get(path)]
    if _LEFT or (os.environ.get("LASTRUN_NO_SKIPS") and reporter.stats.get("skipped")):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A group of tests shares a server: Ceph, a Docker engine, a browser. ``-m "not server"`` is everything that needs none."""
    for item in items:
        if item.get_closest_marker("xdist_group"):
            item.add_marker("server")
    wanted = [item for item in items if config.getoption("--full") or not item.get_closest_marker("full")]
    if config.getoption("--one-of-each"):
        first: dict[str, pytest.Item] = {}
        for item in wanted:
            first.setdefault(item.nodeid.partition("[")[0], item)
        wanted = list(first.values())
    if len(wanted) < len(items):
        kept = set(map(id, wanted))
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
        items[:] = wanted


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A name that can be read in a log, instead of pages of what a file might hold."""
    return f"long {argname}" if isinstance(val, (str, bytes)) and len(ascii(val)) > 90 else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """A group of tests shares a server, which is slow to start. Where versions of pytest and xdist do not fit, each worker
    would start one, in silence."""
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if getattr(session.config.option, "loadgroup", False) and any("@" not in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist does not keep groups of tests together: see pytest in pyproject.toml")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    for name, value in (figure for report in reports if report.when == "call" for figure in report.user_properties):
        terminalreporter.write_line(f"figure: {name}: {value}")
    lasted: dict[str, float] = {}
    for report in (one for kind in terminalreporter.stats.values() for one in kind if isinstance(one, pytest.TestReport)):
        if group := re.search(r"@([\w ]+)$", report.nodeid):  # as pytest-xdist writes it
            lasted[group[1]] = lasted.get(group[1], 0.0) + report.duration
    for name in sorted(lasted, key=lambda name: -lasted[name]):  # the longest is what all others wait for
        terminalreporter.write_line(f"group {name}: {lasted[name]:.0f} s, one test after the other")
    for path in _LEFT:
        terminalreporter.write_line(f"outside the tests' own folders: {path} was written while they ran", red=True)
    if os.environ.get("LASTRUN_NO_SKIPS") and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("LASTRUN_NO_SKIPS is set: the skipped tests above count as failed", red=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = (
        "as many kills, races and jobs, as long outages and as many cases as docs/faults.md tells of; by default a sample"
    )
    parser.addoption("--full", action="store_true", help=help_text)
    help_text = "write the pictures of docs/pictures anew, as the tests that look at pages see them"
    parser.addoption("--pictures", action="store_true", help=help_text)
    help_text = "of a test with many cases the first alone: enough to see whether other versions of libraries do"
    parser.addoption("--one-of-each", action="store_true", help=help_text)


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the figures of docs/faults.md are to be measured, which takes half an hour, or a sample is enough."""
    return bool(request.config.getoption("--full"))


Figures = Callable[[str, object], None]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figures:
    """Keeps a figure that a test has found, to be printed at the end."""
    return lambda name, value: request.node.user_properties.append((name, value))


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[[Any, str], None]:
    """Takes a picture of a page for the documentation, with ``--pictures``; else sees that there is one."""
    folder = Path(__file__).parents[1] / "docs" / "pictures"

    def take(page: Any, name: str) -> None:
        path = folder / f"{name}.png"
        if request.config.getoption("--pictures"):
            from PIL import Image

            folder.mkdir(exist_ok=True)
            with Image.open(io.BytesIO(page.screenshot(full_page=True))) as seen:
                seen.convert("RGB").quantize(128).save(path, optimize=True)  # a third of the bytes
        assert path.is_file(), f"pytest --pictures {request.node.nodeid} takes it"

    return take


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """An environment of its own: home, store and temporary folder below tmp_path."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LASTRUN_", "KAGGLE_", "XDG_", "PYTEST_", "COV_"))}
    own = {"HOME": str(tmp_path), "LASTRUN_STORE": str(tmp_path / "store"), "TMPDIR": str(tmp_path / "tmp")}
    kept = {name: os.environ[name] for name in ("LASTRUN_WAITS", "LASTRUN_SHUTDOWN")}
    return {**env, **own, **kept}


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(clean_env: dict[str, str], tmp_path: Path) -> Cli:
    """``lastrun`` as a user calls it; returns exit code, standard output and error."""

    def call(*words: str | Path, timeout: float = PATIENCE, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runner", *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env={**clean_env, **env}, cwd=tmp_path, check=False
        )

    return call


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright."""
    debian.need("browser", browser.why_not)
    with browser.chromium() as started:
        yield started


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A job file for a run of a few seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """A real Ceph RADOS Gateway with an empty bucket ``lastrun``; boto3 finds its credentials in the environment."""
    debian.need("Ceph", why_not)
    folder = Path(tempfile.mkdtemp(prefix="ceph-", dir="/tmp"))
    cluster = Ceph(folder)
    try:
        cluster.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in cluster.credentials().items():
                patch.setenv(name, value)
            cluster.make_bucket("lastrun")
            yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A real Docker engine that holds the project's image, built by ``lastrun image build``; DOCKER_HOST names it.

    Two groups of tests have one each: ``docker``, whose tests build images, and ``containers``, whose tests run them. What the
    first has built takes minutes, and the second has it from there.
    """
    folder = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))
    one = Engine(folder)
    names = " ".join(item.nodeid for item in request.session.items)
    both = "PYTEST_XDIST_WORKER" in os.environ and "@docker" in names and "@containers" in names
    image = SharedImage(tmp_path_factory.getbasetemp().parent / IMAGE if both else None)
    loads = both and "@containers" in os.environ["PYTEST_CURRENT_TEST"]
    try:
        if not loads:
            image.announce()
        debian.need("Docker engine", why_no_engine)
        there = loads and image.load(one)
        try:
            one.start()
        except CannotStart as why:
            pytest.skip(f"no Docker here: {why}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", one.host)
            if not there:
                image.build(one)
            yield one
    finally:
        if not loads:
            image.give_up()
        one.stop()
        removed_by_and_by(folder)


@pytest.fixture
def clean_engine(engine: Engine, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The commands of a test and the test itself use the engine; no container outlives the test."""
    monkeypatch.setenv("HOME", clean_env["HOME"])
    yield
    engine.remove_containers()
    client = _connected()
    if not isinstance(client, EngineError):
        client.close()
    _connected.cache_clear()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """A real Slurm of two nodes."""
    debian.need("Slurm", why_no_slurm)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    one = Slurm(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(cluster: Slurm, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The commands of a test and the test itself are on its login node; no job outlives the test."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    clean_env["SLURM_CONF"] = str(cluster.conf)
    yield cluster
    cluster.clear()


@pytest.fixture(scope="session")
def far_server() -> Iterator[Sshd]:
    """An SSH server that leads to another home folder on this machine, with this Python and its torch, a shell that greets, and
    a noexec temporary folder. Two set it up at once."""
    debian.need("sshd", why_no_sshd)
    folder = Path(tempfile.mkdtemp(prefix="ssh-", dir="/tmp"))  # short: sockets lie there
    home, noexec = folder / "home", folder / "noexec"
    home.mkdir()
    noexec.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,noexec", "tmpfs", noexec], check=False)
    (home / ".bashrc").write_text(f'echo "Welcome to far"; [ ! -f {home}/rc ] || . {home}/rc; printf "a line without an end"\n')
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    server = Sshd(folder, HOME=str(home), PATH=path, TMPDIR=str(noexec), LASTRUN_SHUTDOWN="/bin/false")
    try:
        if mounted.returncode != 0:
            pytest.skip("a noexec file system cannot be mounted here")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
            patch.setenv("XDG_RUNTIME_DIR", str(folder))
            with ThreadPoolExecutor() as pool:
                found = list(pool.map(lambda _: look(Host("far"), None, None), range(2)))
        assert [one["problems"] for one in found] == [[], []]
        yield server
    finally:
        close_connections(folder)
        server.stop()
        subprocess.run(["umount", "-l", noexec], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def far(far_server: Sshd, clean_env: dict[str, str]) -> Iterator[Sshd]:
    """The commands of a test reach it as ``far``; no connection of theirs outlives the test, nothing that runs there, and no
    file but what the host was set up with. What its shell runs first there is in :file:`home/rc`."""
    runtime = Path(tempfile.mkdtemp(prefix="run-", dir=far_server.folder))
    clean_env["PATH"] = f"{far_server.bin}:{os.environ['PATH']}"
    clean_env["XDG_RUNTIME_DIR"] = str(runtime)
    yield far_server
    close_connections(runtime)
    far_server.end_all()
    home = far_server.folder / "home"
    (home / "rc").unlink(missing_ok=True)
    for name in ("scratch", "ssh/data", "ssh/relay", "ssh/runs"):
        shutil.rmtree(home / ".cache" / "lastrun" / name, ignore_errors=True)


def close_connections(runtime: Path) -> None:
    """Those that ssh keeps."""
    for socket in (runtime / "lastrun").glob("*"):
        subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "far"], capture_output=True, check=False)


@pytest.fixture
def hub(bucket: str, clean_env: dict[str, str], tmp_path: Path) -> Iterator[Hub]:
    """A stand-in for Hugging Face's jobs that the commands of a test use, with their store in a bucket."""
    one = Hub(tmp_path / "machines")
    clean_env.update(one.environment())
    yield one
    one.close()


@pytest.fixture(scope="session")
def sky_api(ceph: Ceph) -> Iterator[SkyServer]:
    """SkyPilot's own server, which takes a quarter of a minute to begin."""
    if why := why_no_sky():
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="sky-", dir="/tmp"))
    one = SkyServer(folder)
    try:
        one.start()
        yield one
    finally:
        one.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sky_server(sky_api: SkyServer, bucket: str, clean_env: dict[str, str]) -> Iterator[SkyServer]:
    """The same, for the commands of a test, whose user has nothing there yet; the catalogue is in the user's home as well."""
    clean_env.update(sky_api.environment())
    own = Path(clean_env["HOME"]) / ".sky"
    own.mkdir()
    (own / "catalogs").symlink_to(sky_api.folder / "home" / ".sky" / "catalogs")
    yield sky_api
    if sky.cache_info().currsize:  # of a test that has asked by itself
        sky()._end()
        sky.cache_clear()
    sky_api.clear()


@pytest.fixture
def kaggle_server(clean_env: dict[str, str], tmp_path: Path) -> Iterator[Any]:
    """A stand-in for Kaggle that the commands of a test use."""
    if why := why_no_session():
        pytest.skip(f"no mount namespace of one's own here: {why}")
    from tests.kaggle_server import KaggleServer  # Kaggle's library is not there for every Python

    one = KaggleServer(tmp_path / "sessions")
    clean_env.update(one.environment())
    yield one
    one.close()


@pytest.fixture(scope="session")
def faketime() -> str:
    """Debian's faketime, which gives a process a clock of its own; as root it is installed where it is missing."""
    debian.need("faketime", lambda: debian.why_not(["faketime"], ["faketime"]))
    return shutil.which("faketime") or ""


@pytest.fixture
def bucket(ceph: Ceph, request: pytest.FixtureRequest, clean_env: dict[str, str]) -> str:
    """The prefix of a store of its own, on the gateway; over https, the environment as a user would set it."""
    prefix = f"jobs/{re.sub('[^a-z0-9_]+', '-', request.node.name.lower())}"
    clean_env.update(ceph.credentials(), LASTRUN_STORE=ceph.uri(prefix))
    return prefix


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def mapped_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder whose file system gives what this user makes to another one, as a share of NFS gives root's files to nobody."""
    debian.need("bindfs", lambda: debian.why_not(["bindfs"], ["bindfs"]))
    folder, under = tmp_path / "share", tmp_path / "under-the-share"
    folder.mkdir()
    under.mkdir()
    command = ["bindfs", "--force-user=nobody", str(under), str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"bindfs cannot mount here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def run(clean_env: dict[str, str]) -> Iterator[Any]:
    started = []

    def start(*words: str | Path) -> Run:
        started.append(Run(clean_env, *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.communicate()


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """What the longer job gives when nothing happens to it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "tiny.yaml").write_text(TINY)
    command = [sys.executable, "-m", "runner", "submit", str(folder / "tiny.yaml"), "--store", str(folder / "store"), *LONGER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    store = DirectoryStore(folder / "store")
    return result(jobs_in(store)[0])
