"""Compiling the inner loops before they are timed: what uses them is run once, on instances of a few rows.

    python -m moeplace.caching.compiling

compiles those that are not yet there, as the set-up scripts do.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from moeplace.base.compiled import uncompiled
from moeplace.base.stop import Stop
from moeplace.caching.bounds.by_layers import CachingLayers
from moeplace.caching.bounds.concave import ConcaveBound
from moeplace.caching.heuristics.column_search import ColumnSearch
from moeplace.caching.instance import Instance
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent

SERVERS, LAYERS, EXPERTS, USERS, TOKENS = 3, 2, 6, 4, 12
CHECKPOINTS = 20
"""Of the concave bound: a few of its ascent, whose points are averaged."""


def compile_loops(modules: Sequence[str], say: Callable[[], None] | None = None) -> None:
    """Compile the inner loops of some modules.

    Parameters
    ----------
    modules : sequence of str
        Imported already; those that are not among :data:`RUNS` are passed over.
    say : callable, optional
        Called before, unless all are.
    """
    runs = [RUNS[name] for name in modules if name in RUNS]
    if runs and say is not None:
        say()
    for run in dict.fromkeys(runs):
        for instance in _instances():
            run(instance)


def _instances() -> Iterator[Instance]:
    """Yield instances with experts of two sizes and of one, and one whose experts come one after the other."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for demand, layer, _ in itertools.product(range(USERS), range(LAYERS), range(TOKENS)):
        rows["demand"].append(demand)
        rows["layer"].append(layer)
        rows["experts"].append(sorted(rng.permutation(EXPERTS)[:2].tolist()))
        rows["count"].append(1)
    for latency_model, sizes in (("max", [3, 5]), ("max", 4), ("sum", 4)):
        yield Instance.from_document(
            {
                "format": "moeplace/instance",
                "version": 1,
                "name": "inner loops",
                "latency_model": latency_model,
                "models": [{"name": "m", "layers": LAYERS, "experts": EXPERTS, "top_k": 2, "expert_bytes": sizes}],
                "servers": [{"name": f"s{n}", "capacity_bytes": 12} for n in range(SERVERS)],
                "demands": [
                    {
                        "user": f"u{u}",
                        "model": "m",
                        "tokens": TOKENS,
                        "device_ns": 0,
                        "server_ns": rng.integers(1, 80, SERVERS).tolist(),
                        "cloud_ns": 100,
                    }
                    for u in range(USERS)
                ],
                "activations": rows,
            }
        )


def _search(instance: Instance) -> None:
    search = caching_incumbent(instance, Stop())
    columns = ColumnSearch(saving_form(instance), search, seed=0, started=False, enumerated=4)
    columns.begin()
    columns.improve(1)


def _layers(instance: Instance) -> None:
    CachingLayers(saving_form(instance), caching_incumbent(instance, Stop()), 1).proof().run()


def _concave(instance: Instance) -> None:
    left = iter(range(CHECKPOINTS))
    ConcaveBound(saving_form(instance)).improve(lambda: next(left, None) is None)


RUNS: dict[str, Callable[[Instance], None]] = {
    "moeplace.caching._kernels": _search,
    "moeplace.caching.bounds._layer_kernels": _layers,
    "moeplace.layers._merge_kernels": _layers,
    "moeplace.caching.bounds._concave_kernels": _concave,
}
"""What runs the loops of each module."""


if __name__ == "__main__":
    for name in RUNS:
        importlib.import_module(name)
    compile_loops(uncompiled(RUNS))
