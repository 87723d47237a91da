"""Column generation: what a layer may hold on all servers is a column; prices per byte keep the layers in step.

The restricted master problem picks one column a layer within the capacities: its LP gives prices, its MIP merges the
columns of different placements into a better one. Pricing finds columns at given prices
(:mod:`moeplace.columns`), and the exchanges of ``local-search`` work on what comes of both. The LP over *all* columns
is a bound: where layers are small they are priced exactly, which proves it. Where they are large, a weaker bound is
proven beside it (:func:`prove`).
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from moeplace.bounds.concave import ConcaveBound
from moeplace.bounds.concave import Proof as ConcaveProof
from moeplace.columns import Column, ColumnPool, Float, peeled, price
from moeplace.errors import InputError
from moeplace.incremental import SavingForm, saving_form
from moeplace.instance import Bool, Instance, Int64
from moeplace.interrupt import Stop, stopping
from moeplace.methods.layer_enumeration import Proof, layer_enumeration, refuses
from moeplace.methods.local_search import Climb, pooled_placement
from moeplace.placement import Placement
from moeplace.plan import Plan
from moeplace.registry import MethodInfo, describe, method_info
from moeplace.result import Outcome, ProgressCallback
from moeplace.search import Search

IMPORTS = (*method_info(layer_enumeration).imports, "moeplace.bounds._concave_kernels", "moeplace.solvers.master")

ROUNDS = 12
"""Most rounds of pricing in a row."""

MERGED = 400
"""Columns that a merge chooses from, besides those of the incumbent."""

NODES = 200
"""Nodes of the branch and bound of one merge."""

BETWEEN = 8
"""Kicks between two merges."""

EXACT_EXPERTS = 16
"""Most experts of a layer that is priced exactly."""

EXACT_NODES = 50_000
"""Nodes of the search for one layer's best column; beyond, its bound counts."""

TURNS = (3, 1)
"""Looks at the clock that columns and bound have in turn, where they share one thread."""

KEPT = 4000
"""Columns above which those that the prices like least are forgotten."""

OFFER_S = 0.3

MOST_TERMS = 1 << 24
"""Terms above which the aggregated problem, which the bound by layers needs, is not made."""

MOST_CELLS_LATER = 1 << 28
"""What ``layer-enumeration`` takes once the concave bound is known (2 GiB of shares)."""

EVERYTHING = "every server holding everything"


@describe(
    MethodInfo(
        summary="Prices storage, generates columns (what a layer holds on all servers), merges them by a small MIP.",
        guarantee="a proven bound: by exact pricing in layers of up to 16 experts, else by layers or the concave bound",
        limits="the bound is that of a relaxation: it rarely reaches the optimum",
        imports=IMPORTS,
    )
)
def column_generation(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
    kicks: int = 16,
    enumerate: int = 12,
) -> Outcome:
    """Improve a placement by columns from pricing and from kicks, and prove a bound beside it.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    kicks : int
        Times that a few servers are emptied and filled anew to find other columns, with a merge after every eight.
    enumerate : int
        Most experts of a layer whose sets are all tried where a server is filled.
    """
    if kicks < 0:
        raise InputError(f"kicks must be at least 0, found {kicks}")
    with stopping(time_limit) as stop:
        search = Search(instance, stop, start or Placement.empty(instance), gap, progress)
        form = saving_form(instance)
        search.prove(instance.baseline_ns - form.most_ns, EVERYTHING)
        details: dict[str, int | float | str] = {}

        def columns(exact: Proof | None) -> None:
            found = ColumnSearch(form, search, seed=seed, started=start is not None, enumerated=enumerate, exact=exact)
            found.begin()
            found.improve(kicks)
            details.update(found.details)

        if prices_exactly(instance):
            search.run(lambda: search.attempt("column-generation", lambda: columns(Proof(search, threads))))
        else:
            search.run(
                lambda: search.attempt("column-generation", lambda: columns(None)),
                lambda: search.attempt("the proof", lambda: prove(form, search)),
                turns=TURNS if threads == 1 else None,
            )
        outcome = search.outcome()
        return replace(outcome, termination=search.ended or "completed", details=outcome.details | details)


def prices_exactly(instance: Instance) -> bool:
    """Return whether all layers are small enough to be priced exactly."""
    if max((model.experts for model in instance.models), default=0) > EXACT_EXPERTS:
        return False
    return refuses(instance) is None


def prove(form: SavingForm, search: Search) -> None:
    """Prove what can be proven by layers; where they are too large for that, the concave bound after it.

    The bound by layers is the stronger one where it can be had, but on millions of terms it takes minutes, and then
    it comes after the concave bound, which needs no tables of sets of servers and which a certificate shows.
    """

    def report(saving_bound: int, found: ConcaveProof) -> None:
        if search.bound_ns is None or found.bound_ns > search.bound_ns:
            search.prove(found.bound_ns, "concave bound", found.certificate)

    by_layers = form.most_terms <= MOST_TERMS and refuses(form.instance, MOST_CELLS_LATER) is None
    at_once = by_layers and refuses(form.instance) is None
    if at_once:
        Proof(search, 1).run()
    if not search.ended and not prices_exactly(form.instance):
        ConcaveBound(form).improve(lambda: search.ended is not None, report)
    if not search.ended and by_layers and not at_once:
        Proof(search, 1).run()


class Heeding(Stop):
    """A stop that also knows whether a search has ended."""

    def __init__(self, search: Search) -> None:
        super().__init__(None)
        self._search = search

    def __bool__(self) -> bool:
        return self._search.ended is not None


class ColumnSearch:
    """Improves the incumbent of a search by columns, merges, exchanges and kicks.

    Parameters
    ----------
    form : SavingForm
    search : Search
        Receives placements; its incumbent is the beginning.
    seed : int
    started : bool
        Whether the incumbent is somebody's start; otherwise a beginning is constructed.
    enumerated : int
        Most experts of a layer whose sets are all tried.
    threads : int
        Threads that value layers.
    exact : Proof, optional
        Prices layers exactly, which proves a bound.
    """

    def __init__(
        self,
        form: SavingForm,
        search: Search,
        *,
        seed: int,
        started: bool,
        enumerated: int = 12,
        threads: int = 1,
        exact: Proof | None = None,
    ) -> None:
        self.form, self.search, self.started, self.enumerated = form, search, started, enumerated
        self.exact = exact
        self.capacity = form.instance.capacity_bytes
        self.stop = Heeding(search)
        self.generator = np.random.default_rng(seed)
        self.plan = Plan(form, search.placement.cached.copy(), threads)
        self.climb = Climb(self.plan, self.stop, self._found, enumerated)
        self.pool = ColumnPool(form)
        self.held, self.saving = self.plan.held.copy(), self.plan.saving
        self.prices: Float = np.zeros(len(self.capacity))
        self.details: dict[str, int | float | str] = {"kicks": 0, "columns": 0, "merges": 0}
        self._told = 0.0
        self._tuned: set[int] = set()

    def improve(self, kicks: int | None) -> None:
        """Generate columns and merge them until nothing helps any more and so many kicks are done.

        Parameters
        ----------
        kicks : int or None
            None goes on until the search ends.
        """
        if not self.form.layers or not len(self.capacity):
            return
        self.prices = self._first_prices()
        self._price_out()
        done = 0
        while not self.stop and (kicks is None or done < kicks):
            for _ in range(BETWEEN):
                if self.stop or (kicks is not None and done >= kicks):
                    break
                self.climb.attempt(lambda: self.climb.kick(self.generator))
                self._keep()
                done += 1
                self.details["kicks"] = done
            self._update_prices()
            if self._merge():
                self._price_out()
        self._offer(force=True)

    def begin(self) -> None:
        """Climb to a first local optimum, as ``local-search`` does."""
        if not self.form.layers or not len(self.capacity):
            return
        if not self.started:
            self.climb.construct()
            self._keep()
        self.climb.to_local_optimum()
        self._keep()
        if not self.started and len(self.capacity) > 1 and not self.stop:
            self.climb.attempt(lambda: self.plan.restore(pooled_placement(self.form.instance, self.enumerated)))
            self._keep()

    def _price_out(self) -> None:
        """Price and merge until neither finds anything."""
        while not self.stop:
            for _ in range(ROUNDS):
                if self.stop or not self._price_round():
                    break
            for _ in range(ROUNDS):
                if self.stop or not self._price_exactly():
                    break
            if self.stop or not self._merge():
                return

    def _price_exactly(self) -> bool:
        """Price every layer exactly, if that is possible, and prove the bound; say whether a column is new."""
        if self.exact is None:
            return False
        proof = self.exact
        to_units = proof.size_unit * proof.scale / proof.unit
        wanted = self.prices * to_units
        # Sums of prices must not overflow; a bound holds at any price.
        sane = min(1.0, 2 * proof.total / max(float(wanted @ proof.capacity), 1.0))
        price: Int64 = np.rint(wanted * sane).astype(np.int64)
        upper, news = int(price @ proof.capacity), False
        layer_of = {layer.items.start: i for i, layer in enumerate(self.form.layers)}
        for j, oracle in enumerate(proof.oracles):
            if self.stop:
                return False
            i = layer_of[int(self.form.instance.block_start[oracle.block])]
            own = proof.prices(j, price)
            floor = oracle.masks(self._best_column(i).part)
            if i not in self._tuned:
                self._tuned.add(i)
                oracle.tune(own)
            found = oracle.best(own, floor=floor, stop=lambda: bool(self.stop), nodes=EXACT_NODES)
            upper += found.bound
            part = oracle.held(found.masks)
            news |= self.pool.add(i, part, self.form.layers[i].saving_ns(part))
        proof.prove(upper)
        self._update_prices()
        return news

    def _price_round(self) -> bool:
        """Price every layer at prices half way to the master's; say whether a column is new."""
        news = False
        for i, layer in enumerate(self.form.layers):
            starts = [peeled(layer, self.capacity, self.prices)[0], self._part(i), self._best_column(i).part]
            seen: set[bytes] = set()
            for start in starts:
                if self.stop:
                    return False
                if (key := start.tobytes()) not in seen:
                    seen.add(key)
                    for part, saving in price(layer, start, self.capacity, self.prices, self.enumerated):
                        news |= self.pool.add(i, part, saving)
        self.details["columns"] = len(self.pool)
        return self._update_prices() or news

    def _update_prices(self) -> bool:
        """Go half way to the prices of the master's LP; say whether they still move."""
        from moeplace.solvers.master import Master

        found = Master(*self.pool.table(), self.capacity).prices(lambda: bool(self.stop))
        if found is None:
            return False
        before, self.prices = self.prices, (self.prices + found) / 2
        return bool(np.abs(self.prices - before).max() > 0.01 * max(self.prices.max(), 1e-300))

    def _merge(self) -> bool:
        """Merge columns into a placement, climb from it; say whether the incumbent is better for it."""
        from moeplace.solvers.master import Master

        if self.stop:
            return False
        self.plan.restore(self.held)
        own = self.pool.add_plan(self.plan)
        layer, saving, load = self.pool.table()
        first = np.searchsorted(layer, np.arange(len(self.form.layers)))
        worth = saving - self.prices @ load
        best = np.maximum.reduceat(worth, first)
        short = best[layer] - worth
        # A column that falls short of its layer's best by more than the incumbent does in all is in no better merge.
        reach = float(best.sum() + self.prices @ self.capacity) - self.saving
        order = np.argsort(short, kind="stable")
        chosen = np.union1d(order[short[order] <= reach][:MERGED], first + own)
        if len(layer) > KEPT:
            kept = np.zeros(len(layer), dtype=np.bool_)
            kept[order[: KEPT // 2]] = kept[first + own] = kept[first] = True
        found = Master(layer, saving, load, self.capacity).merge(chosen, first + own, NODES, lambda: bool(self.stop))
        self.details["merges"] = int(self.details["merges"]) + 1
        before = self.saving
        if found is not None:
            columns = [c for layer_columns in self.pool.columns for c in layer_columns]
            held = np.zeros_like(self.held)
            for i, at in enumerate(found.tolist()):
                held[:, self.form.layers[i].items] = columns[at].part
            self.plan.restore(held)
            self._keep()
            self.climb.to_local_optimum()
            self._keep()
        if len(layer) > KEPT:
            self.pool.keep(np.concatenate((kept, np.ones(len(self.pool) - len(kept), dtype=np.bool_))))
        return self.saving > before

    def _keep(self) -> None:
        """Put what the plan holds into the pool, and take it as the incumbent if it is better."""
        self.pool.add_plan(self.plan)
        if self.plan.saving > self.saving:
            self.held, self.saving = self.plan.held.copy(), self.plan.saving
            self._offer(force=True)

    def _found(self, saving: int) -> None:
        """Offer what a climb has found on its way, now and then: it may end in the middle of it."""
        self._offer(force=False)

    def _offer(self, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._told > OFFER_S:
            self._told = now
            better = self.held if self.saving >= self.plan.saving else self.plan.held
            self.search.offer(Placement(better.copy()))

    def _part(self, i: int) -> Bool:
        return np.ascontiguousarray(self.held[:, self.form.layers[i].items])

    def _best_column(self, i: int) -> Column:
        cost = self.prices * self.form.layers[i].size
        return max(self.pool.columns[i], key=lambda c: c.saving - float(cost @ c.usage))

    def _first_prices(self) -> Float:
        """Return what the last bytes of each server are worth, the others fixed: the slope of its value functions."""
        layers, prices = self.form.layers, np.zeros(len(self.capacity))
        sizes = [layer.size for layer in layers]
        for n, capacity in enumerate(self.capacity.tolist()):
            if self.stop:
                break
            values = [self.plan.function(i, n, self.enumerated).values for i in range(len(layers))]
            low, high = 0.0, max(float(v[-1] - v[0]) / s for v, s in zip(values, sizes, strict=True)) + 1.0
            for _ in range(40):
                middle = (low + high) / 2
                wanted = sum(
                    int(np.argmax(v - middle * s * np.arange(len(v)))) * s for v, s in zip(values, sizes, strict=True)
                )
                low, high = (middle, high) if wanted > capacity else (low, middle)
            prices[n] = high
        return prices
