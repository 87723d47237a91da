"""Solving with everything checked that must hold of every solution, slow instances, and a clock for solvers."""

from __future__ import annotations

from typing import Any

import numpy as np

import moeplace
from moeplace import Instance, Solution
from moeplace.base.stop import Stop


def solved(instance: Instance, method: str, **options: Any) -> Solution:
    """Solve and have everything checked that must hold of every solution."""
    solution = moeplace.solve(instance, method, **options)
    report = moeplace.check(instance, solution)
    assert report.ok, report.violations
    return solution


def assert_optimal(instance: Instance, method: str, optimum: int, **options: Any) -> Solution:
    solution = solved(instance, method, **options)
    objective, status = solution.objective, solution.status
    assert (objective.latency_ns, objective.bound_ns) == (optimum, optimum)
    assert (status.termination, status.solution) == ("optimal", "optimal")
    assert (objective.gap, objective.saving_ratio) == (0, 1)
    return solution


def assert_honest(instance: Instance, method: str, optimum: int, **options: Any) -> Solution:
    solution = solved(instance, method, **options)
    bound = solution.objective.bound_ns
    assert solution.objective.latency_ns >= optimum
    assert bound is None or bound <= optimum
    assert (solution.status.termination == "optimal") == (bound == solution.objective.latency_ns)
    return solution


def larger(seed: int = 0, users: int = 12, servers: int = 4, layers: int = 3, experts: int = 10) -> Instance:
    """An instance that takes seconds and more; unequal sizes, pairs to quadruples."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for d in range(users):
        for layer in range(layers):
            for _ in range(14):
                rows["demand"].append(d)
                rows["layer"].append(layer)
                rows["experts"].append(rng.permutation(experts)[: rng.integers(2, 5)].tolist())
                rows["count"].append(int(rng.integers(1, 100)))
    return Instance.from_document(
        {
            "format": "moeplace/instance",
            "version": 1,
            "name": "larger",
            "latency_model": "max",
            "models": [
                {
                    "name": "m",
                    "layers": layers,
                    "experts": experts,
                    "top_k": 4,
                    "expert_bytes": rng.integers(3, 6, layers).tolist(),
                }
            ],
            "servers": [{"name": f"s{n}", "capacity_bytes": 4 * experts} for n in range(servers)],
            "demands": [
                {
                    "user": f"u{d}",
                    "model": "m",
                    "tokens": 2000,
                    "device_ns": 0,
                    "server_ns": rng.integers(1000, 40_000, servers).tolist(),
                    "cloud_ns": 50_000,
                }
                for d in range(users)
            ],
            "activations": rows,
        }
    )


def choice(weights: list[int], rooms: int = 1, latency_model: str = "sum", per_row: int = 1) -> Instance:
    """One server with room for ``rooms`` experts; caching those of row ``i`` saves ``weights[i]`` of the cost."""
    n = len(weights) * per_row
    return Instance.from_document(
        {
            "format": "moeplace/instance",
            "version": 1,
            "name": "choice",
            "latency_model": latency_model,
            "models": [{"name": "m", "layers": 1, "experts": n, "top_k": per_row, "expert_bytes": 1}],
            "servers": [{"name": "s", "capacity_bytes": rooms}],
            "demands": [
                {"user": "u", "model": "m", "tokens": 2**63 - 1, "device_ns": 0, "server_ns": [0], "cloud_ns": 1}
            ],
            "activations": {
                "demand": [0] * len(weights),
                "layer": [0] * len(weights),
                "experts": [list(range(i * per_row, (i + 1) * per_row)) for i in range(len(weights))],
                "count": weights,
            },
        }
    )


class Behind(Stop):
    """Its clock says that there is time where the solver has none left."""

    @property
    def remaining(self) -> float | None:
        return 0.0

    @property
    def timed_out(self) -> bool:
        return False
