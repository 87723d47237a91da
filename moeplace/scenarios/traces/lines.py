"""Traces as JSON: rows of a table, or responses of serving engines; a document, or one a line."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from moeplace.base.errors import InputError
from moeplace.base.text import number
from moeplace.scenarios.traces import common
from moeplace.scenarios.traces.common import Damage, EitherTrace, Int64, TraceFile, too_many
from moeplace.scenarios.traces.responses import RESPONSE_KEYS, Answer, ResponseTrace, keys_of
from moeplace.scenarios.traces.tables import (
    BYTE_ORDER_MARK,
    ONLY_TOTALS,
    TOTALS,
    Frame,
    Label,
    Layout,
    TableTrace,
    label_of,
)

_STREAM_FIELDS: Final = (b"event:", b"id:", b"retry:", b":")
"""What a line of a stream may begin with beside data."""


_EXPERTS: Final = re.compile(r"experts?|expert_\d+")
"""The usual names of what a row of a table has."""


_KINDS: Final[dict[type, str]] = {int: "number", float: "number", str: "text", list: "list", bool: "truth value"}
"""What people call values of JSON."""


class LinesTrace(EitherTrace):
    """JSON, an object a line or all in one list: rows (layer, experts, mostly token), or responses of an engine."""

    def choose(self) -> type[_RowLines | _ResponseLines]:
        """Return what reads the first object that can be told; see :meth:`EitherTrace.choose`."""
        columns = self.reading.columns
        first: tuple[str, dict[str, Any]] | None = None
        for line, value, streamed in _objects(self):
            if streamed is None:
                continue
            if columns.layer in value and any(_EXPERTS.fullmatch(n) or n == columns.experts for n in value):
                return _RowLines
            if RESPONSE_KEYS & value.keys():
                return _ResponseLines
            if columns.layer in value:
                return _RowLines  # which says what is missing
            first = first or (f"{_unit(self)} {line}", value)
        if first is None:
            raise self.refuse("has no rows")
        place, value = first
        if totals := next((name for name in _names(value) if TOTALS.search(name)), None):
            raise self.refuse(f"{keys_of(value)}; {totals}: {ONLY_TOTALS}", place)
        raise self.refuse(
            f"neither a row (token, layer, experts) nor a response with routed_experts, but {keys_of(value)}; what is "
            "there can be saved as an array [tokens, layers, k] in .npz (docs/importing.md)",
            place,
        )


def _names(value: object, depth: int = 6) -> Iterator[str]:
    """Yield the keys of an object and of what is in it, down to some depth and of the first of each list."""
    if isinstance(value, dict) and depth:
        yield from value
        for inner in itertools.islice(value.values(), 20):
            yield from _names(inner, depth - 1)
    elif isinstance(value, list) and value and depth:
        yield from _names(value[0], depth - 1)


def _blocks(trace: TraceFile) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number of the first line, how many there are, and whole lines as bytes."""
    opener = gzip.open if trace.path.suffix.lower() == ".gz" else open
    first, parts = 1, list[bytes]()
    with Damage(trace.path), opener(trace.path, "rb") as file:
        while data := file.read(common.CHUNK_BYTES // 4):
            if first == 1 and not parts:
                data = data.removeprefix(BYTE_ORDER_MARK)
            cut = data.rfind(b"\n") + 1
            if not cut:
                parts.append(data)
                continue
            whole = b"".join((*parts, data[:cut]))
            lines = whole.count(b"\n")
            yield first, lines, whole
            first += lines
            parts = [data[cut:]]
        if whole := b"".join(parts):
            yield first, 1, whole


def _is_document(trace: TraceFile) -> bool:
    return trace.path.name.lower().removesuffix(".gz").endswith(".json")


def _unit(trace: TraceFile) -> str:
    return "entry" if _is_document(trace) else "line"


def _objects(trace: TraceFile) -> Iterator[tuple[int, dict[str, Any], bool | None]]:
    """Yield the number of a line (of an entry of a document), an object there, and whether it is of a stream.

    Where a stream ends comes an empty object and None.
    """
    if _is_document(trace):
        opener = gzip.open if trace.path.suffix.lower() == ".gz" else open
        with Damage(trace.path), opener(trace.path, "rb") as file:
            data = file.read().removeprefix(BYTE_ORDER_MARK)
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise trace.refuse(f"not JSON: {error}; with an object a line the name must end in .jsonl") from None
        for entry, one in enumerate(value if isinstance(value, list) else [value]):
            for inner in _each(trace, one, entry):
                yield entry, inner, False
        return
    for first, _, block in _blocks(trace):
        yield from _block_objects(trace, first, block)


def _block_objects(trace: TraceFile, first: int, block: bytes) -> Iterator[tuple[int, dict[str, Any], bool | None]]:
    decode = msgspec.json.Decoder().decode
    for line, text in enumerate(map(bytes.strip, block.split(b"\n")), first):
        if not text or text.startswith(_STREAM_FIELDS):
            continue
        streamed = text.startswith(b"data:")
        if streamed:
            text = text[5:].strip()
            if text == b"[DONE]":
                yield line, {}, None
                continue
        try:
            value = decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            hint = "; a document of many lines must be named .json" if text in (b"[", b"{", b"[{") else ""
            raise trace.refuse(f"not JSON: {error}{hint}", f"line {line}") from None
        for one in _each(trace, value, line):
            yield line, one, streamed


def _each(trace: TraceFile, value: object, line: int) -> list[dict[str, Any]]:
    """Return an object, or those of a list."""
    objects: list[Any] = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
    for one in objects:
        if not isinstance(one, dict):
            kind = _KINDS.get(type(one), "null")
            raise trace.refuse(f"a {kind}; expected an object or a list of them", f"{_unit(trace)} {line}")
    return objects


class _RowLines(TableTrace):
    """Objects with one token at one layer, or one expert of it."""

    def frames(self, *, experts: bool) -> Iterator[Frame]:
        """Yield the table piece by piece."""
        layout, left_out = self._row_layout(), 0
        self.rows_of_token = self.shape.top_k if layout.kind == "one" else 1
        wanted = {*filter(None, (layout.token, layout.layer)), *layout.experts}
        fast = _Fast(layout, self.label_names, self.shape.width, experts=experts)
        for first, lines, block in [(0, 0, b"")] if _is_document(self) else _blocks(self):
            frame = fast.frame(first, lines, block)
            if frame is None:
                # Something in the block is not as usual: line by line, to say which, or to pass over it.
                found = _objects(self) if _is_document(self) else _block_objects(self, first, block)
                rows = [(line, value) for line, value, _ in found]
                kept = [(line, value) for line, value in rows if wanted & value.keys()]
                left_out += len(rows) - len(kept)
                frame = self._checked(kept, layout, experts=experts)
            if len(frame.layer):
                yield frame
        if left_out:
            self.note(f"{number(left_out, _unit(self))} without a layer and experts left out")

    def _row_layout(self) -> Layout:
        columns = self.reading.columns
        first = next(value for _, value, _ in _objects(self) if columns.layer in value)
        return self.layout(list(first), isinstance(first.get(columns.experts), list))

    def _checked(self, rows: list[tuple[int, dict[str, Any]]], layout: Layout, *, experts: bool) -> Frame:
        unit = _unit(self)
        return Frame(
            token=self._column(rows, layout.token) if layout.token else None,
            layer=self._column(rows, layout.layer),
            experts=self._values(rows, layout) if experts else None,
            labels=[
                _coded([label_of(value, name, f"{unit} {line}", self.path) for line, value in rows])
                if name in layout.labels else None
                for name in self.label_names
            ],
            line=np.array([line for line, _ in rows], dtype=np.int64),
            unit=unit,
        )  # fmt: skip

    def _column(self, rows: list[tuple[int, dict[str, Any]]], name: str) -> Int64:
        for line, value in rows:
            own = value.get(name)
            if type(own) is not int or not -(2**63) <= own < 2**63:
                raise self._other(line, name, own, "an integer")
        return np.array([value[name] for _, value in rows], dtype=np.int64)

    def _values(self, rows: list[tuple[int, dict[str, Any]]], layout: Layout) -> Int64:
        names = layout.experts
        if layout.kind == "one":
            return self._column(rows, names[0])
        result = np.full((len(rows), self.shape.width), -1, dtype=np.int64)
        for i, (line, value) in enumerate(rows):
            row = value.get(names[0]) if layout.kind == "list" else [value.get(name) for name in names]
            if row is None:
                continue
            if not isinstance(row, list) or any(type(e) is not int or abs(e) >= 2**63 for e in row):
                raise self._other(line, names[0] if layout.kind == "list" else "experts", row, "a list of integers")
            if len(row) > self.shape.width:
                place = f"{_unit(self)} {line}"
                raise self.refuse(too_many(len(row), self.shape), place)
            result[i, : len(row)] = row
        return result

    def _other(self, line: int, name: str, value: object, wanted: str) -> InputError:
        shown = "nothing" if value is None else json.dumps(value)[:60]
        return self.refuse(f"{name} is {shown}; expected {wanted}", f"{_unit(self)} {line}")


class _Fast:
    """Reads blocks of usual rows by compiled loops; of any other block it returns nothing, and others look closer."""

    def __init__(self, layout: Layout, label_names: Sequence[str], width: int, *, experts: bool) -> None:
        from moeplace.scenarios.traces import _table_kernels

        self._kernels = _table_kernels
        self._layout, self._label_names, self._experts = layout, label_names, experts
        self._width = width if experts and layout.kind == "list" else 0
        one = [name for name in (layout.token, layout.layer) if name]
        self._numbers = [*one, *(layout.experts if experts and layout.kind != "list" else ())]
        lists = layout.experts if self._width else []
        slots = [(_table_kernels.NUMBER, self._numbers), (_table_kernels.LIST, lists)]
        slots += [(_table_kernels.LABEL, layout.labels)]
        self._kind = np.array([kind for kind, names in slots for _ in names], dtype=np.int64)
        self._slot = np.array([i for _, names in slots for i, _ in enumerate(names)], dtype=np.int64)
        keys = [json.dumps(name, ensure_ascii=False)[1:-1].encode() for _, names in slots for name in names]
        self._keys = np.frombuffer(b"".join(keys), dtype=np.uint8)
        self._start = np.cumsum([0, *map(len, keys)])

    def frame(self, first: int, most: int, block: bytes) -> Frame | None:
        """Return a block of up to so many lines as a frame, or None where anything is not as usual."""
        layout = self._layout
        numbers = np.empty((len(self._numbers), most), dtype=np.int64)
        lists = np.full((most, self._width), -1, dtype=np.int64)
        runs = np.empty((len(layout.labels), most), dtype=np.int64)
        spans = np.empty((len(layout.labels), most, 2), dtype=np.int64)
        data = np.frombuffer(block, dtype=np.uint8)
        n = self._kernels.scan_objects(
            data, self._keys, self._start, self._kind, self._slot, numbers, lists, runs, spans
        )
        if n < 1:
            return None
        labels: dict[str, Label] = {}
        for name, run, span in zip(layout.labels, runs[:, :n], spans, strict=True):
            try:
                values = [msgspec.json.decode(block[begin:end]) for begin, end in span[: int(run[-1]) + 1].tolist()]
            except (msgspec.DecodeError, UnicodeDecodeError):
                return None
            coded = _coded(values)
            labels[name] = Label(coded.code[run], coded.values)
        column = dict(zip(self._numbers, numbers[:, :n], strict=True))
        experts: Int64 | None = None
        if self._width:
            experts = lists[:n]
        elif self._experts:
            columns = [column[name] for name in layout.experts]
            experts = columns[0] if layout.kind == "one" else np.stack(columns, axis=1)
        return Frame(
            token=column[layout.token] if layout.token else None,
            layer=column[layout.layer],
            experts=experts,
            labels=[labels.get(name) for name in self._label_names],
            line=np.arange(first, first + n),
            unit="line",
        )


def _coded(values: list[Any]) -> Label:
    known: dict[Any, int] = {}
    codes = [-1 if value is None else known.setdefault(value, len(known)) for value in values]
    return Label(np.array(codes, dtype=np.int64), list(known))


class _ResponseLines(ResponseTrace):
    """Objects that are responses; the events of a stream are put together."""

    def answers(self) -> Iterator[Answer]:
        """Yield what the server answered; see :meth:`ResponseTrace.answers`."""
        unit = _unit(self)
        stream: list[dict[str, Any]] = []
        begun, ended, name = 0, set[object](), None
        for line, value, streamed in _objects(self):
            if streamed:
                own = value.get("id") or (value.get("meta_info") or {}).get("id")
                if stream and own != name:
                    yield Answer(f"{unit} {begun}", stream)
                    ended.add(name)
                    stream = []
                if not stream:
                    begun, name = line, own
                    if own is not None and own in ended:
                        raise self.refuse(
                            f"the stream {own!r} goes on here, after another one: mixed streams cannot be put together",
                            f"{unit} {line}",
                        )
                stream.append(value)
                continue
            if stream:
                yield Answer(f"{unit} {begun}", stream)
                stream = []
            if streamed is None:
                ended.clear()
            elif value.keys() & RESPONSE_KEYS:
                yield Answer(f"{unit} {line}", [value])
            else:
                raise self.refuse(
                    f"neither a row nor a response with routed_experts, but {keys_of(value)}", f"{unit} {line}"
                )
        if stream:
            yield Answer(f"{unit} {begun}", stream)
