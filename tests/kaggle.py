"""A session on Kaggle as its file system is: the very paths, in a mount namespace of their own, of which nothing stays."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SECRETS = """\
import json, os
from pathlib import Path

class BackendError(Exception):
    pass

class UserSecretsClient:
    def get_secret(self, name):
        secrets = json.loads(Path(__file__).with_name("attached.json").read_text())
        if name not in secrets:
            raise BackendError(f"No user secrets exist for kernel id 7 and label {name}.")
        return secrets[name]
"""
"""In place of Kaggle's module of that name, whose service is theirs alone."""

_ENTER = """\
set -e
root=$1 working=$2
shift 2
mount -t tmpfs -o mode=755 kaggle "$root"
for path in /*; do
    if [ -L "$path" ]; then cp -P "$path" "$root$path"
    elif [ -d "$path" ] && [ "$path" != /kaggle ]; then mkdir "$root$path"; mount --rbind "$path" "$root$path"
    fi
done
mkdir -p "$root/kaggle/working" "$root/kaggle/tmp" "$root/kaggle/input"
mount --bind "$working" "$root/kaggle/working"
while [ "$1" != -- ]; do
    mkdir -p "$root/kaggle/input/$1"
    mount --bind "$2" "$root/kaggle/input/$1"
    mount -o remount,bind,ro "$root/kaggle/input/$1"
    shift 2
done
shift
exec chroot "$root" env -C /kaggle/working "$@"
"""


class Session:
    """One session.

    Args:
        folder: where its ``working`` lies on this machine; everything else of it is gone when a command ends.
        inputs: what is attached: names below ``/kaggle/input`` and the folders that are seen there, to be read only.
    """

    def __init__(self, folder: Path, inputs: dict[str, Path] | None = None) -> None:
        self.working, self._root, self._inputs = folder / "working", folder / "root", inputs or {}
        for path in (self.working, self._root):
            path.mkdir(parents=True)

    def command(self, *words: str | Path) -> list[str]:
        """A command as it is to be started here, so that it runs there."""
        inputs = [word for pair in self._inputs.items() for word in map(str, pair)]
        enter = ["unshare", "--mount", "sh", "-c", _ENTER, "session", str(self._root), str(self.working)]
        return [*enter, *inputs, "--", *map(str, words)]


def environment(env: dict[str, str]) -> dict[str, str]:
    """Variables of a session: nobody has named a store there."""
    return {**{name: value for name, value in env.items() if name != "LASTRUN_STORE"}, "KAGGLE_KERNEL_RUN_TYPE": "Batch"}


def why_not() -> str | None:
    """Why there can be no such session on this machine; None: there can be."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip() or "not permitted" if tried.returncode else None
