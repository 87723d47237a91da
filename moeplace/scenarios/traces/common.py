"""What all readers of traces share: shapes, requests, batches of tokens, and what a reader of a file is."""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace.base.errors import InputError

Int64 = npt.NDArray[np.int64]


Integers = npt.NDArray[np.integer]


BLOCK: Final = 512
"""Tokens of a request where the trace does not say where requests begin."""


CHUNK_BYTES: Final = 1 << 24
"""Bytes that are read at a time; readers look it up when they read."""


CHUNK_LINES: Final = 1 << 15
"""Lines that are read at a time."""


@dataclass(frozen=True)
class Shape:
    """What the rows of a trace have to fit.

    Attributes
    ----------
    layers, experts, top_k : int
        The model's layers with experts, experts of a layer, the most experts of a token at one layer.
    skip_layers : int
        The trace's first so many layers are not the model's (dense ones); they are left out.
    cut_layers : int
        The trace has so many further layers after the model's; they are left out, too.
    """

    layers: int
    experts: int
    top_k: int
    skip_layers: int = 0
    cut_layers: int = 0

    @property
    def depth(self) -> int:
        """Layers of the trace."""
        return self.skip_layers + self.layers + self.cut_layers


@dataclass(frozen=True)
class Columns:
    """Names of columns (or of arrays with one entry a request) that are the user's choice."""

    profile: str = "profile"
    user: str = "user"
    request: str = "request"


@dataclass
class Request:
    """One request of a trace: its profile and user (None: not said) and how many rows it has."""

    profile: str | None
    user: str | None
    rows: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows of a trace, one token at one layer each.

    Attributes
    ----------
    request : int64 array [R]
        Number of each row's request in :meth:`TraceFile.requests`.
    layer : int64 array [R]
        Layer of the trace, from 0.
    experts : int array [R, K]
        -1 where a token has fewer.
    place : callable
        Says where in the file a row of the batch is.
    """

    request: Int64
    layer: Int64
    experts: Integers
    place: Callable[[int], str]


class TraceFile(ABC):
    """A trace of one file; see :func:`open_trace`.

    Parameters
    ----------
    path : path-like
    shape : Shape
    columns : Columns
    block : int
        Tokens of a request where the file does not say where requests begin.
    """

    def __init__(self, path: str | os.PathLike[str], shape: Shape, columns: Columns, block: int) -> None:
        self.path, self.shape, self.columns, self.block = Path(path), shape, columns, block

    @abstractmethod
    def requests(self) -> list[Request]:
        """Return the requests in their order.

        Raises
        ------
        InputError
            The file is damaged, empty, or not such a trace.
        """

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Yield all rows; requests are numbered as in :meth:`requests`, which has to be called before.

        Raises
        ------
        InputError
            As there, and where a row has another form than the trace.
        """


class Damage:
    """Turns what a damaged file raises into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        damage = (
            OSError, EOFError, ValueError, KeyError, csv.Error, zipfile.BadZipFile, zlib.error, RuntimeError
        )  # fmt: skip
        if isinstance(error, InputError) or not isinstance(error, damage):
            return
        text = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"cannot be read, damaged or of another format: {text}", file=str(self.path)) from None
