"""This very lastrun as a wheel, made of what is installed here: the other side is to run the same code."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from functools import cache, cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from runner.errors import EngineError
from runner.launch.docker.image import digest_of

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: lastrun\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Wheel:
    """The same code gives the same folder, and the same bytes.

    Raises:
        EngineError: this lastrun is not installed, so nothing tells what it needs.
    """

    def __init__(self) -> None:
        try:
            about = metadata.distribution("lastrun")
        except metadata.PackageNotFoundError:
            raise EngineError("this lastrun is not installed, only imported: pip install . in its clone") from None
        self._files: dict[str, bytes] = {}
        for root in (Path(str(find_spec(package).origin)).parent for package in ("last_e", "runner")):  # type: ignore[union-attr]
            for path in sorted(root.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    self._files[f"{root.name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
        self.code = digest_of(self._files.items())
        """What its code comes to, wherever it is installed."""
        self._info = f"lastrun-{about.version}.dist-info"
        for name in ("METADATA", "entry_points.txt"):
            self._files[f"{self._info}/{name}"] = (about.read_text(name) or "").encode()
        self._files[f"{self._info}/WHEEL"] = _WHEEL.encode()
        record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in self._files.items()]
        self._record = "".join([*record, f"{self._info}/RECORD,,\n"]).encode()
        self.version = about.version
        self.folder = f"{about.version}-{hashlib.sha256(self._record).hexdigest()[:12]}"
        """The name of the folder there that holds it, and nothing else."""
        self.name = f"lastrun-{about.version}-py3-none-any.whl"

    @cached_property
    def data(self) -> bytes:
        """The file; packing it takes longer than all the rest, and is needed once per host."""
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {**self._files, f"{self._info}/RECORD": self._record}.items():
                one = zipfile.ZipInfo(name, _FIRST_DAY)
                one.compress_type, one.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(one, data)
        return whole.getvalue()


@cache
def this_version() -> Wheel:
    """One for the whole command: who edits a clone while a host is set up finds the attempt begun with what was put there.

    Raises:
        EngineError: see above.
    """
    return Wheel()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
