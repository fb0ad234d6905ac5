"""The outermost edge of SkyPilot's server in tests: a plug-in of its own kind, by which a machine of a cloud is a process.

What is asked, the optimizer, the requests, its records and its user's names are SkyPilot's own; only what would reach a cloud's
programming interface, or a machine by ssh, is done here. A machine's folder holds what it was asked for and what it says.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from sky import exceptions, global_user_state
from sky.backends import backend_utils, wheel_utils
from sky.backends.cloud_vm_ray_backend import CloudVmRayBackend, CloudVmRayResourceHandle
from sky.clouds import GCP
from sky.clouds.cloud import CloudCapability
from sky.server import config as server_config
from sky.server import daemons, plugins
from sky.server.requests import requests
from sky.skylet.job_lib import JobStatus

from tests.sky_server import end_machine


def _few(compute: Any) -> Any:
    """Processes that answer are kept: by default each is begun when it is needed, which takes seconds, and ended soon after."""

    def config(*words: Any, **more: Any) -> Any:
        found = compute(*words, **more)
        found.short_worker_config.garanteed_parallelism = 3
        found.long_worker_config.garanteed_parallelism = 3
        for one in (found.short_worker_config, found.long_worker_config):
            one.burstable_parallelism = 1
        return found

    return config


class Plugin(plugins.BasePlugin):
    """Installed in each of the server's processes."""

    def __init__(self, folder: str, path: str) -> None:
        self.folder, self.path = Path(folder), path

    def install(self, extension_context: plugins.ExtensionContext) -> None:
        if extension_context.context is plugins.PluginContext.MAIN:
            from sky import check

            global_user_state.initialize_and_get_db()
            global_user_state.set_enabled_clouds(["gcp", "lambda"], CloudCapability.COMPUTE, "default")
            allowed = check._get_workspace_allowed_clouds("default")
            global_user_state.set_allowed_clouds(allowed, "default")
            server_config.compute_server_config = _few(server_config.compute_server_config)
        daemons.INTERNAL_REQUEST_DAEMONS.clear()  # what they look after now and then is not there
        global_user_state.set_enabled_clouds = lambda *words, **more: None  # it looks for keys of clouds now and then
        enabled = global_user_state.get_cached_enabled_clouds
        global_user_state.get_cached_enabled_clouds = lambda *words, **more: (
            [] if self._set("closed") else enabled(*words, **more)
        )
        for name in ("get_user_identities", "get_active_user_identity"):
            setattr(GCP, name, classmethod(lambda *words: None))  # they start gcloud
        backend_utils._must_refresh_cluster_status = lambda *words, **more: True
        backend_utils._update_cluster_status = self._seen
        wheel_utils.build_sky_wheel = lambda: (self.folder, "0")  # what goes to a machine
        backend_utils.check_rsync_installed = lambda: None  # and how
        real = CloudVmRayBackend.provision

        def provision(backend: Any, task: Any, to_provision: Any, dryrun: bool, *words: Any, **more: Any) -> Any:
            """A dry run reaches no cloud: it is SkyPilot's own."""
            with (self.folder / ("dry" if dryrun else "asked")).open("a") as file:
                file.write(f"{more['cluster_name']} {to_provision.instance_type}\n")
            how = real if dryrun else self.provision
            return how(backend, task, to_provision, dryrun, *words, **more)

        CloudVmRayBackend.provision = provision
        for name in ("execute", "get_job_status", "tail_logs", "teardown"):
            setattr(CloudVmRayBackend, name, getattr(self, name))
        for name in ("sync_workdir", "sync_file_mounts", "setup", "set_autostop", "post_execute"):
            setattr(CloudVmRayBackend, name, self._note)

    def _set(self, name: str) -> list[str]:
        """How clouds behave, by :meth:`tests.sky_server.SkyServer.set`; empty: as they should."""
        path = self.folder / name
        return (path.read_text().split() or [name]) if path.exists() else []

    # --- what would be the cloud's ---------------------------------------------------------------------------------------

    def _seen(self, cluster_name: str, record: dict[str, Any], *words: Any, **more: Any) -> dict[str, Any] | None:
        """A machine that was taken away is gone."""
        if (self.folder / cluster_name / "taken").exists():
            self._end(cluster_name)
            return None
        return record

    def provision(self, backend: Any, task: Any, to_provision: Any, *words: Any, cluster_name: str = "", **more: Any) -> Any:
        cloud = str(to_provision.cloud).lower()
        if cloud in self._set("wrong_key"):  # as SkyPilot's own failover tells it
            keys = exceptions.InvalidCloudCredentials("InvalidCloudCredentials: Failed to find credentials.")
            history = [exceptions.ResourcesUnavailableError(f"Failed to provision on cloud {to_provision.cloud} due to {keys}")]
            raise exceptions.ResourcesUnavailableError("Failed to acquire resources", failover_history=history)
        if {cloud, to_provision.instance_type} & set(self._set("full")):
            history = [RuntimeError(f"QUOTA_EXCEEDED: no {to_provision.instance_type} in any zone")]
            raise exceptions.ResourcesUnavailableError("Failed to acquire resources", failover_history=history)
        home = self.folder / cluster_name
        home.mkdir()
        handle = CloudVmRayResourceHandle(
            cluster_name=cluster_name,
            cluster_name_on_cloud=cluster_name,
            cluster_yaml=None,
            launched_nodes=1,
            launched_resources=to_provision,
            stable_internal_external_ips=[("127.0.0.1", "127.0.0.1")],
        )
        global_user_state.add_or_update_cluster(cluster_name, handle, set(task.resources), ready=False)
        while self._set("slow"):
            if (home / "taken").exists():
                raise RuntimeError("Failed to SSH to 203.0.113.7 after timeout 600s, with Error: Connection refused")
            time.sleep(0.1)
        if self._set("broken"):
            image = next(iter(task.resources)).extract_docker_image()
            raise exceptions.CommandError(1, f"sudo docker pull {image}", "Failed to run docker setup commands.", None)
        global_user_state.add_or_update_cluster(cluster_name, handle, set(task.resources), ready=True)
        return handle, False

    def _note(self, handle: Any, *words: Any, **more: Any) -> None:
        if len(words) >= 3 and isinstance(words[0], int):  # set_autostop
            about = {"idle": words[0], "down": words[2]}
            (self.folder / handle.cluster_name / "autostop.json").write_text(json.dumps(about))

    def execute(self, handle: Any, task: Any, dryrun: bool = False) -> int:
        home = self.folder / handle.cluster_name
        (home / "tmp").mkdir()
        secrets = {name: value.get_secret_value() for name, value in task.secrets.items()}
        asked = {"task": task.to_yaml_config(), "envs": dict(task.envs), "secrets": secrets}
        (home / "asked.json").write_text(json.dumps(asked, default=str))
        env = {"PATH": self.path, "HOME": str(home), "TMPDIR": str(home / "tmp"), **dict(task.envs), **secrets}
        script = '/bin/bash -c "$1" > log 2>&1; echo $? > code.new; mv code.new code'
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", task.run],
            env=env,
            cwd=home,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        (home / "pid").write_text(str(process.pid))
        return 1

    def get_job_status(self, handle: Any, job_ids: Any = None, stream_logs: bool = True) -> dict[int | None, Any]:
        home = self.folder / handle.cluster_name
        if not (home / "pid").exists():
            return {None: None}
        if not (home / "code").exists():
            return {1: JobStatus.RUNNING}
        return {1: JobStatus.SUCCEEDED if (home / "code").read_text().strip() == "0" else JobStatus.FAILED}

    def tail_logs(self, handle: Any, job_id: Any, *words: Any, follow: bool = True, tail: int = 0, **more: Any) -> int:
        home = self.folder / handle.cluster_name
        told = 0
        while True:
            over = not follow or (home / "code").exists() or not home.exists()
            lines = (home / "log").read_text(errors="replace").splitlines() if (home / "log").exists() else []
            for line in lines[max(told, len(lines) - tail if tail else 0) :]:
                print(f"\x1b[36m(lastrun, pid=1)\x1b[0m {line}", flush=True)
            told = len(lines)
            if over:
                return 0
            time.sleep(0.1)

    def teardown(self, handle: Any, terminate: bool, purge: bool = False) -> None:
        if self._set("stuck"):
            raise RuntimeError("the cloud does not take it back")
        requests.kill_cluster_requests(handle.cluster_name, "sky.down")  # as SkyPilot's own does
        self._end(handle.cluster_name)

    def _end(self, name: str) -> None:
        home = self.folder / name
        end_machine(home)
        for kept in ("asked.json", "autostop.json", "log"):
            if (home / kept).exists():
                shutil.copy(home / kept, self.folder / f"{name}.{kept}")
        for _ in range(50):
            shutil.rmtree(home, ignore_errors=True)
            if not home.exists():
                break
            time.sleep(0.1)
        global_user_state.remove_cluster(name, terminate=True)
