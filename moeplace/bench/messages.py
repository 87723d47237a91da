"""What the harness, its workers and the processes of single runs say to one another, and how it is framed.

Every message is a msgpack document after its length in eight bytes. A message from a process that runs somebody's
method is a claim: nothing in it counts before it is checked.
"""

from __future__ import annotations

import os
import struct
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from moeplace.base.registry import METHODS
from moeplace.bench.records import Record, RunStatus

_LENGTH = struct.Struct(">Q")
_LONGEST = 1 << 32


class Task(Struct, frozen=True, tag=True):
    """One run, as a worker is told of it; ``path`` is where the instance is on the worker's machine."""

    key: str
    set: str
    instance: str
    sha256: str
    path: str
    label: str
    method: str
    parameters: dict[str, Any]
    seed: int
    threads: int
    time_limit: float
    grace: float
    memory_limit_bytes: int | None


class Describe(Struct, frozen=True, tag=True):
    """Asks what a method says of itself; it is imported in a process of its own."""

    method: str
    parameters: dict[str, Any]
    group: str = METHODS


class Prepare(Struct, frozen=True, tag=True):
    """Asks a worker to import libraries, so that the processes it forks need not."""

    modules: list[str]


class Ready(Struct, frozen=True, tag=True):
    """A worker has started, or has prepared."""


class Forked(Struct, frozen=True, tag=True):
    """A worker has forked the process of a run, which leads a session of its own with this number."""

    session: int


class Description(Struct, frozen=True, tag=True):
    """What is to be known of a method, or what is wrong with it."""

    imports: list[str] = []
    seeded: bool = True
    error: str | None = None


class Result(Struct, frozen=True, tag=True):
    """A finished run; ``killed``: its process was killed, and not by the worker, so it may be tried again."""

    record: Record
    solution: bytes | None = None
    killed: bool = False


class Trouble(Struct, frozen=True, tag=True):
    """A worker cannot do what it was asked, for a reason that is not the method's."""

    message: str


class Began(Struct, frozen=True, tag=True):
    """The method begins: its time runs from here."""


class Progressed(Struct, frozen=True, tag=True):
    """The method reports an improvement."""

    seconds: float
    latency_ns: int | None
    bound_ns: int | None


class Done(Struct, frozen=True, tag=True):
    """The method has ended with a solution document."""

    solution: bytes


class Failed(Struct, frozen=True, tag=True):
    """The method has ended without a solution."""

    status: RunStatus
    message: str
    traceback: str | None = None


Order: TypeAlias = Task | Describe | Prepare
Answer: TypeAlias = Ready | Description | Result | Trouble
Note: TypeAlias = Answer | Forked
Report: TypeAlias = Began | Progressed | Done | Failed | Description


def framed(message: Struct) -> bytes:
    """Return a message with its length in front."""
    data = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Cuts a stream of bytes into messages.

    Parameters
    ----------
    kind : type
        Union of the messages that may come.
    """

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes and return the messages they complete.

        Raises
        ------
        ValueError
            They are no such message.
        """
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > _LONGEST:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._decoder.decode(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return messages


def read_available(fd: int) -> bytes | None:
    """Read what a pipe has to offer; empty at its end, None where a non-blocking one has nothing."""
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return None


def write_all(fd: int, data: bytes) -> None:
    """Write everything to a pipe."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
