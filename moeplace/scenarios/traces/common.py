"""What all readers of traces share: shapes, requests, batches of tokens, and what a reader of a file is."""

from __future__ import annotations

import csv
import math
import os
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moeplace.base.errors import InputError
from moeplace.base.text import numbers as numbers_said

Int64 = npt.NDArray[np.int64]


Integers = npt.NDArray[np.integer]


BLOCK: Final = 512
"""Tokens of a request where the trace does not say where requests begin."""


CHUNK_BYTES: Final = 1 << 24
"""Bytes that are read at a time; readers look it up when they read."""


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
    fillers : tuple of int
        Numbers that stand for no expert of the model: padding, or a shared expert in columns beyond ``top_k``.
    own_numbers : tuple of int
        The model's own numbers of the trace's layers with experts, where they are known.
    """

    layers: int
    experts: int
    top_k: int
    skip_layers: int = 0
    cut_layers: int = 0
    fillers: tuple[int, ...] = ()
    own_numbers: tuple[int, ...] = ()

    def foreign_layers(self, numbers: Sequence[int]) -> str | None:
        """Say why these numbers of a trace's layers, which do not count from 0, cannot be the model's own."""
        if not self.own_numbers or self.skip_layers or tuple(numbers) == self.own_numbers:
            return None
        return f"layers {numbers_said(numbers)}; the model's own are {numbers_said(self.own_numbers)}"

    @property
    def depth(self) -> int:
        """Layers of the trace."""
        return self.skip_layers + self.layers + self.cut_layers

    @property
    def width(self) -> int:
        """The most numbers in a row: the experts of a token, and a column for each filler."""
        return self.top_k + len(self.fillers)


@dataclass(frozen=True)
class Columns:
    """Names of columns (or of arrays with one entry a request) that are the user's choice.

    ``experts`` is empty where the usual names are looked for: ``experts``, ``expert``, or ``expert_0``, ...; ``time``
    is empty where nobody asks when requests begin.
    """

    profile: str = "profile"
    user: str = "user"
    request: str = "request"
    token: str = "token"
    layer: str = "layer"
    experts: str = ""
    time: str = ""


@dataclass(frozen=True)
class Reading:
    """How a trace is read where it does not say so itself.

    Attributes
    ----------
    columns : Columns
    block : int
        Tokens of a request where the file does not say where requests begin.
    drop_failed : bool
        Responses that failed are dropped and counted instead of refused.
    recount_turns : bool
        The first tokens of a response count again where an earlier response of the file has them, too.
    """

    columns: Columns = Columns()
    block: int = BLOCK
    drop_failed: bool = False
    recount_turns: bool = False


@dataclass
class Request:
    """One request of a trace: its profile and user (None: not said), how many rows it has, and when it begins.

    ``time`` is as the file has it (see :func:`moment`); None where it says none, or nobody asks.
    """

    profile: str | None
    user: str | None
    rows: int = 0
    time: Any = None


TIME: Final = "time"
"""The usual name of the column with times."""


def moment(value: object) -> tuple[Fraction, bool] | None:
    """Read a time: a number (of any unit), or a date and time of day in ISO 8601.

    Returns
    -------
    (Fraction, bool) or None
        The number, or the seconds since 1970 (UTC where no zone is said), and whether it is a date. None where the
        value is no time.

    Examples
    --------
    >>> moment("12.5"), moment("1970-01-01T00:01:00"), moment("soon")
    ((Fraction(25, 2), False), (Fraction(60, 1), True), None)
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return (Fraction(value), False) if math.isfinite(value) else None
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"[+-]?(\d{1,30}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,2})?", text):
            return Fraction(text), False
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            return None
    if isinstance(value, datetime):
        zoned = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        past = zoned - datetime(1970, 1, 1, tzinfo=UTC)
        return Fraction(past.days * 86_400 + past.seconds) + Fraction(past.microseconds, 10**6), True
    return None


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
    reading : Reading, optional

    Attributes
    ----------
    notes : list of str
        What the reader guessed, joined or left out, one line each, for people; complete when all rows are read.
    failed : int
        Responses without routing that were dropped.
    repeated : int
        Rows left out because an earlier response of the file has the same tokens.
    """

    def __init__(self, path: str | os.PathLike[str], shape: Shape, reading: Reading | None = None) -> None:
        self.path, self.shape, self.reading = Path(path), shape, reading or Reading()
        self.notes: list[str] = []
        self.failed = self.repeated = 0

    def note(self, text: str) -> None:
        """Say something once, however often it is found."""
        if text not in self.notes:
            self.notes.append(text)

    def refuse(self, message: str, place: str = "") -> InputError:
        """Return what is raised for this file."""
        return InputError(message, place=place, file=str(self.path))

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


class EitherTrace(TraceFile):
    """A trace whose reader is found when its content is seen."""

    @abstractmethod
    def choose(self) -> type[TraceFile]:
        """Return the reader."""

    def requests(self) -> list[Request]:
        """Return the requests; see :meth:`TraceFile.requests`."""
        self._reader = self.choose()(self.path, self.shape, self.reading)
        self._reader.notes = self.notes
        result = self._reader.requests()
        self.failed, self.repeated = self._reader.failed, self._reader.repeated
        return result

    def batches(self) -> Iterator[Batch]:
        """Yield the rows; see :meth:`TraceFile.batches`."""
        return self._reader.batches()


class OtherShape(ValueError):
    """An array cannot be a trace of the model; the message says what was found and what may help."""


def too_many(found: int, shape: Shape) -> str:
    """Return what is wrong with a row of more numbers than the model has experts a token, and what may help."""
    shared = " (one more may be a fused shared expert: --filler names its number)" * (found == shape.width + 1)
    return f"{found} experts, the model's top_k is {shape.top_k}{shared}"


def layers_first(shape: tuple[int, ...], model: Shape, tokens: Iterable[int] = ()) -> bool:
    """Tell ``[layers, tokens, k]`` from ``[tokens, layers, k]``.

    Parameters
    ----------
    shape : tuple of int
        Of an array with three dimensions.
    model : Shape
    tokens : iterable of int
        Numbers of tokens that are possible, as the file says elsewhere; nothing where it does not.

    Raises
    ------
    OtherShape
        No axis has the layers of the trace, or the axes may be swapped and nothing tells.
    """
    first, second, k = shape
    found = f"{list(shape)}, expected [tokens, {model.depth}, {model.top_k}]"
    if not 1 <= k <= model.width:
        raise OtherShape(f"{found}: {too_many(k, model)}")
    if second == model.depth:
        if first == model.layers != model.depth and first not in tokens:
            raise OtherShape(
                f"{found}: its first axis has the model's {model.layers} layers, so it may be [layers, tokens, k]; "
                f"{second} tokens would be taken for layers (an array lengths with the tokens of each request tells)"
            )
        return False
    if first == model.depth:
        return True
    hint = ""
    if model.layers in (first, second):
        hint = ", the model's: leave out --skip-layers" if model.skip_layers else ", the model's"
    elif second > model.depth:
        hint = " (--skip-layers leaves dense ones out)"
    raise OtherShape(f"{found}: {first if first == model.layers else second} layers{hint}")


def without_fillers(experts: Integers, shape: Shape) -> tuple[Integers, int]:
    """Take the fillers out of rows.

    Parameters
    ----------
    experts : int array [R, up to shape.width]
    shape : Shape

    Returns
    -------
    int array [R, up to shape.top_k]
        -1 where a filler stood.
    int
        How many stood there.

    Raises
    ------
    FillerRow
        A row with more experts than ``top_k``, or a filler that may as well be an expert.
    """
    if not shape.fillers:
        return experts, 0
    found = 0
    extra = experts.shape[1] - shape.top_k
    inside = [number for number in shape.fillers if number < shape.experts]
    if inside and len(experts):
        if extra < len(inside):
            raise FillerRow(
                0,
                f"--filler {inside[0]} is an expert of the model, too ({shape.experts} of them, from 0): it can only "
                f"stand in a column beyond the top_k of {shape.top_k}, and there is none",
            )
        wrong = ~np.isin(experts[:, shape.top_k :], shape.fillers).all(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise FillerRow(row, f"{experts[row].tolist()}; the last of {experts.shape[1]} must be the filler")
    if extra > 0 and np.isin(experts[:, shape.top_k :], shape.fillers).all():
        found += extra * len(experts)
        experts = experts[:, : shape.top_k]
    fills = np.isin(experts, [number for number in shape.fillers if number >= shape.experts])
    if fills.any():
        found += int(fills.sum())
        experts = np.where(fills, -1, experts.astype(np.int64))
    if experts.shape[1] > shape.top_k:
        last = np.argsort(experts < 0, axis=1, kind="stable")
        experts = np.take_along_axis(experts, last, axis=1)
        wrong = (experts[:, shape.top_k :] >= 0).any(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise FillerRow(row, f"{experts[row].tolist()} are more experts than the model's top_k of {shape.top_k}")
        experts = experts[:, : shape.top_k]
    return experts, found


class FillerRow(ValueError):
    """A row from which a filler cannot be taken; ``row`` is its number."""

    def __init__(self, row: int, message: str) -> None:
        self.row = row
        super().__init__(message)


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
