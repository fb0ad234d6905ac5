"""Each tracker by its own library: one run for a job, found again by its ID, whichever attempt comes next."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

PROJECT = "lastrun"
"""Where runs go if no variable of the tracker's own says otherwise."""
_MOST_PARAMS, _MOST_METRICS = 100, 1000
"""MLflow takes so many at once."""
Point = tuple[int, Mapping[str, float]]
"""A step, and its figures."""


class Tracker(Protocol):
    """A run that is open."""

    where: str
    """For people: where to see it."""

    def log(self, points: Sequence[Point]) -> None:
        """Figures of some steps, in their order. After a cut the same steps may come again, with the same figures."""

    def end(self, *, failed: bool, reason: str) -> None:
        """The attempt has ended; the next one goes on with the same run."""


def run_id(job_id: str) -> str:
    """The same for all attempts of a job; 32 hexadecimal digits, which every tracker takes."""
    return hashlib.sha256(f"lastrun {job_id}".encode()).hexdigest()[:32]


class Wandb:
    """Weights & Biases. ``WANDB_MODE=offline`` keeps it in ``WANDB_DIR``, for ``wandb sync``."""

    def __init__(self, job_id: str, config: dict[str, Any], folder: str) -> None:
        import wandb

        os.environ.setdefault("WANDB_DIR", folder)
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)
        project = os.environ.get("WANDB_PROJECT") or PROJECT
        offline = os.environ.get("WANDB_MODE") == "offline"
        resume: Any = None if offline else "allow"  # what is there cannot be asked for
        self._run = wandb.init(project=project, id=run_id(job_id), name=job_id, resume=resume, config=config, settings=settings)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.where = f"offline in {os.environ['WANDB_DIR']}" if offline else str(self._run.url)

    def log(self, points: Sequence[Point]) -> None:
        """As of :class:`Tracker`."""
        for step, values in points:
            self._run.log({"step": step, **values})

    def end(self, *, failed: bool, reason: str) -> None:
        """As of :class:`Tracker`."""
        self._run.summary["reason"] = reason
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """MLflow, wherever ``MLFLOW_TRACKING_URI`` says."""

    def __init__(self, job_id: str, config: dict[str, Any], folder: str) -> None:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise LookupError("MLFLOW_TRACKING_URI is not set here")
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                experiment = self._client.get_experiment(self._client.create_experiment(name))
            except MlflowException:  # another was faster
                experiment = self._client.get_experiment_by_name(name)
        tag = run_id(job_id)
        found = self._client.search_runs([experiment.experiment_id], f"tags.lastrun = '{tag}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            tags = {"lastrun": tag, "lastrun.job": job_id}
            self._run = self._client.create_run(experiment.experiment_id, tags=tags, run_name=job_id).info.run_id
            params = [Param(key, str(value)[:500]) for key, value in config.items()]
            for first in range(0, len(params), _MOST_PARAMS):
                self._client.log_batch(self._run, params=params[first : first + _MOST_PARAMS])
        self.where = f"run {self._run} of experiment {name}"

    def log(self, points: Sequence[Point]) -> None:
        """As of :class:`Tracker`."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for step, values in points for key, value in values.items()]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[first : first + _MOST_METRICS])

    def end(self, *, failed: bool, reason: str) -> None:
        """As of :class:`Tracker`."""
        self._client.set_tag(self._run, "lastrun.reason", reason)
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED" if reason == "completed" else "KILLED")


class Trackio:
    """Trackio: a database in ``TRACKIO_DIR``, or the Space or server that its variables name."""

    def __init__(self, job_id: str, config: dict[str, Any], folder: str) -> None:
        os.environ.setdefault("TRACKIO_DIR", folder)
        import trackio

        off = {"auto_log_gpu": False, "auto_log_cpu": False}
        project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        self._run = trackio.init(project=project, name=job_id, resume="allow", config=config, embed=False, **off)
        place = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL") or os.environ["TRACKIO_DIR"]
        self.where = f"project {project} in {place}"

    def log(self, points: Sequence[Point]) -> None:
        """As of :class:`Tracker`."""
        for step, values in points:
            self._run.log(dict(values), step=step)

    def end(self, *, failed: bool, reason: str) -> None:
        """As of :class:`Tracker`."""
        self._run.finish()


TRACKERS: dict[str, Callable[[str, dict[str, Any], str], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}
"""By the word of the key ``tracking``: opens the run of a job with its configuration, and a folder for what is kept here."""
