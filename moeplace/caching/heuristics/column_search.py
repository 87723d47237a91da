"""The search for a better placement by columns: pricing, kicks, and merges by a small MIP."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop
from moeplace.caching.bounds.by_layers import CachingLayers
from moeplace.caching.heuristics import diving
from moeplace.caching.heuristics.climb import Climb
from moeplace.caching.heuristics.columns import ColumnPool, Float
from moeplace.caching.heuristics.diving import dive
from moeplace.caching.heuristics.pricing import price_layers, storage_prices
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.placement import Placement
from moeplace.caching.saving import SavingForm
from moeplace.layers.proof import Argument

TURNS = (3, 1)
"""Checkpoints that columns and bound have in turn, where they share one thread."""


@dataclass(frozen=True)
class ColumnTuning:
    """How far columns are generated, whatever belongs to one. Whatever the numbers are, placements fit.

    Attributes
    ----------
    rounds : int
        Most rounds of pricing in a row.
    halvings : int
        Steps to the first price of each server.
    merged : int
        Columns that a merge chooses from, besides those of the incumbent.
    nodes : int
        Nodes of the branch and bound of one merge.
    between : int
        Kicks between two merges, at least 1.
    kept : int
        Columns above which those that the prices like least are forgotten.
    """

    rounds: int = 12
    halvings: int = 40
    merged: int = 150
    nodes: int = 200
    between: int = 8
    kept: int = 4000


@dataclass(frozen=True)
class Tuning(ColumnTuning):
    """How far columns are generated, and how layers are priced. Whatever the numbers are, bounds hold.

    Attributes
    ----------
    moved : float
        Share of the largest price below which a change of prices is none.
    dives, rarely : float
        Most and fewest dives after a merge: one at first, twice as many after those that were of use, half as many
        after others; half a dive is one after every other merge.
    diving : moeplace.caching.heuristics.diving.Tuning
    exact_nodes : int
        Nodes of the search for one layer's best column; beyond, its bound counts.
    offer_s : float
        Seconds between two placements offered in the middle of a climb.
    """

    moved: float = 0.01
    dives: float = 8
    rarely: float = 1 / 8
    diving: diving.Tuning = diving.USUAL
    exact_nodes: int = 50_000
    offer_s: float = 0.3


USUAL = Tuning()
"""What is used unless something else is asked for."""


class CheckpointStop(Stop):
    """A stop that is set when a search has ended; whoever asks it is at a checkpoint of that search.

    Attributes
    ----------
    over : bool
        Set from outside, by any thread: what the stop is for should end although the search goes on.
    """

    def __init__(self, search: Incumbent) -> None:
        super().__init__(None)
        self._search, self.over = search, False

    def __bool__(self) -> bool:
        return self.over or self._search.checkpoint() is not None


class ColumnSearch:
    """Improves the incumbent of a search by columns, merges, exchanges and kicks.

    Parameters
    ----------
    form : SavingForm
    search : Incumbent
        Receives placements; its incumbent is the beginning.
    seed : int
    started : bool
        Whether the incumbent is somebody's start; otherwise a beginning is constructed.
    enumerated : int
        Most experts of a layer whose sets are all tried.
    threads : int
    exact : CachingLayers, optional
        Prices layers exactly, which proves a bound.
    tuning : Tuning
    """

    def __init__(
        self,
        form: SavingForm,
        search: Incumbent,
        *,
        seed: int,
        started: bool,
        enumerated: int = 12,
        threads: int = 1,
        exact: CachingLayers | None = None,
        tuning: Tuning = USUAL,
    ) -> None:
        self.tuning = tuning
        self.form, self.search, self.started, self.enumerated = form, search, started, enumerated
        self.exact = exact
        self.capacity = form.instance.usable_bytes
        self.stop = CheckpointStop(search)
        self.generator = np.random.default_rng(seed)
        self.plan = WorkingPlacement(form, search.placement.cached.copy(), threads)
        self.pool = ColumnPool(form)
        self.pool.add_plan(self.plan)
        self.climb = Climb(self.plan, self.stop, self._found, enumerated)
        self.held, self.saving = self.plan.held.copy(), self.plan.saving
        self.prices: Float = np.zeros(len(self.capacity))
        self.details: dict[str, int | float | str] = {"kicks": 0, "columns": 0, "merges": 0, "dives": 0}
        self._offered_s = 0.0
        self._dives = min(1.0, self.tuning.dives)
        self._due = 0.0
        self._layer_of = {int(form.instance.item_block[layer.items.start]): i for i, layer in enumerate(form.layers)}
        self._heard: list[tuple[CachingLayers, list[int]]] = []
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
        done, priced = 0, False
        if (dealt := self.climb.dealt) is None:
            self.prices = storage_prices(self.plan, self.capacity, self.enumerated, self.tuning.halvings, self.stop)
            priced = True
            self._price_out()
        else:  # columns have been priced already, and kicks find better placements sooner
            self.pool.add_all(dealt.pool)
            self.prices = dealt.prices
        while not self.stop and (kicks is None or done < kicks):
            for _ in range(self.tuning.between):
                if self.stop or (kicks is not None and done >= kicks):
                    break
                self.climb.attempt(lambda: self.climb.kick(self.generator))
                self._keep()
                done += 1
                self.details["kicks"] = done
            self._update_prices()
            if self._merge() or not priced:
                priced = True
                self._price_out()
            self._dive()
        if not priced:
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
            self.climb.attempt(self.climb.another_beginning)
            self._keep()

    @property
    def threads(self) -> int:
        """Threads that value layers; may be set at any time, by any thread, since nothing else depends on them."""
        return self.plan.threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self.plan.threads = threads

    def listen(self, layers: CachingLayers) -> None:
        """Merge, from now on, the plans as well that a proof of these layers collects, in this thread or another."""
        self._heard.append((layers, [0] * len(layers.oracles)))

    def _hear(self) -> None:
        """Put the plans that proofs have collected since into the pool."""
        for layers, after in list(self._heard):
            for block, part in layers.collected(after):
                if (i := self._layer_of.get(block)) is not None:
                    self.pool.add(i, part, self.form.layers[i].saving_ns(part))

    def _price_out(self) -> None:
        """Price and merge until neither finds anything."""
        while not self.stop:
            for _ in range(self.tuning.rounds):
                if self.stop or not self._price_round():
                    break
            for _ in range(self.tuning.rounds):
                if self.stop or not self._price_exactly():
                    break
            if self.stop or not self._merge():
                return

    def _price_exactly(self) -> bool:
        """Price every layer exactly, if that is possible, and prove the bound; say whether a column is new."""
        if self.exact is None:
            return False
        layers = self.exact
        price = layers.prices(self.prices)
        most: list[int] = []
        news = False
        for oracle in layers.oracles:
            if self.stop:
                return False
            i = self._layer_of[oracle.block]
            floor = oracle.masks(self.pool.best(i, self.prices).part)
            if i not in self._tuned:
                self._tuned.add(i)
                oracle.tune(price)
            found = oracle.best(price, floor=floor, stop=lambda: bool(self.stop), nodes=self.tuning.exact_nodes)
            most.append(found.bound)
            part = oracle.held(found.code)
            news |= self.pool.add(i, part, self.form.layers[i].saving_ns(part))
        layers.prove(sum(most) + int(price @ layers.capacity), Argument(price, most))
        self._update_prices()
        return news

    def _price_round(self) -> bool:
        """Price every layer at prices half way to the master's; say whether a column is new."""
        news = price_layers(self.pool, self._part, self.capacity, self.prices, self.enumerated, self.stop)
        if news is None:
            return False
        self.details["columns"] = len(self.pool)
        return self._update_prices() or news

    def _update_prices(self) -> bool:
        """Go half way to the prices of the master's LP; say whether they still move."""
        from moeplace.layers.master import Master

        found = Master(*self.pool.table(), self.capacity).relax(lambda: bool(self.stop))
        if found is None:
            return False
        before, self.prices = self.prices, (self.prices + found.prices) / 2
        return bool(np.abs(self.prices - before).max() > self.tuning.moved * max(self.prices.max(), 1e-300))

    def _merge(self) -> bool:
        """Merge columns into a placement, climb from it; say whether the incumbent is better for it."""
        from moeplace.layers.master import Master

        if self.stop:
            return False
        self.plan.restore(self.held)
        self._hear()
        own = self.pool.add_plan(self.plan)
        layer, saving, load = self.pool.table()
        columns = self.pool.listed()
        first = np.searchsorted(layer, np.arange(len(self.form.layers)))
        worth = saving - self.prices @ load
        best = np.maximum.reduceat(worth, first)
        short = best[layer] - worth
        # A column that falls short of its layer's best by more than the incumbent does in all is in no better merge.
        reach = float(best.sum() + self.prices @ self.capacity) - self.saving
        order = np.argsort(short, kind="stable")
        chosen = np.union1d(order[short[order] <= reach][: self.tuning.merged], first + own)
        found = Master(layer, saving, load, self.capacity).merge(
            chosen, first + own, self.tuning.nodes, lambda: bool(self.stop)
        )
        self.details["merges"] = int(self.details["merges"]) + 1
        before = self.saving
        if found is not None:
            self.plan.restore(self.pool.placement(found))
            self._keep()
            self.climb.to_local_optimum()
            self._keep()
        if len(layer) > self.tuning.kept:
            # The first column of a layer is the empty one, where it may be empty: it fits beside any others.
            kept = np.zeros(len(layer), dtype=np.bool_)
            kept[order[: self.tuning.kept // 2]] = kept[first + own] = kept[first] = True
            # What the merge has led to may be made of columns that the prices do not like.
            holding = {id(self.pool.like(i, self._part(i))) for i in range(len(first))}
            self.pool.forget(
                c for c, yes in zip(columns, kept.tolist(), strict=True) if not yes and id(c) not in holding
            )
        return self.saving > before

    def _dive(self) -> None:
        """Dive as often as it is due and climb from there."""
        self._due += self._dives
        dives, before = int(self._due), self.saving
        self._due -= dives
        for _ in range(dives):
            self._hear()
            found = dive(self.pool, self.capacity, self.enumerated, self.generator, self.stop, self.tuning.diving)
            if found is None:
                break
            self.plan.restore(found)
            self.climb.to_local_optimum()
            self._keep()
            self.details["dives"] = int(self.details["dives"]) + 1
        self.plan.restore(self.held)
        if dives:
            self._dives = self._dives * 2 if self.saving > before else self._dives / 2
            self._dives = min(max(self._dives, self.tuning.rarely), self.tuning.dives)

    def _keep(self) -> None:
        """Put what the plan holds into the pool, and take it as the incumbent if it is better."""
        if not self.plan.allowed():
            return
        self.pool.add_plan(self.plan)
        if self.plan.saving > self.saving:
            self.held, self.saving = self.plan.held.copy(), self.plan.saving
            self._offer(force=True)

    def _found(self, saving: int) -> None:
        """Offer what a climb has found on its way, now and then: it may end in the middle of it."""
        self._offer(force=False)

    def _offer(self, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._offered_s > self.tuning.offer_s:
            self._offered_s = now
            mine = self.saving >= self.plan.saving
            better, saving = (self.held, self.saving) if mine else (self.plan.held, self.plan.saving)
            # The saving is exact, and on millions of rows the cost takes longer to compute than a step of the climb.
            self.search.offer(Placement(better.copy()), self.form.instance.baseline_ns - saving)

    def _part(self, i: int) -> Bool:
        return np.ascontiguousarray(self.held[:, self.form.layers[i].items])
