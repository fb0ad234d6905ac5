"""A container and the command that waits for it: what it is given at its start, and what it says until its end."""

from __future__ import annotations

import codecs
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from last_e.text import one_line
from runner.engine import explain, explained
from runner.errors import EngineError, Exit

if TYPE_CHECKING:
    from docker import DockerClient


def hand_over(client: DockerClient, container: str, start: Any, given: dict[str, dict[str, str]]) -> None:
    """Start a container and write variables and files to its standard input: what the engine were told, it would keep in a
    file and show to everybody who may ask it."""
    stream = client.api.attach_socket(container, {"stdin": 1, "stream": 1})
    connection = getattr(stream, "_sock", stream)  # an engine on this machine is read and written through another object
    try:
        start()
        connection.sendall(json.dumps(given).encode() + b"\n")
    except OSError as error:
        raise EngineError(f"the container ended before it took its variables ({error.strerror or error})") from None
    finally:
        stream.close()
        connection.close()


class Watch(threading.Thread):
    """Copies a container's output until it ends, and then knows how. On a thread of its own: an engine that hangs is not to
    keep us from hearing signals."""

    def __init__(self, container: Any, out: Any) -> None:
        super().__init__(name="container", daemon=True)
        self._container, self._out = container, out
        self.code = int(Exit.FAILED)
        self.error: EngineError | None = None

    def run(self) -> None:
        """Until the container ends, or the engine does not tell of it any more: then ``error`` says why."""
        try:
            with explained():
                self._show()
                self.code = int(self._container.wait(timeout=None)["StatusCode"])
        except OSError as error:
            self.error = EngineError(explain(error))
        except EngineError as error:
            self.error = error
        except Exception as error:  # whatever it is: a thread that dies in silence would pass for a container that did well
            self.error = EngineError(f"following the container broke off ({type(error).__name__}: {one_line(error)})")

    def _show(self) -> None:
        for piece in _pieces(self._container):
            try:
                self._out.write(piece)
                self._out.flush()
            except UnicodeEncodeError:  # a terminal that does not know the character
                encoding = getattr(self._out, "encoding", None) or "ascii"
                self._out.write(piece.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError):  # a reader of ours that goes away does not stop the container
                return


def _pieces(container: Any) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in container.logs(stream=True, follow=True):
        yield decoder.decode(piece)
