#!/usr/bin/env python3
"""Installs lastrun from this clone for the Python that runs this, for the Makefile: ``install.py '.[train]'``.

pip does the work; what it is at is told in a few lines, all that it says goes to a file. Where there is no GPU, torch's CPU
build is taken from PyTorch's own index, unless the user has told pip, or ``TORCH_INDEX``, where packages come from.
"""

from __future__ import annotations

import ast
import contextlib
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PYTORCH = "https://download.pytorch.org/whl/"
OWN_INDEX = ("index-url", "extra-index-url", "find-links", "no-index")
"""Settings of pip by which a user says where packages come from."""
LARGE_MB = 5.0
"""A file from this size on is told by its name."""
FIRST_WORD, LAST_WORD = 10.0, 60.0
"""Seconds without news after which it is told that work goes on; at first, and later."""
REDRAW, BAR = 0.25, 24
"""Seconds from one look of a line that is redrawn to the next, and how wide its bar is."""
PIP = (sys.executable, "-m", "pip")

_NETWORK = re.compile(
    r"Failed to establish a new connection|NameResolutionError|name resolution|Connection (?:refused|reset|aborted)"
    r"|ConnectionError|timed out|ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED|Network is unreachable|IncompleteRead"
    r"|HTTP error \d+"
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_NONE_FITS = re.compile(r"(?:No matching distribution found for|The user requested \(constraint\)) (.+)")
_FETCHED = re.compile(r"\s*(?:Downloading|Using cached) (?:\S*/)?(\S+?)(?:\.whl|\.tar\.gz|\.zip) \(([\d.]+) (kB|MB|GB)\)")
_COPIED = re.compile(r"\s*Processing (\S+\.(?:whl|tar\.gz|zip))")
_TO_INSTALL = re.compile(r"Installing collected packages: (.+)")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


class Failed(Exception):
    """pip did not do it; says why and what to do."""


class NotThere(Failed):
    """The index is out of reach, or has nothing that fits."""


def main(words: list[str]) -> int:
    """Install what the words name, with what pins it."""
    began = time.monotonic()
    log = Path(sys.prefix) / "install.log"
    say(f"installing {' '.join(words)} with pip; all that it says is in {shown(log)}")
    constraints = ["--constraint", "constraints.txt"]
    try:
        with log.open("w", encoding="utf-8") as file:
            index, why = torch_index(os.environ.get("TORCH_INDEX"))
            say(f"torch: {why}")
            if index is not None:
                torch_from(index, constraints, file, chosen="TORCH_INDEX" in os.environ)
            pip(["--no-compile", *constraints, "--editable", *words], file)
    except Failed as error:
        say(f"error: {error}\nall that pip said: {shown(log)}", sys.stderr)
        return 2
    except OSError as error:
        say(f"error: {error.filename or log}: {error.strerror}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("interrupted; the same command goes on (what was fetched whole is in pip's cache)", sys.stderr)
        return 130
    say(f"installed in {seconds(time.monotonic() - began)}")
    return 0


# --- where torch comes from ------------------------------------------------------------------------------------------


def torch_index(chosen: str | None) -> tuple[str | None, str]:
    """The index to take torch alone from (None: where all else comes from), and the reason in words."""
    if chosen is not None:
        index = (f"{PYTORCH}{chosen}" if re.fullmatch(r"[a-z0-9.]+", chosen) else chosen) or None
        return (
            index,
            f"from {without_password(index)}, as TORCH_INDEX says" if index else "as pip finds it: TORCH_INDEX is empty",
        )
    if own := own_index():
        return None, f"as pip finds it, by your own settings ({own}); TORCH_INDEX=cpu takes PyTorch's CPU build all the same"
    if sys.platform != "linux":
        return None, f"as pip finds it (there is one build for {platform.system()})"
    if found := gpu():
        return None, f"as pip finds it, with CUDA, for there is a GPU ({found}); TORCH_INDEX=URL takes another build"
    index = f"{PYTORCH}cpu"
    return (
        index,
        f"its CPU build from {index}: no GPU is here; TORCH_INDEX=URL takes another, TORCH_INDEX= the one that pip finds",
    )


def own_index() -> str:
    """Which of pip's settings say where packages come from, in its files and in the environment; empty: none."""
    done = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False)
    return ", ".join(dict.fromkeys(own_settings(done.stdout)))


def own_settings(listed: str) -> Iterator[str]:
    """The same from ``pip config list``: ``global.index-url='https://...'`` a line. No values: they may hold passwords."""
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in ("global", "install", ":env:") and name in OWN_INDEX and _is_set(name, value):
            yield f"PIP_{name.upper().replace('-', '_')}" if section == ":env:" else key


def _is_set(name: str, value: str) -> bool:
    with contextlib.suppress(ValueError, SyntaxError):
        value = str(ast.literal_eval(value)).strip()
    return bool(value) and not (name == "no-index" and value.lower() in ("0", "false", "no", "off", "n", "f"))


def gpu(root: Path = Path("/")) -> str | None:
    """A sign of an NVIDIA GPU, found without torch."""
    for pattern in ("proc/driver/nvidia/gpus/*", "dev/nvidia[0-9]*", "dev/nvhost-gpu"):
        if found := sorted(root.glob(pattern)):
            return str(found[0])
    for program in (shutil.which("nvidia-smi"), str(root / "usr/lib/wsl/lib/nvidia-smi")):
        try:
            if program and "GPU 0" in subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30).stdout:
                return "nvidia-smi lists it"
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
    return None


def torch_from(index: str, constraints: list[str], log: IO[str], *, chosen: bool) -> None:
    """Torch alone from an index, so that nothing else comes from there; what was not chosen need not be there."""
    short = [] if chosen else ["--retries", "1", "--timeout", "10"]
    words = [*short, "--no-compile", "--no-deps", "--index-url", index, *constraints, "torch"]
    try:
        pip(words, log)
    except NotThere:
        if chosen:
            raise
        say("torch: that index cannot be reached, or has no build that fits; as pip finds it, then; for Linux that may bring")
        say("       gigabytes of CUDA libraries (TORCH_INDEX=URL takes another index, such as a mirror)")


# --- pip -------------------------------------------------------------------------------------------------------------


def pip(words: list[str], log: IO[str]) -> None:
    """``pip install``, with a line for each large file and each step, and one now and then that it goes on.

    Raises:
        Failed: pip did.
    """
    command = [*PIP, "install", "--no-input", "--disable-pip-version-check", "--progress-bar", progress_bar(), *words]
    log.flush()
    begin = log.tell()
    log.write(f"{' '.join(map(without_password, command))}\n")
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PIP_QUIET": "0", "PIP_NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    at, part, wait = "looking for packages", "", FIRST_WORD
    share, now = 0.0, Now(sys.stdout)
    began = news = time.monotonic()
    for line in lines_of(process):
        if found := _PROGRESS.match(line or ""):
            share = int(found[1]) / max(int(found[2]), 1)
            part = f": {100 * share:.0f}%"
        elif line is not None:
            log.write(line)
            log.flush()
            if told := step(line):
                at, part, share, news, wait = told, "", 0.0, time.monotonic(), FIRST_WORD
                now.clear()
                tell(news - began, at)
        if now.is_shown:
            now.draw(share, f"{seconds(time.monotonic() - began)}  {at}{part}")
        elif time.monotonic() - news >= wait:
            tell(time.monotonic() - began, f"still {at}{part}")
            news, wait = time.monotonic(), min(2 * wait, LAST_WORD)
    now.clear()
    if process.returncode:
        log.flush()
        with Path(log.name).open(encoding="utf-8") as file:
            file.seek(begin)
            raise why_failed(file.read(), process.returncode)


def progress_bar() -> str:
    """``raw`` of pips that know it: a line for each piece of a file that has come."""
    from importlib.metadata import version

    return "raw" if tuple(map(int, re.findall(r"\d+", version("pip"))[:2])) >= (24, 1) else "off"


def lines_of(process: subprocess.Popen[str]) -> Iterator[str | None]:
    """What it says, line by line, until it has ended; None after a second in which it says nothing."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=listen, daemon=True).start()
    try:
        while True:
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                yield None
                continue
            if not line:
                break
            yield line
    finally:  # Ctrl-C goes to pip as well, which clears up
        process.wait()


def step(line: str) -> str | None:
    """What pip is at from a line of its on, where that takes time."""
    if found := _FETCHED.match(line):
        megabytes = float(found[2]) * {"kB": 1e-3, "MB": 1, "GB": 1e3}[found[3]]
        return f"fetching {short_name(found[1])} ({found[2]} {found[3]})" if megabytes >= LARGE_MB else None
    if found := _COPIED.match(line):
        megabytes = Path(found[1]).stat().st_size / 1e6 if Path(found[1]).is_file() else 0.0
        return f"reading {short_name(Path(found[1]).name)} ({megabytes:.1f} MB)" if megabytes >= LARGE_MB else None
    if found := _TO_INSTALL.match(line):
        names = found[1].split(", ")
        return f"installing {f'{len(names)} packages' if len(names) > 1 else names[0]}"
    return None


def why_failed(said: str, code: int) -> Failed:
    """Of all that pip said: what is wrong, and what to do, in one or two lines."""
    if _FULL.search(said):
        places = {name: shutil.disk_usage(name).free / 1e9 for name in (sys.prefix, tempfile.gettempdir())}
        free = ", ".join(f"{size:.1f} GB free at {shown(Path(name))}" for name, size in places.items())
        return Failed(f"the disk is full ({free}): 2 GB are needed, with CUDA 8 GB; TMPDIR=FOLDER has pip unpack elsewhere")
    if code < 0:
        return Failed(f"pip was ended by signal {-code}{' (out of memory?)' if code == -9 else ''}")
    wanted = next((found.strip() for found in reversed(_NONE_FITS.findall(said))), "")
    if _NETWORK.search(said):
        return NotThere(
            f"the package index cannot be reached{f', so nothing was found for {wanted}' if wanted else ''}\n{_ASK}"
        )
    if wanted:
        here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        return NotThere(
            f"the package index has nothing for {wanted} that fits {here}\n"
            "another Python: make clean demo PYTHON=python3.12; another index: PIP_INDEX_URL=URL, for torch TORCH_INDEX=URL"
        )
    errors = re.findall(r"^(?:ERROR|error): (.+)$", said, re.MULTILINE)
    return Failed(f"pip failed: {errors[-1][:300] if errors else f'exit code {code}'}")


_ASK = "see that the network works (a proxy: HTTPS_PROXY; a mirror: PIP_INDEX_URL; own certificates: PIP_CERT), then repeat"


# --- words -----------------------------------------------------------------------------------------------------------


def short_name(file: str) -> str:
    """``torch-2.13.0`` of a wheel's name."""
    return "-".join(file.split("-")[:2])


class Now:
    """On a terminal, a line that is redrawn in place: how far what pip is at has come. With the look of lastrun's own views,
    which cannot be used before it is installed."""

    def __init__(self, stream: IO[str]) -> None:
        plain = os.environ.get("LASTRUN_PLAIN") or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
        self.is_shown = stream.isatty() and not plain
        self._stream, self._drawn = stream, 0.0
        self._bar = "━" if (stream.encoding or "").lower().startswith("utf") else "-"

    def draw(self, share: float, words: str) -> None:
        """Four times a second at the most."""
        if self.is_shown and time.monotonic() - self._drawn >= REDRAW:
            self._drawn, columns = time.monotonic(), shutil.get_terminal_size().columns
            bar = f"{self._bar * round(share * BAR):<{BAR}}  " if columns > 2 * BAR else ""
            self._stream.write(f"\r\x1b[K{(bar + words)[: columns - 1]}\r")
            self._stream.flush()

    def clear(self) -> None:
        """Make room for another line."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = 0.0


def tell(elapsed: float, what: str) -> None:
    """A line with the time since pip was started."""
    say(f"{seconds(elapsed):>8}  {what}")


def seconds(elapsed: float) -> str:
    """``45 s``, ``3 min 05 s``."""
    minutes, rest = divmod(round(elapsed), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def shown(path: Path) -> str:
    """As it is called from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def without_password(address: str) -> str:
    """An address without what stands before the @."""
    return re.sub(r"//[^/@\s]*@", "//", address)


def say(line: str, where: IO[str] | None = None) -> None:
    """At once, also into a file."""
    print(line, file=where, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
