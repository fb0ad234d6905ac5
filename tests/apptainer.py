"""A program of Apptainer's name for the tests: the real one is in none of the registries that tests may use.

It takes the same words, hands in the same variables, passes signals on and ends with the same code, as Apptainer 1.3 documents
it. What it does not do is to confine: the "image" is this machine, with this Python.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from runner.version import lastrun_version

_PROGRAM = """\
#!{python}
import json, os, signal, subprocess, sys
words = sys.argv[1:]
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(words) + "\\n")
if words[0] == "pull":
    if "unknown" in words[2]:
        sys.stderr.write("INFO:    Converting OCI blobs to SIF format\\n")
        sys.exit("FATAL:   While making image from oci registry: error fetching image: manifest unknown")
    open(words[1], "w").close()
    sys.exit()
assert words.pop(0) == "exec"
while words[0].startswith("--"):
    if words.pop(0) in ("--bind", "--pwd"):
        words.pop(0)
image = words.pop(0)
if "broken" in image:
    sys.exit("FATAL:   could not open image " + image + ": image format not recognized")
if "other" in image:
    print(json.dumps({{"version": "0.0.1"}}))
    sys.exit()
given = {{name[13:]: value for name, value in os.environ.items() if name.startswith("APPTAINERENV_")}}
env = {{"PATH": {path!r}, "HOME": os.environ["HOME"], "APPTAINER_CONTAINER": image, **given}}
child = subprocess.Popen(words, env=env, cwd={root!r})
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(signum, lambda number, _: child.send_signal(number))
code = child.wait()
sys.exit(code if code >= 0 else 128 - code)
"""


class Apptainer:
    """The program in ``folder``, and an image."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.image, self._calls = folder / "apptainer-bin", folder / "lastrun.sif", folder / "calls"
        self.bin.mkdir()
        self.image.write_text(lastrun_version())
        root = str(Path(__file__).parents[1])
        program = self.bin / "apptainer"
        own = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        program.write_text(_PROGRAM.format(python=shlex.quote(sys.executable), calls=str(self._calls), path=own, root=root))
        program.chmod(0o755)

    def calls(self) -> list[str]:
        """Its command lines so far, each as JSON."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []
