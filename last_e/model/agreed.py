"""Which GPUs kernels of our own are used on: those where they came out as torch, which is asked of each as training begins."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import torch


class KernelFailed(RuntimeError):
    """A kernel could not be made or was not taken when it was asked for, of which nothing has been done."""


NEEDS = "Triton needs a C compiler and Python's headers here: gcc, libc6-dev and python3-dev of Debian or Ubuntu"


class Remedy:
    """What is done where a kernel fails in training, though it came out right as that began: for other shapes, say, it cannot
    be made."""

    def __init__(self) -> None:
        self.give_up: Callable[[KernelFailed], None] | None = None
        """Has torch do it from there on; None: nobody does, so that the error stands."""

    def __call__(self, error: KernelFailed) -> None:
        """Once this returns, what failed is to be done again: kernels are used no more."""
        if self.give_up is None:
            raise error
        self.give_up(error)


REMEDY = Remedy()


class Agreed:
    """The GPUs of some kernels."""

    def __init__(self) -> None:
        self._gpus: set[int] = set()

    def used_on(self, device: torch.device) -> bool:
        """Whether the kernels do it there."""
        return device.type == "cuda" and (device.index or 0) in self._gpus

    def take(self, device: torch.device) -> None:
        """Have the kernels used there from now on."""
        self._gpus.add(device.index or 0)

    def leave(self, device: torch.device) -> None:
        """Use torch's operations alone there."""
        self._gpus.discard(device.index or 0)

    def try_out(self, device: torch.device, off: Callable[[], dict[str, float]]) -> str | None:
        """Use the kernels there from now on, unless something is ``off``, or cannot be made.

        Args:
            device: a GPU.
            off: by how much what the kernels make there differs from torch's, of what differs too much.

        Returns:
            None, or why they are not used.
        """
        self.leave(device)
        try:
            wrong = off()
        except KernelFailed as error:
            self.leave(device)
            return str(error)
        except Exception as error:  # Triton's, the driver's, the assembler's: torch does without
            self.leave(device)
            return said(error)
        (self.leave if wrong else self.take)(device)
        return ", ".join(f"{name} differs from torch's by {value:.1e}" for name, value in wrong.items()) or None


def said(error: Exception) -> str:
    """Why a kernel could not be made or run, in a line; and what is to be done where nothing was there to compile with."""
    text = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
    lacking = "Failed to find C compiler" in str(error) or isinstance(error, (subprocess.CalledProcessError, FileNotFoundError))
    return f"{text}; {NEEDS}" if lacking else text
