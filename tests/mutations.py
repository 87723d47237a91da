"""Wrong solutions made from a right one: what the checker must reject, each with where it must say so."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from moeplace import Instance, Solution
from moeplace.base.documents import parse


class Mutation(NamedTuple):
    what: str
    solution: Solution
    place: str
    """Part of the line that the checker must print."""


def mutations(instance: Instance, solution: Solution) -> Iterator[Mutation]:
    """Yield solutions with one thing changed; the given one must be valid and have a bound."""
    cost, bound, baseline = (
        getattr(solution.objective, key) for key in ("latency_ns", "bound_ns", "baseline_ns")
    )  # fmt: skip
    optimal = bound == cost

    def changed(what: str, place: str, *path_and_value: Any) -> Mutation:
        *path, last, value = path_and_value
        document = copy.deepcopy(solution.document())
        target: Any = document
        for step in path:
            target = target[step]
        target[last] = value
        return Mutation(what, parse(document, Solution), place)

    yield changed("another hash", "instance.sha256:", "instance", "sha256", "0" * 64)
    yield changed("another instance", "instance.name:", "instance", "name", instance.name + "'")
    for by in (-1, 1, 10**12):
        yield changed(f"cost {by:+}", "objective.latency_ns:", "objective", "latency_ns", cost + by)
        yield changed(f"baseline {by:+}", "objective.baseline_ns:", "objective", "baseline_ns", baseline + by)
    yield changed("negative bound", "objective.bound_ns:", "objective", "bound_ns", -1)
    yield changed("bound above cost", "objective.bound_ns:", "objective", "bound_ns", cost + 1)
    if optimal and cost:
        yield changed("bound below cost, called optimal", "status.solution:", "objective", "bound_ns", cost - 1)
        yield changed("gap of a bound below", "objective.gap:", "objective", "bound_ns", cost - 1)
    yield changed("bound taken away", "objective.gap:", "objective", "bound_ns", None)
    yield changed("bound taken away", "objective.saving_ratio:", "objective", "bound_ns", None)
    if solution.bound_source is not None:
        yield changed("bound taken away", "bound_source:", "objective", "bound_ns", None)
    if optimal:
        yield changed("optimal without a bound", "status:", "objective", "bound_ns", None)
    for key in ("gap", "saving_ratio"):
        value = getattr(solution.objective, key)
        for other in (None, value + 1e-6, value - 1e-6, 0.5 if value != 0.5 else 0.25, float("nan"), float("inf")):
            yield changed(f"{key} {other}", f"objective.{key}:", "objective", key, other)
    other = "feasible" if optimal else "optimal"
    yield changed(f"called {other}", "status.solution:", "status", "solution", other)
    if not optimal:
        yield changed("ended as optimal", "status.termination:", "status", "termination", "optimal")
    yield from _placements(instance, solution)


def _placements(instance: Instance, solution: Solution) -> Iterator[Mutation]:
    parts = solution.document()["placement"]

    def placed(what: str, place: str, placement: Any) -> Mutation:
        return Mutation(what, parse({**solution.document(), "placement": placement}, Solution), place)

    if parts and solution.objective.latency_ns != solution.objective.baseline_ns:
        yield placed("emptied", "objective.latency_ns:", [])
    for p, part in enumerate(parts):
        server, model, experts = part["server"], part["model"], part["experts"]

        def with_part(what: str, place: str, /, p: int = p, part: Any = part, **change: Any) -> Mutation:
            return placed(what, place, [*parts[:p], {**part, **change}, *parts[p + 1 :]])

        yield with_part("unknown server", f"placement[{p}].server:", server=server + "?")
        yield with_part("unknown model", f"placement[{p}].model:", model=model + "?")
        (m,) = (m for m in instance.models if m.name == model)
        for e, (layer, expert) in enumerate(experts):
            for wrong in ([m.layers, expert], [layer, m.experts], [2**40, 2**40]):
                place = f"placement[{p}].experts[{e}]:"
                yield with_part("no such expert", place, experts=[*experts[:e], wrong, *experts[e + 1 :]])
            place = f"placement[{p}].experts[{len(experts)}]:"
            yield with_part("pair twice", place, experts=[*experts, [layer, expert]])
        yield placed("part twice", f"placement[{len(parts)}].experts[0]:", [*parts, part])
    everything = [
        {
            "server": server.name,
            "model": model.name,
            "experts": [[layer, e] for layer in range(model.layers) for e in range(model.experts)],
        }
        for server in instance.servers
        for model in instance.models
    ]
    total = int(instance.item_bytes.sum())
    for server in instance.servers:
        if total > server.capacity_bytes:
            yield placed("over capacity", f"server {server.name!r}: {total} bytes cached", everything)
