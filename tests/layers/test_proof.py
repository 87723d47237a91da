"""The engine of layers, on random multiple-choice knapsacks with several budgets: it needs to know no problem."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from moeplace.base.arrays import Int64
from moeplace.layers.listed import ListedOracle
from moeplace.layers.oracle import Plans
from moeplace.layers.proof import LayerProof, Tuning

NOTHING = -(10**6)


class Ledger:
    """The primal side of a proof, which keeps everything that it is told; without a plan to begin with."""

    def __init__(self, layers: Sequence[Plans], budget: Int64, looks: int = 10**9) -> None:
        self.layers, self.budget, self.looks = layers, budget, looks
        self.value, self.best, self.uppers = NOTHING, None, []
        self.rejected = 0

    def stop(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def prove(self, upper: int) -> None:
        self.uppers.append(upper)

    def known(self) -> list[list[Int64]]:
        return [[] for _ in self.layers]

    def offer(self, codes: Sequence[Int64]) -> bool:
        rows = [int(code[0]) for code in codes]
        usage = np.sum([layer.usage[r] for layer, r in zip(self.layers, rows, strict=True)], axis=0)
        assert np.all(usage <= self.budget), "the engine offers only what fits"
        value = sum(int(layer.value[r]) for layer, r in zip(self.layers, rows, strict=True))
        if value <= self.value:
            return False
        self.value, self.best = value, rows
        return True

    def repair(self, codes: Sequence[Int64]) -> None:
        assert len(codes) == len(self.layers)

    def polish(self) -> None:
        assert self.best is not None


def drawn(rng: np.random.Generator) -> tuple[list[Plans], Int64]:
    """Draw layers and budgets; sometimes nothing fits, values may be negative."""
    budgets = int(rng.integers(1, 4))
    layers = []
    for _ in range(int(rng.integers(1, 5))):
        count = int(rng.integers(1, 6))
        usage = rng.integers(0, 8, (count, budgets))
        value = rng.integers(-20, 60, count) + 3 * usage.sum(axis=1)
        layers.append(Plans(value, usage, np.arange(count)[:, None]))
    return layers, rng.integers(0, 6 * len(layers), budgets)


def optimum(layers: list[Plans], budget: Int64) -> int | None:
    fitting = [
        sum(int(layer.value[i]) for layer, i in zip(layers, pick, strict=True))
        for pick in itertools.product(*(range(len(layer)) for layer in layers))
        if np.all(np.sum([layer.usage[i] for layer, i in zip(layers, pick, strict=True)], axis=0) <= budget)
    ]
    return max(fitting, default=None)


def test_proof_equals_brute_force() -> None:
    infeasible = 0
    for seed in range(300):
        layers, budget = drawn(np.random.default_rng(seed))
        best, side = optimum(layers, budget), Ledger(layers, budget)
        proof = LayerProof([ListedOracle(layer) for layer in layers], budget, side, threads=1 + seed % 2)
        proof.run()
        assert side.uppers == sorted(side.uppers, reverse=True), seed
        if best is None:
            infeasible += 1
            assert side.best is None, seed
            assert proof.upper <= NOTHING, f"seed {seed}: it is not proven that nothing fits"
        else:
            assert (side.value, proof.upper) == (best, best), seed
    assert 10 < infeasible < 200


def test_every_limit_at_a_tiny_value_proves_nothing_false() -> None:
    tiny = {
        "schedule": (), "later": (), "retune": (), "worthwhile": 1.0, "every": 1, "rounds": 1, "stalled": 1, "nodes": 1,
        "few_nodes": 1, "most_plans": 1, "first_states": 2, "few_states": 2, "few_plans": 1,
    }  # fmt: skip
    fields = {f.name for f in dataclasses.fields(Tuning)} - {"merging"}
    assert fields == set(tiny)
    for name, value in tiny.items():
        tuning = dataclasses.replace(Tuning(), **{name: value})
        for seed in range(40):
            layers, budget = drawn(np.random.default_rng(seed))
            best, side = optimum(layers, budget), Ledger(layers, budget)
            LayerProof([ListedOracle(layer) for layer in layers], budget, side, tuning=tuning).run()
            if best is not None:
                assert min(side.uppers) >= best >= side.value, (name, seed)


def test_it_stops_at_any_look_with_a_true_bound() -> None:
    for seed in range(4):
        layers, budget = drawn(np.random.default_rng(seed))
        best = optimum(layers, budget)
        for looks in range(25):
            side = Ledger(layers, budget, looks)
            LayerProof([ListedOracle(layer) for layer in layers], budget, side).run()
            assert best is None or min(side.uppers) >= best >= side.value, (seed, looks)


def test_an_oracle_that_claims_too_little_is_found_out() -> None:
    """A wrong oracle makes a wrong proof: the comparison with brute force must see that."""

    class Wrong(ListedOracle):
        def _worth(self, price: Int64) -> Int64:
            worth = super()._worth(price)
            worth[worth.argmax()] -= 10**4  # forgets its best plan
            return worth

    seen = 0
    for seed in range(40):
        layers, budget = drawn(np.random.default_rng(seed))
        best, side = optimum(layers, budget), Ledger(layers, budget)
        proof = LayerProof([Wrong(layer) for layer in layers], budget, side)
        proof.run()
        seen += best is not None and proof.upper < best
    assert seen > 5


def test_lists_without_plans_are_refused() -> None:
    none = Plans(np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int64), np.zeros((0, 1), dtype=np.int64))
    with pytest.raises(ValueError, match="needs a plan"):
        ListedOracle(none)
    one = Plans(np.ones(1, dtype=np.int64), np.array([[-1, 0]]), np.zeros((1, 1), dtype=np.int64))
    with pytest.raises(ValueError, match="less than nothing"):
        ListedOracle(one)
