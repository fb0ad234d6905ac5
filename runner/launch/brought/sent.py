"""What goes along with an attempt to a machine that has another lastrun, or none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files

from runner.errors import MissingKeyError
from runner.job.job import Job
from runner.launch.ssh.wheel import this_version
from runner.launch.variables import authority, wants_cpu
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import VARIABLE

CODE = "import os; exec(os.environ['LASTRUN_BEGIN'])"
"""What a Python there is to run."""
ADDRESS = "LASTRUN_WHEEL"
"""The variable, a secret, with the address of the wheel."""


class Parcel:
    """For one attempt.

    Args:
        job: whose attempt it is.
        config: what it runs with.
        about: what its record is to keep of where it runs.
        arguments: of ``lastrun attempt``.
    """

    def __init__(self, job: Job, config: JobSpec, about: Mapping[str, str], arguments: list[str]) -> None:
        uri, _ = StoreUri.parse(job.uri).parent()
        self._job, self._wheel = job, this_version()
        self._asked = {
            "code": self._wheel.code,
            "wheel": self._wheel.name,
            "sha256": hashlib.sha256(self._wheel.data).hexdigest(),
            "authority": authority(uri).get("authority", ""),
            "about": {**about, **({} if wants_cpu(config) else {"device": "cuda"})},
            "arguments": arguments,
        }

    def variables(self) -> dict[str, str]:
        """What anybody may see."""
        return {
            "LASTRUN_BEGIN": files("runner.launch.brought").joinpath("begin.py").read_text("utf-8"),
            "LASTRUN_BEGIN_WITH": json.dumps(self._asked),
            "PYTHONUNBUFFERED": "1",
            **({VARIABLE: os.environ[VARIABLE]} if os.environ.get(VARIABLE) else {}),
        }

    def address(self) -> str:
        """From where it can be fetched for a week, or as long as our keys are good for; this very lastrun is put into the job's
        store first, once.

        Raises:
            StoreError: it cannot be written.
        """
        from runner.store.s3 import S3Store  # slow to import

        key = f".wheels/{self._wheel.folder}/{self._wheel.name}"
        store = self._job.store
        assert isinstance(store, S3Store)
        try:
            store.age(key)
        except MissingKeyError:
            store.put(key, self._wheel.data)
        return store.address(key)
