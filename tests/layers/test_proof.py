"""The engine of layers, on random multiple-choice knapsacks with several budgets: it needs to know no problem."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pytest
from cases import looped

from moeplace.base.arrays import Int64
from moeplace.base.errors import MethodLimitError
from moeplace.layers import merging
from moeplace.layers.listed import ListedOracle
from moeplace.layers.merging import Menu, merge
from moeplace.layers.oracle import LARGEST, Float, Plans, Schedule
from moeplace.layers.proof import Argument, LayerProof, Tuning

NOTHING = -(10**6)


class Ledger:
    """The primal side of a proof, which keeps everything that it is told; maybe with plans to begin with."""

    def __init__(
        self,
        layers: Sequence[Plans],
        budget: Int64,
        looks: int = 10**9,
        start: Sequence[int] | None = None,
        nothing: int = NOTHING,
    ) -> None:
        self.layers, self.budget, self.looks, self.start = layers, budget, looks, start
        self.value, self.best, self.uppers = nothing, None, []
        if start is not None:
            self.offer([np.array([row]) for row in start])

    def stop(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def prove(self, upper: int, argument: Argument) -> None:
        self.uppers.append(upper)

    def known(self) -> list[list[Int64]]:
        return [[] if self.start is None else [np.array([self.start[i]])] for i in range(len(self.layers))]

    def offer(self, codes: Sequence[Int64]) -> bool:
        rows = [int(code[0]) for code in codes]
        usage = sum((layer.usage[r] for layer, r in zip(self.layers, rows, strict=True)), np.zeros_like(self.budget))
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


class Careful(ListedOracle):
    """Sees that prices are what (M1) needs."""

    def _worth(self, price: Int64) -> Int64:
        assert (price >= 0).all(), price
        return super()._worth(price)


class Climbs(Careful):
    """Knows the next plan on its list, and the next one again, whatever prices are."""

    def climbed(self, code: Int64, price: Int64) -> list[Int64]:
        assert (price >= 0).all(), price
        return [self._all.code[(self._at[one.tobytes()] + k) % len(self._all)] for one in code for k in (1, 2)]


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


def tight(rng: np.random.Generator) -> tuple[list[Plans], Int64]:
    """Draw layers whose values lie near prices of the budgets; each has a plan that takes nothing."""
    budgets, count = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    price, layers = rng.integers(0, 6, budgets), []
    for _ in range(count):
        usage = rng.integers(0, 6, (5, budgets)) * (rng.random((5, budgets)) < 0.6)
        usage[0] = 0
        layers.append(Plans(usage @ price + rng.integers(-3, 4, 5), usage, np.arange(5)[:, None]))
    return layers, rng.integers(20, 20 * count, budgets) // 5


def optimum(layers: Sequence[Plans], budget: Int64) -> int | None:
    """Try all combinations."""

    def sums(numbers: Sequence[Int64]) -> Int64:
        return functools.reduce(np.add.outer, numbers).ravel()

    fits = [sums([p.usage[:, r] for p in layers]) <= budget[r] for r in range(len(budget))]
    return max(sums([p.value for p in layers])[np.logical_and.reduce(fits)].tolist(), default=None)


def test_proof_equals_brute_force() -> None:
    infeasible = 0
    for seed in range(300):
        layers, budget = drawn(np.random.default_rng(seed))
        best, side = optimum(layers, budget), Ledger(layers, budget)
        proof = LayerProof([Careful(layer) for layer in layers], budget, side, threads=1 + seed % 2)
        proof.run()
        assert side.uppers == sorted(side.uppers, reverse=True), seed
        if best is None:
            infeasible += 1
            assert side.best is None, seed
            assert proof.upper <= NOTHING, f"seed {seed}: it is not proven that nothing fits"
        else:
            assert (side.value, proof.upper) == (best, best), seed
    assert 10 < infeasible < 200


@looped("seed", range(25))
def test_values_of_any_sign_with_and_without_a_start(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, budget = tight(rng)
    top = sum(int(layer.value.max()) for layer in layers)
    for total in (-40, 0):
        down = np.diff(np.linspace(0, top - total, len(layers) + 1).astype(np.int64))
        lower = [Plans(layer.value - d, layer.usage, layer.code) for layer, d in zip(layers, down, strict=True)]
        best = optimum(lower, budget)
        for start in (None, [0] * len(layers)):
            side = Ledger(lower, budget, start=start)
            proof = LayerProof([Careful(layer) for layer in lower], budget, side)
            proof.run()
            assert (proof.total, side.value, proof.upper) == (total, best, best), start
            assert proof.sane(np.full(len(budget), 0.7)).all(), "prices do not vanish with the total"
            assert not proof.sane(np.full(len(budget), -7.0)).any()


@looped("seed", range(40))
def test_the_largest_numbers_that_are_taken(seed: int) -> None:
    """Values up to the limit, budgets of nothing and up to 2**63 - 1, plans that take far more than there is."""
    rng = np.random.default_rng(seed)
    layers, budget = tight(rng)
    scale = (LARGEST - 1) // sum(int(np.abs(layer.value).max()) for layer in layers)
    unit = rng.choice([1, 10**6, 2**40, 2**60], len(budget))
    large = [Plans(layer.value * scale, layer.usage * unit, layer.code) for layer in layers]
    factor = rng.choice([0, 1, 2**20, 2**60], len(budget))
    budget = np.array([min(b * f, 2**63 - 1) for b, f in zip(budget.tolist(), factor.tolist(), strict=True)])
    best = optimum([Plans(p.value.astype(object), p.usage.astype(object), p.code) for p in large], budget)
    for start in (None, [0] * len(layers)):
        side = Ledger(large, budget, start=start, nothing=1 - LARGEST)
        proof = LayerProof([Careful(layer) for layer in large], budget, side)
        proof.run()
        assert (side.value, proof.upper) == (best, best), start


def test_what_would_overflow_is_refused() -> None:
    one, budget = np.array([[1]]), np.array([3])
    for value in (LARGEST, LARGEST // 2, -LARGEST // 2, -LARGEST):
        layers = [Plans(np.array([v]), one, one) for v in (value, -LARGEST // 2)]
        with pytest.raises(MethodLimitError, match=r"at most 2\*\*57 - 1"):
            LayerProof([ListedOracle(layer) for layer in layers], budget, Ledger(layers, budget))
    with pytest.raises(MethodLimitError, match="values sum to"):
        LayerProof([], budget, Ledger([], budget, nothing=-LARGEST))


def test_budgets_below_nothing_allow_nothing() -> None:
    layers, _ = tight(np.random.default_rng(0))
    budget = np.array([5, -1, 5])[: layers[0].usage.shape[1]] - 9
    side = Ledger(layers, budget)
    proof = LayerProof([Careful(layer) for layer in layers], budget, side)
    proof.run()
    assert (side.best, proof.upper) == (None, NOTHING)


def test_nothing_to_choose_and_nothing_to_share() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    for seed in range(10):
        layers, budget = drawn(np.random.default_rng(seed))
        free = [Plans(p.value, p.usage[:, :0], p.code) for p in layers]
        best = sum(int(p.value.max()) for p in layers)
        first = [0] * len(layers)
        for some, limit, start, least in (
            (free, nothing, None, best), (free, nothing, first, best), ([], budget, None, 0), ([], nothing, None, 0),
            ([], nothing, [], 0), ([], budget - 30, None, NOTHING),
        ):  # fmt: skip
            side = Ledger(some, limit, start=start)
            proof = LayerProof([Careful(p) for p in some], limit, side)
            proof.run()
            assert (side.value, proof.upper) == (least, least), (seed, len(some), start)
            assert (side.best is None) == (least == NOTHING)
        menus = [Menu(p.value, p.usage, np.arange(len(p))) for p in free]
        merged = merge(menus, nothing, nothing[None], best - 5)
        assert merged is not None
        assert (merged.value, merged.bound) == (best, best)


def test_every_limit_at_a_tiny_value_proves_nothing_false() -> None:
    tiny = {
        "schedule": (), "later": (), "retune": (), "given": (), "worthwhile": 1.0, "every": 1, "falling": 1.0,
        "climbs": 1, "climbs_between": 0, "starts": 0, "climbed": 1.0, "rounds": 1,
        "stalled": 1, "nodes": 1, "few_nodes": 1, "most_plans": 1, "first_states": 2, "few_states": 2, "few_plans": 1,
    }  # fmt: skip
    states = {
        "most_states": 1, "first_entries": 1, "most_prices": 1, "samples": 0, "judges": 1, "rounds": 1, "descent": 1,
        "chunk": 1,
    }  # fmt: skip
    assert {f.name for f in dataclasses.fields(Tuning)} - {"merging"} == set(tiny)
    assert {f.name for f in dataclasses.fields(merging.Tuning)} == set(states)
    tunings = {name: dataclasses.replace(Tuning(), **{name: value}) for name, value in tiny.items()}
    tunings |= {
        name: Tuning(merging=dataclasses.replace(merging.USUAL, **{name: value})) for name, value in states.items()
    }
    for name, tuning in tunings.items():
        for seed in range(20):
            layers, budget = drawn(np.random.default_rng(seed))
            best = optimum(layers, budget)
            # One of each layer climbs, the others not.
            oracles = [Climbs(layers[0]), *map(ListedOracle, layers[1:])]
            for start in (None, [0] * len(layers)):
                if start is not None and (sum(layer.usage[0] for layer in layers) > budget).any():
                    continue
                side = Ledger(layers, budget, start=start)
                LayerProof(oracles, budget, side, tuning=tuning).run()
                if best is not None:
                    assert min(side.uppers) >= best >= side.value, (name, seed, start)


def test_plans_that_layers_climb_to_are_collected() -> None:
    rng = np.random.default_rng(3)
    layers = [Plans(rng.integers(1, 50, 9), rng.integers(1, 5, (9, 2)), np.arange(9)[:, None]) for _ in range(3)]
    budget = np.array([9, 9])
    for oracle, least in ((Climbs, 5), (ListedOracle, 1)):
        side = Ledger(layers, budget, start=[0, 0, 0])
        # Any round is worth another one, until nothing is new.
        proof = LayerProof([oracle(layer) for layer in layers], budget, side, tuning=Tuning(climbed=-1.0))
        proof.hear_of_known()
        master = proof.collect(np.zeros(2), 10)
        known = [proof.pool.known(i) for i in range(3)]
        assert min(known) >= least, known
        if least == 1:  # nobody climbs
            assert (master, max(known)) == (None, 1)
            continue
        best = optimum(layers, budget)
        assert master is not None
        assert best is not None
        assert master.value >= best
    without = LayerProof([Climbs(layer) for layer in layers], budget, Ledger(layers, budget))
    assert without.collect(np.zeros(2), 10) is None  # of no plan nobody climbs


def test_it_may_begin_with_any_prices() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        layers, budget = drawn(rng)
        best, side = optimum(layers, budget), Ledger(layers, budget)
        proof = LayerProof([ListedOracle(layer) for layer in layers], budget, side)
        proof.run(rng.random(len(budget)) * rng.choice([0.0, 1.0, 100.0]))
        if best is not None:
            assert min(side.uppers) == best == side.value, seed


def test_dropped_states_are_in_the_bound() -> None:
    """States are dropped only where the table of new ones is full, so it must be small, too."""
    few = dataclasses.replace(merging.USUAL, most_states=1, first_entries=1)
    tuning, unproven = Tuning(first_states=1, few_states=1, merging=few), 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        usage = rng.integers(0, 50, (7, 4, 2))
        layers = [Plans(u.sum(axis=1) + rng.integers(0, 5, 4), u, np.arange(4)[:, None]) for u in usage]
        budget = rng.integers(100, 200, 2)
        best, side = optimum(layers, budget), Ledger(layers, budget)
        proof = LayerProof([Careful(layer) for layer in layers], budget, side, tuning=tuning)
        proof.run()
        assert best is not None
        assert min(side.uppers) == proof.upper >= best >= side.value, seed
        unproven += proof.upper > side.value
    assert unproven > 5


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


@looped("seed", range(6))
def test_cutting_planes_move_prices_without_a_start(seed: int) -> None:
    """The first plans fit nowhere together, and most of them not even alone."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(10):
        usage = np.vstack((np.zeros((1, 2), dtype=np.int64), rng.integers(1, 1000, (9, 2))))
        layers.append(Plans(usage.sum(axis=1) * 800 + rng.integers(0, 200_000, 10), usage, np.arange(10)[:, None]))
    budget = np.array([800, 900]) if seed % 2 else np.array([2500, 2800])
    sides = [Ledger(layers, budget, start=start) for start in (None, [0] * 10)]
    proofs = [LayerProof([Careful(layer) for layer in layers], budget, side) for side in sides]
    for proof in proofs:
        proof.run()
        assert proof.upper == sides[0].value
        assert (proof.price > 0).all()
    without, begun = (proof.counts for proof in proofs)
    assert without.rounds > 2
    assert without.listed < 2 * begun.listed + 100


def test_numbers_of_other_types_are_cast_or_refused() -> None:
    value, usage, code = np.array([100, 120]), np.array([[0], [10]]), np.array([[0], [1]])
    for kind in (np.int8, np.int32, np.int64):
        oracle = ListedOracle(Plans(value.astype(kind), usage.astype(kind), code.astype(kind)))
        assert oracle.bound(np.array([10**9])) == 100
        assert oracle.best(np.array([0]), floor=np.array([1], dtype=kind)).usage == 10
    for kind in (np.uint64, np.float64, np.bool_, object):
        for name in ("value", "usage", "code"):
            given = {"value": value, "usage": usage, "code": code}
            with pytest.raises(ValueError, match=f"{name}: expected signed integers, found "):
                ListedOracle(Plans(**given | {name: given[name].astype(kind)}))
        with pytest.raises(ValueError, match="budget: expected signed integers"):
            LayerProof([], np.array([3]).astype(kind), Ledger([], np.array([3])))
    for wrong in (Plans(value[:1], usage, code), Plans(value, usage[:, 0], code), Plans(value, usage, code[:, 0])):
        with pytest.raises(ValueError, match=r"expected value \[P\]"):
            ListedOracle(wrong)
    with pytest.raises(ValueError, match="one code"):
        ListedOracle(Plans(value, usage, np.zeros_like(code)))


class Soft(ListedOracle):
    """Plans with a smoothed bound: what plans take on average, the better the more."""

    @property
    def reach(self) -> Int64:
        return self._plans.usage.max(axis=0)

    def smooth(self, price: Float, temperature: float, rate: float) -> Float:
        worth, usage = self._plans.value - self._plans.usage @ price, self._plans.usage
        heat = temperature * self.total
        share = np.exp((worth - worth.max()) / heat)
        share /= share.sum()
        mean = share @ usage
        return np.stack([mean, share @ (usage - mean) ** 2 / heat])

    def refresh(self) -> None:
        pass

    def tune(self, price: Int64, schedule: Schedule) -> None:
        pass


def test_a_budgets_unit_does_not_matter_to_the_descent() -> None:
    found = []
    for unit in (1, 10**3, 10**9):
        rng, units, layers = np.random.default_rng(3), np.array([1, unit]), []
        for _ in range(6):
            usage = np.vstack((np.zeros((1, 2), dtype=np.int64), rng.integers(1, 60, (9, 2))))
            value = (usage.sum(axis=1) * 8 + rng.integers(0, 200, 10)) * 10**12
            layers.append(Plans(value, usage * units, np.arange(10)[:, None]))
        budget = np.array([100, 120]) * units
        side = Ledger(layers, budget)
        proof = LayerProof([Soft(layer) for layer in layers], budget, side)
        found.append(proof.descend(proof.tuning.schedule) * units)
        proof.run()
        assert proof.upper == side.value
    assert np.allclose(found, found[0], rtol=1e-6)
