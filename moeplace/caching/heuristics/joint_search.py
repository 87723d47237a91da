"""The search for better placements with their active experts by columns: prices for bytes and for loss, merges, kicks.

A column is what the servers hold of one layer *and* how many experts it uses: its value is what it saves against the
baseline of all experts active, and beside bytes it takes loss. Where a layer holds the same, every number of active
experts makes a column. Prices come from the master problem's linear relaxation over the columns known, and from a proof
that goes on beside. Columns are found at prices by what finds them without the choice
(:mod:`moeplace.caching.heuristics.pricing`), for the numbers of active experts that may be part of a better solution at
these prices; and the master problem's merges are climbed from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.incumbent import Incumbent
from moeplace.caching.heuristics.climb import ENUMERATED, Climb
from moeplace.caching.heuristics.column_search import CheckpointStop, ColumnTuning
from moeplace.caching.heuristics.columns import Float
from moeplace.caching.heuristics.joint import JointForms, alternate
from moeplace.caching.heuristics.pricing import peeled, price, storage_prices
from moeplace.caching.heuristics.repairing import without_excess
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.layers.choosing import choose

USUAL = ColumnTuning(rounds=4, merged=600, between=4)
"""What is used unless something else is asked for."""


@dataclass(eq=False)
class _Column:
    """What the servers hold of a layer with so many active experts: what it saves, and what it takes."""

    k: int
    part: Bool
    value: int
    usage: Int64


class JointSearch:
    """Improves the incumbent of a search by turns, columns, merges and kicks.

    Parameters
    ----------
    forms : JointForms
    search : Incumbent
        Receives placements with their active experts; its incumbent is the beginning.
    seed : int
    started : bool
        Whether the incumbent is somebody's start; otherwise beginnings are constructed.
    threads : int
        Threads that value layers.
    tuning : moeplace.caching.heuristics.column_search.ColumnTuning
    hints : callable, optional
        Returns prices that a proof has come to, of bytes and of loss, float64 [N + 1], or None where it has none yet.

    Attributes
    ----------
    details : dict
        What was done, in counts.
    """

    def __init__(
        self, forms: JointForms, search: Incumbent, *, seed: int, started: bool, threads: int = 1,
        enumerated: int = ENUMERATED, tuning: ColumnTuning = USUAL, hints: Callable[[], Float | None] | None = None,
    ) -> None:  # fmt: skip
        self.forms, self.search, self.started, self.tuning = forms, search, started, tuning
        self.threads, self.enumerated, self.hints = threads, enumerated, hints
        self._hinted: Float | None = None
        self._begun: set[bytes] | None = set()
        self.instance = forms.instance
        self.stop = CheckpointStop(search)
        self.generator = np.random.default_rng(seed)
        self.budget: Int64 = np.append(self.instance.usable_bytes, forms.budget)
        self.prices: Float = np.zeros(len(self.budget))
        self.details: dict[str, int | float | str] = {"turns": 0, "kicks": 0, "columns": 0, "merges": 0}
        self._at: list[dict[bytes, int]] = [{} for _ in forms.options]
        self._columns: list[list[_Column]] = [[] for _ in forms.options]
        for b in range(len(forms.options)):
            items = forms.items(b)
            self._add(b, np.zeros((len(self.instance.servers), items.stop - items.start), dtype=np.bool_))

    def begin(self) -> None:
        """Take turns from the incumbent's active experts, then from a choice of them at what bytes are worth there."""
        active, held = self.forms.decision(self.search.placement)
        if not self.started and self._begun is not None:
            self._begun.add(active.tobytes())
        self._turns(active, held if self.started else None)
        if not self.stop and len(self.instance.capacity_bytes):
            self._follow(self._slopes())

    def improve(self, kicks: int | None) -> None:
        """Take turns from the other beginnings, the first time; then generate columns and merge them, kick, and so on.

        Parameters
        ----------
        kicks : int or None
            None goes on until the search ends.
        """
        if not len(self.instance.capacity_bytes) or not self.forms.options:
            return
        done = 0
        self._begin_anew()
        self._price_out()
        while not self.stop and (kicks is None or done < kicks):
            for _ in range(self.tuning.between):
                if self.stop or (kicks is not None and done >= kicks):
                    break
                self._kick()
                done += 1
                self.details["kicks"] = done
            self._update_prices()
            if self._hint() or self._merge():
                self._price_out()

    def _begin_anew(self) -> None:
        """Take turns from empty servers and each choice that may be a beginning, if that was not done before.

        So the end is no worse than that of either order: a placement for all experts, and the best choice for it; as
        many experts left out as the budget allows, and a placement for the rest.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return
        for active in self.forms.beginnings(lambda: bool(self.stop)):
            if self.stop:
                return
            if active.tobytes() not in begun:
                self._turns(active, None)

    def _slopes(self) -> Float:
        """Return what bytes are worth at the incumbent; loss costs nothing yet."""
        active, held = self.forms.decision(self.search.placement)
        plan = WorkingPlacement(self.forms.form(active), held.copy(), self.threads)
        capacity = self.instance.capacity_bytes
        return np.append(storage_prices(plan, capacity, self.enumerated, self.tuning.halvings, self.stop), 0.0)

    def _hint(self) -> bool:
        """Follow prices that somebody else knows, where they are new; say whether the incumbent is better for it."""
        hint = self.hints() if self.hints is not None else None
        if hint is None or (self._hinted is not None and np.array_equal(hint, self._hinted)):
            return False
        self._hinted = hint
        return self._follow(hint)

    def _follow(self, prices: Float) -> bool:
        """Price all columns, choose active experts by what layers are then worth, and take turns from there."""
        before = self.search.latency_ns
        self.prices = prices
        self._price_round(everything=True)
        if self.stop:
            return False
        options = self.forms.options
        value = np.zeros(self.forms.loss.shape, dtype=np.int64)
        loss = np.full(value.shape, self.forms.budget + 1, dtype=np.int64)
        best: dict[tuple[int, int], _Column] = {}
        for b, columns in enumerate(self._columns):
            worths = [c.value - float(self.prices[:-1] @ c.usage[:-1]) for c in columns]
            for column, worth in sorted(zip(columns, worths, strict=True), key=lambda pair: pair[1]):
                best[b, column.k] = column
                value[b, column.k - 1] = int(worth)
            for k in options[b]:
                if (b, k) in best:
                    loss[b, k - 1] = self.forms.loss[b, k - 1]
        found = choose(value, loss, self.forms.budget, stop=lambda: bool(self.stop))
        if found is None:
            return False
        active = found.choice + 1
        held = np.zeros((len(self.instance.servers), self.instance.n_items), dtype=np.bool_)
        for b, k in enumerate(active.tolist()):
            held[:, self.forms.items(b)] = best[b, k].part
        held = without_excess(self.forms.form(active), held, self.threads, lambda: bool(self.stop))
        if self.stop or not self.forms.placement(active, held).fits(self.instance):
            return False
        self._turns(active, held)
        return self.search.latency_ns < before

    def _turns(self, active: Int64, held: Bool | None) -> None:
        self.details["turns"] = int(self.details["turns"]) + 1
        _, held = alternate(self.forms, active, held, self.stop, self._found, self.threads, self.enumerated)
        self._keep(held)

    def _found(self, active: Int64, held: Bool) -> None:
        self.search.offer(self.forms.placement(active, held))

    def _kick(self) -> None:
        """Empty some servers and fill them anew, with the active experts as they are, and take turns from there."""
        active, held = self.forms.decision(self.search.placement)
        plan = WorkingPlacement(self.forms.form(active), held.copy(), self.threads)
        climb = Climb(plan, self.stop, lambda saving: None, self.enumerated)
        climb.kick(self.generator)
        climb.to_local_optimum()
        if plan.allowed() and not self.stop:
            self._keep(plan.held)
            self._found(active, plan.held)
            better = self.forms.choice(plan.held, lambda: bool(self.stop))
            self._found(better, plan.held)

    def _price_out(self) -> None:
        """Price and merge until neither finds anything."""
        while not self.stop:
            self._hint()
            self._update_prices()
            for _ in range(self.tuning.rounds):
                if self.stop or not self._price_round():
                    break
                self._update_prices()
            if self.stop or not self._merge():
                return

    def _price_round(self, everything: bool = False) -> bool:
        """Price every layer with the active experts that may be of use, or with all; say whether a column is new."""
        bytes_ = self.prices[:-1]
        worths = [self._worths(columns) for columns in self._columns]
        reach = self._reach(worths)
        news = False
        for b, options in enumerate(self.forms.options):
            best = dict.fromkeys(options, -np.inf)
            top: dict[int, _Column] = {}
            for column, worth in zip(self._columns[b], worths[b].tolist(), strict=True):
                if worth > best[column.k]:
                    best[column.k], top[column.k] = worth, column
            for k in options:
                layer = self.forms.layer(b, k)
                # What falls short of the layer's best by more than all of the incumbent does is in nothing better.
                if layer is None or not (everything or best[k] >= max(best.values()) - reach):
                    continue
                starts = [peeled(layer, self.instance.capacity_bytes, bytes_)[0]] + ([top[k].part] if k in top else [])
                seen: set[bytes] = set()
                for start in starts:
                    if self.stop:
                        return False
                    if (key := start.tobytes()) not in seen:
                        seen.add(key)
                        for part, _ in price(layer, start, self.instance.capacity_bytes, bytes_, self.enumerated):
                            news |= self._add(b, part)
        self.details["columns"] = sum(map(len, self._columns))
        return news

    def _worths(self, columns: list[_Column]) -> Float:
        usage = np.array([c.usage for c in columns], dtype=np.float64)
        worths: Float = np.array([c.value for c in columns], dtype=np.float64) - usage @ self.prices
        return worths

    def _reach(self, worths: list[Float]) -> float:
        """Return by how much the incumbent falls short of the bound of the columns known at the prices."""
        saved = self.instance.baseline_ns - self.search.latency_ns
        return max(0.0, sum(float(w.max()) for w in worths) + float(self.prices @ self.budget) - saved)

    def _update_prices(self) -> None:
        """Go half way to the prices of the master's relaxation."""
        from moeplace.layers.master import Master

        found = Master(*self._table(), self.budget).relax(lambda: bool(self.stop))
        if found is not None:
            self.prices = (self.prices + found.prices) / 2 if self.prices.any() else found.prices

    def _merge(self) -> bool:
        """Merge columns into a placement and take turns from it; say whether the incumbent is better for it."""
        from moeplace.layers.master import Master

        if self.stop:
            return False
        active, held = self.forms.decision(self.search.placement)
        own = self._keep(held, active)
        layer, value, usage = self._table()
        first = np.searchsorted(layer, np.arange(len(self._columns)))
        worths = [self._worths(columns) for columns in self._columns]
        short = np.concatenate([w.max() - w for w in worths])
        order = np.argsort(short, kind="stable")
        chosen = np.union1d(order[short[order] <= self._reach(worths)][: self.tuning.merged], first + own)
        found = Master(layer, value, usage, self.budget).merge(
            chosen, first + own, self.tuning.nodes, lambda: bool(self.stop)
        )
        self.details["merges"] = int(self.details["merges"]) + 1
        before = self.search.latency_ns
        if found is not None:
            held = held.copy()
            active = active.copy()
            for b, at in enumerate((found - first).tolist()):
                column = self._columns[b][at]
                held[:, self.forms.items(b)], active[b] = column.part, column.k
            self._found(active, held)
            self._turns(active, held)
        self._forget(layer, short, first + own)
        return self.search.latency_ns < before

    def _forget(self, layer: Int64, short: Float, own: Int64) -> None:
        """Forget columns of a table that the prices like least, where they are too many; what came since is kept.

        The first columns of a layer are kept, too: those of nothing held, which fit beside any others.
        """
        if len(short) <= self.tuning.kept:
            return
        kept = np.zeros(len(short), dtype=np.bool_)
        kept[np.argsort(short, kind="stable")[: self.tuning.kept // 2]] = kept[own] = True
        begin = np.searchsorted(layer, np.arange(len(self._columns) + 1)).tolist()
        for b, columns in enumerate(self._columns):
            known, options = kept[begin[b] : begin[b + 1]].tolist(), len(self.forms.options[b])
            left = [c for j, c in enumerate(columns) if j < options or j >= len(known) or known[j]]
            self._columns[b] = left
            self._at[b] = {self._key(c): j for j, c in enumerate(left)}

    def _keep(self, held: Bool, active: Int64 | None = None) -> Int64:
        """Put what the servers hold into the pool; return the columns of these active experts, if they are given."""
        own = np.zeros(len(self._columns), dtype=np.int64)
        for b in range(len(self._columns)):
            part = np.ascontiguousarray(held[:, self.forms.items(b)])
            self._add(b, part)
            if active is not None:
                own[b] = self._at[b][self._key_of(int(active[b]), part)]
        return own

    def _add(self, b: int, part: Bool) -> bool:
        """Add what the servers hold of a layer with every number of active experts; say whether one is news."""
        news = False
        size = int(self.instance.item_bytes[self.forms.items(b).start])
        for k in self.forms.options[b]:
            layer = self.forms.layer(b, k)
            if layer is not None and not layer.allows(part):
                return False
            key = self._key_of(k, part)
            value = self.forms.offset(b, k) + self.forms.saving_ns(b, k, part)
            at = self._at[b].get(key)
            if at is not None and self._columns[b][at].value >= value:
                continue
            news = True
            usage = np.append(part.sum(axis=1) * size, self.forms.loss[b, k - 1])
            column = _Column(k, part.copy(), value, usage)
            if at is None:
                self._at[b][key] = len(self._columns[b])
                self._columns[b].append(column)
            else:
                self._columns[b][at] = column
        return news

    @staticmethod
    def _key_of(k: int, part: Bool) -> bytes:
        return k.to_bytes(8, "little") + bytes(part.sum(axis=1).tobytes())

    def _key(self, column: _Column) -> bytes:
        return self._key_of(column.k, column.part)

    def _table(self) -> tuple[Int64, Int64, Int64]:
        layer = np.repeat(np.arange(len(self._columns)), [len(columns) for columns in self._columns])
        value = np.array([c.value for columns in self._columns for c in columns], dtype=np.int64)
        usage = np.array([c.usage for columns in self._columns for c in columns], dtype=np.int64)
        return layer, value, np.ascontiguousarray(usage.reshape(len(layer), len(self.budget)).T)
