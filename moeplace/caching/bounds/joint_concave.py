"""A bound on joint instances without tables of sets of servers: a concave bound for each number of active experts.

For each number ``k`` of active experts the concave bound (:mod:`moeplace.caching.bounds.concave`) has, layer by layer,
a cut: with ``k`` there, no placement saves more in the layer than ``c + G . x``. At a price of each byte a layer is
then worth no more than ``c`` and what is left of the slopes ``G`` after the prices; and a choice of active experts is
worth no more than the sum over its layers. The best choice within the budget of loss is a knapsack
(:mod:`moeplace.layers.choosing`), whose bound and what all bytes cost bound every placement with every choice::

    saving <= sum_n p_n capacity_n  +  max over choices of sum_l w[l, k_l]                                          (J7)
    w[l, k] = offset[l, k] + c[l, k] + sum_{n, e} max(0, G[l, k, n, e] - p_n size_l)

The concave bound of one number of active experts for all layers is no bound of that. Prices are searched in floats, the
bound is computed in integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from moeplace.base.arrays import Bool, Int64
from moeplace.base.incumbent import Incumbent
from moeplace.caching.bounds import concave
from moeplace.caching.bounds.concave import PRICE_UNIT, WEIGHT_UNIT, ConcaveBound, ConcaveResult, covered
from moeplace.caching.certificates import SHARE_BITS, ActiveCut, ActiveCuts, CachingCertificate, Point
from moeplace.caching.heuristics.joint import JointForms
from moeplace.caching.saving import SavingForm
from moeplace.layers.choosing import choose
from moeplace.layers.oracle import LARGEST, Float

SOURCE = "concave bounds of all numbers of active experts"

_WHOLE = PRICE_UNIT * WEIGHT_UNIT << SHARE_BITS
"""Units of a token-ns in which cuts and prices are whole."""


@dataclass(frozen=True)
class Tuning:
    """How far the bound is improved. Whatever the numbers are, it holds.

    Attributes
    ----------
    rounds : int
        Times that all cuts are made anew at the prices found, at most.
    worthwhile : float
        Share of the bound that such a round must win for another one.
    steps : int
        Subgradient steps to better prices.
    halvings : int
        Times that the steps become half as long.
    concave : moeplace.caching.bounds.concave.Tuning
    """

    rounds: int = 4
    worthwhile: float = 1e-3
    steps: int = 40
    halvings: int = 6
    concave: concave.Tuning = field(default_factory=concave.Tuning)


USUAL = Tuning()
"""What is used unless something else is asked for."""


@dataclass(eq=False)
class _Cut:
    """The cut of one layer with one number of active experts.

    ``constant`` and ``slopes [N, E]`` are whole numbers of the units of cuts, the offset is in the constant; ``near``
    has the slopes in token-ns, and ``base`` the constant.
    """

    constant: int
    slopes: npt.NDArray[np.object_]
    base: float
    near: Float


class JointConcave:
    """Concave bounds of all numbers of active experts, and what they prove together.

    Parameters
    ----------
    forms : JointForms
    search : Incumbent
        Receives the bound.
    threads : int
    tuning : Tuning
    """

    def __init__(self, forms: JointForms, search: Incumbent, threads: int, tuning: Tuning = USUAL) -> None:
        self.forms, self.search, self.threads, self.tuning = forms, search, threads, tuning
        instance = forms.instance
        self._room = instance.usable_bytes
        self._sizes = instance.item_bytes[instance.block_start[:-1]]
        self._fits = self._sizes[None, :] <= self._room[:, None]
        self._cuts: dict[tuple[int, int], list[_Cut]] = {}
        self._results: dict[int, list[ConcaveResult]] = {}
        self._best: int | None = None
        self._price: Float = np.zeros(len(self._room) + 1)

    def prices(self) -> Float | None:
        """Return the best prices known of a byte on each server and of a unit of loss, token-ns, or None."""
        return self._price if self._price.any() else None

    def run(self) -> None:
        """Improve the concave bounds of all numbers of active experts, at the prices of all storage and then at theirs.

        At first each is the bound of its number alone, with prices of its own. What all storage costs is then searched
        for all numbers together, and cuts are made anew that are best where storage costs this and has no end.
        """
        for turn in range(self.tuning.rounds + 1):
            before = self._best
            if not self._round(self._price[:-1] if turn else None):
                return
            won = None if before is None or self._best is None else before - self._best
            if not self._price.any() or (turn and won is not None and won <= self.tuning.worthwhile * abs(before or 0)):
                return

    def _round(self, price: Float | None) -> bool:
        """Make cuts for every number of active experts, at given prices or its own; say whether there is time left."""
        numbers = self.forms.numbers[::-1]
        for i, k in enumerate(numbers):
            form, rent = self.forms.uniform_form(k), None
            if price is not None:
                rent = [np.rint(price * layer.size).astype(np.int64) for layer in form.layers]
                form = _rented(form, rent)
            bound = ConcaveBound(form, self.threads, self.tuning.concave)
            if price is None and not i:  # a bound needs some cut of every number
                for other in numbers:
                    self._take(other, ConcaveBound(self.forms.uniform_form(other), self.threads, self.tuning.concave))
            bound.improve(self._until(2 * (len(numbers) - i)))  # half of the time that is left is for later rounds
            self._take(k, bound, rent)
            if self.search.stop.interrupted:
                return False
            self._prove(bound.best.prices if price is None else self._price[:-1])
            if self.search.checkpoint() is not None:
                return False
        return True

    def _until(self, parts: int) -> Callable[[], bool]:
        """Return what says when a part of the time that is left is over."""
        left = self.search.stop.remaining
        begun = self.search.stop.elapsed
        return lambda: (
            self.search.checkpoint() is not None
            or (left is not None and self.search.stop.elapsed - begun > left / parts)
        )

    def _take(self, k: int, bound: ConcaveBound, rent: list[Int64] | None = None) -> None:
        """Take over the cut that proves a bound best, for the layers that may have so many active experts.

        ``rent``: what the bound's layers have as loading too much, by server.
        """
        found = bound.layer_cuts()
        self._results.setdefault(k, []).append(bound.best)
        rents = dict(zip((layer.items.start for layer in bound.layers), rent or (), strict=False))
        unit = WEIGHT_UNIT << SHARE_BITS
        for b, own in enumerate(self.forms.options):
            if k not in own:
                continue
            items = self.forms.items(b)
            nothing = 0, np.zeros((len(self._room), items.stop - items.start), dtype=object)
            constant, slopes = found.get(items.start, nothing)
            if items.start in found and items.start in rents:
                slopes = slopes + np.array(rents[items.start].tolist(), dtype=object)[:, None] * unit
            constant += self.forms.offset(b, k) * unit
            near = np.array([[value / unit for value in line] for line in slopes.tolist()], dtype=np.float64)
            cut = _Cut(constant, slopes, constant / unit, near.reshape(slopes.shape))
            self._cuts.setdefault((b, k), []).append(cut)

    def _prove(self, first: Float) -> None:
        """Look for good prices, from some of a byte, and report the bound that they prove."""
        loss = self._price[-1]
        candidates = [np.append(first, loss), self._price]
        best = min(candidates, key=lambda price: self._value(price)[0])
        value, slope = self._value(best)
        reach = np.append(self._room.astype(np.float64), self.forms.budget)
        # Prices are measured by what they cost; all budgets are to cost a part of what there is at first.
        scale = max(abs(value), 1.0) / np.maximum(1.0, reach * max(1, len(reach)))
        length = 1.0
        for _ in range(self.tuning.halvings):
            at, from_ = best, slope
            for _ in range(self.tuning.steps):
                if self.search.stop.interrupted:
                    return
                norm = float(np.sqrt(((from_ * scale) ** 2).sum()))
                if not norm:
                    break
                at = np.maximum(0.0, at - length * scale**2 * from_ / norm)
                found, from_ = self._value(at)
                if found < value:
                    value, best, slope = found, at, from_
            length /= 4
        self._price = best
        found_bound = self._bound(best[:-1])
        if found_bound is not None and (self._best is None or found_bound[0] < self._best):
            self._best, certificate = found_bound
            self.search.prove(max(0, self.forms.instance.baseline_ns - self._best), SOURCE, certificate)

    def _value(self, price: Float) -> tuple[float, Float]:
        """Return the bound at prices of bytes and of loss, in floats, and its slope."""
        total = float(price[:-1] @ self._room) + price[-1] * self.forms.budget
        slope = np.append(self._room.astype(np.float64), self.forms.budget)
        slots = self.forms.instance.layer_slots
        for b, own in enumerate(self.forms.options):
            best, used = -np.inf, np.zeros_like(slope)
            cost = price[:-1] * self._sizes[b]
            for k in own:
                worth, least = np.inf, None
                for cut in self._cuts[b, k]:
                    left = np.where(self._fits[:, b, None], np.maximum(0.0, cut.near - cost[:, None]), 0.0)
                    left = _largest(left, slots)
                    if (found := cut.base + float(left.sum())) < worth:
                        worth, least = found, left
                assert least is not None, "every number has a cut"
                worth -= price[-1] * self.forms.loss[b, k - 1]
                if worth > best:
                    best = worth
                    used = np.append((least > 0).sum(axis=1) * self._sizes[b], self.forms.loss[b, k - 1]).astype(float)
            total += best
            slope -= used
        return total, slope

    def _bound(self, price: Float) -> tuple[int, Callable[[], CachingCertificate]] | None:
        """Return what no placement with any choice saves more than, token-ns, by whole prices near some, and why."""
        whole = [int(p * WEIGHT_UNIT * PRICE_UNIT) << SHARE_BITS for p in np.maximum(0.0, price).tolist()]
        instance = self.forms.instance
        slots = instance.layer_slots.tolist()
        worth: dict[tuple[int, int], int] = {}
        chosen: dict[tuple[int, int], int] = {}
        for (b, k), cuts in self._cuts.items():
            size = int(self._sizes[b])
            for i, cut in enumerate(cuts):
                total = cut.constant * PRICE_UNIT
                for n, (line, p) in enumerate(zip(cut.slopes.tolist(), whole, strict=True)):
                    if self._fits[n, b]:
                        left = sorted((value * PRICE_UNIT - p * size for value in line), reverse=True)
                        total += sum(max(0, value) for value in left[: slots[n]])
                if (b, k) not in worth or total < worth[b, k]:
                    worth[b, k], chosen[b, k] = total, i
        # In token-ns, rounded up; coarser where sums would be too large.
        unit = _WHOLE
        while (
            sum(max(abs(worth[b, k]) for k in own) for b, own in enumerate(self.forms.options)) // unit >= LARGEST // 2
        ):
            unit *= 2
        value = np.zeros(self.forms.loss.shape, dtype=np.int64)
        loss = np.full(value.shape, self.forms.budget + 1, dtype=np.int64)
        for (b, k), total in worth.items():
            value[b, k - 1], loss[b, k - 1] = -(-total // unit), self.forms.loss[b, k - 1]
        found = choose(value, loss, self.forms.budget)
        if found is None:
            return None
        rent = sum(p * room for p, room in zip(whole, self._room.tolist(), strict=True))
        saving: int = (rent + found.bound * unit) // _WHOLE
        results = {k: list(own) for k, own in self._results.items()}
        return saving, lambda: _certificate(self.forms, saving, results, chosen, whole, found.price * unit)


def everything(forms: JointForms) -> CachingCertificate:
    """Return what proves that no placement saves more than every server holding everything does with every number."""
    results = {k: [ConcaveBound(forms.uniform_form(k)).best] for k in forms.numbers}
    chosen = {(b, k): 0 for b, own in enumerate(forms.options) for k in own}
    return _certificate(forms, forms.most_saving, results, chosen, [0] * len(forms.instance.servers), 0)


def _certificate(
    forms: JointForms,
    saving: int,
    results: dict[int, list[ConcaveResult]],
    chosen: dict[tuple[int, int], int],
    prices: list[int],
    loss_price: int,
) -> CachingCertificate:
    """Write down what proves a bound on the saving: of each layer and number one of the results, and prices.

    A result's points count in the layers for which it is chosen, and nowhere else; so do its multipliers of what
    demands without a cloud need.
    """
    instance, cuts = forms.instance, []
    for k, own in results.items():
        points: list[Point] = []
        needs: list[tuple[Bool, int, int]] = []
        for i, result in enumerate(own):
            mine = [chosen.get((b, k)) == i for b in range(instance.n_blocks)]
            for smoothing, weights, units in result.points:
                weights = [weight if counts else 0 for weight, counts in zip(weights, mine, strict=True)]
                if any(weights):
                    points.append(Point.make(smoothing, weights, units))
            needs += [need for need in result.needs if mine[int(instance.item_block[need[1]])]]
        if any(number == k for _, number in chosen):
            covering = UNSET if instance.coverage is None else covered(instance, needs)
            cuts.append(ActiveCut(k, points, covering))
    proof = ActiveCuts(concave.UNIT, WEIGHT_UNIT, prices, PRICE_UNIT, loss_price, cuts)
    return CachingCertificate.make(instance, max(0, instance.baseline_ns - saving), proof)


def _rented(form: SavingForm, rent: list[Int64]) -> SavingForm:
    """Return a form whose servers hold everything, at what each expert costs there beside its loading."""
    layers = [
        replace(layer, load=np.ascontiguousarray(layer.load + own[:, None]))
        for layer, own in zip(form.layers, rent, strict=True)
    ]
    everything = np.full(len(form.capacity_bytes), max(1, int(form.instance.item_bytes.sum())), dtype=np.int64)
    instance = replace(form.instance, capacity_bytes=everything)
    return SavingForm(instance, layers, everything)


def _largest(values: Float, most: Int64) -> Float:
    """Return values ``[N, E]`` of which only the ``most [N]`` largest of each line are left."""
    if (most >= values.shape[1]).all():
        return values
    order = np.argsort(-values, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    kept: Float = np.where(rank < most[:, None], values, 0.0)
    return kept
