"""Instances assembled of a model, a platform, limits, and the experts that a request's tokens use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from moeplace.base.errors import InputError
from moeplace.scenarios.catalogue import find_architecture
from moeplace.scenarios.model_config import read_model_config
from moeplace.scenarios.routing import Routing
from moeplace.scenarios.traces.common import Reading, Shape
from moeplace.scenarios.traces.opening import open_trace
from moeplace.serverless.instance import Instance
from moeplace.serverless.scenarios.platforms import PlatformFile

BF16_BYTES = 2
"""Of a weight and of an entry of the hidden state, where nothing else is known."""


@dataclass(frozen=True)
class Served:
    """A model as it is served.

    Attributes
    ----------
    name : str
    layers, experts, top_k : int
    expert_bytes, weights, token_bytes : int
        Of one expert, and of one token's hidden state.
    numbers : tuple of int
        The model's own numbers of its layers with experts, where they are known.
    notes : tuple of str
        What was taken for granted, for people.
    """

    name: str
    layers: int
    experts: int
    top_k: int
    expert_bytes: int
    weights: int
    token_bytes: int
    numbers: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def served(
    *,
    model: str | None = None,
    config: str | os.PathLike[str] | None = None,
    layers: int | None = None,
    experts: int | None = None,
    top_k: int | None = None,
    expert_bytes: int | None = None,
    token_bytes: int | None = None,
) -> Served:
    """Return a model of the catalogue (``NAME`` or ``NAME:PRECISION``), of a config.json, or a shape of its own.

    Raises
    ------
    InputError
        None or several of them are given; no such model or precision; a number is missing, or experts of layers differ.
    """
    own = {
        "layers": layers, "experts": experts, "top-k": top_k, "expert-bytes": expert_bytes, "token-bytes": token_bytes,
    }  # fmt: skip
    given = [key for key, value in own.items() if value is not None]
    if model is not None and config is not None:
        raise InputError("--model and --config cannot be given both")
    if (model is not None or config is not None) and given:
        raise InputError(f"--{given[0]} is for a shape of its own, without --model and --config")
    if model is not None:
        name, colon, precision = model.partition(":")
        known = find_architecture(name)
        size = known.expert_bytes(precision if colon else known.published)
        label = known.name + (f"-{precision}" if colon and precision != known.published else "")
        return Served(label, known.moe_layers, known.experts, known.top_k, size, known.parameters_per_expert,
                      known.message_bits() // 8)  # fmt: skip
    if config is not None:
        published = read_model_config(config)
        known = published.architecture
        if len(set(published.expert_bytes)) > 1:
            raise InputError("experts of its layers differ in size; here all have one", file=str(config))
        notes = tuple(f"{config}: {note}" for note in published.notes)
        return Served(known.name, known.moe_layers, known.experts, known.top_k, published.expert_bytes[0],
                      known.parameters_per_expert, known.message_bits() // 8, tuple(published.layer_index),
                      notes)  # fmt: skip
    if layers is None or experts is None or top_k is None or expert_bytes is None or token_bytes is None:
        raise InputError("a model is missing: --model, --config, or all of " + ", ".join(f"--{key}" for key in own))
    if top_k > experts:
        raise InputError(f"--top-k is {top_k}, a layer has {experts} experts")
    weights = expert_bytes // BF16_BYTES
    note = f"an expert of {expert_bytes:,} bytes is taken as {weights:,} weights in bf16"
    return Served(f"l{layers:02}e{experts:03}k{top_k}", layers, experts, top_k, expert_bytes, weights, token_bytes,
                  notes=(note,))  # fmt: skip


def assemble(
    found: Served,
    platform: PlatformFile,
    prompt: npt.NDArray[np.integer],
    output: npt.NDArray[np.integer],
    *,
    name: str,
    ttft_ns: int,
    tpot_ns: int,
    source: dict[str, str | int] | None = None,
) -> Instance:
    """Make an instance of the experts that tokens use.

    Parameters
    ----------
    found : Served
    platform : PlatformFile
    prompt, output : int array [tokens, L, K]
        Experts of the prompt's tokens and of the output's; -1 where a token has fewer.
    name : str
    ttft_ns, tpot_ns : int
        The limits.
    source : dict, optional
        Where the routing came from.

    Raises
    ------
    InputError
        There is no prompt or no output.
    """
    for what, tokens in (("prompt", prompt), ("output", output)):
        if not len(tokens):
            raise InputError(f"the {what} has no tokens")
    prefill = [np.bincount(own[own >= 0], minlength=found.experts).tolist() for own in prompt.transpose(1, 0, 2)]
    rows: dict[str, list[Any]] = {"layer": [], "experts": [], "count": []}
    for layer, own in enumerate(output.transpose(1, 0, 2)):
        sets, counts = np.unique(np.sort(own, axis=1), axis=0, return_counts=True)
        for experts, count in zip(sets.tolist(), counts.tolist(), strict=True):
            rows["layer"].append(layer)
            rows["experts"].append([e for e in experts if e >= 0])
            rows["count"].append(count)
    model = {
        "name": found.name, "layers": found.layers, "experts": found.experts, "top_k": found.top_k,
        "expert_bytes": found.expert_bytes, "token_bytes": found.token_bytes,
    }  # fmt: skip
    document = {
        "format": "moeplace/serverless",
        "version": 1,
        "name": name,
        "model": model,
        "request": {"tokens_in": len(prompt), "tokens_out": len(output), "prefill": prefill, "decode": rows},
        **platform.document(found.layers, found.expert_bytes, found.weights),
        "limits": {"ttft_ns": ttft_ns, "tpot_ns": tpot_ns},
        "source": (source or {}) | {"platform": platform.name, "prices": platform.source},
    }
    return Instance.from_document(document)


def generate(
    found: Served,
    platform: PlatformFile,
    *,
    tokens_in: int,
    tokens_out: int,
    ttft_ns: int,
    tpot_ns: int,
    seed: int = 0,
    name: str | None = None,
) -> Instance:
    """Make an instance of generated routing, as :mod:`moeplace.scenarios.routing` fits it to two traces.

    Parameters
    ----------
    found : Served
    platform : PlatformFile
    tokens_in, tokens_out : int
    ttft_ns, tpot_ns : int
    seed : int
    name : str, optional

    Returns
    -------
    Instance
    """
    routing = Routing.draw(found.layers, found.experts, found.top_k, tasks=1, seed=seed)
    tokens = routing.sample(0, tokens_in + tokens_out, np.random.default_rng([seed, 5]))
    label = name or f"{found.name}_{platform.name}_i{tokens_in}_o{tokens_out}_seed{seed}"
    source: dict[str, str | int] = {"generator": "moeplace generate", "routing": routing.fitted_to, "seed": seed}
    return assemble(
        found, platform, tokens[:tokens_in], tokens[tokens_in:], name=label, ttft_ns=ttft_ns, tpot_ns=tpot_ns,
        source=source,
    )  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """An instance of a request of a trace.

    Attributes
    ----------
    instance : Instance
    requests : int
        Requests that the trace has.
    notes : list of str
        What the reader guessed or left out, for people.
    """

    instance: Instance
    requests: int
    notes: list[str]


def import_request(
    path: str | os.PathLike[str],
    found: Served,
    platform: PlatformFile,
    *,
    request: int,
    tokens_in: int,
    tokens_out: int | None = None,
    ttft_ns: int,
    tpot_ns: int,
    name: str | None = None,
    reading: Reading | None = None,
    skip_layers: int = 0,
    fillers: tuple[int, ...] = (),
) -> Imported:
    """Make an instance of one request of a routing trace.

    Parameters
    ----------
    path : path-like
    found : Served
        The trace's model.
    platform : PlatformFile
    request : int
        Number of the request in the trace, from 0.
    tokens_in : int
        The request's first so many tokens are taken as the prompt, those that follow as the output: traces do not say
        which is which.
    tokens_out : int, optional
        At most so many tokens of output; without, all that are left.
    ttft_ns, tpot_ns : int
    name : str, optional
    reading, skip_layers, fillers
        As in ``moeplace import`` for caching.

    Raises
    ------
    InputError
        The trace cannot be read, or has no such request or not enough tokens; layers of a token are missing.
    """
    shape = Shape(found.layers, found.experts, found.top_k, skip_layers, 0, fillers, found.numbers)
    trace = open_trace(path, shape, reading)
    number = len(trace.requests())
    if not 0 <= request < number:
        raise trace.refuse(f"no request {request}; there are {number}, counted from 0")
    layers: list[list[list[int]]] = [[] for _ in range(found.layers)]
    dropped = set(fillers)
    for batch in trace.batches():
        own = np.flatnonzero(batch.request == request)
        for row in own.tolist():
            layer = int(batch.layer[row]) - skip_layers
            if not 0 <= layer < found.layers:
                continue
            experts = [e for e in batch.experts[row].tolist() if e >= 0 and e not in dropped]
            if max(experts, default=0) >= found.experts or len(set(experts)) < len(experts):
                raise trace.refuse(f"no distinct experts below {found.experts}: {experts}", batch.place(row))
            if not 1 <= len(experts) <= found.top_k:
                raise trace.refuse(f"expected 1 to {found.top_k} experts, found {len(experts)}", batch.place(row))
            layers[layer].append(experts + [-1] * (found.top_k - len(experts)))
    lengths = sorted({len(own) for own in layers})
    if len(lengths) > 1:
        raise trace.refuse(f"layers of request {request} have {lengths[0]} to {lengths[-1]} tokens, not one number")
    there = lengths[0]
    if there <= tokens_in:
        raise trace.refuse(f"request {request} has {there} tokens; with {tokens_in} of them as the prompt none is left")
    tokens = np.array(layers, dtype=np.int64).transpose(1, 0, 2)
    output = tokens[tokens_in:] if tokens_out is None else tokens[tokens_in : tokens_in + tokens_out]
    notes = [f"{trace.path}: {note}" for note in trace.notes]
    if tokens_out is not None and len(output) < tokens_out:
        notes.append(f"{trace.path}: request {request} has {len(output)} tokens after its prompt, not {tokens_out}")
    label = name or f"{found.name}_{platform.name}_request{request}_i{tokens_in}_o{len(output)}"
    source: dict[str, str | int] = {"importer": "moeplace import", "routing": trace.path.name, "request": request}
    made = assemble(
        found, platform, tokens[:tokens_in], output, name=label, ttft_ns=ttft_ns, tpot_ns=tpot_ns, source=source
    )
    return Imported(made, number, notes)


def in_ns(text: Decimal, unit: int, option: str) -> int:
    """Return a time as whole ns, of a number of units of so many ns.

    Raises
    ------
    InputError
        It is no number, or negative.

    Examples
    --------
    >>> in_ns(Decimal("0.5"), 10**9, "--ttft-s")
    500000000
    """
    if not text.is_finite() or text < 0 or text * unit >= 2**62:
        raise InputError(f"{option} is {text}; expected a time from 0 on")
    return int(text * unit)
