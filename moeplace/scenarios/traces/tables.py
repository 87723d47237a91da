"""Traces as tables, one row a token or an expert: what all tables share, and CSV."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from moeplace.base.errors import InputError
from moeplace.scenarios.counting import as_int32
from moeplace.scenarios.traces import common
from moeplace.scenarios.traces.common import TIME, Batch, Columns, Int64, Request, TraceFile, too_many

TOTALS: Final = re.compile(
    r"(?i)(^|[ _.])(counts?|freq(s|uency|uencies)?|hist(ogram)?|totals?|hits|loads?|utili[sz]ation|per[ _]expert)"
    r"($|[ _.])"
)
"""Names of what is added up over tokens."""

ONLY_TOTALS: Final = (
    "totals: which experts a token used together is not in them, so they are no trace (docs/importing.md)"
)

_MOST_LAYERS: Final = 2**16
"""Layers are numbered below this, whether they have experts or not."""

_TOKEN_NAMES: Final = re.compile(r"(?i)(tok(en)?([ _]?(idx|index|id|no|num|number|pos|position))?|pos(ition)?)")

_EXPERT_NAMES: Final = re.compile(r"(?i)(?!n_|num_|.*(weight|prob|score|logit)).*(expert|topk|top_k).*")


@dataclass(frozen=True)
class Label:
    """A column of labels: the value of row ``i`` is ``values[code[i]]``, or nothing where the code is -1."""

    code: Int64
    values: list[Any]

    def __getitem__(self, row: int) -> Any:
        """Return the value of a row."""
        code = int(self.code[row])
        return None if code < 0 else self.values[code]


@dataclass(frozen=True)
class Layout:
    """Which columns a table has: ``token`` is empty where tokens have no number.

    ``kind`` says how experts stand there: ``list`` in one cell, ``one`` a row, ``wide`` in several columns.
    """

    token: str
    layer: str
    experts: list[str]
    kind: str
    labels: list[str]

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        return [*filter(None, (self.token, self.layer)), *self.experts, *self.labels]


@dataclass(frozen=True)
class Frame:
    """A piece of a table: one row a line; ``experts`` is ``[R, K]``, or ``[R]`` with one expert a line."""

    token: Int64 | None
    layer: Int64
    experts: Int64 | None
    labels: list[Label | None]  # request, profile, user, and the time where it is asked for
    line: Int64  # of each row in the file
    unit: str
    section: int = 0  # tables that were joined to one file

    def place(self, row: int) -> str:
        """Return where a row is in the file, for people."""
        return f"{self.unit} {self.line[row]}"


class TableTrace(TraceFile):
    """A table with the columns layer, experts and mostly token; the formats differ in how pieces of it are read.

    Without a token column the rows of each request and layer are its tokens in their order; where a row has one expert,
    ``top_k`` rows are a token, and a run of rows of one layer must be whole tokens.
    """

    rows_of_token: int
    """Rows of a token where tokens have no number; known when there are frames."""

    @abstractmethod
    def frames(self, *, experts: bool) -> Iterator[Frame]:
        """Yield the table piece by piece."""

    def requests(self) -> list[Request]:
        """Return the requests; see :meth:`TraceFile.requests`."""
        self._label_number: dict[tuple[object, ...], int] = {}
        self._labels: list[tuple[str | None, str | None]] = []
        self._number: dict[tuple[int, int], int] = {}
        self._layer_of: Int64 | None = None
        self._deepest = -1
        result: list[Request] = []
        layers: set[int] = set()
        counter = _Counter(self)
        for frame in self.frames(experts=False):
            self._check_integers(frame)
            layers.update(np.flatnonzero(np.bincount(frame.layer)).tolist())
            self._deepest = max(layers, default=-1)
            label = self._labelled(frame, new=True)
            token = frame.token if frame.token is not None else counter.tokens(frame, label, self._deepest + 1)
            number = self._numbers(label, token, result, frame)
            rows = np.bincount(number, minlength=len(result))
            for i in np.flatnonzero(rows).tolist():
                result[i].rows += int(rows[i])
        if not result:
            raise self.refuse("has no rows")
        counter.check_end()
        if counter.size > 1:
            for request in result:
                request.rows //= counter.size
        self._map_layers(sorted(layers))
        self._count = len(result)
        return result

    def batches(self) -> Iterator[Batch]:
        """Yield the rows; see :meth:`TraceFile.batches`."""
        layers = self.shape.depth
        last = np.full(self._count * layers, -1, dtype=np.int64)
        counter = _Counter(self)
        kept: list[Any] = []  # the lines of the last token and layer: more may follow
        unit = ""
        for frame in itertools.chain(self.frames(experts=True), [None]):
            if frame is None:
                if kept:
                    yield self._grouped(kept, last, 0, counter.size, unit)[0]
                return
            assert frame.experts is not None
            unit = frame.unit
            label = self._labelled(frame, new=False)
            token = frame.token if frame.token is not None else counter.tokens(frame, label, self._deepest + 1)
            number = self._numbers(label, token, None, frame)
            layer = self._model_layer(frame)
            if frame.experts.ndim == 2:
                batch = Batch(number, layer, frame.experts, frame.place)
                if frame.token is not None:
                    self._check_order(batch, token, last)
                yield batch
                continue
            lines = (number, token, layer, frame.experts, frame.line)
            joined = tuple(np.concatenate(pair) for pair in zip(kept, lines, strict=True)) if kept else lines
            batch, rest = self._grouped(joined, last, 1, counter.size, unit)
            kept = list(rest)
            if len(batch.request):
                yield batch

    def _grouped(
        self, lines: Sequence[Any], last: Int64, keep: int, counted: int, unit: str
    ) -> tuple[Batch, tuple[Int64, ...]]:
        """Join the lines of each token and layer to a row; the last ``keep`` rows stay lines."""
        number, token, layer, expert, line = lines
        change = np.empty(len(number), dtype=np.bool_)
        change[:1] = True
        change[1:] = (number[1:] != number[:-1]) | (token[1:] != token[:-1]) | (layer[1:] != layer[:-1])
        start = np.append(np.flatnonzero(change), len(number))
        end = len(start) - 1 - keep
        rest = tuple(column[start[end] :] for column in lines)
        size = np.diff(start[: end + 1])
        widest = int(size.max(initial=1))
        if widest > self.shape.width:
            row = int(start[int(np.argmax(size > self.shape.width))])
            raise self.refuse(
                f"token {token[row]} at layer {layer[row]} has {too_many(widest, self.shape)}", f"{unit} {line[row]}"
            )
        experts = np.full((end, widest), -1, dtype=np.int64)
        row_of = np.repeat(np.arange(end), size)
        experts[row_of, np.arange(start[end]) - np.repeat(start[:end], size)] = expert[: start[end]]
        head = start[:end]
        batch = Batch(number[head], layer[head], experts, lambda row: f"{unit} {line[head[row]]}")
        if counted:
            self._check_counted(batch)
        else:
            self._check_order(batch, token[head], last)
        return batch, rest

    def _check_counted(self, batch: Batch) -> None:
        """Refuse an expert that stands twice in a token whose rows were only counted: they may be two tokens'."""
        from moeplace.scenarios import _kernels

        twice = _kernels.check_rows(as_int32(batch.experts), self.shape.experts) == 2
        if twice.any():
            row = int(np.argmax(twice))
            raise self.refuse(
                f"experts {batch.experts[row].tolist()} of one token, counted {self.shape.top_k} rows a token: is that "
                "the model's top-k? (a column with the token's number tells: --token-column)",
                batch.place(row),
            )

    def _check_integers(self, frame: Frame) -> None:
        for name, column in ((self.reading.columns.token, frame.token), (self.reading.columns.layer, frame.layer)):
            if column is not None and len(column) and column.min() < 0:
                row = int(np.argmax(column < 0))
                raise self.refuse(f"{name} {column[row]}; they count from 0", frame.place(row))
        if len(frame.layer) and frame.layer.max() >= _MOST_LAYERS:
            row = int(np.argmax(frame.layer >= _MOST_LAYERS))
            raise self.refuse(f"layer {frame.layer[row]}, the trace has {self.shape.depth} (from 0)", frame.place(row))

    def _map_layers(self, layers: list[int]) -> None:
        """Find out what the layers' numbers mean, where some are beyond the trace's layers."""
        depth = self.shape.depth
        if layers[-1] < depth or len(layers) != depth:
            return
        if wrong := self.shape.foreign_layers(layers):
            raise self.refuse(wrong)
        self._layer_of = np.full(layers[-1] + 1, -1, dtype=np.int64)
        self._layer_of[layers] = np.arange(depth)
        gaps = "" if layers[-1] - layers[0] == depth - 1 else f" ({depth} of them)"
        self.note(
            f"layers {layers[0]} to {layers[-1]}{gaps} of the file are taken as layers 0 to {depth - 1} of the trace"
        )

    def _model_layer(self, frame: Frame) -> Int64:
        if self._layer_of is not None:
            return np.asarray(self._layer_of[frame.layer])
        depth = self.shape.depth
        if len(bad := np.flatnonzero(frame.layer >= depth)):
            row = int(bad[0])
            hint = "" if self.shape.skip_layers else "; where dense layers are counted, --skip-layers leaves them out"
            raise self.refuse(f"layer {frame.layer[row]}, the trace has {depth} (from 0){hint}", frame.place(row))
        return frame.layer

    def _check_order(self, batch: Batch, token: Int64, last: Int64) -> None:
        """Refuse a token that comes twice at a layer, or too late: then nobody could tell."""
        from moeplace.scenarios.traces import _table_kernels

        group = batch.request * self.shape.depth + batch.layer
        row = _table_kernels.first_out_of_order(group, token, last)
        if row >= 0:
            now, then = int(token[row]), int(last[group[row]])
            how = "comes twice" if now == then else f"comes after token {then}"
            raise self.refuse(
                f"token {now} {how} at layer {batch.layer[row]}; tokens of a request must increase within a layer",
                batch.place(row),
            )

    def _labelled(self, frame: Frame, *, new: bool) -> Int64:
        """Return the number of each row's labels: of its request, or of its profile and user where none is named."""
        n = len(frame.layer)
        requests, profiles, users, *_ = frame.labels
        change = np.zeros(n, dtype=np.bool_)
        change[:1] = True
        for column in filter(None, frame.labels[:3]):
            change[1:] |= column.code[1:] != column.code[:-1]
        at = np.flatnonzero(change)
        numbers = np.empty(len(at), dtype=np.int64)
        for i, row in enumerate(at.tolist()):
            profile = None if profiles is None else profiles[row]
            user = None if users is None else users[row]
            rest: tuple[Any, ...] = (profile, user) if requests is None else (requests[row],)
            number = self._label_number.get((frame.section, *rest))
            if number is None:
                if not new:
                    raise self.refuse("changed while it was read")
                number = self._label_number[frame.section, *rest] = len(self._labels)
                self._labels.append((text_of(profile), text_of(user)))
            elif new and requests is not None:
                for what, now, then in zip(("profile", "user"), (profile, user), self._labels[number], strict=True):
                    if text_of(now) != then:
                        raise self.refuse(
                            f"request {rest[0]} has {what} {now} here and {then} before", frame.place(row)
                        )
            numbers[i] = number
        return np.repeat(numbers, np.diff(np.append(at, n)))

    def _numbers(self, label: Int64, token: Int64, found: list[Request] | None, frame: Frame) -> Int64:
        """Return the number of each row's request; new ones are added to ``found``."""
        n = len(label)
        block = np.zeros(n, dtype=np.int64) if frame.labels[0] is not None else token // self.reading.block
        change = np.ones(n, dtype=np.bool_)
        change[1:] = (label[1:] != label[:-1]) | (block[1:] != block[:-1])
        at = np.flatnonzero(change)
        numbers = np.empty(len(at), dtype=np.int64)
        for i, own in enumerate(zip(label[at].tolist(), block[at].tolist(), strict=True)):
            number = self._number.get(own)
            if number is None:
                if found is None:
                    raise self.refuse("changed while it was read")
                number = self._number[own] = len(found)
                when = frame.labels[3][int(at[i])] if len(frame.labels) > 3 and frame.labels[3] else None
                profile, user = self._labels[own[0]]
                found.append(Request(profile, user, time=when))
            numbers[i] = number
        return np.repeat(numbers, np.diff(np.append(at, n)))

    def layout(self, names: Sequence[str], lists: bool | None = None) -> Layout:
        """Return which columns are read; refuse a table without the needed ones.

        Parameters
        ----------
        names : sequence of str
            All columns.
        lists : bool, optional
            Whether the cells of a column that the user names hold lists.
        """
        columns = self.reading.columns
        token = columns.token if columns.token in names else ""
        if not token:
            if totals := [name for name in names if TOTALS.search(name)]:
                raise self.refuse(f"column {totals[0]}: {ONLY_TOTALS}")
            if columns.token != Columns.token or any(_TOKEN_NAMES.fullmatch(name) for name in names):
                raise self._missing(names, columns.token, "--token-column", _TOKEN_NAMES)
        if columns.layer not in names:
            raise self._missing(names, columns.layer, "--layer-column", re.compile(r"(?i).*layer.*"))
        chosen = {token, columns.layer, columns.experts or "experts", *self.label_names}
        if twice := [name for name in names if name in chosen and names.count(name) > 1]:
            raise self.refuse(f"{names.count(twice[0])} columns {twice[0]}")
        wide = sorted((n for n in names if re.fullmatch(r"expert_\d+", n)), key=lambda n: int(n[7:]))
        if columns.experts:
            experts, kind = [name for name in names if name == columns.experts], "list" if lists else "one"
        else:
            experts = next(([n] for n in ("experts", "expert") if n in names), wide)
            kind = {"experts": "list", "expert": "one"}.get(experts[0] if experts else "", "wide")
        if not experts:
            raise self._missing(names, columns.experts or "with experts", "--expert-column", _EXPERT_NAMES)
        if len(experts) > self.shape.width:
            raise self.refuse(f"columns of {too_many(len(experts), self.shape)}")
        usual = (Columns.request, Columns.profile, Columns.user, TIME)
        for name, default in zip(self.label_names, usual, strict=False):
            if name != default and name not in names:
                raise self._missing(names, name)
        if not token:
            rows = f"{self.shape.top_k} rows" if kind == "one" and self.shape.top_k > 1 else "a row"
            self.note(f"no column with token numbers: the rows of each layer are counted, {rows} a token")
            if kind == "one" and self.shape.fillers:
                raise self.refuse("--filler needs a column with token numbers where a row has one expert")
        result = Layout(token, columns.layer, experts, kind, [name for name in self.label_names if name in names])
        if unread := [name for name in names if name not in result.names]:
            self.note(f"columns that are not read: {', '.join(unread)}")
        return result

    def _missing(
        self, names: Sequence[str], missing: str, option: str = "", likely: re.Pattern[str] | None = None
    ) -> InputError:
        like = [name for name in names if likely and likely.fullmatch(name) and not TOTALS.search(name)]
        hint = f" ({option} {like[0]}?)" if like else ""
        return self.refuse(
            f"no column {missing}{hint}; expected token, layer and expert, experts or expert_0, expert_1, ...; "
            f"found {', '.join(names)}"
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """The columns of request, profile and user, and of the time where it is asked for, there or not."""
        columns = self.reading.columns
        return columns.request, columns.profile, columns.user, *filter(None, [columns.time])


class _Counter:
    """Numbers the tokens of a table that does not: by request (or profile and user) and layer, as rows come."""

    def __init__(self, trace: TableTrace) -> None:
        self._trace = trace
        self._seen = np.zeros((0, 0), dtype=np.int64)
        self._state = np.array([-1, 0, 0, -1], dtype=np.int64)
        self.size = 0
        """Rows of a token; 0 where tokens have numbers of their own."""

    def tokens(self, frame: Frame, label: Int64, layers: int) -> Int64:
        """Return the token of each row."""
        from moeplace.scenarios.traces import _table_kernels

        self.size = self._trace.rows_of_token
        labels = max(len(self._seen), int(label.max(initial=0)) + 1)
        if layers > self._seen.shape[1] and self._state[0] >= 0:
            self._state[0] = self._state[0] // self._seen.shape[1] * layers + self._state[0] % self._seen.shape[1]
        if labels > self._seen.shape[0] or layers > self._seen.shape[1]:
            rows, columns = self._seen.shape
            self._seen = np.pad(self._seen, ((0, max(labels, 2 * rows) - rows), (0, max(layers, columns) - columns)))
        token = np.empty(len(label), dtype=np.int64)
        group = label * self._seen.shape[1] + frame.layer
        row = _table_kernels.count_tokens(group, self.size, self._seen.reshape(-1), self._state, token)
        if row >= 0:
            raise self._trace.refuse(
                f"layer {frame.layer[row]} begins again after {self._seen.reshape(-1)[group[row]]} rows, no multiple "
                f"of the model's top_k of {self.size}: a row is missing, or the model is another one",
                frame.place(int(row)),
            )
        return token

    def check_end(self) -> None:
        """Refuse a table that ends inside a token, and say what looks odd."""
        if not self.size:
            return
        if (self._seen % self.size).any():
            label, layer = np.argwhere(self._seen % self.size)[0].tolist()
            raise self._trace.refuse(
                f"layer {layer} has {self._seen[label, layer]} rows, no multiple of the model's top_k of {self.size}: "
                "a row is missing, or the model is another one"
            )
        divisor = math.gcd(int(self._state[2]), int(self._state[1]))
        if self.size > 1 and divisor > self.size and self._state[3] >= 3:
            self._trace.note(
                f"every run of a layer has a multiple of {divisor} rows: is the model's top_k really {self.size}?"
            )
        uneven = [int((own[own > 0] != own.max()).any()) for own in self._seen]
        if any(uneven):
            self._trace.note("layers have different numbers of tokens: rows may be missing")


def text_of(label: object) -> str | None:
    """Return a label as text; None where there is none."""
    return None if label is None else str(label)


def label_of(value: dict[str, Any], name: str, place: str, path: Path) -> Any:
    """Return a label of a JSON object; a list or an object is none."""
    label = value.get(name)
    if isinstance(label, list | dict):
        raise InputError(
            f"{name} is {json.dumps(label)[:60]}; expected a text or a number", place=place, file=str(path)
        )
    return label


@dataclass(frozen=True)
class Piece:
    """Rows of a file as pyarrow has them, from row ``first`` (from 1) on."""

    table: Any
    first: int
    section: int = 0


class ArrowTrace(TableTrace):
    """What CSV and Parquet have in common: columns of pyarrow."""

    @abstractmethod
    def columns_of(self) -> Layout:
        """Return which columns are read."""

    @abstractmethod
    def pieces(self, columns: list[str]) -> Iterator[Piece]:
        """Yield the table with some of its columns, each in one chunk."""

    def frames(self, *, experts: bool) -> Iterator[Frame]:
        """Yield the table piece by piece."""
        with common.Damage(self.path):
            layout = self.columns_of()
            self.rows_of_token = self.shape.top_k if layout.kind == "one" else 1
            chosen = [name for name in layout.names if experts or name not in layout.experts]
            for piece in self.pieces(chosen):
                columns = {name: _one_chunk(piece.table.column(name)) for name in chosen}
                line = np.arange(piece.first, piece.first + piece.table.num_rows)
                yield Frame(
                    token=self._integers(columns[layout.token], layout.token, line) if layout.token else None,
                    layer=self._integers(columns[layout.layer], layout.layer, line),
                    experts=self._experts(columns, layout, line) if experts else None,
                    labels=[_label(columns[n]) if n in layout.labels else None for n in self.label_names],
                    line=line,
                    unit="row",
                    section=piece.section,
                )

    def _integers(self, column: Any, name: str, line: Int64, missing: int | None = None) -> Int64:
        if not pa.types.is_integer(column.type):
            raise self.refuse(f"column {name} holds {column.type}; whole numbers were expected")
        if column.null_count and missing is None:
            row = line[int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))]
            raise self.refuse(f"column {name} has no value", f"row {row}")
        values = column.fill_null(missing) if column.null_count else column
        if pa.types.is_uint64(column.type):
            values = values.cast(pa.int64())
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.int64)

    def _experts(self, columns: dict[str, Any], layout: Layout, line: Int64) -> Int64:
        from moeplace.scenarios.traces import _table_kernels

        names = layout.experts
        if layout.kind == "one":
            return self._integers(columns[names[0]], names[0], line, missing=-1)
        if layout.kind == "wide":
            return np.stack([self._integers(columns[n], n, line, missing=-1) for n in names], axis=1)
        column = columns[names[0]]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return self._parsed(column, line)
        if pa.types.is_fixed_size_list(column.type):
            column = column.cast(pa.list_(column.type.value_type))
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            raise self.refuse(f"column {names[0]} holds {column.type}; expected lists of integers")
        values = self._integers(column.flatten(), names[0], line, missing=-1)
        size = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        offsets = np.concatenate(([0], np.cumsum(size)))
        experts = np.full((len(size), self.shape.width), -1, dtype=np.int64)
        most = _table_kernels.fill_lists(values, offsets, experts)
        if most < 0:
            raise self._too_many(int(size[-1 - most]), line[-1 - most])
        return experts[:, : max(1, most)]

    def _too_many(self, found: int, line: int) -> InputError:
        return self.refuse(too_many(found, self.shape), f"row {line}")

    def _parsed(self, column: Any, line: Int64) -> Int64:
        """Read text such as ``3 17 4`` or ``[3, 17, 4]`` as rows of integers."""
        from moeplace.scenarios.traces import _table_kernels

        kind = np.int64 if pa.types.is_large_string(column.type) else np.int32
        filled = column.fill_null("") if column.null_count else column
        _, offsets, data = filled.buffers()
        start = np.frombuffer(offsets, dtype=kind)[filled.offset : filled.offset + len(filled) + 1]
        text = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(1, dtype=np.uint8)
        experts = np.full((len(filled), self.shape.width), -1, dtype=np.int64)
        row, fault = _table_kernels.parse_lists(text, start, experts)
        if fault == 1:
            raise self.refuse(
                f"experts {filled[row].as_py()!r}; expected integers with spaces, commas or semicolons between",
                f"row {line[row]}",
            )
        if fault == 2:
            raise self._too_many(len(re.findall(r"\d+", filled[row].as_py())), line[row])
        return experts[:, : max(1, row)]


def _one_chunk(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def _label(column: Any) -> Label:
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    code = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Label(code, encoded.dictionary.to_pylist())


class CsvTrace(ArrowTrace):
    """A CSV file with a header, plain or gzip; where the header comes again, another table begins."""

    def columns_of(self) -> Layout:
        """Return which columns are read; see :meth:`ArrowTrace.columns_of`."""
        with self._open() as file:
            header = self._header(file.read(_LONGEST_HEADER))
        lists = False
        if self.reading.columns.experts in self._names:
            first = next(csv.reader(header.splitlines()[1:2], delimiter=self._delimiter), [])
            at = self._names.index(self.reading.columns.experts)
            lists = at < len(first) and not re.fullmatch(r"\s*\d+\s*", first[at])
        layout = self.layout(self._names, lists)
        self._texts = {*layout.experts} if layout.kind == "list" else set()
        return layout

    def _header(self, start: bytes) -> str:
        """Learn the columns from the first bytes of the file; return these as text."""
        start = start.removeprefix(BYTE_ORDER_MARK)
        self._line = start.partition(b"\n")[0].removesuffix(b"\r")
        text = self._line.decode("utf-8")
        self._delimiter = max(",;\t", key=text.count)
        self._names = next(csv.reader([text], delimiter=self._delimiter), [])
        return start.decode("utf-8", errors="replace")

    def _open(self) -> Any:
        zipped = self.path.suffix.lower() == ".gz"
        return pa.input_stream(str(self.path), compression="gzip" if zipped else None)

    def pieces(self, columns: list[str]) -> Iterator[Piece]:
        """Yield the table with some of its columns."""
        from pyarrow import csv as arrow_csv

        types: dict[str, Any] = {name: pa.string() if name in self._texts else pa.int64() for name in columns}
        types |= {name: pa.dictionary(pa.int32(), pa.string()) for name in columns if name in self.label_names}
        convert = arrow_csv.ConvertOptions(include_columns=columns, column_types=types)
        first = 1
        for section, data in self._data():
            quoted = b'"' in data
            read = arrow_csv.ReadOptions(column_names=self._names, block_size=len(data) + 1, use_threads=False)
            parse = arrow_csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=quoted)
            try:
                table = arrow_csv.read_csv(pa.BufferReader(data), read, parse, convert)
            except pa.ArrowInvalid as error:
                raise self._bad_csv(str(error), first) from None
            if table.num_rows:
                yield Piece(table, first, section)
                first += table.num_rows

    def _bad_csv(self, text: str, first: int) -> InputError:
        row = re.search(r"Row #(\d+): ?", text)
        if not row:
            return self.refuse(f"cannot be read, damaged or of another format: {' '.join(text.split())}")
        said = " ".join(text.replace(row[0], "").split())
        return self.refuse(said, f"row {first + int(row[1]) - 1}")

    def _data(self) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines without the headers, and how many headers stood before."""
        section, rest, begun = 0, b"", False
        with self._open() as file:
            while True:
                data = file.read(common.CHUNK_BYTES // 4)
                whole = rest + (data if begun else data.removeprefix(BYTE_ORDER_MARK))
                begun = True
                cut = _last_line_end(whole) if data else len(whole)
                rest = whole[cut:]
                if len(rest) > _LONGEST_FIELD or (not data and whole.count(b'"') % 2):
                    raise self.refuse("a quote is not closed")
                for i, piece in enumerate(self._between_headers(whole[:cut])):
                    section += i > 0
                    if piece and not piece.isspace():
                        yield section, piece
                if not data:
                    return

    def _between_headers(self, data: bytes) -> list[bytes]:
        """Cut whole lines where one of them is the header."""
        result, at, line = [], 0, self._line
        search = 0
        while (found := data.find(line, search)) >= 0:
            search = end = found + len(line)
            end += data[end : end + 1] == b"\r"
            if (found == 0 or data[found - 1 : found] == b"\n") and data[end : end + 1] in (b"\n", b""):
                result.append(data[at:found])
                at = search = end + 1
        return [*result, data[at:]]


BYTE_ORDER_MARK = b"\xef\xbb\xbf"


_LONGEST_HEADER = 2**20


_LONGEST_FIELD = 2**26


def _last_line_end(data: bytes) -> int:
    """Return where the last line ends whose end is in no quotes; 0 where there is none."""
    end = data.rfind(b"\n") + 1
    if data.count(b'"', 0, end) % 2 == 0:
        return end
    text = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    outside = np.searchsorted(np.flatnonzero(text == ord('"')), ends) % 2 == 0
    return int(ends[outside][-1]) + 1 if outside.any() else 0
