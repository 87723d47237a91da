"""The program over cuts: what the interior-point method finds, against a general LP solver."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from cases import looped
from scipy.optimize import linprog

from moeplace.caching.bounds import cut_program
from moeplace.caching.bounds.cut_program import Optimum, Sides, maximise

Float = npt.NDArray[np.float64]


class Program:
    """A random program: layers of different widths with different numbers of cuts."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.servers = int(rng.integers(1, 5))
        widths = rng.integers(1, 9, size=rng.integers(1, 5))
        ends = np.cumsum(widths)
        self.columns = [slice(int(end - width), int(end)) for end, width in zip(ends, widths, strict=True)]
        cuts = rng.integers(1, 7, size=len(widths))
        size = rng.choice([0.25, 0.5, 1.0], size=int(ends[-1]))
        most = rng.random((self.servers, len(size))) < 0.9
        self.size = size * most
        self.capacity = self.size.sum(axis=1) * rng.choice([0.0, 0.1, 0.4, 1.0], size=self.servers)
        self.size[self.capacity == 0] = 0
        self.constants = [rng.random(p) for p in cuts]
        self.gradients = [
            rng.random((p, self.servers, w)) * (rng.random((p, self.servers, w)) < 0.7) * (self.size[None, :, i] > 0)
            for p, w, i in zip(cuts, widths, self.columns, strict=True)
        ]

        self.sides: list[Sides] | None = None

    def limit(self, seed: int) -> None:
        """Add slots and needs, some of which cannot be met."""
        rng, self.sides = np.random.default_rng(seed), []
        for i in self.columns:
            width, count = i.stop - i.start, int(rng.integers(0, 4))
            slots = rng.choice([0.5, 1.0, 2.0, np.inf], size=self.servers)
            reach = rng.random((count, self.servers)) < 0.7
            self.sides.append(Sides(slots, reach, rng.integers(0, width, count), float(rng.choice([0.1, 1.0, 30.0]))))

    def solved(self, tolerance: float) -> Optimum:
        found = maximise(
            self.constants, self.gradients, self.columns, self.size, self.capacity, tolerance, lambda: False,
            sides=self.sides,
        )  # fmt: skip
        assert found is not None
        return found

    def least(self, x: Float) -> float:
        """The objective of the primal program at a placement."""
        return sum(
            float((c + (g * x[None, :, i]).sum(axis=(1, 2))).min())
            for c, g, i in zip(self.constants, self.gradients, self.columns, strict=True)
        )

    def bound(self, weights: list[Float]) -> float:
        """What some weights of the cuts prove, by the best filling of every server."""
        total = sum(float(c @ w) for c, w in zip(self.constants, weights, strict=True))
        value = np.zeros_like(self.size)
        for g, w, i in zip(self.gradients, weights, self.columns, strict=True):
            value[:, i] = np.tensordot(w, g, 1)
        for v, s, room in zip(value, self.size, self.capacity, strict=True):
            left = room
            wanted = [j for j in np.argsort(-v / np.maximum(s, 1e-9)) if s[j] > 0]
            for j in wanted:
                share = min(1.0, left / s[j])
                total, left = total + share * float(v[j]), left - share * float(s[j])
        return total

    def optimum(self) -> float:
        n, layers = self.size.size, len(self.columns)
        counts = [len(side.expert) for side in self.sides or ()]
        lacks = np.cumsum([n + layers, *counts])
        place = np.arange(n).reshape(self.size.shape)
        lines, right = [], []
        for k, (c, g, i) in enumerate(zip(self.constants, self.gradients, self.columns, strict=True)):
            for constant, slope in zip(c, g, strict=True):
                line = np.zeros(lacks[-1])
                line[place[:, i].ravel()], line[n + k] = -slope.ravel(), 1
                lines.append(line)
                right.append(constant)
        for server, room in enumerate(self.capacity):
            line = np.zeros(lacks[-1])
            line[place[server]] = self.size[server]
            lines.append(line)
            right.append(room)
        cost = np.concatenate((np.zeros(n), -np.ones(layers), np.zeros(sum(counts))))
        for k, (side, i) in enumerate(zip(self.sides or (), self.columns, strict=False)):
            useful = self.size[:, i] > 0
            for server in np.flatnonzero(np.isfinite(side.slots)).tolist():
                line = np.zeros(lacks[-1])
                line[place[server, i]] = useful[server]
                lines.append(line)
                right.append(side.slots[server])
            for c, (reach, expert) in enumerate(zip(side.reach, side.expert.tolist(), strict=True)):
                line = np.zeros(lacks[-1])
                line[place[:, i.start + expert]] = -1.0 * (reach & useful[:, expert])
                line[lacks[k] + c] = -1
                cost[lacks[k] + c] = side.cost
                lines.append(line)
                right.append(-1)
        box = [(0, 1)] * n + [(None, None)] * layers + [(0, None)] * sum(counts)
        found = linprog(cost, np.array(lines), right, bounds=box)
        assert found.status == 0
        return -float(found.fun)


@looped("seed", range(150))
def test_it_finds_the_optimum_from_both_sides(seed: int) -> None:
    program = Program(seed)
    best = program.optimum()
    found = program.solved(1e-8)
    assert best - 1e-9 <= found.value <= best + 1e-7
    assert program.least(found.x) >= best - 1e-6
    assert program.bound(found.weights) <= best + 1e-6


@looped("seed", range(100))
def test_slots_and_needs_are_kept(seed: int) -> None:
    program = Program(seed)
    program.limit(seed)
    best = program.optimum()
    found = program.solved(1e-8)
    assert best - 1e-7 <= found.value <= best + 1e-6
    paid = 0.0
    assert program.sides is not None
    for side, i, needs, short in zip(program.sides, program.columns, found.needs, found.short, strict=True):
        x = found.x[:, i] * (program.size[:, i] > 0)
        assert (x.sum(axis=1) <= side.slots + 1e-6).all()
        assert ((x[:, side.expert].T * side.reach).sum(axis=1) + short >= 1 - 1e-6).all()
        assert ((needs >= 0) & (needs <= side.cost)).all()
        paid += side.cost * float(short.sum())
    assert program.least(found.x) - paid >= best - 1e-5


@looped("seed", range(0, 150, 5))
@pytest.mark.parametrize("tolerance", [1.0, 0.1, 1e-3])
def test_what_is_not_solved_to_its_end_is_valid(seed: int, tolerance: float) -> None:
    program = Program(seed)
    found = program.solved(tolerance)
    assert program.optimum() - 1e-9 <= found.value
    for weights in found.weights:
        assert (weights >= 0).all()
        assert abs(weights.sum() - 1) < 1e-12
    assert ((found.x > 0) & (found.x < 1)).all()
    assert ((program.size * found.x).sum(axis=1) <= program.capacity + 1e-9).all()
    assert found.value - program.least(found.x) <= tolerance + 1e-9


def test_equal_cuts_share_their_weight() -> None:
    # Two servers with room for one of two experts each, and the same cut twice: nothing tells the copies apart.
    gradient = np.array([[[3.0, 1.0], [1.0, 3.0]]] * 2)
    found = maximise([np.zeros(2)], [gradient], [slice(0, 2)], np.ones((2, 2)), np.ones(2), 1e-9, lambda: False)
    assert found is not None
    assert found.value == pytest.approx(6, abs=1e-8)
    assert found.weights[0] == pytest.approx([0.5, 0.5])
    assert found.x == pytest.approx(np.eye(2), abs=1e-6)


def test_a_step_that_fails_leaves_the_last_point(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(3)
    step = cut_program._Program.step
    asked = itertools.count()

    def failing(self: cut_program._Program, point: cut_program._Point, gap: float) -> cut_program._Point:
        following = step(self, point, gap)
        if next(asked) == 2:
            following.x[:] = np.nan
        return following

    monkeypatch.setattr(cut_program._Program, "step", failing)
    found = program.solved(1e-9)
    assert next(asked) == 3
    assert found.value >= program.optimum() - 1e-9
    assert all((weights >= 0).all() and abs(weights.sum() - 1) < 1e-12 for weights in found.weights)


def test_it_gives_up_when_it_is_told() -> None:
    program = Program(3)
    asked = itertools.count()
    arguments = (program.constants, program.gradients, program.columns, program.size, program.capacity)
    assert maximise(*arguments, 1e-9, lambda: next(asked) >= 2) is None
    assert next(asked) == 3
