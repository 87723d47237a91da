"""The checker: trusts nobody, and shares with methods, solvers and evaluator only the instance it reads.

It reads the placement as names and numbers, applies the definitions of the formulation (section 1) row by row
in Python's integers, and compares every number that the solution states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from moeplace.base.certificates import Certificate
from moeplace.base.documents import UNREACHABLE
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
        The cost as recomputed, token-ns; None where the placement names unknown servers or experts.
    baseline_ns : int
        The cost with empty servers as recomputed, token-ns.
    bound : str
        "none claimed", "claimed, not verified", or with a certificate: "verified, trusting nothing", "proven,
        trusting the word of" a solver, or "not proven by the certificate".
    proven_ns : int or None
        The bound that the certificate proves, token-ns; None without one, or where it proves none.
    trusted : str or None
        The solver whose word the certificate rests on; None where it rests on arithmetic alone.
    """

    violations: tuple[str, ...]
    latency_ns: int | None
    baseline_ns: int
    bound: str
    proven_ns: int | None = None
    trusted: str | None = None
    bound_key: ClassVar[str] = "bound_ns"
    """What the solution's bound is called beside the report's own numbers."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations

    @property
    def value(self) -> int | None:
        """The cost, by the name that all problems' reports have for it."""
        return self.latency_ns

    @property
    def reference(self) -> int:
        """The cost with empty servers, likewise."""
        return self.baseline_ns

    def document(self) -> dict[str, Any]:
        """Return the report as a plain dict."""
        return {
            "ok": self.ok,
            "violations": list(self.violations),
            "latency_ns": self.latency_ns,
            "baseline_ns": self.baseline_ns,
            "bound": self.bound,
            "proven_ns": self.proven_ns,
            "trusted": self.trusted,
        }


def check(instance: Instance, solution: Solution, certificate: Certificate | None = None) -> Report:
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
    baseline = _cost(instance, {})
    cost = None if holders is None else _cost(instance, holders)
    said = solution.objective
    if cost is not None:
        _equal("latency_ns", said.latency_ns, cost, wrong)
    _equal("baseline_ns", said.baseline_ns, baseline, wrong)
    if cost is not None:
        _check_numbers(solution, cost, baseline, wrong)
    claim = "none claimed" if said.bound_ns is None else "claimed, not verified"
    if certificate is None:
        return Report(tuple(wrong), cost, baseline, claim)
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
    return Report(tuple(wrong), cost, baseline, claim, proven, found.trusted)


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


def _first_item(instance: Instance, model: int) -> int:
    return sum(m.layers * m.experts for m in instance.models[:model])


def _cost(instance: Instance, holders: dict[int, set[int]]) -> int:
    """Sum of count * latency over the rows, by the definition, in Python's integers."""
    slowest = instance.latency_model == "max"
    device: list[set[int]] = [set() for _ in instance.demands]
    for d, item in zip(instance.device_demand.tolist(), instance.device_item.tolist(), strict=True):
        device[d].add(item)
    times = instance.server_ns.tolist()
    device_ns, cloud_ns = instance.device_ns.tolist(), instance.cloud_ns.tolist()
    rows = instance.rows
    demand, count, start, items = (
        rows.demand.tolist(),
        rows.count.tolist(),
        rows.start.tolist(),
        rows.item.tolist(),
    )
    known: list[dict[int, int]] = [{} for _ in instance.demands]
    total = 0
    for i, d in enumerate(demand):
        reach = known[d]
        latency = 0
        for item in items[start[i] : start[i + 1]]:
            time = reach.get(item)
            if time is None:
                choices = [cloud_ns[d]]
                choices += [times[d][n] for n in holders.get(item, ()) if times[d][n] != UNREACHABLE]
                if item in device[d]:
                    choices.append(device_ns[d])
                time = reach[item] = min(choices)
            if not slowest:
                latency += time
            elif time > latency:
                latency = time
        total += count[i] * latency
    return total


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


def _equal(name: str, said: int, true: int, wrong: list[str]) -> None:
    if said != true:
        wrong.append(f"objective.{name}: the solution says {said}, recomputed {true}")


def _close(name: str, said: float | None, true: float, wrong: list[str]) -> None:
    # Other programs may print fewer digits than Python does.
    if said is None or not math.isclose(said, true, rel_tol=1e-9):
        wrong.append(f"objective.{name}: the solution says {said}, recomputed {true}")
