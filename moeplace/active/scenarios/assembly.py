"""Instances assembled of a model, a device, a number of requests, and the experts that tokens use."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moeplace.active.document import Model
from moeplace.active.instance import Instance
from moeplace.active.scenarios.roofline import BATCHES, Device, Expert, distinct_experts, independent_experts, times
from moeplace.base.errors import InputError
from moeplace.scenarios.catalogue import find_architecture
from moeplace.scenarios.hardware import find_hardware
from moeplace.scenarios.model_config import read_model_config
from moeplace.scenarios.ranked import RankedTokens

LOSS_BUDGET: Final = 10_000
"""Parts per million of the router's weight that may be lost where nobody says."""

BF16_BYTES: Final = 2
"""Of a weight, where only an expert's size is known."""


@dataclass(frozen=True)
class Served:
    """A model as it is served.

    Attributes
    ----------
    model : Model
    experts : list of Expert
        One of each layer.
    label : str
        Names instances.
    whole : int
        Layers with experts of the whole model, where only the first are taken.
    numbers : tuple of int
        The model's own numbers of the layers with experts, where they are known.
    notes : tuple of str
        What was taken for granted, for people.
    """

    model: Model
    experts: list[Expert]
    label: str
    whole: int
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
) -> Served:
    """Return a model of the catalogue (``NAME`` or ``NAME:PRECISION``), of a config.json, or a shape of its own.

    Of a known model, ``layers`` takes the first so many; the other numbers are for a shape of its own.

    Raises
    ------
    InputError
        None or several of them are given; no such model or precision; a number is missing.
    """
    own = {"experts": experts, "top-k": top_k, "expert-bytes": expert_bytes}
    given = [key for key, value in own.items() if value is not None]
    if model is not None and config is not None:
        raise InputError("--model and --config cannot be given both")
    if (model is not None or config is not None) and given:
        raise InputError(f"--{given[0]} is for a shape of its own, without --model and --config")
    if model is not None:
        return _of_catalogue(model, layers)
    if config is not None:
        return _of_config(config, layers)
    if layers is None or experts is None or top_k is None or expert_bytes is None:
        raise InputError(
            "a model is missing: --model, --config, or all of --layers, --experts, --top-k and --expert-bytes"
        )
    if top_k > experts:
        raise InputError(f"--top-k is {top_k}, a layer has {experts} experts")
    weights = expert_bytes // BF16_BYTES
    said = f"an expert of {expert_bytes:,} bytes is taken as {weights:,} weights in bf16"
    shape = Model("moe", layers, experts, top_k)
    return Served(shape, [Expert(expert_bytes, weights)] * layers, f"l{layers:02}e{experts:03}k{top_k}", layers,
                  notes=(said,))  # fmt: skip


def _of_catalogue(text: str, layers: int | None) -> Served:
    name, colon, precision = text.partition(":")
    known = find_architecture(name)
    precision = precision if colon else known.published
    label = known.name + (f"-{precision}" if precision != known.published else "")
    one = Expert(known.expert_bytes(precision), sum(outputs * inputs for outputs, inputs in known.shapes))
    kept = _kept(layers, known.moe_layers)
    model = Model(known.name, kept, known.experts, known.top_k)
    return Served(model, [one] * kept, label + _cut(layers), known.moe_layers)


def _of_config(path: str | os.PathLike[str], layers: int | None) -> Served:
    published = read_model_config(path)
    known = published.architecture
    weights = sum(outputs * inputs for outputs, inputs in known.shapes)
    kept = _kept(layers, known.moe_layers)
    model = Model(known.name, kept, known.experts, known.top_k)
    experts = [Expert(size, weights) for size in published.expert_bytes[:kept]]
    notes = tuple(f"{path}: {note}" for note in published.notes)
    return Served(model, experts, known.name + _cut(layers), known.moe_layers, tuple(published.layer_index), notes)


def _kept(layers: int | None, there: int) -> int:
    if layers is not None and layers > there:
        raise InputError(f"--layers is {layers}, the model has {there} with experts")
    return there if layers is None else layers


def _cut(layers: int | None) -> str:
    return "" if layers is None else f"_l{layers:02}"


def device(hardware: str | None, gb_per_s: float | None, tflops: float | None) -> Device:
    """Return a device of the catalogue, or of numbers; with both, the numbers count.

    Raises
    ------
    InputError
        A number is missing or not positive, or there is no such hardware.
    """
    for option, value in (("--gb-per-s", gb_per_s), ("--tflops", tflops)):
        if value is not None and not 0 < value < 1e9:
            raise InputError(f"{option} is {value:g}; expected more than 0")
    bandwidth = None if gb_per_s is None else round(gb_per_s * 10**9)
    flops = None if tflops is None else round(tflops * 10**12)
    if hardware is not None:
        known = find_hardware(hardware)
        changed = bandwidth is not None or flops is not None
        return Device(bandwidth or known.bytes_per_s, flops or known.flops, known.name + " changed" * changed)
    if bandwidth is None or flops is None:
        missing = "--gb-per-s" if bandwidth is None else "--tflops"
        raise InputError(f"the hardware is missing: --hardware, or both numbers; {missing} is not given")
    return Device(bandwidth, flops)


@dataclass(frozen=True)
class Load:
    """One number of active experts of one load, in the mean over the layers: what people are shown of an instance.

    Attributes
    ----------
    k : int
        Active experts, the same in all layers.
    distinct, independent : float
        Experts of a layer that a step touches, as counted, and by independence (E5).
    reading : float
        Share of the layers whose time is that of reading, not of computing.
    time_ns : int
        Of all layers.
    loss : int
    """

    k: int
    distinct: float
    independent: float
    reading: float
    time_ns: int
    loss: int


@dataclass(frozen=True)
class Assembled:
    """An instance, and what it was made of."""

    instance: Instance
    loads: list[Load]


def assemble(
    found: Served,
    tokens: RankedTokens,
    loss: list[list[int]],
    on: Device,
    requests: int,
    *,
    name: str | None,
    stem: str = "",
    batches: int = BATCHES,
    seed: int = 0,
    fixed_ns: int = 0,
    loss_budget: int | None = None,
    time_budget_ns: int | None = None,
    notes: str,
    source: Mapping[str, str | int],
) -> Assembled:
    """Make the instance of one load.

    Parameters
    ----------
    found : Served
    tokens : RankedTokens
        Experts of tokens, ranked.
    loss : list of list of int [L][K]
    on : Device
    requests : int
        Served at once: tokens of a step.
    name, stem : str
        Of the instance; without a name it is made of its parts, and of ``stem``.
    batches, seed : int
        Batches drawn, and the seed that chooses them.
    fixed_ns : int
    loss_budget, time_budget_ns : int, optional
        One of them.
    notes, source
        As in the document.
    """
    if loss_budget is not None and time_budget_ns is not None:
        raise InputError("--loss-budget and --time-budget-ns cannot be given both")
    if loss_budget is None and time_budget_ns is None:
        raise InputError("a budget is missing: --loss-budget or --time-budget-ns")
    model = found.model
    counted = distinct_experts(tokens, requests, model.experts, batches=batches, seed=seed)
    table = times(counted, requests, found.experts, on, batches=batches)
    budget = f"loss{loss_budget}" if loss_budget is not None else f"time{time_budget_ns}"
    made = "_".join(filter(None, (found.label, stem, _word(on.name) or "own", f"b{requests:03}", budget)))
    said: dict[str, str | int] = {
        **source,
        "hardware": on.name,
        "bytes_per_s": on.bytes_per_s,
        "flops": on.flops,
        "expert_bytes": max(one.n_bytes for one in found.experts),
        "expert_weights": found.experts[0].weights,
        "requests": requests,
        "batches": batches,
        "seed": seed,
    }
    document: dict[str, Any] = {
        "format": "moeplace/active-experts",
        "version": 1,
        "name": name or made,
        "model": {"name": model.name, "layers": model.layers, "experts": model.experts, "top_k": model.top_k},
        "time_ns": table,
        "loss": loss,
        "fixed_ns": fixed_ns,
        "tokens_per_step": requests,
        "loss_budget" if loss_budget is not None else "time_budget_ns":
            loss_budget if loss_budget is not None else time_budget_ns,
        "notes": notes,
        "source": {key: value for key, value in said.items() if value != ""},
    }  # fmt: skip
    instance = Instance.from_document(document)
    loads = []
    for k in range(1, model.top_k + 1):
        read = [
            count * one.n_bytes * on.flops >= 2 * requests * k * one.weights * batches * on.bytes_per_s
            for count, one in zip(counted[:, k - 1].tolist(), found.experts, strict=True)
        ]
        loads.append(
            Load(
                k=k,
                distinct=int(counted[:, k - 1].sum()) / (batches * model.layers),
                independent=independent_experts(model.experts, k, requests),
                reading=sum(read) / len(read),
                time_ns=sum(row[k - 1] for row in table),
                loss=sum(row[k - 1] for row in loss),
            )
        )
    return Assembled(instance, loads)


def requests_of(text: str) -> list[int]:
    """Read numbers of requests with commas between them.

    Raises
    ------
    InputError
        Something else, or a number twice.

    Examples
    --------
    >>> requests_of("1,8,64")
    [1, 8, 64]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 10**5 for part in parts):
        raise InputError(
            f"--requests: expected whole numbers from 1 to 100,000, with commas between them, found {text!r}"
        )
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--requests: a number stands there twice in {text!r}")
    return numbers


def numbered(name: str | None, requests: int, among: Sequence[int]) -> str | None:
    """Return the name of the instance of one load, where there are several.

    Raises
    ------
    InputError
        It is not of letters, digits and . _ + -.
    """
    if name is None:
        return None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise InputError(f"--name: expected letters, digits and . _ + - (it names a file), found {name!r}")
    return name if len(among) == 1 else f"{name}_b{requests:03}"


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9.+-]+", "-", text.lower()).strip("-")


def stem_of(path: str | os.PathLike[str]) -> str:
    """Return what of a trace's name goes into an instance's."""
    return _word(Path(path).name.partition(".")[0])
