"""Which launchers there are, for those that do not import them. A new one is a file in ``runner/launch/`` and one line here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A launcher, as job files and the command line know it."""

    place: str
    """``MODULE:CLASS``; see :class:`runner.launch.protocol.Launcher`."""
    chooses_gpus: bool
    """Whether ``run.gpus`` may be several GPUs, or certain ones; else it is 0, 1 or all."""
    has_nodes: bool = False
    """Whether an attempt may have several machines."""
    keeps_notes: bool = False
    """Whether a note here names each attempt that may wait there (:mod:`runner.launch.notes`)."""


LAUNCHERS = {
    "local": Kind("runner.launch.local:LocalLauncher", chooses_gpus=True),
    "docker": Kind("runner.launch.docker.launcher:DockerLauncher", chooses_gpus=True),
    "slurm": Kind("runner.launch.slurm.either:EitherLauncher", chooses_gpus=True, has_nodes=True),
    "ssh": Kind("runner.launch.ssh.launcher:SshLauncher", chooses_gpus=True),
    "hf": Kind("runner.launch.hf.launcher:HfLauncher", chooses_gpus=False, keeps_notes=True),
    "sky": Kind("runner.launch.sky.launcher:SkyLauncher", chooses_gpus=False, keeps_notes=True),
    "kaggle": Kind("runner.launch.kaggle.launcher:KaggleLauncher", chooses_gpus=False, keeps_notes=True),
}
DEFAULT = "local"
NAMES = ", ".join(LAUNCHERS)
FEW_GPUS = "0, 1 or all with launcher {}"
HOST = r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,254}"
HOST_MEANING = "a host as ssh knows it: NAME or USER@NAME"
"""Of launchers ssh and slurm: nothing that ssh would take for an option."""
