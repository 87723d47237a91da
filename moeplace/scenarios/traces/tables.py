"""Traces as tables, one row a token or an expert: CSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moeplace.base.errors import InputError
from moeplace.scenarios.traces import common
from moeplace.scenarios.traces.common import Batch, Columns, Damage, Int64, Request, TraceFile


@dataclass(frozen=True)
class Frame:
    """A piece of a table: one row a line; ``experts`` is ``[R, K]``, or ``[R]`` with one expert a line."""

    token: Int64
    layer: Int64
    experts: Int64 | None
    labels: list[list[Any] | None]  # request, profile, user
    first: int
    unit: str

    def place(self, row: int) -> str:
        """Return where a row is in the file, for people."""
        return f"{self.unit} {self.first + row}"


class TableTrace(TraceFile):
    """A table with the columns token, layer and experts; the formats differ in how pieces of it are read."""

    @abstractmethod
    def frames(self, *, experts: bool) -> Iterator[Frame]:
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

    def _check_integers(self, frame: Frame) -> None:
        for name, column in (("token", frame.token), ("layer", frame.layer)):
            if len(column) and column.min() < 0:
                row = int(np.argmax(column < 0))
                raise InputError(
                    f"{name} {column[row]}; they count from 0", place=frame.place(row), file=str(self.path)
                )

    def _check_layers(self, frame: Frame, layers: int) -> None:
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

    def _numbers(self, frame: Frame, found: list[Request] | None) -> Int64:
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
                found.append(Request(text_of(profile), text_of(user)))
            elif found is not None:
                for what, now, then in (
                    ("profile", profile, found[number].profile),
                    ("user", user, found[number].user),
                ):
                    if text_of(now) != then:
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


def text_of(label: object) -> str | None:
    """Return a label as text; None where there is none."""
    return None if label is None else str(label)


def label_of(value: dict[str, Any], name: str, line: int, path: Path) -> Any:
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

    def frames(self, *, experts: bool) -> Iterator[Frame]:
        """Yield the table piece by piece."""
        import pyarrow as pa

        with Damage(self.path):
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
                yield Frame(
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
        block = arrow_csv.ReadOptions(block_size=common.CHUNK_BYTES // 4, use_threads=False)
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
