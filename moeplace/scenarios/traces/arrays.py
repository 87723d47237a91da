"""Traces as numpy arrays: ``.npz`` and ``.npy``."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from moeplace.base.errors import InputError
from moeplace.scenarios.traces import common
from moeplace.scenarios.traces.common import (
    Batch,
    Columns,
    Damage,
    Int64,
    Integers,
    Request,
    TraceFile,
)


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
            step = max(1, common.CHUNK_BYTES // (layers * k * 8))
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

    def _errors(self) -> Damage:
        return Damage(self.path)


_MOST_SMALL = 2**28  # bytes of an array that is read whole: lengths and labels


_MOST_INFLATION = 1100  # deflate makes at most 1032 bytes of one


def _check_declared(shape: tuple[int, ...], dtype: np.dtype[Any], there: int) -> None:
    """Refuse a header that declares more than there is, before memory is taken for it."""
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared > there:
        raise ValueError(f"{list(shape)} of {dtype} take {declared} bytes, at most {there} are there")


def packed_array(raw: bytes) -> npt.NDArray[Any]:
    """Return the array of a ``.npy`` file that is there as bytes."""
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
