"""The job runner: the command ``lastrun``, and the same from Python (docs/python.md).

>>> import runner
>>> job = runner.submit("jobs/quickstart.yaml")
>>> job.wait().metrics().to_pandas()

Never imports torch: every command but the training itself works without it; so does all of this but ``load_model``. Importing
it imports nothing else: each name is loaded when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.api import Checkpoint as Checkpoint
    from runner.api import Job as Job
    from runner.api import Predictions as Predictions
    from runner.api import find as find
    from runner.api import jobs as jobs
    from runner.api import load_model as load_model
    from runner.api import submit as submit
    from runner.errors import LastrunError as LastrunError
    from runner.errors import SpecError as SpecError
    from runner.view.table import Table as Table

_WHERE = {
    "Checkpoint": "api",
    "Job": "api",
    "LastrunError": "errors",
    "Predictions": "api",
    "SpecError": "errors",
    "Table": "view.table",
    "find": "api",
    "jobs": "api",
    "load_model": "api",
    "submit": "api",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"runner.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
