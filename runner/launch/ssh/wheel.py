"""This very lastrun as a wheel, made of what is installed here: the other side is to run the same code."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import last_e
import runner
from runner.errors import EngineError

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: lastrun\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Wheel(NamedTuple):
    """The same code gives the same bytes."""

    name: str
    data: bytes
    version: str

    @property
    def folder(self) -> str:
        """The name of the folder there that holds it, and nothing else."""
        return f"{self.version}-{hashlib.sha256(self.data).hexdigest()[:12]}"


def make_wheel() -> Wheel:
    """The wheel.

    Raises:
        EngineError: this lastrun is not installed, so nothing tells what it needs.
    """
    try:
        about = metadata.distribution("lastrun")
    except metadata.PackageNotFoundError:
        raise EngineError("this lastrun is not installed, only imported: pip install . in its clone") from None
    files = {}
    for package in (last_e, runner):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"{root.name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    info = f"lastrun-{about.version}.dist-info"
    for name in ("METADATA", "entry_points.txt"):
        files[f"{info}/{name}"] = (about.read_text(name) or "").encode()
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            one = zipfile.ZipInfo(name, _FIRST_DAY)
            one.compress_type, one.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(one, data)
    return Wheel(f"lastrun-{about.version}-py3-none-any.whl", whole.getvalue(), about.version)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
