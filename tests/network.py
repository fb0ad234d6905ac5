"""Machines in a network of their own: network namespaces of this one, each with a name, a cable to all others and a second one
to its neighbour, either of which can be pulled out."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from tests import debian

PROGRAMS, PACKAGES = ("ip", "nsenter", "unshare"), ("iproute2", "util-linux")
_SUBNET, _BETWEEN = "10.213.{}.{}", "10.214.{}.{}"
"""For each process that makes one another; the first address is this machine's."""
BETWEEN = "between"
"""The interface of the second cable."""


def why_not() -> str | None:
    """Why there can be none here; None when there can."""
    if os.geteuid() != 0:
        return "only root can make them"
    return debian.why_not(PROGRAMS, PACKAGES)


class Network:
    """This machine and two others, ``names``, which share its files."""

    def __init__(self, folder: Path, names: tuple[str, str]) -> None:
        self._hosts = folder / "hosts"
        self._names = names
        own = os.getpid() % 256
        self.address, *others = (_SUBNET.format(own, number + 1) for number in range(3))
        self.addresses = dict(zip(names, others))
        self._second = dict(zip(names, (_BETWEEN.format(own, number + 2) for number in range(2))))
        self._mark = f"lr{os.getpid() % 10**7}"

    def start(self, own: str) -> None:
        """This one is called ``own`` by the others."""
        lines = [f"{address} {name}" for name, address in {own: self.address, **self.addresses}.items()]
        self._hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        bridge = self._mark
        _ip("link", "add", "name", bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for name in self._names:
            space = self._space(name)
            _ip("netns", "add", space)
            _ip("link", "add", self._plug(name), "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", self._plug(name), "master", bridge, "up")
        first, second = map(self._space, self._names)
        _ip("-n", first, "link", "add", BETWEEN, "type", "veth", "peer", "name", BETWEEN, "netns", second)
        for name in self._names:
            for interface, addresses in (("eth0", self.addresses), (BETWEEN, self._second)):
                _ip("-n", self._space(name), "address", "add", f"{addresses[name]}/24", "dev", interface)
            for interface in ("lo", "eth0", BETWEEN):
                _ip("-n", self._space(name), "link", "set", interface, "up")

    def on(self, name: str) -> list[str]:
        """What, put before a command, has it run on one of the two, or here with names for all addresses."""
        enter = ["nsenter", f"--net=/run/netns/{self._space(name)}"] if name in self._names else []
        there = f'mount --bind {shlex.quote(str(self._hosts))} /etc/hosts && hostname {name} && exec "$@"'
        return [*enter, "unshare", "--mount", "--uts", "sh", "-c", there, "sh"]

    def pull_out(self, name: str) -> None:
        """Its cable to all others."""
        _ip("link", "set", self._plug(name), "down")

    def plug_in(self, name: str) -> None:
        """Again."""
        _ip("link", "set", self._plug(name), "up")

    def pull_out_between(self) -> None:
        """The second cable."""
        _ip("-n", self._space(self._names[0]), "link", "set", BETWEEN, "down")

    def plug_in_between(self) -> None:
        """Again."""
        _ip("-n", self._space(self._names[0]), "link", "set", BETWEEN, "up")

    def plug_in_all(self) -> None:
        """Whatever was pulled out."""
        for name in self._names:
            self.plug_in(name)
        self.plug_in_between()

    def stop(self) -> None:
        """Remove it."""
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", self._space(name)], capture_output=True, check=False)
            subprocess.run(["ip", "link", "delete", self._plug(name)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._mark], capture_output=True, check=False)

    def _space(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def _plug(self, name: str) -> str:
        return f"{self._mark}{name}"  # 15 letters at most


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
