"""The checker: trusts nobody, and shares with methods, solvers and evaluator only the instance it reads.

It reads the placement as names and numbers, applies the definitions of the formulation (section 1) to every expert of
every row, sums up in Python's integers, and compares every number that the solution states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from operator import mul
from typing import Any, ClassVar

import numpy as np
from msgspec import UNSET, UnsetType

from moeplace.base.certificates import AnyCertificate
from moeplace.caching.document import Demand
from moeplace.caching.instance import Instance
from moeplace.caching.solution import Solution
from moeplace.caching.verification import verify


@dataclass(frozen=True)
class Report:
    """What the checker found.

    Attributes
    ----------
    violations : tuple of str
        Everything that is wrong, one line each; empty for a valid solution.
    latency_ns : int or None
        The latency as recomputed, token-ns; None where the placement names unknown servers or experts, or a demand
        without a cloud cannot reach an expert.
    baseline_ns : int
        The latency with empty servers as recomputed, token-ns; without a cloud, from the farthest place.
    bound : str
        "none claimed", "claimed, not verified", or with a certificate: "verified, trusting nothing", "proven,
        trusting the word of" a solver, or "not proven by the certificate".
    proven_ns : int or None
        The bound that the certificate proves, token-ns; None without one, or where it proves none.
    trusted : str or None
        The solver whose word the certificate rests on; None where it rests on arithmetic alone.
    loading_ns : int or None
        What loading costs as recomputed, token-ns; None where it is free.
    """

    violations: tuple[str, ...]
    latency_ns: int | None
    baseline_ns: int
    bound: str
    proven_ns: int | None = None
    trusted: str | None = None
    loading_ns: int | None = None
    bound_key: ClassVar[str] = "bound_ns"
    """What the solution's bound is called beside the report's own numbers."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations

    @property
    def value(self) -> int | None:
        """The cost, by the name that all problems' reports have for it."""
        return None if self.latency_ns is None else self.latency_ns + (self.loading_ns or 0)

    @property
    def reference(self) -> int:
        """The cost with empty servers, likewise."""
        return self.baseline_ns

    def document(self) -> dict[str, Any]:
        """Return the report as a plain dict."""
        document = {
            "ok": self.ok,
            "violations": list(self.violations),
            "latency_ns": self.latency_ns,
            "baseline_ns": self.baseline_ns,
            "bound": self.bound,
            "proven_ns": self.proven_ns,
            "trusted": self.trusted,
        }
        return (
            document if self.loading_ns is None else document | {"loading_ns": self.loading_ns, "cost_ns": self.value}
        )


def check(instance: Instance, solution: Solution, certificate: AnyCertificate | None = None) -> Report:
    """Recompute everything a solution says.

    Parameters
    ----------
    instance : Instance
    solution : Solution
    certificate : Certificate, optional
        What proves the solution's bound; verified, too.

    Returns
    -------
    Report
        Every violated constraint and every wrong number, each one line.
    """
    wrong: list[str] = []
    if solution.instance.sha256 != instance.sha256:
        wrong.append(
            f"instance.sha256: the solution is for {solution.instance.sha256[:64]!r}, this is {instance.sha256}"
        )
    if solution.instance.name != instance.name:
        wrong.append(f"instance.name: the solution is for {solution.instance.name!r}, this is {instance.name!r}")
    holders = _read_placement(instance, solution, wrong)
    far = [_farthest(demand) for demand in instance.demands]
    active = _read_active(instance, solution, wrong)
    baseline = _latency(instance, {}, far, None)
    said = solution.objective
    latency = loading = cost = None
    if holders is not None:
        _check_slots(instance, holders, wrong)
        if _check_coverage(instance, holders, wrong) and (instance.active is None or active is not None):
            cost = latency = _latency(instance, holders, far, active)
            _equal("latency_ns", said.latency_ns, latency, wrong)
        loading = _loading(instance, holders)
        if loading is not None and latency is not None:
            cost = latency + loading
            _equal("loading_ns", said.loading_ns, loading, wrong)
            _equal("cost_ns", said.cost_ns, cost, wrong)
        elif loading is None:
            for name, value in (("loading_ns", said.loading_ns), ("cost_ns", said.cost_ns)):
                if value is not UNSET:
                    wrong.append(f"objective.{name}: the solution says {value}, but loading is free in this instance")
    _equal("baseline_ns", said.baseline_ns, baseline, wrong)
    _check_loss(instance, solution, active, wrong)
    if cost is not None:
        _check_numbers(solution, cost, baseline, wrong)
    claim = "none claimed" if said.bound_ns is None else "claimed, not verified"
    if certificate is None:
        return Report(tuple(wrong), latency, baseline, claim, loading_ns=loading)
    found = verify(instance, certificate)
    wrong += [f"certificate: {problem}" for problem in found.problems]
    proven = found.bound_ns
    if proven is not None and cost is not None and proven > cost:
        wrong.append(f"certificate: it proves the bound {proven}, but this placement costs {cost}")
    if proven is not None and said.bound_ns is not None and proven < said.bound_ns:
        wrong.append(f"certificate: it proves {proven}, not the bound {said.bound_ns} that the solution says")
    if said.bound_ns is not None:
        reached = found.ok and proven is not None and proven >= said.bound_ns
        known = "verified, trusting nothing"
        if found.trusted is not None:
            known = f"proven, trusting the word of {found.trusted!r}"
        claim = known if reached else "not proven by the certificate"
    return Report(tuple(wrong), latency, baseline, claim, proven, found.trusted, loading)


def _read_placement(instance: Instance, solution: Solution, wrong: list[str]) -> dict[int, set[int]] | None:
    """Return the servers that hold each item, or None where a name means nothing in this instance."""
    servers = {server.name: n for n, server in enumerate(instance.servers)}
    models = {model.name: m for m, model in enumerate(instance.models)}
    holders: dict[int, set[int]] = {}
    used = [0] * len(instance.servers)
    understood = True
    for i, part in enumerate(solution.placement):
        place = f"placement[{i}]"
        if part.server not in servers:
            wrong.append(f"{place}.server: the instance has no server {part.server!r}")
        if part.model not in models:
            wrong.append(f"{place}.model: the instance has no model {part.model!r}")
        if part.server not in servers or part.model not in models:
            understood = False
            continue
        n, model = servers[part.server], instance.models[models[part.model]]
        for j, (layer, expert) in enumerate(part.experts):
            if not (0 <= layer < model.layers and 0 <= expert < model.experts):
                size = f"{model.layers} layers of {model.experts} experts"
                wrong.append(f"{place}.experts[{j}]: no expert [{layer}, {expert}], {part.model!r} has {size}")
                understood = False
                continue
            item = _first_item(instance, models[part.model]) + layer * model.experts + expert
            if n in holders.setdefault(item, set()):
                wrong.append(f"{place}.experts[{j}]: [{layer}, {expert}] is on {part.server!r} already")
                continue
            holders[item].add(n)
            size_of = model.expert_bytes
            used[n] += size_of if isinstance(size_of, int) else size_of[layer]
    for n, server in enumerate(instance.servers):
        if used[n] > server.capacity_bytes:
            over = used[n] - server.capacity_bytes
            wrong.append(
                f"server {server.name!r}: {used[n]} bytes cached, {over} more than its capacity {server.capacity_bytes}"
            )
    return holders if understood else None


def _read_active(instance: Instance, solution: Solution, wrong: list[str]) -> dict[str, list[int]] | None:
    """Return the active experts of each layer by model, or None where nothing is open or they are not all there."""
    said = solution.active_experts
    if instance.active is None:
        if said is not UNSET:
            wrong.append("active_experts: the solution says some, but they are not open in this instance")
        return None
    if said is UNSET:
        wrong.append("active_experts: missing, how many experts each layer uses is open in this instance")
        return None
    before = len(wrong)
    models = {model.name: model for model in instance.models}
    wrong += [f"active_experts: the instance has no model {name!r}" for name in said if name not in models]
    for name, model in models.items():
        if name not in said:
            wrong.append(f"active_experts: nothing is said of {name!r}")
        elif len(said[name]) != model.layers:
            wrong.append(f"active_experts: {len(said[name])} numbers for the {model.layers} layers of {name!r}")
        else:
            wrong += [
                f"active_experts: {k} in layer {layer} of {name!r}, there can be 1 to {model.top_k}"
                for layer, k in enumerate(said[name])
                if not 1 <= k <= model.top_k
            ]
    return said if len(wrong) == before else None


def _check_loss(instance: Instance, solution: Solution, active: dict[str, list[int]] | None, wrong: list[str]) -> None:
    """Say where the layers lose more than they may, or another amount than is stated."""
    said = solution.objective
    if instance.active is None:
        for name, value in (("loss", said.loss), ("loss_budget", said.loss_budget)):
            if value is not UNSET:
                wrong.append(f"objective.{name}: the solution says {value}, but no experts are to be left out")
        return
    budget = instance.active.budget
    _equal("loss_budget", said.loss_budget, budget, wrong)
    if active is None:
        return
    lost = 0
    for name, numbers in active.items():
        for layer, k in enumerate(numbers):
            lost += instance.active.loss[name][layer][k - 1]
    _equal("loss", said.loss, lost, wrong)
    if lost > budget:
        wrong.append(f"active_experts: the layers lose {lost}, {lost - budget} more than the budget {budget}")


def _first_item(instance: Instance, model: int) -> int:
    return sum(m.layers * m.experts for m in instance.models[:model])


def _farthest(demand: Demand) -> int:
    """Return the time of a demand's cloud, or without one that of the farthest place an expert can be on."""
    if demand.cloud_ns is not None:
        return demand.cloud_ns
    times = [t for t in demand.server_ns if t is not None]
    if demand.device_experts:
        times.append(demand.device_ns)
    return max(times, default=0)


def _check_slots(instance: Instance, holders: dict[int, set[int]], wrong: list[str]) -> None:
    """Say where a server holds more experts of a layer than it has slots for."""
    counts: dict[tuple[int, str, int], int] = {}
    for m, model in enumerate(instance.models):
        first = _first_item(instance, m)
        for item in range(first, first + model.layers * model.experts):
            for n in holders.get(item, ()):
                key = n, model.name, (item - first) // model.experts
                counts[key] = counts.get(key, 0) + 1
    for (n, model_name, layer), count in sorted(counts.items()):
        server = instance.servers[n]
        if server.layer_slots is not UNSET and count > server.layer_slots:
            wrong.append(
                f"server {server.name!r}: {count} experts of layer {layer} of {model_name!r}, "
                f"{count - server.layer_slots} more than its {server.layer_slots} slots a layer"
            )


def _check_coverage(instance: Instance, holders: dict[int, set[int]], wrong: list[str]) -> bool:
    """Say which demands without a cloud cannot reach which experts; return whether all can."""
    complete = True
    for d, demand in enumerate(instance.demands):
        if demand.cloud_ns is not None:
            continue
        model = next(m for m, model in enumerate(instance.models) if model.name == demand.model)
        first, shape = _first_item(instance, model), instance.models[model]
        reach = {n for n, t in enumerate(demand.server_ns) if t is not None}
        device = {(layer, expert) for layer, expert in demand.device_experts or []}
        missing = [
            [layer, expert]
            for layer in range(shape.layers)
            for expert in range(shape.experts)
            if (layer, expert) not in device and not reach & holders.get(first + layer * shape.experts + expert, set())
        ]
        if missing:
            complete = False
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            shown = ", ".join(map(str, missing[:3]))
            wrong.append(f"demands[{d}]: it has no cloud, and no server within its reach holds {shown}{more}")
    return complete


def _loading(instance: Instance, holders: dict[int, set[int]]) -> int | None:
    """Return what loading the experts costs that their servers do not hold yet; None where no server has a rate."""
    if all(server.load_bytes_per_s is UNSET for server in instance.servers):
        return None
    weight = 1 if instance.loading is UNSET else instance.loading.weight
    total = 0
    for n, server in enumerate(instance.servers):
        if server.load_bytes_per_s is UNSET:
            continue
        there = {(holding.model, layer, expert) for holding in server.holds or [] for layer, expert in holding.experts}
        for m, model in enumerate(instance.models):
            first, sizes = _first_item(instance, m), model.expert_bytes
            for item in range(first, first + model.layers * model.experts):
                layer, expert = divmod(item - first, model.experts)
                if n in holders.get(item, ()) and (model.name, layer, expert) not in there:
                    size = sizes if isinstance(sizes, int) else sizes[layer]
                    total += weight * math.ceil(Fraction(size * 10**9, server.load_bytes_per_s))
    return total


def _latency(
    instance: Instance, holders: dict[int, set[int]], far: list[int], active: dict[str, list[int]] | None
) -> int:
    """Sum of count * latency over the rows, by the definition; ``far`` is the cloud's time.

    All experts of all rows side by side, one server after the other. A row waits for its first experts only, where it
    is said how many are active. No time is above ``far``, so that a row's latency is at most what the baseline has for
    it, which fits in 63 bits; what they sum to is added up in Python's integers.
    """
    rows = instance.rows
    if not len(rows):
        return 0
    item, begin = rows.item, rows.start[:-1]
    demand = np.repeat(rows.demand, np.diff(rows.start))
    time = np.array(far, dtype=np.int64)[demand]
    for n, times in enumerate(instance.server_ns.T):
        held = np.zeros(instance.n_items, dtype=np.bool_)
        held[[i for i, servers in holders.items() if n in servers]] = True
        (there,) = held[item].nonzero()
        # Out of reach is the largest number of all.
        time[there] = np.minimum(time[there], times[demand[there]])
    if len(instance.device_item):
        on_device = instance.device_demand.astype(np.int64) * instance.n_items + instance.device_item
        (there,) = np.isin(demand.astype(np.int64) * instance.n_items + item, on_device).nonzero()
        time[there] = np.minimum(time[there], instance.device_ns[demand[there]])
    if active is not None:
        number = np.array([k for model in instance.models for k in active[model.name]], dtype=np.int64)
        layer = np.repeat(np.arange(len(number)), [m.experts for m in instance.models for _ in range(m.layers)])
        rank = np.arange(len(item)) - np.repeat(begin, np.diff(rows.start))
        time[rank >= number[layer[item]]] = 0
    latency = (np.maximum if instance.latency_model == "max" else np.add).reduceat(time, begin)
    return sum(map(mul, rows.count.tolist(), latency.tolist()))


def _check_numbers(solution: Solution, cost: int, baseline: int, wrong: list[str]) -> None:
    said, bound = solution.objective, solution.objective.bound_ns
    if bound is None:
        for name, value in (
            ("objective.gap", said.gap),
            ("objective.saving_ratio", said.saving_ratio),
            ("bound_source", solution.bound_source),
        ):
            if value is not None:
                wrong.append(f"{name}: {value!r} is stated without a bound")
        if solution.status.solution == "optimal" or solution.status.termination == "optimal":
            wrong.append("status: called optimal without a bound")
        return
    if bound < 0:
        wrong.append(f"objective.bound_ns: {bound} is negative")
        return
    if bound > cost:
        wrong.append(f"objective.bound_ns: the bound {bound} is above the placement's own cost {cost}")
        return
    true_gap = 0.0 if bound == cost else (cost - bound) / cost
    true_ratio = 1.0 if baseline == bound else (baseline - cost) / (baseline - bound)
    _close("gap", said.gap, true_gap, wrong)
    _close("saving_ratio", said.saving_ratio, true_ratio, wrong)
    optimal = bound == cost
    if (solution.status.solution == "optimal") != optimal:
        state = "equal" if optimal else "not equal"
        wrong.append(f"status.solution: {solution.status.solution!r}, but cost and bound are {state}")
    if solution.status.termination == "optimal" and not optimal:
        wrong.append("status.termination: 'optimal', but cost and bound are not equal")


def _equal(name: str, said: int | UnsetType, true: int, wrong: list[str]) -> None:
    if said != true:
        shown = "nothing" if said is UNSET else said
        wrong.append(f"objective.{name}: the solution says {shown}, recomputed {true}")


def _close(name: str, said: float | None, true: float, wrong: list[str]) -> None:
    # Other programs may print fewer digits than Python does.
    if said is None or not math.isclose(said, true, rel_tol=1e-9):
        wrong.append(f"objective.{name}: the solution says {said}, recomputed {true}")
