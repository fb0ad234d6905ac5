"""Imports without what training does not need: torch's part for compilers, a third of it; TensorBoard's for buckets."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

LATER = "torch._meta_registrations"
"""What operations do to shapes, told in Python for tensors without data: with it come torch's decompositions and references."""
_COMPILER = "torch._dynamo"
"""Who needs it to be there already, or its imports would be a circle."""

_loading = threading.RLock()


def import_torch_lightly() -> None:
    """From now on importing torch leaves :data:`LATER` for when something of it is asked for. After torch has been imported
    this does nothing."""
    if "torch" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextmanager
def without(name: str) -> Iterator[None]:
    """Meanwhile a package that others import where it is there is not there; for them it stays so."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        sys.modules.pop(name, None)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname == _COMPILER and isinstance(later := sys.modules.get(LATER), _Later):
            later.load()
        spec = PathFinder.find_spec(fullname, path) if fullname == LATER else None
        if spec is not None and spec.loader is not None:
            spec.loader = _LaterLoader(spec.loader)
        return spec


class _LaterLoader(Loader):
    """importlib's own LazyLoader loads a module as soon as anybody looks at its ``__file__``, as ``inspect`` does with all."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def exec_module(self, module: ModuleType) -> None:
        """Not yet."""
        module.__class__ = _Later


class _Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.load()
        return ModuleType.__getattribute__(self, name)

    def load(self) -> None:
        """Become what was asked for; who asks meanwhile waits."""
        with _loading:
            loader = self.__loader__
            if isinstance(loader, _LaterLoader):  # else it is being loaded by this thread, or has been by another
                self.__loader__ = loader.loader
                loader.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment]
