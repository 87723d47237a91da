"""The linear program over cuts, by an interior-point method that knows its structure.

Maximise ``sum over layers l of t_l`` over fractional placements within the capacities, subject to
``t_l <= c_lp + G_lp . x_l`` for the cuts ``p`` of layer ``l``: a dense matrix with many columns and few rows. Newton's
equations fold into one small symmetric system for each layer (cuts by cuts) and one for the prices (servers by
servers), all of them products and factors of dense matrices. General solvers treat the same matrix as sparse: with 40
cuts in 6 layers of 256 experts on 20 servers, HiGHS 1.13's interior-point method took 4.0 seconds without its
crossover, this one 0.5.

The method is the primal-dual one with Mehrotra's predictor and corrector (Wright 1997, *Primal-Dual Interior-Point
Methods*, chapter 10). It starts feasible on both sides and stays so: whenever it ends, the weights of each layer's cuts
are not negative and sum to 1. It is in floats and nothing is proven by it: weights and points are suggestions.

Version 2 adds rows to a layer that say nothing of ``t_l``: at most so much of a layer on a server (slots), and at least
one copy of an expert within a reach set (coverage). The latter are elastic, ``1 <= copies + short`` with ``short >= 0``
at a cost, since there may be no fractional placement with more than one copy of everything: their multipliers stay
below that cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import cast

import numpy as np
import numpy.typing as npt
from numpy.linalg import LinAlgError
from threadpoolctl import ThreadpoolController

from moeplace.base.arrays import Bool, Int64

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tuning:
    """How far the program is solved.

    Attributes
    ----------
    most_steps : int
        Steps of the interior-point method.
    shortened : float
        How much of the way to the nearest wall a step goes, between 0 and 1.
    """

    most_steps: int = 60
    shortened: float = 0.9


USUAL = Tuning()
"""What is used unless something else is asked for."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where the least of all cuts is largest.

    Attributes
    ----------
    value : float
        No fractional placement has a larger least cut: the objective at the weights below.
    x : float64 array [N, I]
        Strictly between 0 and 1, within the capacities.
    weights : list of float64 array [P_l]
        What each layer's cuts count; not negative, sum 1.
    needs : list of float64 array [C_l]
        Multipliers of the rows of each layer that ask for a copy.
    short : list of float64 array [C_l]
        What these rows lack.
    """

    value: float
    x: Float
    weights: list[Float]
    needs: list[Float]
    short: list[Float]


@dataclass(frozen=True, eq=False)
class Sides:
    """What a layer's placement must keep beside the capacities.

    Attributes
    ----------
    slots : float64 array [N]
        How much of the layer each server takes at most; infinite without limit.
    reach : bool array [C, N]
        Within each of these sets of servers must be a copy ...
    expert : int64 array [C]
        ... of this expert.
    cost : float
        Of lacking a copy.
    """

    slots: Float
    reach: Bool
    expert: Int64
    cost: float

    def rows(self, shape: tuple[int, int]) -> tuple[Float, Float]:
        """Return the constants and the slopes ``[., N, E]`` of the rows, those of coverage first."""
        limited = np.flatnonzero(np.isfinite(self.slots))
        count = len(self.expert)
        slopes = np.zeros((count + len(limited), *shape))
        slopes[np.arange(count), :, self.expert] = self.reach
        slopes[count + np.arange(len(limited)), limited] = -1
        return np.concatenate((np.full(count, -1.0), self.slots[limited])), slopes


@dataclass
class _Point:
    """A strictly feasible point of both programs, or a step. Slacks and their multipliers have equal shapes."""

    x: Float  # [N, I], and its distance from 1
    rest: Float
    t: Float  # [L]
    below: list[Float]  # [P_l]: how far t is below each cut
    room: Float  # [N]: what is left of the capacity
    at_zero: Float  # [N, I]: multipliers of x >= 0 and x <= 1
    at_one: Float
    weights: list[Float]  # [P_l]: multipliers of the cuts
    prices: Float  # [N]: multipliers of the capacities
    short: list[Float]  # [C_l]: what rows of coverage lack, and its distance from costing too much
    spare: list[Float]

    def pairs(self) -> list[tuple[Float, Float]]:
        """Slacks, each with its multiplier."""
        return [
            (self.x, self.at_zero),
            (self.rest, self.at_one),
            (self.room, self.prices),
            *zip(self.below, self.weights, strict=True),
            *zip(self.short, self.spare, strict=True),
        ]

    def gap(self) -> float:
        """Return how far the objectives of the two programs are apart."""
        return sum(float((slack * multiplier).sum()) for slack, multiplier in self.pairs())

    def moved(self, step: _Point, primal: float, dual: float) -> _Point:
        """Go along a step, so far in the primal and so far in the dual variables."""
        return _Point(
            self.x + primal * step.x,
            self.rest + primal * step.rest,
            self.t + primal * step.t,
            [a + primal * b for a, b in zip(self.below, step.below, strict=True)],
            self.room + primal * step.room,
            self.at_zero + dual * step.at_zero,
            self.at_one + dual * step.at_one,
            [a + dual * b for a, b in zip(self.weights, step.weights, strict=True)],
            self.prices + dual * step.prices,
            [a + primal * b for a, b in zip(self.short, step.short, strict=True)],
            [a + dual * b for a, b in zip(self.spare, step.spare, strict=True)],
        )


def maximise(
    constants: list[Float],
    gradients: list[Float],
    columns: list[slice],
    size: Float,
    capacity: Float,
    tolerance: float,
    ended: Callable[[], bool],
    tuning: Tuning = USUAL,
    sides: list[Sides] | None = None,
) -> Optimum | None:
    """Maximise the least of each layer's cuts, summed over the layers, within the capacities.

    Parameters
    ----------
    constants : list of float64 array [P_l]
        Of the cuts of each layer.
    gradients : list of float64 array [P_l, N, E_l]
        Of the cuts of each layer.
    columns : list of slice
        The items of each layer; disjoint.
    size : float64 array [N, I]
        What an item takes of a server's capacity; 0 where a server has no use for it (and the gradients are 0).
    capacity : float64 array [N]
    tolerance : float
        Between the objectives of the two programs.
    ended : callable
        Asked before every step; True gives the work up.
    tuning : Tuning
    sides : list of Sides, optional
        Of each layer.

    Returns
    -------
    Optimum or None
        None where there was no time. Where the equations could not be solved any further, the last point.
    """
    with _libraries().limit(limits=1, user_api="blas"):  # other threads have the other cores
        program = _Program(constants, gradients, columns, size, capacity, tuning.shortened, sides)
        point = program.start()
        gap = point.gap()
        for _ in range(tuning.most_steps):
            if ended():
                return None
            if gap <= tolerance:
                break
            try:
                following = program.step(point, gap)
            except LinAlgError:
                break
            gap = following.gap()
            if not math.isfinite(gap):  # a factor without digits left: weights that are no numbers prove nothing
                break
            point = following
        cuts = [w[:n] for w, n in zip(point.weights, program.cuts, strict=True)]
        needs = [w[n : n + len(u)] for w, n, u in zip(point.weights, program.cuts, program.shorts(point), strict=True)]
        weights = [np.maximum(w, 0) / w.sum() for w in cuts]
        return Optimum(program.dual_value(point), point.x, weights, needs, program.shorts(point))


class _Program:
    def __init__(
        self,
        constants: list[Float],
        gradients: list[Float],
        columns: list[slice],
        size: Float,
        capacity: Float,
        shortened: float,
        sides: list[Sides] | None,
    ) -> None:
        self.shortened, self.sides = shortened, sides
        self.cuts = [len(constant) for constant in constants]
        if sides is not None:
            rows = [side.rows(gradient.shape[1:]) for side, gradient in zip(sides, gradients, strict=True)]
            constants = [np.concatenate((c, more)) for c, (more, _) in zip(constants, rows, strict=True)]
            fits = [(size[:, i] > 0).astype(np.float64) for i in columns]
            gradients = [
                np.concatenate((g, more * some)) for g, (_, more), some in zip(gradients, rows, fits, strict=True)
            ]
        self.constants, self.columns, self.size, self.capacity = constants, columns, size, capacity
        self.shapes = [gradient.shape[1:] for gradient in gradients]
        self.slopes = [gradient.reshape(len(gradient), -1) for gradient in gradients]
        self.count = 2 * size.size + len(capacity) + sum(map(len, constants))
        self.count += sum(len(side.expert) for side in sides or ())

    def shorts(self, point: _Point) -> list[Float]:
        """Return what the rows of coverage lack, layer by layer."""
        return point.short if self.sides is not None else [np.zeros(0)] * len(self.cuts)

    def start(self) -> _Point:
        """Fill every server evenly to a half at most; give all cuts of a layer the same weight."""
        full = np.maximum(self.size.sum(axis=1), 1e-300)
        x = np.repeat(np.minimum(0.5, 0.5 * self.capacity / full)[:, None], self.size.shape[1], axis=1)
        for side, i in zip(self.sides or (), self.columns, strict=False):
            x[:, i] = np.minimum(x[:, i], 0.5 * side.slots[:, None] / (i.stop - i.start))
        x = np.maximum(x, 1e-9)
        rows = [c + s @ x[:, i].ravel() for c, s, i in zip(self.constants, self.slopes, self.columns, strict=True)]
        lines = [row[:n] for row, n in zip(rows, self.cuts, strict=True)]
        scale = max(sum(abs(float(line.min())) for line in lines), 1e-9)
        t = np.array([line.min() - scale / len(lines) for line in lines])
        below = [line - low for line, low in zip(lines, t, strict=True)]
        weights = [np.full(len(line), 1 / len(line)) for line in lines]
        short: list[Float] = []
        spare: list[Float] = []
        for j, side in enumerate(self.sides or ()):
            rest, count = rows[j][self.cuts[j] :], len(side.expert)
            short.append(np.maximum(0, -rest[:count]) + 0.5)
            spare.append(np.full(count, max(side.cost, 1e-12) / 2))
            below[j] = np.concatenate((below[j], rest[:count] + short[j], np.maximum(rest[count:], 1e-9)))
            slope = np.abs(self.slopes[j][: self.cuts[j]]).mean()
            weights[j] = np.concatenate((weights[j], spare[j], np.full(len(rest) - count, slope + 1e-12)))
        room = np.maximum(self.capacity - (self.size * x).sum(axis=1), 1e-12)
        # Prices that leave about half of the values above them.
        value = self._values(weights)
        worth = (value * x).sum() / max(float((self.size * x).sum()), 1e-300)
        prices = np.full(len(self.capacity), max(worth, 1e-12))
        net = value - prices[:, None] * self.size
        typical = float(np.abs(net).mean()) + 1e-15
        return _Point(
            x=x,
            rest=1 - x,
            t=t,
            below=below,
            room=room,
            at_zero=np.maximum(-net, 0) + typical,
            at_one=np.maximum(net, 0) + typical,
            weights=weights,
            prices=prices,
            short=short,
            spare=spare,
        )

    def _values(self, weights: list[Float]) -> Float:
        """Return what an item is worth on a server by some weights of the cuts."""
        values = np.zeros_like(self.size)
        for w, slope, shape, i in zip(weights, self.slopes, self.shapes, self.columns, strict=True):
            values[:, i] = (w @ slope).reshape(shape)
        return values

    def dual_value(self, point: _Point) -> float:
        """Return the objective of the dual program: no placement has a larger least cut."""
        constant = sum(float(w @ c) for w, c in zip(point.weights, self.constants, strict=True))
        net = self._values(point.weights) - point.prices[:, None] * self.size
        return constant + float(point.prices @ self.capacity) + float(np.maximum(net, 0).sum())

    def step(self, point: _Point, gap: float) -> _Point:
        """Return the next point: Mehrotra's predictor and corrector."""
        solve = self._factor(point)
        pairs = point.pairs()
        ahead = solve([-a * b for a, b in pairs])
        reach = point.moved(ahead, *_reach(point, ahead, 1.0))
        centring = (reach.gap() / gap) ** 3
        aim = centring * gap / self.count
        step = solve([aim - a * b - da * db for (a, b), (da, db) in zip(pairs, ahead.pairs(), strict=True)])
        return point.moved(step, *_reach(point, step, self.shortened))

    def _factor(self, point: _Point) -> Callable[[list[Float]], _Point]:
        """Factor Newton's equations; the result solves them for given changes of all products slack * multiplier."""
        inverse = 1 / (point.at_zero / point.x + point.at_one / point.rest)
        sized = self.size * inverse
        outer = np.diag(point.room / point.prices + (self.size * sized).sum(axis=1))
        layers = []
        for j, (below, w, slope, shape, i) in enumerate(
            zip(point.below, point.weights, self.slopes, self.shapes, self.columns, strict=True)
        ):
            scaled = slope * inverse[:, i].ravel()
            matrix = scaled @ slope.T
            cuts, diagonal = self.cuts[j], below / w
            if self.sides is not None:
                diagonal[cuts : cuts + len(point.short[j])] += point.short[j] / point.spare[j]
            matrix.ravel()[:: len(matrix) + 1] += diagonal  # laid out row by row: a view
            factor = _factored(matrix)
            priced = (scaled.reshape(-1, *shape) * self.size[None, :, i]).sum(axis=2)
            counts = np.ones(len(w))
            counts[cuts:] = 0
            solved = _solved(factor, np.column_stack((counts, priced)))
            level, total = solved[:, 0], solved[:cuts, 1:].sum(axis=0)
            whole = level[:cuts].sum()
            # What a change of the prices makes of the weights when their sum must not change.
            apart = solved[:, 1:] - np.outer(level / whole, total)
            outer -= priced.T @ apart
            layers.append((factor, scaled, level, whole, total, apart))
        prices_factor = _factored(outer)

        def solve(change: list[Float]) -> _Point:
            at_zero, at_one, room, *rest = change
            cuts, lacks = rest[: len(layers)], rest[len(layers) :]
            pull = at_zero / point.x - at_one / point.rest
            right = room / point.prices + (sized * pull).sum(axis=1)
            lines = []
            for j, (line, w, (_, scaled, _, _, _, apart), i) in enumerate(
                zip(cuts, point.weights, layers, self.columns, strict=True)
            ):
                lines.append(line / w - scaled @ pull[:, i].ravel())
                if lacks:
                    lines[-1][self.cuts[j] : self.cuts[j] + len(lacks[j])] -= lacks[j] / point.spare[j]
                right += apart.T @ lines[-1]
            prices = _solved(prices_factor, right)
            x = (pull - self.size * prices[:, None]) * inverse
            t, below, weights = np.zeros(len(lines)), [], []
            short: list[Float] = []
            spare: list[Float] = []
            for j, (line, (factor, scaled, level, whole, total, apart)) in enumerate(zip(lines, layers, strict=True)):
                free = _solved(factor, line)
                n = self.cuts[j]
                some = free[:n].sum()
                t[j] = -(some + total @ prices) / whole
                weights.append(free - level * (some / whole) + apart @ prices)
                x[:, self.columns[j]] += (weights[j] @ scaled).reshape(self.shapes[j])
                below.append(self.slopes[j] @ x[:, self.columns[j]].ravel())
                below[j][:n] -= t[j]
                if lacks:
                    change_of = weights[j][n : n + len(lacks[j])]
                    short.append((lacks[j] + point.short[j] * change_of) / point.spare[j])
                    spare.append(-change_of)
                    below[j][n : n + len(lacks[j])] += short[j]
            return _Point(
                x=x,
                rest=-x,
                t=t,
                below=below,
                room=-(self.size * x).sum(axis=1),
                at_zero=(at_zero - point.at_zero * x) / point.x,
                at_one=(at_one + point.at_one * x) / point.rest,
                weights=weights,
                prices=prices,
                short=short,
                spare=spare,
            )

        return solve


@cache
def _libraries() -> ThreadpoolController:
    """Return the thread pools of the libraries that are loaded. Looking for them takes longer than a small program."""
    import scipy.linalg  # noqa: F401 - its LAPACK has a pool of its own, and is used below

    return ThreadpoolController()


def _factored(matrix: Float) -> Float:
    """Return the Cholesky factor of a matrix: LAPACK's, as scipy's ``cho_factor`` has it, without its preparations."""
    from scipy.linalg.lapack import dpotrf  # here, since small instances, solved in a second, never come by

    factor, info = dpotrf(matrix, lower=0, clean=0, overwrite_a=1)
    if info:
        raise LinAlgError(f"not positive definite: dpotrf says {info}")
    return cast(Float, factor)


def _solved(factor: Float, right: Float) -> Float:
    """Solve the equations of a factored matrix."""
    from scipy.linalg.lapack import dpotrs

    solution, info = dpotrs(factor, right, lower=0)
    if info:
        raise LinAlgError(f"dpotrs says {info}")
    return cast(Float, solution)


def _reach(point: _Point, step: _Point, share: float) -> tuple[float, float]:
    """Return how far to go along a step, at most all of it, so that slacks and multipliers stay positive."""
    reach = [1.0, 1.0]
    for side in (0, 1):
        # All at once: these arrays are small, and many.
        values = [pair[side].ravel() for pair in point.pairs() if pair[side].size]
        changes = [pair[side].ravel() for pair in step.pairs() if pair[side].size]
        first = list(accumulate(map(len, values[:-1]), initial=0))
        for falling in np.minimum.reduceat(np.concatenate(changes) / np.concatenate(values), first).tolist():
            if falling * reach[side] < -share:
                reach[side] = -share / falling
    return reach[0], reach[1]
