"""A bad network between a client and a server on loopback: it delays, stalls, cuts, refuses, and flips bits as it is told."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
_CHUNK = 16384
_Way = Literal["up", "down"]


@dataclass(frozen=True)
class Faults:
    """What goes wrong. Amounts are bytes from the beginning of a connection; None: never."""

    mode: Literal["pass", "refuse", "blackhole", "slow_down"] = "pass"
    """``blackhole`` takes all and answers nothing; ``slow_down`` answers 503 to every request (http only)."""
    cut_up: int | None = None
    """A reset after that many bytes from the client."""
    cut_down: int | None = None
    """A reset after that many bytes from the server."""
    stall_up: int | None = None
    """Nothing more from the client after that many bytes; the connection stays."""
    stall_down: int | None = None
    share: float = 1.0
    """Which part of the connections is cut or stalled, the first one to begin with."""
    flip_down: int | None = None
    """One bit of the byte at this place of a response is flipped on the way to the client."""
    flips: int = 1
    """How often, in all."""
    kilobytes_per_second: float | None = None


@dataclass
class _Response:
    """How far the answer to the last request has gone."""

    passed: int = 0


class FaultProxy:
    """Forwards a port of its own to ``upstream``; what has happened is counted in ``seen``."""

    def __init__(self, upstream: int) -> None:
        self.upstream, self.port = upstream, 0
        self.faults = Faults()
        self.seen: Counter[str] = Counter()
        self._connections = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faultproxy", daemon=True)

    def set(self, faults: Faults) -> None:
        """From now on; connections that are open break, as they do when a network changes."""
        self.faults, self._connections = faults, 0
        self._loop.call_soon_threadsafe(lambda: [_reset(writer) for writer in list(self._open)])

    def start(self) -> None:
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen["connections"] += 1
        self._connections += 1
        self._open.add(writer)
        try:
            mode = self.faults.mode
            if mode == "refuse":
                self.seen["refused"] += 1
                _reset(writer)
            elif mode == "blackhole":
                self.seen["swallowed"] += 1
                while await reader.read(_CHUNK):
                    pass
            elif mode == "slow_down":
                await reader.readuntil(b"\r\n\r\n")
                self.seen["slowed down"] += 1
                head = f"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: {len(_SLOW_DOWN)}\r\n\r\n"
                writer.write(head.encode() + _SLOW_DOWN)
                await writer.drain()
            else:
                await self._forward(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            _reset(writer)
            return
        share = self.faults.share
        struck = math.ceil(self._connections * share) > math.ceil((self._connections - 1) * share)
        try:
            response = _Response()
            up = self._pump("up", reader, server_writer, struck, response)
            down = self._pump("down", server_reader, writer, struck, response)
            pumps = [asyncio.ensure_future(pump) for pump in (up, down)]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            if any(not pump.cancelled() and pump.done() and pump.exception() for pump in pumps):
                _reset(writer)
        finally:
            server_writer.close()

    async def _pump(
        self, way: _Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, struck: bool, response: _Response
    ) -> None:
        faults, passed = self.faults, 0
        cut, stall = (faults.cut_up, faults.stall_up) if way == "up" else (faults.cut_down, faults.stall_down)
        while data := await reader.read(_CHUNK):
            if faults.kilobytes_per_second:
                await asyncio.sleep(len(data) / 1000 / faults.kilobytes_per_second)
            if struck and cut is not None and passed + len(data) > cut:
                writer.write(data[: cut - passed])
                await writer.drain()
                self.seen["cut"] += 1
                raise ConnectionResetError
            if struck and stall is not None and passed + len(data) > stall:
                writer.write(data[: stall - passed])
                self.seen["stalled"] += 1
                await asyncio.sleep(3600)
            if way == "up":
                response.passed = 0
            elif faults.flip_down is not None and self.seen["flipped"] < faults.flips:
                place = faults.flip_down - response.passed
                if 0 <= place < len(data):
                    data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
                    self.seen["flipped"] += 1
            response.passed += len(data) if way == "down" else 0
            passed += len(data)
            writer.write(data)
            await writer.drain()


@contextmanager
def fault_proxy(upstream: int) -> Iterator[FaultProxy]:
    """A proxy while the block runs."""
    proxy = FaultProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection with RST, as a dying middlebox would, not with a polite end."""
    channel = writer.get_extra_info("socket")
    if channel is not None:
        with suppress(OSError):
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
