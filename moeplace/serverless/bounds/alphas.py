r"""A bound for layers of any size, by one multiplier for each maximum; it needs no trust.

Fix the main specification w. With ``max(a, b) >= alpha a + (1 - alpha) b`` for the prefill of each layer and for each
row of output tokens, and ``max_j Z_j >= invoke + (1/z) sum over k in R of a_k`` (the mean of z replicas), what a layer
costs at prices of the three budgets is at least a sum over its experts. With ``H`` the main function's price of a ns,
prices ``p1, p2`` of the two times and ``p3`` of a local byte, ``c`` the price of a remote ns, ``h = g_y + 2 link(1) +
invoke`` and ``s_i = (1 - alpha_i) h - alpha_i g_w``::

    L(R, y, z) >=  (H + p1) (base + alpha sum_k P_w(N_k) + (1 - alpha) invoke)  +  c z invoke  +  p3 bytes E
                   + (H + p2) (base' + sum over rows i of count_i min over n of (f_i(n) - s_i n))
                   + sum over k in R of [ (H + p1) ((1 - alpha) a_k / z - alpha P_w(N_k))
                                          + (H + p2) sum over rows i with k of count_i s_i
                                          + c (a_k + D_k h) - p3 bytes ]                                           (V6)
    f_i(n) = max( (|S_i| - n) g_w, n h )

The minimum over n is over whole numbers, so no row loses anything where its remote experts are as many as at that
minimum. The bracket is minimised over R by taking the experts with a negative one: only such that fit a replica by
themselves, at least z, one a replica, and at most as many as memory and z payloads hold of the smallest. The least over
y and z (and over "no remote experts", which is exact) is the layer's::

    cost  >=  sum of the layers' least  -  p1 (ttft - cold)  -  p2 tpot tokens_out  -  p3 (bytes for local experts)
                                                                                                                    (V7)

Alphas are whole numbers of ``1 / 2**ALPHA_BITS``, prices are whole, and what is divided is rounded down: the bound is
in integers. Good multipliers come from ascending a smoothed (V7) in floats.

Where no deployment is within the limits, (V7) without costs (``H = c = 0``) is above 0 at some prices: what the layers
need of the budgets at the least, at these prices, is more than there is (Farkas). With prices large enough (V7) is then
above what any deployment costs, which is the same certificate. And how much is missing says by how much a limit must be
wider: a deployment that is within the limits but for one whose budget has ``d`` more costs at least the bound less
``p d``, and less than the largest cost there is::

    d  >  (bound - largest cost) / p                                                                                (V8)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int64
from moeplace.base.workers import each
from moeplace.layers.oracle import no_stop
from moeplace.serverless.bounds.by_specs import budgets
from moeplace.serverless.certificate import ALPHA_BITS
from moeplace.serverless.cost import largest_cost, main_price, prefill_ns
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import LayerTables

KERNELS: Final = ("moeplace.serverless.bounds._alpha_kernels",)

UNIT: Final = 1 << ALPHA_BITS
PROOF_BITS: Final = 24
"""What is missing of the budgets, as a share of them, proves that nothing fits from about ``2**-PROOF_BITS`` on."""

LARGEST_TIME: Final = 1 << (62 - ALPHA_BITS - 3)
"""All times together are below this: else sums of rows times alphas may overflow."""

Float: Any = npt.NDArray[np.float64]


def kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second and most commands never need it."""
    from moeplace.serverless.bounds import _alpha_kernels

    return _alpha_kernels


@dataclass(frozen=True, eq=False)
class Multipliers:
    """What (V6) and (V7) need.

    Attributes
    ----------
    prices : tuple of int
        Of a ns of each time and of a byte, price units.
    first : int64 array [L]
        Alphas of the prefill, in ``1 / UNIT``.
    every : list of int64 array [R]
        Alphas of each layer's rows.
    """

    prices: tuple[int, int, int]
    first: Int64
    every: list[Int64]

    @classmethod
    def middle(cls, instance: Instance) -> Multipliers:
        """Return alphas of one half, and prices of 1."""
        half = [
            np.full(n, UNIT // 2, dtype=np.int64) for n in (instance.layers, *(len(r.count) for r in instance.rows))
        ]
        return cls((1, 1, 1), half[0], half[1:])


def alpha_bound(instance: Instance, tables: Sequence[LayerTables], main: int, by: Multipliers) -> int:
    """Return the bound (V7) of one main specification, rounded up, price units."""
    total = 0
    for table in tables:
        nothing, others = relaxations(instance, table, main, by)
        total += min([nothing, *(own.value for own in others)])
    paid = sum(price * int(budget) for price, budget in zip(by.prices, budgets(instance, main), strict=True))
    return -(-(total - UNIT * paid) // UNIT)


def free_scale(instance: Instance) -> int:
    """Return what the budgets are worth together where prices are to prove that nothing fits, price units.

    A share of ``2**-PROOF_BITS`` of it is more than any deployment costs.
    """
    return 1 << (largest_cost(instance).bit_length() + PROOF_BITS)


@dataclass(frozen=True)
class Relaxed:
    """One remote specification and number of replicas of a layer in the relaxation.

    Attributes
    ----------
    spec, replicas : int
        Position among the remote specifications; z.
    value : int
        The least of (V6), in ``1 / UNIT`` price units.
    brackets : list of int or None
        What each expert adds if it is remote, [E]; None where no replica holds it.
    taken : int
        How many the least takes.
    """

    spec: int
    replicas: int
    value: int
    brackets: list[int | None]
    taken: int


def relaxations(instance: Instance, table: LayerTables, main: int, by: Multipliers) -> tuple[int, list[Relaxed]]:
    """Return what no remote experts come to, in ``1 / UNIT`` price units, and all choices with some."""
    layer, platform, size = table.layer, instance.platform, instance.model.expert_bytes
    g, a = instance.specs[main].decode_ns, int(by.first[layer])
    price = main_price(instance, main)
    first, every, byte = price + by.prices[0], price + by.prices[1], by.prices[2]
    local = [prefill_ns(instance, main, n) for n in table.tokens.tolist()]
    rows, alphas = instance.rows[layer], by.every[layer]
    held = byte * size
    nothing = first * (table.first_base + sum(local)) + every * (
        table.every_base + g * int((rows.count * rows.size).sum())
    )
    nothing = UNIT * (nothing + held * instance.experts)
    found: list[Relaxed] = []
    fitting = table.fitting
    row_of = np.repeat(np.arange(len(rows.count)), rows.size)
    for v, spec in enumerate(instance.remote_specs):
        h, far = int(table.each[v]), platform.cpu_price * instance.specs[spec].mb
        slope = (UNIT - alphas) * h - alphas * g
        kink = rows.size * g // (g + h) if g + h else np.zeros_like(rows.size)
        ends = [np.minimum(kink + step, rows.size) for step in (0, 1)]
        below = np.minimum(*(UNIT * np.maximum((rows.size - n) * g, n * h) - slope * n for n in ends))
        row_sum = int((rows.count * below).sum())
        slopes = np.zeros(instance.experts, dtype=np.int64)
        np.add.at(slopes, rows.expert, (rows.count * slope)[row_of])
        work, decoded = table.work[v].tolist(), instance.decoded[layer].tolist()
        common = [
            every * s + UNIT * (far * (w + d * h) - held) - first * a * p
            for s, w, d, p in zip(slopes.tolist(), work, decoded, local, strict=True)
        ]
        fixed = first * (UNIT * table.first_base + a * sum(local) + (UNIT - a) * platform.invoke_ns)
        fixed += every * (UNIT * table.every_base + row_sum) + UNIT * held * instance.experts
        allowed = fitting.allowed[v].tolist()
        for z, cap in enumerate(fitting.most[v].tolist(), 1):
            if cap < z:
                continue
            brackets = [c + first * (UNIT - a) * w // z for c, w in zip(common, work, strict=True)]
            own = sorted(c for c, fits in zip(brackets, allowed, strict=True) if fits)
            chosen = own[:z] + [c for c in own[z:cap] if c < 0]
            value = fixed + UNIT * far * z * platform.invoke_ns + sum(chosen)
            found.append(
                Relaxed(
                    v, z, value, [c if fits else None for c, fits in zip(brackets, allowed, strict=True)], len(chosen)
                )
            )
    return nothing, found


@dataclass(frozen=True)
class Tuning:
    """How long multipliers are looked for. Whatever the numbers are, the bound holds.

    Attributes
    ----------
    steps : int
        Steps of ascent from nothing. ``later``: from good multipliers of another main specification.
    every : int
        Steps between two exact bounds.
    rate, last_rate : float
        Length of a step, of an alpha's range and of the measure of a price, at first and at last.
    warm, cold : float
        Temperature at first and at last, as a share of what a layer costs.
    """

    steps: int = 600
    later: int = 200
    every: int = 50
    rate: float = 0.05
    last_rate: float = 0.002
    warm: float = 3e-3
    cold: float = 1e-4


USUAL = Tuning()
"""What is used unless something else is asked for."""


class Ascent:
    """Looks for good multipliers of one main specification.

    Parameters
    ----------
    instance : Instance
    tables : sequence of LayerTables
    main : int
    measure : int, optional
        What a deployment costs, about. Without, costs do not count, and multipliers are looked for whose prices prove
        that nothing is within the limits: prices have no size of their own then, and what a budget is worth sums to 1.
    start : Multipliers, optional
    threads : int
        Layers that are looked at at the same time. It changes no result.
    """

    def __init__(
        self,
        instance: Instance,
        tables: Sequence[LayerTables],
        main: int,
        measure: int | None,
        start: Multipliers | None = None,
        threads: int = 1,
    ) -> None:
        self.instance, self.tables, self.main, self.threads = instance, tables, main, threads
        self.free = measure is None
        self.price = 0.0 if self.free else float(main_price(instance, main))
        self.layer_cost = (1.0 if measure is None else float(measure)) / instance.layers
        size = instance.model.expert_bytes
        budget = budgets(instance, main).astype(np.float64)
        self.budget = np.array([budget[0], budget[1], budget[2] / size])
        # Prices are measured by what a ns of the main function costs, and by an expert's part of the cost.
        self.unit = np.array([max(self.price, 1.0), max(self.price, 1.0), max(1.0, self.layer_cost / instance.experts)])
        if self.free:
            self.unit = 1.0 / np.maximum(self.budget, 1.0)
        self.scale = float(free_scale(instance)) if self.free else 1.0
        rows = [len(own.count) for own in instance.rows]
        self.ends = np.cumsum([0, *rows]) + 3 + instance.layers
        self.at = np.full(int(self.ends[-1]), 0.5)
        self.at[:3] = (0.0, 0.0, 0.1)
        if start is not None:
            prices = [float(p) / self.scale for p in start.prices]
            self.at[:3] = np.array([prices[0], prices[1], prices[2] * size]) / self.unit
            self.at[3 : 3 + instance.layers] = start.first / UNIT
            self.at[3 + instance.layers :] = np.concatenate(start.every) / UNIT
        if self.free:
            self._balance(start is None)
        self.local = [
            np.array([prefill_ns(instance, main, n) for n in t.tokens.tolist()], dtype=np.float64) for t in tables
        ]
        mb = [0 if self.free else instance.specs[v].mb for v in instance.remote_specs]
        self.far = np.array([float(instance.platform.cpu_price * m) for m in mb])
        self.active = np.ones((instance.layers, len(mb)), dtype=np.bool_)

    def _balance(self, alike: bool) -> None:
        """Make what the budgets are worth sum to 1."""
        total = float(self.at[:3].sum())
        self.at[:3] = 1 / 3 if alike or total <= 0 else self.at[:3] / total

    def multipliers(self) -> Multipliers:
        """Return where the ascent stands, in whole numbers."""
        n, size = self.instance.layers, self.instance.model.expert_bytes
        first, every, expert = (self.at[:3] * self.unit * self.scale).tolist()
        whole = np.rint(np.clip(self.at[3:], 0, 1) * UNIT).astype(np.int64)
        rows = [whole[a - 3 : b - 3] for a, b in zip(self.ends[:-1].tolist(), self.ends[1:].tolist(), strict=True)]
        return Multipliers((round(first), round(every), math.floor(expert / size)), whole[:n], rows)

    def gradient(self, temperature: float) -> Any:
        """Return the derivatives of the smoothed bound by all coordinates."""
        instance, platform = self.instance, self.instance.platform
        found = np.zeros(len(self.at))
        first, every, expert = (self.at[:3] * self.unit).tolist()
        kernel = kernels().smoothed

        def layer(i: int) -> Any:
            table, rows = self.tables[i], instance.rows[i]
            a, b = int(self.ends[i]), int(self.ends[i + 1])
            value, usage = np.zeros(len(self.far) + 1), np.zeros(3)
            _, found[3 + i] = kernel(
                rows.start, rows.expert, rows.count, float(table.first_base), float(table.every_base), self.local[i],
                instance.decoded[i], table.work, table.each, self.far, table.fitting.allowed, table.fitting.most,
                min(platform.most_replicas, instance.experts), platform.invoke_ns,
                float(instance.specs[self.main].decode_ns), self.price + first, self.price + every, expert,
                self.at[3 + i], self.at[a:b], temperature, self.active[i], value, found[a:b], usage,
            )  # fmt: skip
            near = value[:-1] <= value.min() + 60 * temperature
            self.active[i] = near | ~np.isfinite(value[:-1]) & self.active[i]
            return usage

        used = np.sum(each(layer, range(instance.layers), self.threads), axis=0)
        found[:3] = (used - self.budget) * self.unit
        if self.free:
            found[:3] -= found[:3].mean()
        return found

    def run(
        self, steps: int, report: Callable[[Multipliers], bool], tuning: Tuning, stop: Callable[[], bool] = no_stop
    ) -> None:
        """Take steps; every now and then report multipliers, until somebody says that it is enough.

        The steps are Adam's (Kingma and Ba 2015): each coordinate has a scale of its own.
        """
        mean, square = np.zeros(len(self.at)), np.zeros(len(self.at))
        for step in range(1, steps + 1):
            done = step / steps
            rate = tuning.rate * (tuning.last_rate / tuning.rate) ** done
            temperature = self.layer_cost * tuning.warm * (tuning.cold / tuning.warm) ** done
            if step % tuning.every == 1:
                self.active[:] = True
            slope = self.gradient(temperature)
            mean = 0.9 * mean + 0.1 * slope
            square = 0.99 * square + 0.01 * slope**2
            move = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-30)
            self.at += rate * move
            self.at[:3] = np.maximum(self.at[:3], 0)
            self.at[3:] = np.clip(self.at[3:], 0, 1)
            if self.free:
                self._balance(False)
            if (step % tuning.every == 0 or step == steps) and report(self.multipliers()):
                return
            if stop():
                return
