"""Routing traces on disk: which experts every token used, read in pieces that fit in memory.

A trace is read twice: :meth:`TraceFile.requests` finds the requests, with their profiles and users, without looking at
experts; :meth:`TraceFile.batches` yields the rows (one token at one layer) with the number of their request. Formats
and rules are described in ``docs/importing.md``.
"""

from __future__ import annotations

import base64
import binascii
import csv
import gzip
import io
import itertools
import json
import math
import os
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from moeplace.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]

BLOCK: Final = 512
"""Tokens of a request where the trace does not say where requests begin."""

_CHUNK_BYTES: Final = 1 << 24
_CHUNK_LINES: Final = 1 << 15
_KINDS: Final = "one of .npz, .npy, .csv, .jsonl, .ndjson (these three also as .gz), .parquet"


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


def open_trace(
    path: str | os.PathLike[str], shape: Shape, columns: Columns | None = None, block: int = BLOCK
) -> TraceFile:
    """Return the trace of a file by the ending of its name.

    Raises
    ------
    InputError
        The file is not there, is empty, or has another ending.
    """
    name = Path(path).name.lower().removesuffix(".gz")
    zipped = Path(path).name.lower().endswith(".gz")
    readers: dict[str, type[TraceFile]] = {
        ".npz": ArrayTrace, ".npy": ArrayTrace, ".parquet": ParquetTrace,
        ".csv": CsvTrace, ".jsonl": LinesTrace, ".ndjson": LinesTrace,
    }  # fmt: skip
    reader = readers.get(Path(name).suffix)
    if reader is None or (zipped and reader in (ArrayTrace, ParquetTrace)):
        hint = ""
        if Path(name).suffix in (".pt", ".pth", ".pkl"):
            hint = "; a pickled dump has to be saved as .npz first (docs/importing.md)"
        raise InputError(f"no trace by its name; expected {_KINDS}{hint}", file=str(path))
    try:
        if Path(path).stat().st_size == 0:
            raise InputError("is empty", file=str(path))
        with Path(path).open("rb"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read: {reason}", file=str(path)) from None
    return reader(path, shape, columns or Columns(), block)


# --- arrays: npz and npy ---------------------------------------------------------------------------------------


@dataclass
class _Array:
    """A routing array of a file: its name there, what its requests are, where they begin."""

    name: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    start: Int64 = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    first_request: int = 0


class ArrayTrace(TraceFile):
    """Integer arrays ``[tokens, layers, k]`` of an ``.npz`` or ``.npy`` file; several arrays are several profiles."""

    def requests(self) -> list[Request]:
        """Return the requests; see :meth:`TraceFile.requests`."""
        self._arrays: list[_Array] = []
        with self._errors():
            self._find_arrays()
        result: list[Request] = []
        many = len(self._arrays) > 1
        for array in self._arrays:
            array.first_request = len(result)
            lengths = self._lengths(array)
            array.start = np.concatenate(([0], np.cumsum(lengths)))
            profiles = self._labels(array, self.columns.profile, len(lengths))
            users = self._labels(array, self.columns.user, len(lengths))
            own = array.name.removesuffix("experts").rstrip("_") if many else None
            for i, length in enumerate(lengths.tolist()):
                profile = profiles[i] if profiles else own
                result.append(Request(profile, users[i] if users else None, length * array.shape[1]))
        return result

    def batches(self) -> Iterator[Batch]:
        """Yield the rows; see :meth:`TraceFile.batches`."""
        for array in self._arrays:
            _, layers, k = array.shape
            step = max(1, _CHUNK_BYTES // (layers * k * 8))
            for first, tokens in self._chunks(array, step):
                token = np.arange(first, first + len(tokens))
                request = array.first_request + np.searchsorted(array.start, token, side="right") - 1

                def place(row: int, name: str = array.name, first: int = first, layers: int = layers) -> str:
                    where = f"token {first + row // layers}, layer {row % layers}"
                    return f"{name}: {where}" if name else where

                yield Batch(
                    np.repeat(request, layers),
                    np.tile(np.arange(layers), len(tokens)),
                    tokens.reshape(-1, k),
                    place,
                )

    def _find_arrays(self) -> None:
        found: list[str] = []
        if self.path.suffix.lower() == ".npy":
            with self.path.open("rb") as file:
                self._small: dict[str, npt.NDArray[Any]] = {}
                header = self._header(file)
                _check_declared(header[0], header[1], self.path.stat().st_size - file.tell())
                self._take("", *header, found)
        else:
            with zipfile.ZipFile(self.path) as archive:
                headers = {}
                for member in archive.namelist():
                    if not member.endswith(".npy"):
                        continue
                    with archive.open(member) as file:
                        header = self._header(file)
                    most = min(archive.getinfo(member).file_size, _MOST_INFLATION * self.path.stat().st_size)
                    small = len(header[0]) == 1 and header[1].kind in "iuUS"
                    _check_declared(header[0], header[1], min(most, _MOST_SMALL) if small else most)
                    headers[member.removesuffix(".npy")] = header
            with np.load(self.path, allow_pickle=False) as data:
                self._small = {n: data[n] for n, (s, d, _) in headers.items() if len(s) == 1 and d.kind in "iuUS"}
            for name, header in headers.items():
                self._take(name, *header, found)
        if not self._arrays:
            there = ", ".join(found) if found else "nothing"
            raise InputError(
                f"no array [tokens, layers, k] of integers; the file has {there}", place="", file=str(self.path)
            )
        for array in self._arrays:
            if array.shape[1:] != self._arrays[0].shape[1:]:
                shapes = ", ".join(f"{a.name} {list(a.shape)}" for a in (self._arrays[0], array))
                raise InputError(f"arrays of different models: {shapes}", file=str(self.path))
            self._check(array)

    def _take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, found: list[str]) -> None:
        found.append(f"{name or 'an array'} {list(shape)} of {dtype}")
        if len(shape) != 3 and not (name.endswith("experts") or self.path.suffix.lower() == ".npy"):
            return
        place = name or "the array"
        if len(shape) != 3:
            raise InputError(f"has shape {list(shape)}; expected [tokens, layers, k]", place=place, file=str(self.path))
        if dtype.kind not in "iu":
            raise InputError(f"holds {dtype}; expert numbers are integers", place=place, file=str(self.path))
        if fortran:
            raise InputError(
                "is stored in Fortran order; save it with numpy.ascontiguousarray", place=place, file=str(self.path)
            )
        self._arrays.append(_Array(name, (shape[0], shape[1], shape[2]), dtype))

    def _check(self, array: _Array) -> None:
        tokens, layers, k = array.shape
        expected = f"[tokens, {self.shape.depth}, {self.shape.top_k}]"
        shape = f"{list(array.shape)}, expected {expected}"
        place = array.name or "the array"
        if not tokens:
            raise InputError("has no tokens", place=place, file=str(self.path))
        if layers != self.shape.depth:
            hint = " (--skip-layers leaves dense ones out)" if layers > self.shape.depth else ""
            raise InputError(f"has {shape}: {layers} layers{hint}", place=place, file=str(self.path))
        if not 1 <= k <= self.shape.top_k:
            raise InputError(f"has {shape}: the model's top_k is {self.shape.top_k}", place=place, file=str(self.path))

    def _lengths(self, array: _Array) -> Int64:
        stem = array.name.removesuffix("experts")
        names = [f"{stem}{kind}lengths" for kind in ("", "sample_", "example_", "request_")]
        names += [f"{array.name}_lengths"]
        found = [name for name in names if name in self._small]
        if not found and len(self._arrays) == 1:
            found = [name for name in self._small if name.endswith("lengths")]
        tokens = array.shape[0]
        if not found:
            full, rest = divmod(tokens, self.block)
            return np.array([self.block] * full + ([rest] if rest else []), dtype=np.int64)
        lengths = self._small[found[0]]
        # Python's integers: a sum of 64 bits wraps around and may come out right.
        total = sum(lengths.tolist()) if lengths.dtype.kind in "iu" else 0
        if lengths.dtype.kind not in "iu" or lengths.min(initial=1) < 1 or total != tokens:
            raise InputError(
                f"has {total if lengths.dtype.kind in 'iu' else lengths.dtype} in all; expected positive "
                f"integers that sum to the {tokens} tokens of {array.name}",
                place=found[0],
                file=str(self.path),
            )
        return lengths.astype(np.int64)

    def _labels(self, array: _Array, name: str, requests: int) -> list[str] | None:
        stem = array.name.removesuffix("experts")
        label = self._small.get(stem + name, self._small.get(name))
        if label is None:
            if name not in (Columns.profile, Columns.user):
                raise InputError(f"no array {name!r} with one entry a request", file=str(self.path))
            return None
        if len(label) != requests:
            raise InputError(f"{len(label)} entries, there are {requests} requests", place=name, file=str(self.path))
        return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in label.tolist()]

    def _chunks(self, array: _Array, step: int) -> Iterator[tuple[int, Integers]]:
        with self._errors():
            if not array.name:
                with self.path.open("rb") as file:
                    yield from self._read(file, array, step)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(array.name + ".npy") as file:
                    yield from self._read(file, array, step)

    def _read(self, file: IO[bytes], array: _Array, step: int) -> Iterator[tuple[int, Integers]]:
        self._header(file)
        tokens, layers, k = array.shape
        for first in range(0, tokens, step):
            number = min(step, tokens - first)
            size = number * layers * k * array.dtype.itemsize
            data = file.read(size)
            if len(data) != size:
                raise InputError(f"ends before token {tokens - 1}", place=array.name, file=str(self.path))
            values = np.frombuffer(data, dtype=array.dtype).reshape(number, layers, k)
            yield first, values.astype(array.dtype.newbyteorder("="), copy=False)

    def _header(self, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, fortran, dtype = read(file)
        except Exception as error:  # the header is a Python literal, and numpy lets through whatever reading one raises
            raise ValueError(f"a broken header ({type(error).__name__})") from None
        return shape, dtype, fortran

    def _errors(self) -> _Damage:
        return _Damage(self.path)


_MOST_SMALL = 2**28  # bytes of an array that is read whole: lengths and labels
_MOST_INFLATION = 1100  # deflate makes at most 1032 bytes of one


def _check_declared(shape: tuple[int, ...], dtype: np.dtype[Any], there: int) -> None:
    """Refuse a header that declares more than there is, before memory is taken for it."""
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared > there:
        raise ValueError(f"{list(shape)} of {dtype} take {declared} bytes, at most {there} are there")


class _Damage:
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


# --- tables in long form: CSV, Parquet, JSON Lines -------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """A piece of a table: one row a line; ``experts`` is ``[R, K]``, or ``[R]`` with one expert a line."""

    token: Int64
    layer: Int64
    experts: Int64 | None
    labels: list[list[Any] | None]  # request, profile, user
    first: int
    unit: str

    def place(self, row: int) -> str:
        return f"{self.unit} {self.first + row}"


class TableTrace(TraceFile):
    """A table with the columns token, layer and experts; the formats differ in how pieces of it are read."""

    @abstractmethod
    def frames(self, *, experts: bool) -> Iterator[_Frame]:
        """Yield the table piece by piece."""

    def requests(self) -> list[Request]:
        """Return the requests; see :meth:`TraceFile.requests`."""
        self._number: dict[tuple[object, ...], int] = {}
        result: list[Request] = []
        for frame in self.frames(experts=False):
            self._check_integers(frame)
            number = self._numbers(frame, result)
            for request, rows in zip(*np.unique(number, return_counts=True), strict=True):
                result[request].rows += int(rows)
        if not result:
            raise InputError("has no rows", file=str(self.path))
        self._count = len(result)
        return result

    def batches(self) -> Iterator[Batch]:
        """Yield the rows; see :meth:`TraceFile.batches`."""
        layers = self.shape.depth
        last = np.full((self._count, layers), -1, dtype=np.int64)
        kept: list[Any] = []  # the lines of the last token and layer: more may follow
        for frame in itertools.chain(self.frames(experts=True), [None]):
            if frame is None:
                if kept:
                    yield self._grouped(kept, last, 0)[0]
                return
            assert frame.experts is not None
            self._check_layers(frame, layers)
            number = self._numbers(frame, None)
            if frame.experts.ndim == 2:
                batch = Batch(number, frame.layer, frame.experts, frame.place)
                self._check_order(batch, frame.token, last)
                yield batch
                continue
            lines = (number, frame.token, frame.layer, frame.experts, frame.first + np.arange(len(number)))
            joined = tuple(np.concatenate(pair) for pair in zip(kept, lines, strict=True)) if kept else lines
            batch_and_rest = self._grouped(joined, last, 1)
            kept = list(batch_and_rest[1])
            if len(batch_and_rest[0].request):
                yield batch_and_rest[0]

    def _grouped(self, lines: Sequence[Any], last: Int64, keep: int) -> tuple[Batch, tuple[Int64, ...]]:
        """Join the lines of each token and layer to a row; the last ``keep`` rows stay lines."""
        number, token, layer, expert, line = lines
        change = np.flatnonzero((np.diff(number) != 0) | (np.diff(token) != 0) | (np.diff(layer) != 0)) + 1
        start = np.concatenate(([0], change, [len(number)]))
        end = len(start) - 1 - keep
        rest = tuple(column[start[end] :] for column in lines)
        size = np.diff(start[: end + 1])
        widest = int(size.max(initial=1))
        if widest > self.shape.top_k:
            row = int(start[int(np.argmax(size > self.shape.top_k))])
            raise InputError(
                f"token {token[row]} has {size.max()} experts at layer {layer[row]}; the model's top_k is "
                f"{self.shape.top_k}",
                place=f"row {line[row]}",
                file=str(self.path),
            )
        experts = np.full((end, widest), -1, dtype=np.int64)
        row_of = np.repeat(np.arange(end), size)
        experts[row_of, np.arange(start[end]) - np.repeat(start[:end], size)] = expert[: start[end]]
        head = start[:end]
        batch = Batch(number[head], layer[head], experts, lambda row: f"row {line[head[row]]}")
        self._check_order(batch, token[head], last)
        return batch, rest

    def _check_integers(self, frame: _Frame) -> None:
        for name, column in (("token", frame.token), ("layer", frame.layer)):
            if len(column) and column.min() < 0:
                row = int(np.argmax(column < 0))
                raise InputError(
                    f"{name} {column[row]}; they count from 0", place=frame.place(row), file=str(self.path)
                )

    def _check_layers(self, frame: _Frame, layers: int) -> None:
        if len(bad := np.flatnonzero(frame.layer >= layers)):
            row = int(bad[0])
            raise InputError(
                f"layer {frame.layer[row]}, the trace has {layers} (from 0)",
                place=frame.place(row),
                file=str(self.path),
            )

    def _check_order(self, batch: Batch, token: Int64, last: Int64) -> None:
        """Refuse a token that comes twice at a layer, or too late: then nobody could tell."""
        if not len(token):
            return
        group = batch.request * last.shape[1] + batch.layer
        order = np.argsort(group, kind="stable")
        sorted_group, sorted_token = group[order], token[order]
        begin = np.concatenate(([True], sorted_group[1:] != sorted_group[:-1]))
        before = np.concatenate(([-1], sorted_token[:-1]))
        before[begin] = last.reshape(-1)[sorted_group[begin]]
        if (bad := sorted_token <= before).any():
            at = int(np.flatnonzero(bad)[np.argmin(order[bad])])
            row, now, then = int(order[at]), int(sorted_token[at]), int(before[at])
            how = "comes twice" if now == then else f"comes after token {then}"
            raise InputError(
                f"token {now} {how} at layer {batch.layer[row]}; tokens of a request must increase within a layer",
                place=batch.place(row),
                file=str(self.path),
            )
        end = np.concatenate((begin[1:], [True]))
        last.reshape(-1)[sorted_group[end]] = sorted_token[end]

    def _numbers(self, frame: _Frame, found: list[Request] | None) -> Int64:
        """Return the number of each line's request; new ones are added to ``found``."""
        n = len(frame.token)
        requests, profiles, users = frame.labels
        block_of = frame.token // self.block
        change = np.ones(n, dtype=np.bool_)
        if n:
            change[1:] = np.diff(block_of) != 0 if requests is None else False
            for column in frame.labels:
                if column is None:
                    continue
                values = np.array(column, dtype=object)
                change[1:] |= values[1:] != values[:-1]
        at = np.flatnonzero(change)
        numbers = np.empty(len(at), dtype=np.int64)
        for i, row in enumerate(at.tolist()):
            profile = None if profiles is None else profiles[row]
            user = None if users is None else users[row]
            own: tuple[Any, ...] = (requests[row],) if requests is not None else (int(block_of[row]), profile, user)
            number = self._number.get(own)
            if number is None:
                if found is None:
                    raise InputError("changed while it was read", file=str(self.path))
                number = self._number[own] = len(found)
                found.append(Request(_text(profile), _text(user)))
            elif found is not None:
                for what, now, then in (
                    ("profile", profile, found[number].profile),
                    ("user", user, found[number].user),
                ):
                    if _text(now) != then:
                        raise InputError(
                            f"request {own[0]} has {what} {now} here and {then} before",
                            place=frame.place(row),
                            file=str(self.path),
                        )
            numbers[i] = number
        return np.repeat(numbers, np.diff(np.append(at, n)))

    def _missing(self, names: Sequence[str], missing: str) -> InputError:
        return InputError(
            f"no column {missing}; expected token, layer and expert, experts or expert_0, expert_1, ...; "
            f"found {', '.join(names)}",
            file=str(self.path),
        )

    def _layout(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the columns with experts and those with labels; refuse a table without the needed ones."""
        for name in ("token", "layer"):
            if name not in names:
                raise self._missing(names, name)
        wide = sorted((n for n in names if re.fullmatch(r"expert_\d+", n)), key=lambda n: int(n[7:]))
        experts = next(([n] for n in ("experts", "expert") if n in names), wide)
        if not experts:
            raise self._missing(names, "with experts")
        if len(experts) > self.shape.top_k:
            raise InputError(
                f"{len(experts)} columns of experts; the model's top_k is {self.shape.top_k}", file=str(self.path)
            )
        for name, usual in zip(self._label_names, (Columns.request, Columns.profile, Columns.user), strict=True):
            if name != usual and name not in names:
                raise self._missing(names, name)
        return experts, [name for name in self._label_names if name in names]

    @property
    def _label_names(self) -> tuple[str, str, str]:
        return self.columns.request, self.columns.profile, self.columns.user


def _text(label: object) -> str | None:
    return None if label is None else str(label)


def _label(value: dict[str, Any], name: str, line: int, path: Path) -> Any:
    """Return a label of a JSON object; a list or an object is none."""
    label = value.get(name)
    if isinstance(label, list | dict):
        raise InputError(
            f"{name} is {json.dumps(label)[:60]}; expected a text or a number", place=f"line {line}", file=str(path)
        )
    return label


class _ArrowTrace(TableTrace):
    """What CSV and Parquet have in common: record batches of pyarrow."""

    @abstractmethod
    def record_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the table with some of its columns."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all columns."""

    def frames(self, *, experts: bool) -> Iterator[_Frame]:
        """Yield the table piece by piece."""
        import pyarrow as pa

        with _Damage(self.path):
            expert_columns, labels = self._layout(self.names())
            chosen = ["token", "layer", *labels, *(expert_columns if experts else [])]
            first = 1
            for batch in self.record_batches(chosen):
                if not batch.num_rows:
                    continue
                columns = {name: batch.column(name) for name in chosen}
                for name in labels:
                    if pa.types.is_nested(columns[name].type):
                        kind = columns[name].type
                        raise InputError(f"column {name} holds {kind}; expected texts or numbers", file=str(self.path))
                yield _Frame(
                    token=self._integers(columns["token"], "token", first),
                    layer=self._integers(columns["layer"], "layer", first),
                    experts=self._experts(columns, expert_columns, first) if experts else None,
                    labels=[columns[name].to_pylist() if name in labels else None for name in self._label_names],
                    first=first,
                    unit="row",
                )
                first += batch.num_rows

    def _integers(self, column: Any, name: str, first: int, missing: int | None = None) -> Int64:
        import pyarrow as pa

        if not pa.types.is_integer(column.type):
            raise InputError(f"column {name} holds {column.type}; whole numbers were expected", file=str(self.path))
        if column.null_count and missing is None:
            row = first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise InputError(f"column {name} has no value", place=f"row {row}", file=str(self.path))
        values = column.fill_null(missing) if column.null_count else column
        if pa.types.is_uint64(column.type):
            values = values.cast(pa.int64())
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.int64)

    def _experts(self, columns: dict[str, Any], names: list[str], first: int) -> Int64:
        import pyarrow as pa

        if names == ["expert"]:
            return self._integers(columns["expert"], "expert", first, missing=-1)
        if names != ["experts"]:
            return np.stack([self._integers(columns[n], n, first, missing=-1) for n in names], axis=1)
        column = columns["experts"]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = self._split(column, first)
        if pa.types.is_fixed_size_list(column.type):
            column = column.cast(pa.list_(column.type.value_type))
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            raise InputError(f"column experts holds {column.type}; expected lists of integers", file=str(self.path))
        values = self._integers(column.flatten(), "experts", first, missing=-1)
        size = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        if (size > self.shape.top_k).any():
            row = int(np.argmax(size > self.shape.top_k))
            raise InputError(
                f"{size[row]} experts, the model's top_k is {self.shape.top_k}",
                place=f"row {first + row}",
                file=str(self.path),
            )
        start = np.concatenate(([0], np.cumsum(size)))
        experts = np.full((len(size), int(size.max(initial=1))), -1, dtype=np.int64)
        row_of = np.repeat(np.arange(len(size)), size)
        experts[row_of, np.arange(start[-1]) - np.repeat(start[:-1], size)] = values
        return experts

    def _split(self, column: Any, first: int) -> Any:
        """Turn text such as ``3 17 4`` or ``[3, 17, 4]`` into lists of integers."""
        import pyarrow as pa
        import pyarrow.compute as pc

        bare = pc.utf8_trim(pc.fill_null(column, ""), " []()")
        good = pc.match_substring_regex(bare, r"^(-?\d+([ ,;|]+-?\d+)*)?$")
        if not pc.all(good).as_py():
            row = int(np.argmin(good.to_numpy(zero_copy_only=False)))
            raise InputError(
                f"experts {column[row].as_py()!r}; expected integers with spaces, commas or semicolons between",
                place=f"row {first + row}",
                file=str(self.path),
            )
        lists = pc.split_pattern_regex(bare, r"[ ,;|]+")
        numbers = pc.cast(pc.if_else(pc.equal(lists.flatten(), ""), None, lists.flatten()), pa.int64())
        return pa.ListArray.from_arrays(lists.offsets, numbers)


class CsvTrace(_ArrowTrace):
    """A CSV file with a header, plain or gzip."""

    def names(self) -> list[str]:
        """Return the names of all columns."""
        opener = gzip.open if self.path.suffix.lower() == ".gz" else open
        with opener(self.path, "rt", encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])

    def record_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the table with some of its columns."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        texts = ("experts", self.columns.request, self.columns.profile, self.columns.user)
        options = arrow_csv.ConvertOptions(
            include_columns=columns,
            column_types={name: pa.string() if name in texts else pa.int64() for name in columns},
        )
        block = arrow_csv.ReadOptions(block_size=_CHUNK_BYTES // 4, use_threads=False)
        with pa.input_stream(str(self.path), compression="detect") as file:
            yield from arrow_csv.open_csv(file, read_options=block, convert_options=options)


class ParquetTrace(_ArrowTrace):
    """A Parquet file."""

    def names(self) -> list[str]:
        """Return the names of all columns."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            return list(file.schema_arrow.names)

    def record_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the table with some of its columns."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path, memory_map=True) as file:
            yield from file.iter_batches(batch_size=1 << 17, columns=columns, use_threads=False)


class LinesTrace(TraceFile):
    """JSON Lines: a row a line (token, layer, experts), or a response of a serving engine a line."""

    def __init__(self, path: str | os.PathLike[str], shape: Shape, columns: Columns, block: int) -> None:
        super().__init__(path, shape, columns, block)
        first = next(self._objects(), None)
        if first is None:
            raise InputError("has no rows", file=str(path))
        kind = _RowLines if "token" in first[1] and "layer" in first[1] else _ResponseLines
        self._reader: _RowLines | _ResponseLines = kind(path, shape, columns, block)
        self._reader.objects = self._objects

    def requests(self) -> list[Request]:
        """Return the requests; see :meth:`TraceFile.requests`."""
        return self._reader.requests()

    def batches(self) -> Iterator[Batch]:
        """Yield the rows; see :meth:`TraceFile.batches`."""
        return self._reader.batches()

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        opener = gzip.open if self.path.suffix.lower() == ".gz" else open
        decode = msgspec.json.Decoder().decode
        with _Damage(self.path), opener(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = decode(line)
                except (msgspec.DecodeError, RecursionError) as error:
                    raise InputError(f"not JSON: {error}", place=f"line {number}", file=str(self.path)) from None
                if not isinstance(value, dict):
                    raise InputError(
                        f"a {type(value).__name__}; expected an object", place=f"line {number}", file=str(self.path)
                    )
                yield number, value


class _RowLines(TableTrace):
    """JSON Lines with one token at one layer (or one expert of it) a line."""

    objects: Callable[[], Iterator[tuple[int, dict[str, Any]]]]

    def frames(self, *, experts: bool) -> Iterator[_Frame]:
        """Yield the table piece by piece."""
        objects = self.objects()
        keys: list[str] | None = None
        while chunk := list(itertools.islice(objects, _CHUNK_LINES)):
            if keys is None:
                keys = list(chunk[0][1])
            expert_columns, labels = self._layout(keys)
            numbers = [number for number, _ in chunk]
            token = self._column(chunk, "token")
            layer = self._column(chunk, "layer")
            values = self._values(chunk, expert_columns) if experts else None
            label = [
                [_label(value, name, line, self.path) for line, value in chunk] if name in labels else None
                for name in self._label_names
            ]
            yield _LineFrame(token, layer, values, label, first=numbers[0], unit="line", lines=numbers)

    def _column(self, chunk: list[tuple[int, dict[str, Any]]], name: str) -> Int64:
        values = [value.get(name) for _, value in chunk]
        for (line, _), value in zip(chunk, values, strict=True):
            if type(value) is not int or not -(2**63) <= value < 2**63:
                self._refuse(line, name, value)
        return np.array(values, dtype=np.int64)

    def _values(self, chunk: list[tuple[int, dict[str, Any]]], names: list[str]) -> Int64:
        if names == ["expert"]:
            return self._column(chunk, "expert")
        rows = []
        for line, value in chunk:
            row = value.get("experts") if names == ["experts"] else [value.get(name) for name in names]
            if row is None:
                row = []
            if not isinstance(row, list) or any(type(e) is not int or abs(e) >= 2**63 for e in row):
                self._refuse(line, "experts", row)
            if len(row) > self.shape.top_k:
                raise InputError(
                    f"{len(row)} experts, the model's top_k is {self.shape.top_k}",
                    place=f"line {line}",
                    file=str(self.path),
                )
            rows.append(row)
        width = max(1, *(len(row) for row in rows))
        return np.array([row + [-1] * (width - len(row)) for row in rows], dtype=np.int64)

    def _refuse(self, line: int, name: str, value: object) -> None:
        shown = "nothing" if value is None else json.dumps(value)[:60]
        wanted = "a list of integers" if name == "experts" else "an integer"
        raise InputError(f"{name} is {shown}; expected {wanted}", place=f"line {line}", file=str(self.path))


@dataclass(frozen=True)
class _LineFrame(_Frame):
    lines: list[int] = field(default_factory=list)

    def place(self, row: int) -> str:
        return f"line {self.lines[row]}"


def _packed_array(raw: bytes) -> npt.NDArray[Any]:
    file = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # see _header
        raise ValueError(f"a broken header ({type(error).__name__})") from None
    _check_declared(shape, dtype, len(raw) - file.tell())
    array: npt.NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False)
    return array


class _ResponseLines(TraceFile):
    """JSON Lines with one response of a serving engine (vLLM, SGLang) a line: one request each."""

    objects: Callable[[], Iterator[tuple[int, dict[str, Any]]]]

    def requests(self) -> list[Request]:
        """Return the requests; see :meth:`TraceFile.requests`."""
        layers = self.shape.depth
        return [
            Request(
                _text(_label(value, self.columns.profile, line, self.path)),
                _text(_label(value, self.columns.user, line, self.path)),
                sum(len(array) for array in self._arrays(line, value)) * layers,
            )
            for line, value in self.objects()
        ]

    def batches(self) -> Iterator[Batch]:
        """Yield the rows; see :meth:`TraceFile.batches`."""
        for request, (line, value) in enumerate(self.objects()):
            for array in self._arrays(line, value):
                tokens, layers, k = array.shape
                yield Batch(
                    np.full(tokens * layers, request),
                    np.tile(np.arange(layers), tokens),
                    array.reshape(-1, k),
                    lambda row, line=line, layers=layers: (  # type: ignore[misc]
                        f"line {line}: token {row // layers}, layer {row % layers}"
                    ),
                )

    def _arrays(self, line: int, value: dict[str, Any]) -> list[Integers]:
        """Return the arrays of a response: of its prompt and of each of its completions."""
        outer = [value, value.get("meta_info")]
        lists = (part for part in (value.get("choices"), value.get("outputs")) if isinstance(part, list))
        for choice in itertools.chain(*lists):
            if isinstance(choice, dict):
                outer += [choice, choice.get("meta_info"), choice.get("sgl_ext")]
        found = [
            part[key]
            for part in outer
            if isinstance(part, dict)
            for key in ("prompt_routed_experts", "routed_experts")
            if part.get(key) is not None
        ]
        if not found:
            raise InputError(
                "neither a row (token, layer, experts) nor a response with routed_experts",
                place=f"line {line}",
                file=str(self.path),
            )
        return [self._array(line, data) for data in found]

    def _array(self, line: int, data: object) -> Integers:
        layers, k = self.shape.depth, self.shape.top_k
        try:
            if isinstance(data, str):
                raw = base64.b64decode(data, validate=True)
                # SGLang: 32-bit integers without a shape
                array = _packed_array(raw) if raw.startswith(b"\x93NUMPY") else np.frombuffer(raw, dtype="<i4")
            elif isinstance(data, dict):
                array = np.frombuffer(base64.b64decode(data["data"], validate=True), dtype=np.dtype(data["dtype"]))
                array = array.reshape(data["shape"])
            else:
                array = np.array(data)
            if array.ndim == 1 and array.size % (layers * k) == 0:
                array = array.reshape(-1, layers, k)
        except (binascii.Error, EOFError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"routed_experts cannot be decoded: {error}", place=f"line {line}", file=str(self.path)
            ) from None
        if array.dtype.kind not in "iu" or array.ndim != 3 or array.shape[1] != layers or not 1 <= array.shape[2] <= k:
            raise InputError(
                f"routed_experts is {list(array.shape)} of {array.dtype}; expected integers [tokens, {layers}, {k}]",
                place=f"line {line}",
                file=str(self.path),
            )
        return np.asarray(array, dtype=np.int64)
