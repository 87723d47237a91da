"""Placements as scripts and serving engines read them.

Engines with expert parallelism count slots: a row of a layer says which expert each slot holds, rank ``r`` (the r-th
server of the instance) owns slots ``[r * S, (r + 1) * S)``, every rank has the same ``S`` at every layer, and every
expert stands somewhere. Placements that are not so are refused, or their free slots are filled.

The engines' formats are as their sources and open pull requests had them in November 2026:

- SGLang: ``python/sglang/srt/eplb/expert_location.py`` (``--init-expert-location``);
- vLLM: pull requests 41141 (``eplb_config.initial_mapping_path``) and 49572 (``eplb_config.initial_expert_map_path``),
  both open;
- vLLM Ascend: ``expert_map_path``;
- TensorRT-LLM: ``MoeLoadBalancerConfig`` (``load_balancer`` of the MoE configuration).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.errors import InputError
from moeplace.base.text import as_csv, number
from moeplace.caching.document import layer_bytes
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.reading import NO_LIMIT

FILL: Final = "--fill fills free slots"


@dataclass(frozen=True)
class Numbering:
    """The model's own numbers of an instance's layers.

    Attributes
    ----------
    numbers : sequence of int
        Of each layer of the instance, rising.
    hidden_layers : int
        Layers of the model, those without experts too.
    """

    numbers: Sequence[int]
    hidden_layers: int


@dataclass(frozen=True)
class Files:
    """A placement in one of the formats.

    Attributes
    ----------
    contents : dict
        The whole file under "" or, where every server has one, under the server's name.
    slots : int or None
        Slots of a server at a layer; None where the format has none.
    redundant : int
        Slots of a layer, on all servers, beyond one for each expert: what an engine is started with.
    added : int
        Slots that were free and were filled.
    hidden_layers : int or None
        Layers that have a row, those without experts too; None where the format has no such rows.
    """

    contents: Mapping[str, bytes]
    slots: int | None = None
    redundant: int = 0
    added: int = 0
    hidden_layers: int | None = None


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes
    ----------
    title : str
        Who reads it, and its version.
    write : callable or None
        Of slots int array [layers, servers, S], numbering and number of experts; None where a format has no slots.
    ending : str
        What the file's name must end in, empty for anything.
    own_numbers : bool
        Whether layers go by the model's own numbers; else layers with experts are counted from 0.
    """

    title: str
    write: Callable[[Int64, Numbering, int], str] | None = None
    ending: str = ""
    own_numbers: bool = True


def render(
    instance: Instance,
    placement: Placement,
    name: str,
    *,
    model: str | None = None,
    fill: bool = False,
    numbering: Numbering | None = None,
) -> Files:
    """Bring a placement into a format.

    Parameters
    ----------
    instance : Instance
    placement : Placement
        Fits the instance.
    name : str
        One of :data:`FORMATS`.
    model : str, optional
        Which model's experts; may be left out where there is one, and for ``csv`` (all).
    fill : bool
        Fill free slots: first with experts that are on no server, then by use (the tokens of an expert at its layer,
        divided by its copies), each time on the server with the most free slots that lacks the expert.
    numbering : Numbering, optional
        Of the model; left out, the instance's ``layer_index``, and no layer after the last one that it names.

    Returns
    -------
    Files

    Raises
    ------
    InputError
        Which model is not clear, or there is none of that name; unequal slots or a missing expert (which, and where);
        filled slots would need more than a server's capacity; an option that the format does not take.
    """
    form = FORMATS[name]
    if form.write is None and fill:
        raise InputError(f"the format {name} has no slots to fill", place="--fill")
    if name == "csv" and model is None and numbering is None:
        chosen = list(range(len(instance.models)))
    else:
        chosen = [find_model(instance, model)]
    numberings = [numbering or _numbering(instance, m) for m in chosen]
    if name == "csv":
        return Files({"": _csv(instance, placement, chosen, numberings)})
    if form.write is None:
        return Files(_pins(instance, placement, chosen[0], numberings[0]))
    held, added = _equal_slots(instance, placement, chosen[0], numberings[0], fill)
    layers, servers, experts = held.shape
    slots = np.nonzero(held)[2].reshape(layers, servers, -1)
    text = form.write(slots, numberings[0], experts)
    hidden_layers = numberings[0].hidden_layers if name == "sglang" else None
    return Files({"": f"{text}\n".encode()}, slots.shape[2], servers * slots.shape[2] - experts, added, hidden_layers)


def find_model(instance: Instance, name: str | None) -> int:
    """Return the model of a name, or the only one.

    Raises
    ------
    InputError
        There is none of that name, or several and no name.
    """
    names = [model.name for model in instance.models]
    if name is not None:
        if name not in names:
            raise InputError(f"the instance has no model {name!r}; there are {', '.join(names)}", place="--model")
        return names.index(name)
    if len(names) != 1:
        here = f"the instance has {number(len(names), 'model')}, one must be chosen: {', '.join(names)}"
        raise InputError(here, place="--model")
    return 0


def _numbering(instance: Instance, m: int) -> Numbering:
    numbers = instance.models[m].numbers
    return Numbering(numbers, numbers[-1] + 1)


def _held(instance: Instance, placement: Placement, m: int) -> Bool:
    """Return what each server holds of a model, bool [layers, servers, experts]."""
    model = instance.models[m]
    held = placement.cached[:, instance.model_items(m)].reshape(-1, model.layers, model.experts)
    return held.swapaxes(0, 1).copy()


def _csv(instance: Instance, placement: Placement, models: Sequence[int], numberings: Sequence[Numbering]) -> bytes:
    held = [_held(instance, placement, m) for m in models]
    rows = (
        {
            "server": server.name,
            "model": instance.models[m].name,
            "layer": numbering.numbers[layer],
            "expert": expert,
            "bytes": layer_bytes(instance.models[m])[layer],
        }
        for n, server in enumerate(instance.servers)
        for m, numbering, own in zip(models, numberings, held, strict=True)
        for layer, expert in zip(*(axis.tolist() for axis in np.nonzero(own[:, n])), strict=True)
    )
    return as_csv(["server", "model", "layer", "expert", "bytes"], rows)


def _pins(instance: Instance, placement: Placement, m: int, numbering: Numbering) -> dict[str, bytes]:
    held = _held(instance, placement, m)
    files = {}
    for n, server in enumerate(instance.servers):
        pairs = [[numbering.numbers[layer], expert] for layer, expert in np.argwhere(held[:, n]).tolist()]
        files[server.name] = f"{json.dumps({'pin': pairs})}\n".encode()
    return files


def _equal_slots(
    instance: Instance, placement: Placement, m: int, numbering: Numbering, fill: bool
) -> tuple[Bool, int]:
    """Return what each server holds, the same number everywhere, and how many slots were filled for that."""
    held = _held(instance, placement, m)
    if not held.shape[1]:
        raise InputError("the instance has no server")
    before = int(held.sum())
    if fill:
        _fill(held, _use(instance, m), _most_slots(instance, placement, m))
        _check_room(instance, placement, m, held)
    count = held.sum(axis=2)
    if (uneven := np.argwhere(count != count[0, 0])).size:
        layer, n = uneven[0].tolist()

        def said(layer: int, n: int) -> str:
            own = number(int(count[layer, n]), "expert")
            return f"{own} of layer {numbering.numbers[layer]} on server {instance.servers[n].name!r}"

        slots = "an engine has the same number of slots on every server and layer"
        raise InputError(f"unequal slots: {said(0, 0)}, {said(layer, n)}; {slots} ({FILL})")
    if (absent := np.argwhere(~held.any(axis=1))).size:
        layer, expert = absent[0].tolist()
        more = f", nor are {len(absent) - 1} others" if len(absent) > 1 else ""
        where = f"expert {expert} of layer {numbering.numbers[layer]} is on no server{more}"
        raise InputError(f"{where}; an engine needs every expert ({FILL})")
    return held, int(held.sum()) - before


def _use(instance: Instance, m: int) -> Int64:
    """Return the tokens of every expert, int64 [layers, experts]."""
    rows, model = instance.rows, instance.models[m]
    use = np.zeros(instance.n_items, dtype=np.int64)
    np.add.at(use, rows.item, np.repeat(rows.count, np.diff(rows.start)))
    return use[instance.model_items(m)].reshape(model.layers, model.experts)


def _most_slots(instance: Instance, placement: Placement, m: int) -> int:
    """Return how many slots a layer every server has by ``layer_slots``, where it has bytes for them; 0 without any.

    These are there whether they are used or not, so they are filled. Slots of which there are more than experts, and
    those that a server has no bytes for, are none.
    """
    limit = min(int(instance.layer_slots.min(initial=NO_LIMIT)), instance.models[m].experts)
    if (instance.layer_slots == NO_LIMIT).all():
        return 0
    items = instance.model_items(m)
    others = placement.cached.copy()
    others[:, items] = False
    free = [
        capacity - used
        for capacity, used in zip(instance.capacity_bytes.tolist(), Placement(others).bytes_used(instance), strict=True)
    ]
    return max(0, min(limit, min(int(room) for room in free) // sum(layer_bytes(instance.models[m]))))


def _fill(held: Bool, use: Int64, slots: int) -> None:
    """Fill free slots in place.

    There are as many slots as are said, and at least as many as the fullest server and layer has, more only where the
    experts would not all find room.
    """
    count = held.sum(axis=2)
    absent = (~held.any(axis=1)).sum(axis=1)
    slots = int(max(slots, count.max(), (-(-(count.sum(axis=1) + absent) // held.shape[1])).max()))
    for layer, own in enumerate(held):
        free = slots - count[layer]
        copies = own.sum(axis=0).tolist()
        tokens = use[layer].tolist()

        def rank(expert: int, copies: list[int] = copies, tokens: list[int] = tokens) -> tuple[bool, Fraction, int]:
            return copies[expert] > 0, -Fraction(tokens[expert], max(copies[expert], 1)), expert

        queue = [rank(expert) for expert in range(own.shape[1])]
        heapq.heapify(queue)
        while free.any():
            expert = heapq.heappop(queue)[2]
            room = np.where(own[:, expert], 0, free)
            if not room.any():
                continue  # every server with a free slot has it, and will
            n = int(np.argmax(room))
            own[n, expert] = True
            free[n] -= 1
            copies[expert] += 1
            heapq.heappush(queue, rank(expert))


def _check_room(instance: Instance, placement: Placement, m: int, held: Bool) -> None:
    cached = placement.cached.copy()
    cached[:, instance.model_items(m)] = held.swapaxes(0, 1).reshape(len(instance.servers), -1)
    filled = Placement(cached)
    for n, _, _ in filled.crowded(instance):
        server, slots = instance.servers[n], number(int(held[0, 0].sum()), "slot")
        raise InputError(
            f"an engine has the same number of slots everywhere; {slots} a layer are needed, server {server.name!r} "
            f"has {server.layer_slots}",
            place="--fill",
        )
    used = filled.bytes_used(instance).tolist()
    for server, needed in zip(instance.servers, used, strict=True):
        if needed > server.capacity_bytes:
            slots = f"{number(int(held[0, 0].sum()), 'slot')} a layer"
            raise InputError(
                f"with {slots} server {server.name!r} needs {needed:,} bytes, its capacity is "
                f"{server.capacity_bytes:,}: its free slots cannot be filled",
                place="--fill",
            )


def _rows(slots: Int64) -> list[list[int]]:
    rows: list[list[int]] = slots.reshape(len(slots), -1).tolist()
    return rows


def _sglang(slots: Int64, numbering: Numbering, experts: int) -> str:
    # Layers without experts have a row too, which nothing reads: experts in order, as SGLang's own "trivial" map.
    width = slots.shape[1] * slots.shape[2]
    table = [[slot % experts for slot in range(width)] for _ in range(numbering.hidden_layers)]
    for layer, row in zip(numbering.numbers, _rows(slots), strict=True):
        table[layer] = row
    return json.dumps({"physical_to_logical_map": table})


def _vllm(slots: Int64, numbering: Numbering, experts: int) -> str:
    width = slots.shape[1] * slots.shape[2]
    record = {
        "record_type": "eplb_initial_mapping",
        "version": 1,
        "num_redundant_experts": width - experts,
        "num_slots": width,
        "initial_global_assignments": {str(layer): row for layer, row in enumerate(_rows(slots))},
    }
    return json.dumps(record)


def _vllm_map(slots: Int64, numbering: Numbering, experts: int) -> str:
    return json.dumps(_rows(slots))


def _vllm_ascend(slots: Int64, numbering: Numbering, experts: int) -> str:
    layers = [
        {
            "layer_id": layer,
            "device_count": len(devices),
            "device_list": [{"device_id": d, "device_expert": own} for d, own in enumerate(devices)],
        }
        for layer, devices in enumerate(slots.tolist())
    ]
    return json.dumps({"moe_layer_count": len(layers), "layer_list": layers})


def _tensorrt_llm(slots: Int64, numbering: Numbering, experts: int) -> str:
    lines = [f"num_slots: {slots.shape[1] * slots.shape[2]}", "initial_global_assignments:"]
    lines += [f"  {layer}: {row}" for layer, row in zip(numbering.numbers, _rows(slots), strict=True)]
    return "\n".join([*lines, "layer_updates_per_iter: 0"])


FORMATS: Final[dict[str, Format]] = {
    "csv": Format("a table server, model, layer, expert, bytes"),
    "pin": Format("one JSON a server"),
    "sglang": Format("SGLang, --init-expert-location (main, November 2026)", _sglang, ".json"),
    "vllm": Format("vLLM, eplb_config.initial_mapping_path (pull request 41141)", _vllm, own_numbers=False),
    "vllm-map": Format("vLLM, eplb_config.initial_expert_map_path (pull request 49572)", _vllm_map, own_numbers=False),
    "vllm-ascend": Format("vLLM Ascend, expert_map_path (main, November 2026)", _vllm_ascend, ".json", False),
    "tensorrt-llm": Format("TensorRT-LLM, load_balancer (main, November 2026)", _tensorrt_llm),
}
"""The formats by their names."""
