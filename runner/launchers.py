"""Which launchers there are, for those that do not import them. A new one is a file in ``runner/launch/`` and one line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """A launcher, as job files and the command line know it."""

    place: str
    """``MODULE:CLASS``; see :class:`runner.launch.protocol.Launcher`."""
    gpus: Literal["few", "several", "certain"]
    """What ``run.gpus`` may be: 0, 1 or all; any number; or certain ones, too."""
    has_nodes: bool = False
    """Whether an attempt may have several machines."""
    keeps_notes: bool = False
    """Whether a note here names each attempt that may wait there (:mod:`runner.launch.notes`)."""


LAUNCHERS = {
    "local": Kind("runner.launch.local:LocalLauncher", gpus="certain"),
    "docker": Kind("runner.launch.docker.launcher:DockerLauncher", gpus="certain"),
    "slurm": Kind("runner.launch.slurm.either:EitherLauncher", gpus="certain", has_nodes=True),
    "ssh": Kind("runner.launch.ssh.launcher:SshLauncher", gpus="certain"),
    "hf": Kind("runner.launch.hf.launcher:HfLauncher", gpus="several", keeps_notes=True),
    "sky": Kind("runner.launch.sky.launcher:SkyLauncher", gpus="several", keeps_notes=True),
    "kaggle": Kind("runner.launch.kaggle.launcher:KaggleLauncher", gpus="few", keeps_notes=True),
}
DEFAULT = "local"
NAMES = ", ".join(LAUNCHERS)
HOST = r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,254}"
HOST_MEANING = "a host as ssh knows it: NAME or USER@NAME"
"""Of launchers ssh and slurm: nothing that ssh would take for an option."""
_GPUS = {"few": "0, 1 or all", "several": "how many, or all", "certain": "how many, all, or certain ones"}


def gpus_allowed(launcher: str, asked: object) -> str | None:
    """What ``run.gpus`` may be with a launcher, where it may not be what is ``asked``; None: it may be that."""
    kind = LAUNCHERS[launcher].gpus
    is_several = isinstance(asked, int) and asked > 1
    if kind == "certain" or not (isinstance(asked, list) or (kind == "few" and is_several)):
        return None
    return f"{_GPUS[kind]} with launcher {launcher}"
