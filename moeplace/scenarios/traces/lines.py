"""Traces as JSON Lines: rows, or responses of serving engines."""

from __future__ import annotations

import base64
import binascii
import gzip
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from moeplace.base.errors import InputError
from moeplace.scenarios.traces import common
from moeplace.scenarios.traces.arrays import packed_array
from moeplace.scenarios.traces.common import (
    Batch,
    Columns,
    Damage,
    Int64,
    Integers,
    Request,
    Shape,
    TraceFile,
)
from moeplace.scenarios.traces.tables import Frame, TableTrace, label_of, text_of


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
        with Damage(self.path), opener(self.path, "rb") as file:
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

    def frames(self, *, experts: bool) -> Iterator[Frame]:
        """Yield the table piece by piece."""
        objects = self.objects()
        keys: list[str] | None = None
        while chunk := list(itertools.islice(objects, common.CHUNK_LINES)):
            if keys is None:
                keys = list(chunk[0][1])
            expert_columns, labels = self._layout(keys)
            numbers = [number for number, _ in chunk]
            token = self._column(chunk, "token")
            layer = self._column(chunk, "layer")
            values = self._values(chunk, expert_columns) if experts else None
            label = [
                [label_of(value, name, line, self.path) for line, value in chunk] if name in labels else None
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
class _LineFrame(Frame):
    lines: list[int] = field(default_factory=list)

    def place(self, row: int) -> str:
        return f"line {self.lines[row]}"


class _ResponseLines(TraceFile):
    """JSON Lines with one response of a serving engine (vLLM, SGLang) a line: one request each."""

    objects: Callable[[], Iterator[tuple[int, dict[str, Any]]]]

    def requests(self) -> list[Request]:
        """Return the requests; see :meth:`TraceFile.requests`."""
        layers = self.shape.depth
        return [
            Request(
                text_of(label_of(value, self.columns.profile, line, self.path)),
                text_of(label_of(value, self.columns.user, line, self.path)),
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
                array = packed_array(raw) if raw.startswith(b"\x93NUMPY") else np.frombuffer(raw, dtype="<i4")
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
