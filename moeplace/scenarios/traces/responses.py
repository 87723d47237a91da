"""Routing in the responses of serving engines: what a response holds, whether it can be right, what comes twice."""

from __future__ import annotations

import base64
import binascii
import itertools
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeGuard

import numpy as np

from moeplace.base.errors import InputError
from moeplace.base.text import number
from moeplace.scenarios.counting import as_int32
from moeplace.scenarios.traces.arrays import packed_array
from moeplace.scenarios.traces.common import (
    TIME,
    Batch,
    FillerRow,
    Int64,
    Integers,
    OtherShape,
    Request,
    Shape,
    TraceFile,
    layers_first,
    without_fillers,
)
from moeplace.scenarios.traces.tables import label_of, text_of

ROUTED: Final = ("prompt_routed_experts", "routed_experts")
"""The keys under which engines return expert numbers: of the prompt alone, and of the completion or of everything."""

RESPONSE_KEYS: Final = frozenset({
    *ROUTED, "choices", "outputs", "meta_info", "response", "usage", "error", "custom_id", "object", "text",
    "output_ids",
})  # fmt: skip
"""An object with one of these is a response, or what a server answered instead of one."""

CREATED: Final = "created"
"""When a response was made, seconds since 1970."""

_PROMPT_LISTS: Final = ("prompt_token_ids", "prompt_ids")
_COMPLETION_LISTS: Final = ("token_ids", "output_ids", "output_token_ids", "completion_token_ids", "completion_ids")

COUNT_KEYS: Final = frozenset(
    {*_PROMPT_LISTS, *_COMPLETION_LISTS, "prompt_tokens", "completion_tokens", "cached_tokens"}
)
"""What says how many tokens there are."""

_LEAST_REPEATED: Final = 2
"""Fewer tokens than this at the beginning may be alike by chance: every prompt begins with the same one."""


@dataclass(frozen=True)
class Answer:
    """What a server answered to one request: an object, or the chunks of a stream."""

    place: str
    chunks: Sequence[dict[str, Any]]


@dataclass
class _Part:
    """One completion of a response (or its outermost object) and what is said there of its tokens."""

    prompt: list[Integers] = field(default_factory=list)
    routed: list[Integers] = field(default_factory=list)
    start: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    bare: bool = False


class ResponseTrace(TraceFile):
    """Responses of serving engines (vLLM, SGLang), one request each.

    What a response says of its tokens (``usage``, lists of tokens) is compared with the arrays in it: an array that was
    read in another shape has more tokens or fewer than there can be, and is refused.
    """

    @abstractmethod
    def answers(self) -> Iterator[Answer]:
        """Yield what the server answered, in the order of the file."""

    def requests(self) -> list[Request]:
        """Return the requests; see :meth:`TraceFile.requests`."""
        self._seen: dict[tuple[object, ...], None] = {}
        self._twice = 0
        self._first: list[list[int]] = []
        result: list[Request] = []
        columns = self.reading.columns
        for answer in self.answers():
            body = [_body(chunk) for chunk in answer.chunks]
            sequences = self._sequences(answer, body)
            if sequences is None:
                self.failed += 1
                continue
            profile, user = (self._label(answer, body, name) for name in (columns.profile, columns.user))
            first = self._repeated(sequences, (profile, user))
            self._first.append(first)
            tokens = sum(len(array) for array, _ in sequences) - sum(first)
            result.append(Request(profile, user, tokens * self.shape.depth, self._time(answer, body)))
        if not result:
            raise self.refuse("has no response with routed_experts" if self.failed else "has no rows")
        tokens = sum(map(sum, self._first))
        self.repeated = self.shape.depth * tokens
        if turns := sum(any(first) for first in self._first):
            self.note(
                f"{number(turns, 'response')} with the first tokens of an earlier one (turns of one conversation, or "
                f"several answers to one prompt): {number(tokens, 'token')} counted once; --recount-turns counts them "
                "each time"
            )
        if self._twice:
            self.note(f"{number(self._twice, 'response')} with the same tokens as an earlier one, all counted")
        return result

    def batches(self) -> Iterator[Batch]:
        """Yield the rows; see :meth:`TraceFile.batches`."""
        layers = self.shape.depth
        request = 0
        for answer in self.answers():
            sequences = self._sequences(answer, [_body(chunk) for chunk in answer.chunks])
            if sequences is None:
                continue
            for (array, start), first in zip(sequences, self._first[request], strict=True):
                rows = array[first:].reshape(-1, array.shape[2])

                def place(row: int, place: str = answer.place, first: int = first + start) -> str:
                    return f"{place}: token {first + row // layers}, layer {row % layers}"

                yield Batch(
                    np.full(len(rows), request), np.tile(np.arange(layers), len(array) - first), rows, place
                )  # fmt: skip
            request += 1

    def _time(self, answer: Answer, body: Sequence[dict[str, Any]]) -> Any:
        """Return when a request came, where that is asked for: as its label says, else when its response was made."""
        name = self.reading.columns.time
        if not name:
            return None
        said = self._label(answer, body, name)
        return said if said is not None or name != TIME else self._label(answer, body, CREATED)

    def _label(self, answer: Answer, body: Sequence[dict[str, Any]], name: str) -> str | None:
        for value in (*answer.chunks, *body):
            label = label_of(value, name, answer.place, self.path)
            if label is not None:
                return text_of(label)
        return None

    def _sequences(self, answer: Answer, body: Sequence[dict[str, Any]]) -> list[tuple[Integers, int]] | None:
        """Return arrays [tokens, layers, k] and the number of the first token of each; None of a failed response."""
        if reason := _failure(answer.chunks):
            self._refuse_failed(answer.place, reason)
            return None
        parts = self._parts(answer, body)
        with_routing = [part for part in parts if part.prompt or part.routed]
        if not with_routing:
            if not any(RESPONSE_KEYS & chunk.keys() for chunk in answer.chunks):
                raise self.refuse(f"no response: {keys_of(answer.chunks[0])}", answer.place)
            self._refuse_failed(answer.place, "a response without routed_experts")
            return None
        outer, *choices = with_routing
        if outer is parts[0] and any(_same(outer, choice) for choice in choices):
            self.note("an array that stands in a response and in its choice, too, is read once")
            with_routing = choices
        self._check_lengths(answer.place, parts, with_routing)
        result = []
        for part in with_routing:
            arrays = part.prompt + part.routed
            result.append((np.concatenate(arrays) if len(arrays) > 1 else arrays[0], part.start))
        return result

    def _refuse_failed(self, place: str, reason: str) -> None:
        if not self.reading.drop_failed:
            raise self.refuse(f"{reason} (--drop-bad-rows drops and counts it)", place)

    def _parts(self, answer: Answer, body: Sequence[dict[str, Any]]) -> list[_Part]:
        """Return what the object and each choice in it say, the outermost first, of all chunks of a stream."""
        parts: dict[object, _Part] = {}
        for value in body:
            scopes: list[tuple[object, dict[str, Any]]] = [("", value)]
            for key in ("choices", "outputs"):
                found = value.get(key)
                for i, choice in enumerate(found if isinstance(found, list) else []):
                    if isinstance(choice, dict):
                        scopes.append((str(choice.get("index", i)), choice))
            for name, scope in scopes:
                part = parts.setdefault(name, _Part())
                inner = [scope, *(scope[key] for key in ("meta_info", "sgl_ext") if isinstance(scope.get(key), dict))]
                for there in inner:
                    self._read_counts(part, there, streamed=len(body) > 1)
                outer = parts.get("", part)
                known = {"routed_experts": _possible(part, outer), "prompt_routed_experts": _prompt_of(part, outer)}
                for there in inner:
                    for key, arrays in zip(ROUTED, (part.prompt, part.routed), strict=True):
                        if there.get(key) is None:
                            continue
                        whole = len(body) == 1 and len(scopes) <= 2  # else the counts are of several arrays
                        array, start, bare = self._array(answer.place, there[key], known[key] if whole else ())
                        if not arrays and key == "routed_experts":
                            part.start = start
                        part.bare |= bare
                        arrays.append(array)
        for part in parts.values():
            part.routed = self._joined(part.routed)
        return list(parts.values())

    def _joined(self, arrays: list[Integers]) -> list[Integers]:
        """Return the arrays of a stream's chunks, or the last of them where each repeats those before."""
        if len(arrays) < 2:
            return arrays
        grows = [
            len(a) <= len(b) and a.shape[1:] == b.shape[1:] and bool((b[: len(a)] == a).all())
            for a, b in itertools.pairwise(arrays)
        ]
        if all(grows) and (len(arrays[-1]) > len(arrays[0]) or len(arrays[0]) >= _LEAST_REPEATED):
            self.note("each chunk of a stream repeats those before it: the last one is read")
            return arrays[-1:]
        return arrays

    def _read_counts(self, part: _Part, value: dict[str, Any], *, streamed: bool) -> None:
        usage = value.get("usage")
        for there in (value, usage if isinstance(usage, dict) else {}):
            for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
                if _whole(there.get(name)):
                    setattr(part, name, there[name])
            details = there.get("prompt_tokens_details")
            if isinstance(details, dict) and _whole(details.get("cached_tokens")):
                part.cached_tokens = details["cached_tokens"]
            total = there.get("total_tokens")
            if _whole(total) and part.completion_tokens is None:
                # What only the sum is known of counts as completion: an array has all of it or one less.
                prompt = part.prompt_tokens or 0
                part.prompt_tokens, part.completion_tokens = prompt, max(0, total - prompt)
        for name in _PROMPT_LISTS:
            if _length(value.get(name)):
                part.prompt_tokens = len(value[name])
        if not streamed:  # chunks may hold a piece of the list or all of it so far
            for name in _COMPLETION_LISTS:
                if _length(value.get(name)):
                    part.completion_tokens = len(value[name])

    def _check_lengths(self, place: str, parts: list[_Part], with_routing: list[_Part]) -> None:
        """Refuse arrays with another number of tokens than the response says."""
        outer = parts[0]
        for part in with_routing:
            prompt = part.prompt_tokens if part.prompt_tokens is not None else outer.prompt_tokens
            read = sum(map(len, part.prompt))
            if part.prompt and prompt is not None and read not in (prompt, prompt - outer.cached_tokens):
                raise self._other_length(place, "prompt_routed_experts", read, [prompt])
            if not part.routed:
                continue
            read = sum(map(len, part.routed))
            whole = len(with_routing) == 1 or part is outer
            own = _possible(part, outer if whole else replace(outer, completion_tokens=None))
            if part.bare and not own:
                self.note(
                    "arrays without a shape, in responses that do not say how many tokens there are: "
                    f"{self.shape.depth} layers of {self.shape.top_k} are the model's, and nothing confirms them"
                )
            fewer = bool(own) and not (part.prompt or outer.prompt) and read + part.start < max(own) - 1
            if own and (read + part.start not in own or (fewer and part.start)):
                raise self._other_length(place, "routed_experts", read + part.start, own)
            if fewer:
                self.note("responses hold the tokens of the completion alone, or without cached ones; only these count")
        prompts = sum(len(array) for part in with_routing for array in part.prompt)
        for part in with_routing:
            head = np.concatenate(part.prompt or outer.prompt or [np.zeros((0, 1, 1), dtype=np.int64)])
            tail = np.concatenate(part.routed or [np.zeros((0, 1, 1), dtype=np.int64)])
            whole = 0 < len(head) <= len(tail) and head.shape[1:] == tail.shape[1:]
            if whole and (tail[: len(head)] == head).all():
                raise self.refuse(
                    "routed_experts begins with prompt_routed_experts, so the prompt would count twice", place
                )
        if len(with_routing) > 1 and outer.completion_tokens is not None:
            n = sum(bool(part.routed) for part in with_routing)
            read = sum(len(array) for part in with_routing for array in part.routed)
            least = outer.completion_tokens - n
            most = outer.completion_tokens + n * (outer.prompt_tokens or prompts)
            if not least <= read <= most:
                raise self._other_length(place, "routed_experts", read, [least, most])

    def _other_length(self, place: str, name: str, read: int, expected: Sequence[int]) -> InputError:
        some = " or ".join(str(n) for n in sorted(set(expected)))
        return self.refuse(
            f"{name} has {read} tokens in the shape [tokens, {self.shape.depth}, {self.shape.top_k}], and the response "
            f"says that there are {some}: the array is of other layers or another top-k, or holds tokens twice",
            place,
        )

    def _array(self, place: str, data: object, known: Sequence[int]) -> tuple[Integers, int, bool]:
        """Return an array [tokens, layers, k], its first token, and whether it came without a shape.

        The numbers of tokens ``known`` are possible; nothing where the response does not say.
        """
        depth = self.shape.depth
        start, bare = 0, False
        try:
            if isinstance(data, str):
                raw = base64.b64decode(data, validate=True)
                # SGLang: 32-bit integers without a shape
                array = packed_array(raw) if raw.startswith(b"\x93NUMPY") else np.frombuffer(raw, dtype="<i4")
            elif isinstance(data, dict):
                array, start = self._packed(data)
            else:
                array = np.array(data)
            if array.ndim == 1 and array.dtype.kind in "iu":
                bare = True
                array = self._shaped(array, known)
            if array.dtype.kind not in "iu" or array.ndim != 3:
                expected = f"integers [tokens, {depth}, {self.shape.top_k}]"
                raise OtherShape(f"{list(array.shape)} of {array.dtype}; expected {expected}")
            if layers_first(array.shape, self.shape, known):
                self.note("routed_experts are read as [layers, tokens, k]")
                array = array.transpose(1, 0, 2)
            if not len(array):
                raise OtherShape("an array without tokens")
        except OtherShape as error:
            raise self.refuse(f"routed_experts is {error}", place) from None
        except (binascii.Error, EOFError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise self.refuse(f"routed_experts cannot be decoded: {error}", place) from None
        if bare and (reason := _doubt(array, self.shape)):
            raise self.refuse(f"routed_experts has no shape, and read as {list(array.shape)} {reason}", place)
        return np.asarray(array, dtype=np.int64), start, bare

    def _packed(self, data: dict[str, Any]) -> tuple[Integers, int]:
        raw = data["data"] if isinstance(data["data"], bytes) else base64.b64decode(data["data"], validate=True)
        shape = data["shape"]
        start = data.get("start") or 0
        if not isinstance(shape, list) or not all(_whole(n) for n in shape) or not _whole(start):
            raise ValueError(f"shape {shape}, start {start}; expected whole numbers")
        if data.get("dtype") is None:
            numbers = int(np.prod(shape, dtype=object))
            kind = {1: "u1", 2: "<i2", 4: "<i4", 8: "<i8"}.get(len(raw) // numbers if numbers else 0)
            if kind is None or len(raw) % numbers:
                raise ValueError(f"{len(raw)} bytes for {shape} numbers, and dtype is missing")
            self.note(f"dtype is missing; {np.dtype(kind).name} by the number of bytes")
        else:
            kind = data["dtype"]
        return np.frombuffer(raw, dtype=np.dtype(kind)).reshape(shape), start

    def _shaped(self, array: Integers, known: Sequence[int]) -> Integers:
        """Give an array without a shape the one that it can have: by what is known of its tokens, else by fillers."""
        depth, top_k = self.shape.depth, self.shape.top_k
        widths = [w for w in range(self.shape.width, top_k - 1, -1) if array.size and array.size % (depth * w) == 0]
        if not widths:
            also, rest = divmod(array.size, depth * (top_k + 1))
            shared = (
                f"; they are {also} tokens of [{depth}, {top_k + 1}], which a fused shared expert in a further column "
            )
            shared += "makes: --filler names its number"
            raise OtherShape(
                f"{array.size} numbers without a shape; expected a multiple of {depth} * {top_k}"
                + shared * (also > 0 and rest == 0)
            )
        for width in widths:
            shaped = array.reshape(-1, depth, width)
            if known and len(shaped) not in known:
                continue
            try:
                if width > top_k:
                    without_fillers(shaped.reshape(-1, width), self.shape)
            except FillerRow:
                continue
            return shaped
        return array.reshape(-1, depth, widths[-1])  # which is checked as any other, and refused

    def _repeated(self, sequences: Sequence[tuple[Integers, int]], whose: tuple[str | None, ...]) -> list[int]:
        """Return how many first tokens of each sequence an earlier one of the same user has."""
        result = [0] * len(sequences)
        if self.reading.recount_turns:
            return result
        for i, (array, start) in enumerate(sequences):
            if start:
                continue
            sums = _prefixes(array)
            if i and not sequences[0][1]:
                other = sequences[0][0]
                n = min(len(array), len(other))
                same = (array[:n] == other[:n]).all(axis=(1, 2)) if array.shape[2] == other.shape[2] else np.zeros(n)
                alike = int(np.argmin(same)) if not same.all() else n
                result[i] = alike if alike >= _LEAST_REPEATED and alike < len(array) else 0
            elif self._seen:
                for n in range(len(array) - 1, _LEAST_REPEATED - 1, -1):
                    if (*whose, n, int(sums[n - 1])) in self._seen:
                        result[i] = n
                        break
            if len(array) >= _LEAST_REPEATED:
                key = (*whose, len(array), int(sums[-1]))
                self._twice += key in self._seen
                self._seen[key] = None
        return result


def _same(one: _Part, other: _Part) -> bool:
    """Return whether two parts hold the same arrays."""
    pairs = list(zip(one.prompt + one.routed, other.prompt + other.routed, strict=False))
    return len(one.prompt + one.routed) == len(other.prompt + other.routed) and all(
        a.shape == b.shape and bool((a == b).all()) for a, b in pairs
    )


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | np.ndarray) else 0


def _whole(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _body(value: dict[str, Any]) -> dict[str, Any]:
    """Return the response in a line of a batch's results, or the object itself."""
    response = value.get("response")
    if isinstance(response, dict):
        body = response.get("body")
        return body if isinstance(body, dict) else response
    return value


def _failure(chunks: Sequence[dict[str, Any]]) -> str:
    """Return why a request failed, empty if nothing says so."""
    for chunk in chunks:
        response = chunk.get("response")
        status = response.get("status_code") if isinstance(response, dict) else None
        error = chunk.get("error") or _body(chunk).get("error")
        if error or (status is not None and status != 200):
            said = error.get("message") if isinstance(error, dict) else error
            return f"a failed response: {str(said or f'status {status}')[:80]}"
    return ""


def keys_of(value: dict[str, Any]) -> str:
    """Return what an object has, for people."""
    names = list(value)
    return f"an object with {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" if names else "an empty object"


def _possible(part: _Part, outer: _Part) -> list[int]:
    """Return the numbers of tokens that an array can have; nothing where the response does not say.

    The last token is not computed, so one less than all. An array may be of the completion alone; engines that reuse
    cached tokens may leave those out.
    """
    prompt = part.prompt_tokens if part.prompt_tokens is not None else outer.prompt_tokens
    completion = part.completion_tokens if part.completion_tokens is not None else outer.completion_tokens
    if completion is None:
        return []
    if prompt is None and outer.prompt:
        prompt = sum(map(len, outer.prompt))
    ends = [completion, completion - 1]
    if prompt is None:
        return ends if part.prompt or outer.prompt else []
    if part.prompt or outer.prompt:
        return ends
    cached = part.cached_tokens or outer.cached_tokens
    return [n for n in (*ends, *(prompt + n for n in ends), *(prompt - cached + n for n in ends)) if n > 0]


def _prompt_of(part: _Part, outer: _Part) -> list[int]:
    own = part.prompt_tokens if part.prompt_tokens is not None else outer.prompt_tokens
    return [] if own is None else [own]


def _doubt(array: Integers, shape: Shape) -> str:
    """Return what speaks against the shape that was given to bare numbers, empty if nothing does."""
    from moeplace.scenarios import _kernels

    depth, width = shape.depth, array.shape[2]
    rows = array.reshape(-1, width)
    if width == shape.top_k and array.size % (depth * (width + 1)) == 0:
        further = array.reshape(-1, width + 1)
        if len(further) >= 4 and (further[:, -1] == further[0, -1]).all():
            return (
                f"{further[0, -1]} stands after every {width} numbers: [{len(further) // depth}, {depth}, {width + 1}] "
                f"with a fused shared expert in a further column? --filler {further[0, -1]} takes it out"
            )
    try:
        rows, _ = without_fillers(rows, shape)
    except FillerRow as error:
        return f"a row does not fit: {error}"
    fault = _kernels.check_rows(as_int32(rows), shape.experts)
    wrong = Counter(fault[(fault == 1) | (fault == 2)].tolist())
    if wrong:
        also = f"; the numbers also fit [{array.size // (depth * (width + 1))}, {depth}, {width + 1}]"
        return (
            f"{wrong[1]} rows have experts out of range and {wrong[2]} an expert twice: the array is of other layers "
            f"or another top-k{also * (array.size % (depth * (width + 1)) == 0)}"
        )
    return ""


def _prefixes(array: Integers) -> Int64:
    """Return a 64-bit sum of the first 1, 2, ... tokens; equal beginnings have equal sums, others hardly ever."""
    flat = np.ascontiguousarray(array.reshape(len(array), -1)).astype(np.uint64)
    random = np.random.default_rng(0x6D6F65).integers(1, 2**63, size=flat.shape[1], dtype=np.uint64) | np.uint64(1)
    token = (flat * random).sum(axis=1, dtype=np.uint64)
    token = (token ^ (token >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    token ^= token >> np.uint64(32)
    power = np.cumprod(np.full(len(array), 0x9E3779B97F4A7C15, dtype=np.uint64), dtype=np.uint64)
    return np.asarray(np.cumsum(token * power, dtype=np.uint64))
