"""Traces as numpy arrays: ``.npz`` and ``.npy``."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moeplace.base.errors import InputError
from moeplace.scenarios.traces import common
from moeplace.scenarios.traces.common import (
    TIME,
    Batch,
    Columns,
    Damage,
    Int64,
    Integers,
    OtherShape,
    Request,
    TraceFile,
    layers_first,
    too_many,
)


@dataclass
class _Array:
    """A routing array of a file, or several that are the layers of one.

    ``members`` are the arrays' names in the file: one, or one a layer in order (then each is ``[tokens, k]``).
    ``by_layer`` says that whole layers follow each other. ``requests`` numbers from ``first_request``; ``start`` are
    their first tokens and the end.
    """

    name: str
    members: list[str]
    tokens: int
    width: int
    dtype: np.dtype[Any]
    by_layer: bool
    start: Int64 = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    first_request: int = 0


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def __str__(self) -> str:
        return f"{list(self.shape)} of {self.dtype}"


class ArrayTrace(TraceFile):
    """Arrays of an ``.npz`` or ``.npy`` file; several arrays are several profiles.

    An array is ``[tokens, layers, k]`` or ``[layers, tokens, k]`` with expert numbers, or ``[tokens, layers, experts]``
    with router logits, whose largest are the experts; or it lies there as one ``[tokens, k]`` or ``[tokens, experts]``
    a layer, with the layer's number in its name.
    """

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
            profiles = self._labels(array, self.reading.columns.profile, len(lengths))
            users = self._labels(array, self.reading.columns.user, len(lengths))
            times = self._labels(array, self.reading.columns.time, len(lengths))
            own = array.name.removesuffix("experts").strip("_.") if many else None
            for i, length in enumerate(lengths.tolist()):
                profile = profiles[i] if profiles else own
                own_user, own_time = users[i] if users else None, times[i] if times else None
                result.append(Request(profile, own_user, length * self.shape.depth, own_time))
        return result

    def shapes(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Return the arrays in the order in which they are read: how their names begin, and their shapes.

        One array of a file may have any name; of several, what tells them apart stands in front of "experts".

        Raises
        ------
        InputError
            The file has an array for each layer.
        """
        result = []
        for array in self._arrays:
            if len(array.members) > 1:
                raise self.refuse(f"{len(array.members)} arrays, one a layer; expected one [tokens, layers, k]")
            sizes = (self.shape.depth, array.tokens) if array.by_layer else (array.tokens, self.shape.depth)
            stem = array.name.removesuffix("experts") if len(self._arrays) > 1 else ""
            result.append((stem, (*sizes, array.width)))
        return result

    def batches(self) -> Iterator[Batch]:
        """Yield the rows; see :meth:`TraceFile.batches`."""
        self._ties = 0
        for array in self._arrays:
            if array.by_layer:
                yield from self._layer_batches(array)
            else:
                yield from self._token_batches(array)
        if self._ties:
            self.note(f"in {self._ties} rows of logits the last expert has an equal: the lower number was taken")

    def _token_batches(self, array: _Array) -> Iterator[Batch]:
        layers = self.shape.depth
        for first, values in self._chunks(array, 0, array.tokens, layers):
            token = np.arange(first, first + len(values) // layers)
            request = array.first_request + np.searchsorted(array.start, token, side="right") - 1

            def place(row: int, name: str = array.name, first: int = first) -> str:
                where = f"token {first + row // layers}, layer {row % layers}"
                return f"{name}: {where}" if name else where

            layer = np.tile(np.arange(layers), len(token))
            yield Batch(np.repeat(request, layers), layer, self._experts(values, place), place)

    def _layer_batches(self, array: _Array) -> Iterator[Batch]:
        layers = self.shape.depth // len(array.members)  # of a member
        for member, name in enumerate(array.members):
            for first, values in self._chunks(array, member, layers * array.tokens, 1):
                layer, token = np.divmod(np.arange(first, first + len(values)), array.tokens)
                request = array.first_request + np.searchsorted(array.start, token, side="right") - 1

                def place(row: int, name: str = name, first: int = first, member: int = member) -> str:
                    layer, token = divmod(first + row, array.tokens)
                    where = f"token {token}, layer {member + layer}"
                    return f"{name}: {where}" if name else where

                yield Batch(request, member + layer, self._experts(values, place), place)

    def _experts(self, values: npt.NDArray[Any], place: Callable[[int], str]) -> Integers:
        """Return expert numbers [R, k]: the values, or the places of the largest logits."""
        if values.dtype.kind != "f":
            return values
        k = self.shape.top_k
        if (bad := np.isnan(values).any(axis=1)).any():
            raise self.refuse("a logit is NaN", place(int(np.argmax(bad))))
        order = np.argsort(-values.astype(np.float64), axis=1, kind="stable")
        best = np.take_along_axis(values, order[:, : k + 1], axis=1)
        if values.shape[1] > k:
            self._ties += int(((best[:, k - 1] == best[:, k]) & (best[:, k] > -np.inf)).sum())
        return np.where(best[:, :k] > -np.inf, order[:, :k], -1)

    def _find_arrays(self) -> None:
        headers: dict[str, _Header] = {}
        if self.path.suffix.lower() == ".npy":
            with self.path.open("rb") as file:
                self._small: dict[str, npt.NDArray[Any]] = {}
                header = self._header(file)
                _check_declared(header.shape, header.dtype, self.path.stat().st_size - file.tell())
                headers[""] = header
        else:
            with zipfile.ZipFile(self.path) as archive:
                for member in archive.namelist():
                    if not member.endswith(".npy"):
                        continue
                    with archive.open(member) as file:
                        header = self._header(file)
                    most = min(archive.getinfo(member).file_size, _MOST_INFLATION * self.path.stat().st_size)
                    small = self._is_label(member.removesuffix(".npy"), header)
                    _check_declared(header.shape, header.dtype, min(most, _MOST_SMALL) if small else most)
                    headers[member.removesuffix(".npy")] = header
            with np.load(self.path, allow_pickle=False) as data:
                self._small = {name: data[name] for name, header in headers.items() if self._is_label(name, header)}
        for kinds in ("iu", "f"):
            for find in (self._whole, self._by_layer):
                if not self._arrays:
                    find({name: header for name, header in headers.items() if header.dtype.kind in kinds})
        if not self._arrays:
            raise self._none_found(headers)
        used = {member for array in self._arrays for member in array.members} | set(self._small)
        if unread := ", ".join(f"{name} {header}" for name, header in headers.items() if name not in used):
            self.note(f"not read: {unread}")
        for array in self._arrays:
            if not array.tokens:
                raise self.refuse("has no tokens", array.name or "the array")
            if array.dtype.kind == "f":
                name = array.name or array.members[0] or "the array"
                self.note(
                    f"{name} holds router logits: the {self.shape.top_k} largest of {self.shape.experts} are taken as "
                    "the experts, which is exact only where the router adds no bias and chooses from no groups; the "
                    "weights are not read"
                )

    def _is_label(self, name: str, header: _Header) -> bool:
        """Tell whether an array has an entry a request: lengths, names, and times where they are asked for."""
        time = self.reading.columns.time
        kinds = "iuUSfM" if time and name.endswith(time) else "iuUS"
        return len(header.shape) == 1 and header.dtype.kind in kinds

    def _whole(self, headers: dict[str, _Header]) -> None:
        """Find arrays with three dimensions."""
        found = {n: h for n, h in headers.items() if len(h.shape) == 3 and (h.dtype.kind != "f" or self._logits(h))}
        for name, header in found.items():
            place = name or "the array"
            k = self.shape.top_k if header.dtype.kind == "f" else header.shape[2]
            lengths = self._lengths_of(name, alone=len(found) == 1)
            tokens = [] if lengths is None or lengths.dtype.kind not in "iu" else [sum(lengths.tolist())]
            try:
                by_layer = layers_first((*header.shape[:2], k), self.shape, tokens)
            except OtherShape as error:
                raise self.refuse(f"has {error}", place) from None
            self._refuse_fortran(name, header)
            if by_layer:
                self.note(f"{place} {list(header.shape)} is read as [layers, tokens, k]")
            elif header.shape[0] == header.shape[1]:
                self.note(f"{place} {list(header.shape)} is read as [tokens, layers, k]; its shape does not tell")
            tokens_here = header.shape[1] if by_layer else header.shape[0]
            self._arrays.append(_Array(name, [name], tokens_here, header.shape[2], header.dtype, by_layer))
        if len({array.width for array in self._arrays}) > 1:
            other = next(array for array in self._arrays if array.width != self._arrays[0].width)
            both = ", ".join(f"{a.name} {list(found[a.name].shape)}" for a in (self._arrays[0], other))
            raise self.refuse(f"arrays of different models: {both}")

    def _by_layer(self, headers: dict[str, _Header]) -> None:
        """Find arrays with two dimensions, one a layer."""
        groups: dict[str, dict[int, str]] = {}
        for name, header in headers.items():
            fits = self._logits(header) if header.dtype.kind == "f" else len(header.shape) == 2
            number = _LAYER.search(name) or next(iter(re.finditer(r"()(\d+)(?!.*\d)", name)), None)
            if not fits or len(header.shape) != 2 or not (number or self.shape.depth == 1):
                continue
            stem = name[: number.start(2)] + name[number.end(2) :] if number else name
            own = groups.setdefault(stem, {})
            if own.setdefault(int(number[2]) if number else 0, name) != name:
                raise self.refuse(f"{own[int(number[2]) if number else 0]} and {name} are the same layer")
        for stem, members in groups.items():
            numbers = sorted(members)
            names = [members[number] for number in numbers]
            first = headers[names[0]]
            if len(names) != self.shape.depth:
                raise self.refuse(
                    f"{len(names)} arrays [tokens, k], layers {_some(numbers)}; expected {self.shape.depth}", names[0]
                )
            for name in names:
                if headers[name].shape != first.shape or headers[name].dtype != first.dtype:
                    raise self.refuse(f"{headers[name]}, and {names[0]} is {first}; layers must be alike", name)
                self._refuse_fortran(name, headers[name])
            if first.dtype.kind != "f" and not 1 <= first.shape[1] <= self.shape.width:
                raise self.refuse(f"has {list(first.shape)}: {too_many(first.shape[1], self.shape)}", names[0])
            if numbers != list(range(len(numbers))):
                if wrong := self.shape.foreign_layers(numbers):
                    raise self.refuse(wrong, names[0])
                self.note(
                    f"layers {_some(numbers)} of the file are taken as layers 0 to {len(numbers) - 1} of the trace"
                )
            if len(names) > 1:
                self.note(f"{len(names)} arrays {_some(names)} are read as the layers of one trace")
            name = stem if len(groups) > 1 else names[0] if len(names) == 1 else ""
            self._arrays.append(_Array(name, names, first.shape[0], first.shape[1], first.dtype, True))

    def _logits(self, header: _Header) -> bool:
        return header.dtype.kind == "f" and header.shape[-1:] == (self.shape.experts,) != (self.shape.top_k,)

    def _refuse_fortran(self, name: str, header: _Header) -> None:
        if header.fortran and min(header.shape) > 1:
            message = "is stored in Fortran order; save it with numpy.ascontiguousarray"
            raise self.refuse(message, name or "the array")

    def _none_found(self, headers: dict[str, _Header]) -> InputError:
        """Say why no array is a trace: of the one that is called so, else of all."""
        for name, header in headers.items():
            if len(header.shape) != 3 and not (name.endswith("experts") or self.path.suffix.lower() == ".npy"):
                continue
            place = name or "the array"
            if len(header.shape) == 3:
                return self.refuse(f"holds {header.dtype}; expert numbers are integers", place)
            layers = f", or an array [tokens, k] for each of {self.shape.depth} layers, numbered in its name"
            return self.refuse(f"has shape {list(header.shape)}; expected [tokens, layers, k]{layers}", place)
        there = ", ".join(f"{name} {header}" for name, header in headers.items()) or "nothing"
        expected = "no array [tokens, layers, k] of integers, and none [tokens, k] a layer with its number in the name"
        return self.refuse(f"{expected}; the file has {there}")

    def _lengths_of(self, name: str, alone: bool) -> npt.NDArray[Any] | None:
        """Return the tokens of each request as the file has them for an array, unchecked."""
        stem = name.removesuffix("experts")
        names = [f"{stem}{kind}lengths" for kind in ("", "sample_", "example_", "request_")]
        names += [f"{name}_lengths"]
        found = [name for name in names if name in self._small]
        if not found and alone:
            found = [name for name in self._small if name.endswith("lengths")]
        self._lengths_name = found[0] if found else ""
        return self._small[found[0]] if found else None

    def _lengths(self, array: _Array) -> Int64:
        lengths = self._lengths_of(array.name, alone=len(self._arrays) == 1)
        if lengths is None:
            full, rest = divmod(array.tokens, self.reading.block)
            return np.array([self.reading.block] * full + ([rest] if rest else []), dtype=np.int64)
        # Python's integers: a sum of 64 bits wraps around and may come out right.
        total = sum(lengths.tolist()) if lengths.dtype.kind in "iu" else 0
        if lengths.dtype.kind not in "iu" or lengths.min(initial=1) < 1 or total != array.tokens:
            raise self.refuse(
                f"has {total if lengths.dtype.kind in 'iu' else lengths.dtype} in all; expected positive "
                f"integers that sum to the {array.tokens} tokens of {array.name or array.members[0]}",
                self._lengths_name,
            )
        return lengths.astype(np.int64)

    def _labels(self, array: _Array, name: str, requests: int) -> list[str] | None:
        if not name:
            return None
        stem = array.name.removesuffix("experts")
        label = self._small.get(stem + name, self._small.get(name))
        if label is None:
            if name not in (Columns.profile, Columns.user, TIME):
                raise self.refuse(f"no array {name!r} with one entry a request")
            return None
        if len(label) != requests:
            raise self.refuse(f"{len(label)} entries, there are {requests} requests", name)
        values = label.astype("U") if label.dtype.kind == "M" else label  # dates as text, whatever their unit
        return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]

    def _chunks(self, array: _Array, member: int, tokens: int, layers: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield the first token and the rows [tokens * layers, width] of pieces of one member."""
        name = array.members[member]
        with self._errors():
            if not name:
                with self.path.open("rb") as file:
                    yield from self._read(file, array, name, tokens, layers)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(name + ".npy") as file:
                    yield from self._read(file, array, name, tokens, layers)

    def _read(
        self, file: IO[bytes], array: _Array, name: str, tokens: int, layers: int
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        self._header(file)
        of_token = layers * array.width * array.dtype.itemsize
        step = max(1, common.CHUNK_BYTES // (layers * array.width * 8))
        for first in range(0, tokens, step):
            size = min(step, tokens - first) * of_token
            data = file.read(size)
            if len(data) != size:
                raise self.refuse(f"ends before token {tokens - 1}", name)
            values = np.frombuffer(data, dtype=array.dtype).reshape(-1, array.width)
            yield first, values.astype(array.dtype.newbyteorder("="), copy=False)

    def _header(self, file: IO[bytes]) -> _Header:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, fortran, dtype = read(file)
        except Exception as error:  # the header is a Python literal, and numpy lets through whatever reading one raises
            raise ValueError(f"a broken header ({type(error).__name__})") from None
        return _Header(shape, dtype, fortran)

    def _errors(self) -> Damage:
        return Damage(self.path)


_LAYER = re.compile(r"(?i)(layers?|blocks?|blk|(?<![a-z])[lh])[._-]?(\d+)")
"""Where a layer's number stands in a name, in the second group."""


def _some(things: Sequence[object]) -> str:
    """Return a list for people, its middle left out."""
    texts = [str(thing) for thing in things]
    return ", ".join(texts if len(texts) <= 4 else [*texts[:2], "...", texts[-1]])


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
