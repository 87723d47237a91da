"""An instance of the serverless problem: validated once, then frozen."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from moeplace.base.arrays import Int64
from moeplace.base.documents import canonical, parse, show
from moeplace.base.errors import InputError
from moeplace.base.files import write_bytes
from moeplace.serverless.document import MB, InstanceDocument, Limits, Model, Platform, Request, Spec

LARGEST = 1 << 60
"""All times of a deployment together, and all its bytes, are below this: no sum of int64 overflows."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The output tokens of one layer; equal rows are one.

    Attributes
    ----------
    start : int64 array [R + 1]
        Row i has the experts ``expert[start[i]:start[i + 1]]``, rising.
    expert : int64 array
    count : int64 array [R]
        Tokens.
    """

    start: Int64
    expert: Int64
    count: Int64

    @cached_property
    def size(self) -> Int64:
        """Experts of each row, [R]."""
        sizes: Int64 = np.diff(self.start)
        return sizes

    def pairs(self) -> Iterable[tuple[list[int], int]]:
        """Return each row's experts and tokens as plain integers."""
        experts, counts = self.expert.tolist(), self.count.tolist()
        bounds = itertools.pairwise(self.start.tolist())
        return [(experts[a:b], count) for (a, b), count in zip(bounds, counts, strict=True)]


@dataclass(frozen=True, eq=False)
class Instance:
    """One request to one model on one platform.

    Attributes
    ----------
    name, sha256 : str
        Name, and hash of the document as it was read.
    model, request, platform, limits : Struct
        As the document says them; see :mod:`moeplace.serverless.document`.
    specs : tuple of Spec
        Memory specifications, rising in memory.
    main_specs, remote_specs : tuple of int
        Which of them may be chosen.
    prefill : int64 array [L, E]
        Prompt tokens of each expert.
    rows : tuple of Rows
        Output tokens of each layer.
    decoded : int64 array [L, E]
        Output tokens of each expert.
    """

    name: str
    sha256: str
    model: Model
    request: Request
    platform: Platform
    limits: Limits
    specs: tuple[Spec, ...]
    main_specs: tuple[int, ...]
    remote_specs: tuple[int, ...]
    prefill: Int64
    rows: tuple[Rows, ...]
    decoded: Int64
    document: dict[str, Any]

    @property
    def layers(self) -> int:
        """How many MoE layers there are."""
        return self.model.layers

    @property
    def experts(self) -> int:
        """How many experts a layer has."""
        return self.model.experts

    @classmethod
    def from_document(cls, document: object) -> Instance:
        """Make an instance of its document.

        Raises
        ------
        InputError
            It is none; one line says the place, what was expected and what was found.
        """
        said = parse(document, InstanceDocument)
        _check_specs(said)
        _check_platform(said)
        prefill = _prefill(said)
        rows = _rows(said)
        _check_sizes(said, prefill, rows)
        decoded = np.zeros(prefill.shape, dtype=np.int64)
        for layer, own in enumerate(rows):
            np.add.at(decoded[layer], own.expert, np.repeat(own.count, own.size))
        for array in (prefill, decoded, *(a for own in rows for a in (own.start, own.expert, own.count))):
            array.setflags(write=False)
        assert isinstance(document, dict)
        return cls(
            name=said.name,
            sha256=hashlib.sha256(canonical(document)).hexdigest(),
            model=said.model,
            request=said.request,
            platform=said.platform,
            limits=said.limits,
            specs=tuple(said.specs),
            main_specs=tuple(sorted(said.main_specs)),
            remote_specs=tuple(sorted(said.remote_specs)),
            prefill=prefill,
            rows=tuple(rows),
            decoded=decoded,
            document=document,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the instance document, whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_bytes(path, layout(self.document))


def layout(document: dict[str, Any]) -> bytes:
    """Lay an instance document out for people and for diffs: a line a key, a layer, a specification."""

    def text(value: object) -> str:
        return msgspec.json.encode(value).decode()

    def block(pairs: Iterable[str], depth: int, ends: str) -> str:
        pad = "  " * depth
        return f"{ends[0]}\n" + ",\n".join(f"{pad}  {pair}" for pair in pairs) + f"\n{pad}{ends[1]}"

    parts = []
    for key, value in document.items():
        if key == "request":
            inner = []
            for name, own in value.items():
                if name == "prefill":
                    shown = block(map(text, own), 2, "[]")
                elif name == "decode":
                    shown = block((f"{text(k)}: {text(v)}" for k, v in own.items()), 2, "{}")
                else:
                    shown = text(own)
                inner.append(f"{text(name)}: {shown}")
            parts.append(f"{text(key)}: {block(inner, 1, '{}')}")
        elif key == "specs":
            parts.append(f"{text(key)}: {block(map(text, value), 1, '[]')}")
        else:
            parts.append(f"{text(key)}: {text(value)}")
    return (block(parts, 0, "{}") + "\n").encode()


def _check_specs(said: InstanceDocument) -> None:
    for i, (lower, upper) in enumerate(itertools.pairwise(said.specs), 1):
        if upper.mb <= lower.mb:
            expected = f"more than the {lower.mb} of the specification before it (they ascend)"
            raise InputError(f"expected {expected}, found {upper.mb}", place=f"specs[{i}].mb")
    for key, chosen in (("main_specs", said.main_specs), ("remote_specs", said.remote_specs)):
        seen: set[int] = set()
        for i, spec in enumerate(chosen):
            place = f"{key}[{i}]"
            if spec >= len(said.specs):
                raise InputError(f"expected a specification from 0 to {len(said.specs) - 1}, found {spec}", place=place)
            if spec in seen:
                raise InputError(f"the specification {spec} stands there twice", place=place)
            seen.add(spec)


def _check_platform(said: InstanceDocument) -> None:
    for key in ("other_prefill_ns", "other_decode_ns"):
        found = len(getattr(said.platform, key))
        if found != said.model.layers:
            raise InputError(f"expected {said.model.layers} times, one a layer, found {found}", place=f"platform.{key}")
    try:
        unit = Decimal(said.platform.price_unit_usd)
        valid = unit.is_finite() and unit > 0
    except InvalidOperation:
        valid = False
    if not valid:
        text = show(said.platform.price_unit_usd)
        raise InputError(f"expected a number above 0 as text, found {text}", place="platform.price_unit_usd")


def _prefill(said: InstanceDocument) -> Int64:
    model, request = said.model, said.request
    if model.top_k > model.experts:
        raise InputError(f"expected at most {model.experts}, the experts, found {model.top_k}", place="model.top_k")
    if len(request.prefill) != model.layers:
        raise InputError(f"expected {model.layers} layers, found {len(request.prefill)}", place="request.prefill")
    for i, layer in enumerate(request.prefill):
        place = f"request.prefill[{i}]"
        if len(layer) != model.experts:
            raise InputError(f"expected {model.experts} experts, found {len(layer)}", place=place)
        for e, tokens in enumerate(layer):
            if tokens > request.tokens_in:
                most = f"at most the {request.tokens_in} prompt tokens"
                raise InputError(f"expected {most}, found {tokens}", place=f"{place}[{e}]")
        if sum(layer) > request.tokens_in * model.top_k:
            most = f"at most {request.tokens_in * model.top_k} in sum ({request.tokens_in} tokens x {model.top_k})"
            raise InputError(f"expected {most}, found {sum(layer)}", place=place)
    return np.array(request.prefill, dtype=np.int64)


def _rows(said: InstanceDocument) -> list[Rows]:
    model, request, decode = said.model, said.request, said.request.decode
    lengths = [len(decode.layer), len(decode.experts), len(decode.count)]
    if len(set(lengths)) > 1:
        found = f"layer {lengths[0]}, experts {lengths[1]}, count {lengths[2]}"
        raise InputError(f"expected columns of one length, found {found}", place="request.decode")
    merged: list[dict[tuple[int, ...], int]] = [{} for _ in range(model.layers)]
    for i, (layer, experts, count) in enumerate(zip(decode.layer, decode.experts, decode.count, strict=True)):
        place = f"request.decode.experts[{i}]"
        if layer >= model.layers:
            expected = f"a layer from 0 to {model.layers - 1}"
            raise InputError(f"expected {expected}, found {layer}", place=f"request.decode.layer[{i}]")
        if len(experts) > model.top_k:
            raise InputError(f"expected at most top_k = {model.top_k} experts, found {len(experts)}", place=place)
        if max(experts) >= model.experts:
            raise InputError(f"expected experts from 0 to {model.experts - 1}, found {max(experts)}", place=place)
        if len(set(experts)) < len(experts):
            raise InputError(f"expected distinct experts, found {show(experts)}", place=place)
        key = tuple(sorted(experts))
        merged[layer][key] = merged[layer].get(key, 0) + count
    for layer, own in enumerate(merged):
        if (total := sum(own.values())) != request.tokens_out:
            tokens = f"the {request.tokens_out} output tokens at layer {layer}"
            raise InputError(f"expected {tokens}, found {total}", place="request.decode.count")
    result = []
    for own in merged:
        ordered = sorted(own.items())
        start = np.cumsum([0, *(len(key) for key, _ in ordered)], dtype=np.int64)
        expert = np.array([e for key, _ in ordered for e in key], dtype=np.int64)
        result.append(Rows(start, expert, np.array([count for _, count in ordered], dtype=np.int64)))
    return result


def _check_sizes(said: InstanceDocument, prefill: Int64, rows: list[Rows]) -> None:
    """Refuse what would overflow: in sums of times and of bytes, whatever the deployment is."""
    model, request, platform = said.model, said.request, said.platform
    slowest = max(spec.prefill_ns for spec in said.specs), max(spec.prefill_ns_per_token for spec in said.specs)
    tokens = sum(map(sum, request.prefill))
    once = sum(n > 0 for layer in request.prefill for n in layer)
    picks = sum(len(experts) * count for own in rows for experts, count in own.pairs())
    link = link_ns(model.token_bytes, platform.link_bytes_per_s, 1)
    times = (
        platform.cold_ns
        + sum(platform.other_prefill_ns)
        + request.tokens_out * sum(platform.other_decode_ns)
        + model.layers * (platform.switch_prefill_ns + request.tokens_out * platform.switch_decode_ns)
        + platform.invoke_ns * (picks + model.layers * min(platform.most_replicas, model.experts))
        + 2 * once * slowest[0]
        + 2 * tokens * slowest[1]
        + 2 * link * (tokens + picks)
        + 2 * picks * max(spec.decode_ns for spec in said.specs)
    )
    allowed = said.limits.ttft_ns + said.limits.tpot_ns * request.tokens_out
    n_bytes = (
        MB * (platform.main_mb + max(spec.mb for spec in said.specs))
        + model.layers * model.experts * model.expert_bytes
        + model.token_bytes * (tokens + request.tokens_out)
    )
    for what, amount, unit in (
        ("the times of a deployment sum to", times, "ns"),
        ("the limits allow", allowed, "ns"),
        ("memory and experts sum to", n_bytes, "bytes"),
        ("a payload holds", platform.payload_bytes, "bytes"),
    ):
        if amount >= LARGEST:
            raise InputError(f"{what} up to {amount:,} {unit}; at most 2**60 - 1 is handled; are the units right?")


def link_ns(token_bytes: int, link_bytes_per_s: int, tokens: int) -> int:
    """Return the ns that some tokens take over the link, one way, rounded up."""
    return -(-tokens * token_bytes * 10**9 // link_bytes_per_s)
