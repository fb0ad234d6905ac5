"""A real Slurm of two nodes for the tests, on loopback: munged, slurmctld and two slurmd of this machine; no accounting."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import debian
from tests.jobs import PATIENCE
from tests.network import Network

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "shellcheck")
PACKAGES = ("slurm-wlm", "munge", "shellcheck")
_CONF = """\
ClusterName=tests
SlurmctldHost={host}({here})
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1
ReturnToService=2
SlurmdTimeout={patience}
KillWait=10
MinJobAge=3600
JobRequeue=1
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=n1 NodeHostname={hosts[n1]} NodeAddr={addresses[n1]} Port={n1} CPUs=4 RealMemory=8000 Gres=gpu:a100:2
NodeName=n2 NodeHostname={hosts[n2]} NodeAddr={addresses[n2]} Port={n2} CPUs=4 RealMemory=8000
PartitionName=gpu Nodes=n1 Default=YES MaxTime=01:00:00 DefaultTime=00:30:00 State=UP
PartitionName=cpu Nodes=n2 MaxTime=02:00:00 DefaultTime=00:30:00 GraceTime=120 State=UP
PartitionName=urgent Nodes=n2 PriorityTier=10 State=UP
PartitionName=all Nodes=n1,n2 MaxTime=02:00:00 DefaultTime=00:30:00 State=UP
"""
NODES = ("n1", "n2")
_GRES = "AutoDetect=off\nNodeName=n1 Name=gpu Type=a100 File={folder}/a100-[0-1]\n"


def why_not() -> str | None:
    """Why it cannot be started here; None when it can."""
    if os.geteuid() != 0:
        return "only root can start one"
    return debian.why_not(PROGRAMS, PACKAGES)


class Slurm:
    """The cluster, in ``folder`` (a short path: a socket lies there)."""

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        self.network = network
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Until both nodes are idle."""
        for name in ("munge", "state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(mode=0o700)
        for number in (0, 1):
            (self.folder / f"a100-{number}").touch()
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        host = socket.gethostname().partition(".")[0]
        ports = dict(zip(("ctld", "n1", "n2"), _free_ports(3)))
        self.conf.write_text(_CONF.format(host=host, folder=self.folder, **self._places(host), **ports))
        (self.folder / "gres.conf").write_text(_GRES.format(folder=self.folder))
        munge = [
            f"--{name}={self.folder}/munge/{name.partition('-')[0]}" for name in ("socket", "key-file", "pid-file", "log-file")
        ]
        self._daemon("munged", "--foreground", "--force", *munge, f"--seed-file={self.folder}/munge/seed")
        self._until(lambda: (self.folder / "munge" / "socket").exists())
        self.start_controller("-c")
        for node in ("n1", "n2"):
            self.start_node(node)
        self._until(lambda: set(self.call("sinfo", "-h", "-t", "idle", "-N", "-o", "%N").split()) == {"n1", "n2"})

    def _places(self, host: str) -> dict[str, object]:
        if self.network is not None:
            own = {"here": self.network.address, "hosts": {node: node for node in NODES}, "addresses": self.network.addresses}
            return {**own, "patience": 300}
        here = "127.0.0.1"
        own = {"here": here, "hosts": dict.fromkeys(NODES, host), "addresses": dict.fromkeys(NODES, here)}
        return {**own, "patience": 60}

    def start_controller(self, *words: str) -> None:
        """Slurm's controller, anew with ``-c``, else with what it knew."""
        words = ("-D", "-f", str(self.conf), *words)
        self._daemons["slurmctld"] = self._started("slurmctld", *words, before=self._on(socket.gethostname()))

    def start_node(self, node: str) -> None:
        """One of the two."""
        self._daemons[node] = self._started("slurmd", "-D", "-f", str(self.conf), "-N", node, before=self._on(node))

    def kill(self, daemon: str) -> None:
        """``n1``, ``n2`` or ``slurmctld``, as a power cut does; what it has started lives on."""
        self._daemons[daemon].kill()
        self._daemons[daemon].wait()

    def stop_controller(self) -> None:
        """As for an upgrade: it writes down what it knows, which it else does lazily, and a power cut takes from it."""
        self._daemons["slurmctld"].terminate()
        self._daemons["slurmctld"].wait()

    def call(self, *words: str) -> str:
        """What one of Slurm's programs says."""
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            env={**os.environ, "SLURM_CONF": str(self.conf)},
            check=False,
            timeout=PATIENCE,
        )
        return done.stdout.strip()

    def jobs(self) -> list[str]:
        """IDs of those that have not ended."""
        return self.call("squeue", "-h", "-o", "%i").split()

    def clear(self) -> None:
        """End what still runs, and wait until nothing does."""
        for job in self.jobs():
            self.call("scancel", job)
        self._until(lambda: not self.jobs())

    def stop(self) -> None:
        """End it all."""
        if "slurmctld" in self._daemons:
            self.clear()
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _daemon(self, name: str, *words: str) -> None:
        self._daemons[name] = self._started(name, *words)

    def _on(self, name: str) -> list[str]:
        return [] if self.network is None else self.network.on(name)

    def _started(self, program: str, *words: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or program
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen([*before, path, *words], stdin=null, stdout=log, stderr=log, start_new_session=True)

    def _until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            ended = [name for name, one in self._daemons.items() if one.poll() is not None]
            assert not ended, f"{ended}: {(self.folder / 'output.log').read_text()[-2000:]}"
            assert time.monotonic() < deadline, self.call("sinfo")
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
