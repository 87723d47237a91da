"""An incumbent that begins without a decision, and the plain side of a proof that feeds it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import looped

from moeplace.base.errors import MethodError, NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop
from moeplace.layers.listed import ListedOracle
from moeplace.layers.oracle import Plans, finest
from moeplace.layers.primal import CostSide
from moeplace.layers.proof import LayerProof


def begun(limit: float | None = None) -> Incumbent:
    return Incumbent(None, cost=lambda d: d, fits=lambda d: d != 7, stop=Stop(limit), ceiling=10, gap=0.9)


def test_without_a_start() -> None:
    search = begun()
    assert search.ended is None
    search.prove(3, "somebody")
    assert search.ended is None, "there is no gap to anything yet"
    with pytest.raises(MethodError, match="no solution was found"):
        search.outcome()
    assert not search.offer(7)
    with pytest.raises(ValueError, match="not below the ceiling"):
        search.offer(10)
    assert search.offer(3)
    assert (search.outcome().placement, search.outcome().termination) == (3, "optimal")


def test_a_bound_at_the_ceiling_proves_that_there_is_none() -> None:
    for bound in (10, 11, 10**30):
        search = begun()
        search.prove(bound, "somebody")
        assert search.ended is not None
        with pytest.raises(NoSolutionError, match="proven by somebody"):
            search.outcome()
    search.offer(5)  # whoever said so was wrong
    assert search.bound_ns is None
    assert "no bound of it is taken" in search.failures[0]
    with pytest.raises(ValueError, match="ceiling"):
        Incumbent(None, cost=lambda d: d, fits=lambda d: True, stop=Stop())


@looped("scale", (1, 2, 3, None))
def test_a_scale_makes_prices_finer_and_changes_no_cost(scale: int | None) -> None:
    rng = np.random.default_rng(0)
    layers, budget = [], np.array([8 * 10**8])
    for _ in range(6):
        usage = np.concatenate(([0], rng.integers(1, 10**9, 5)))[:, None]
        layers.append(Plans(usage[:, 0] // 10**6 + rng.integers(0, 200, 6), usage, np.arange(6)[:, None]))
    reference = sum(int(layer.value.max()) for layer in layers)
    scale = scale or finest(reference)

    def parts(decision: tuple[int, ...]) -> list[tuple[int, int]]:
        return [(int(p.value[k]), int(p.usage[k, 0])) for p, k in zip(layers, decision, strict=True)]

    def cost(decision: tuple[int, ...]) -> int:
        return reference - sum(value for value, _ in parts(decision))

    def fits(decision: tuple[int, ...]) -> bool:
        return sum(used for _, used in parts(decision)) <= budget[0]

    search = Incumbent(None, cost=cost, fits=fits, stop=Stop(None), ceiling=reference + 1)
    side = CostSide(
        search, reference, len(layers), "layers", lambda codes: tuple(int(c[0]) for c in codes), scale=scale
    )
    oracles = [ListedOracle(Plans(p.value * scale, p.usage, p.code)) for p in layers]
    proof = LayerProof(oracles, budget, side)
    assert side.value == -1
    proof.run()
    assert search.latency_ns == search.bound_ns == min(map(cost, filter(fits, itertools.product(range(6), repeat=6))))
    assert proof.price.any() == (scale > 3)
    assert side.value // scale == reference - search.latency_ns


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="scale of at least 1, found 0"):
        CostSide(begun(), 0, 0, "layers", tuple, scale=0)
