"""Climbing from a placement to a local optimum: exchanges, servers and layers filled anew, kicks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.base.documents import INT64_MAX, UNREACHABLE
from moeplace.base.stop import Stop, stopping
from moeplace.caching.heuristics.dealing import Dealt, deal_layers
from moeplace.caching.heuristics.servers import by_gain
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import SavingForm, held_by, kernels, saving_form

ENUMERATED = 12
"""Most experts of a layer whose sets are all tried, where nobody says otherwise."""


def climbed(form: SavingForm, start: Placement | None, time_limit: float | None, threads: int) -> Placement:
    """Return what :func:`local_search` makes of a placement without kicks, on a saving form that is there already.

    Parameters
    ----------
    form : SavingForm
    start : Placement or None
    time_limit : float or None
        Wall seconds.
    threads : int

    Returns
    -------
    Placement
    """
    with stopping(time_limit) as stop:
        plan = WorkingPlacement(form, held_by(form.instance, start, stop), threads)
        Climb(plan, stop, lambda saving: None, ENUMERATED).begin(start is not None)
        return plan.placement()


def pooled_placement(instance: Instance, enumerated: int) -> Bool:
    """Fill one pool with the storage of all servers, as far as the farthest useful one, and deal it out.

    Every expert goes to the server with the most free bytes; what fits nowhere is left out. It is a beginning: which
    server should hold what is left to the exchanges that follow.

    Parameters
    ----------
    instance : Instance
    enumerated : int
        Most experts of a layer whose sets are all tried.

    Returns
    -------
    bool array [N, I]
    """
    useful = instance.server_ns < instance.cloud_ns[:, None]
    farthest = np.where(useful, instance.server_ns, -1).max(axis=1, keepdims=True)
    capacity = min(sum(instance.capacity_bytes.tolist()), INT64_MAX)
    pool = saving_form(
        instance,
        server_ns=np.where(farthest < 0, UNREACHABLE, farthest),
        capacity_bytes=np.array([capacity], dtype=np.int64),
    )
    plan = WorkingPlacement(pool, np.zeros((1, instance.n_items), dtype=np.bool_))
    plan.take(plan.refill(0, enumerated))

    held = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
    free = instance.capacity_bytes.copy()
    slots = np.repeat(instance.layer_slots[:, None], instance.n_blocks, axis=1)
    wanted = np.flatnonzero(plan.held[0])
    for item in wanted[np.argsort(-instance.item_bytes[wanted], kind="stable")].tolist():
        block = instance.item_block[item]
        n = int(np.argmax(np.where(slots[:, block] > 0, free, -1)))
        if slots[n, block] and instance.item_bytes[item] <= free[n]:
            held[n, item] = True
            free[n] -= instance.item_bytes[item]
            slots[n, block] -= 1
    return held


class Climb:
    """The neighbourhoods of :func:`local_search` on one plan.

    Parameters
    ----------
    plan : WorkingPlacement
    stop : Stop
    report : callable
        Told of the saving whenever it is larger than ever.
    enumerated : int
        Most experts of a layer whose sets are all tried.

    Attributes
    ----------
    dealt : Dealt or None
        How layers were dealt out, where that was a beginning.
    """

    def __init__(
        self,
        plan: WorkingPlacement,
        stop: Stop,
        report: Callable[[int], None],
        enumerated: int,
    ) -> None:
        self.plan, self.stop, self.report, self.enumerated = plan, stop, report, enumerated
        self.covering = plan.held.copy()
        self.dealt: Dealt | None = None
        self.sizes = np.array([layer.size for layer in plan.form.layers], dtype=np.int64)
        self.servers = list(range(len(plan.held)))
        self.settled: list[object] = [None] * len(self.sizes)
        self.exchanges = 0
        self.best = plan.saving

    def begin(self, started: bool) -> None:
        """Climb to a first local optimum: from what the plan holds, or from the better of two beginnings."""
        if not started:
            self.construct()
        self.to_local_optimum()
        if not started and len(self.servers) > 1 and not self.stop:
            self.attempt(self.another_beginning)

    def another_beginning(self) -> None:
        """Go to what one pool of all servers' storage would hold, or to layers dealt out where all must be held."""
        plan = self.plan
        if plan.form.instance.coverage is None:
            plan.restore(pooled_placement(plan.form.instance, self.enumerated))
        else:
            self.dealt = deal_layers(plan, self.covering, self.enumerated, self.stop)
            plan.restore(self.dealt.held)

    def to_local_optimum(self) -> None:
        """Improve the plan until no neighbourhood does."""
        while not self.stop:
            before = self.plan.saving
            self.exchange()
            self.refill(self.servers)
            if self.plan.saving == before:
                self.relayer()
            if self.plan.saving == before:
                return

    def construct(self) -> None:
        """Fill the server that gains most, again and again, as ``successive-greedy`` does in its first pass."""
        for chosen in by_gain(self.plan, self.servers, lambda plan, n: plan.refill(n, self.enumerated), self.stop):
            self.plan.take(chosen)
            self._report_if_better()

    def refill(self, servers: list[int]) -> None:
        """Fill servers anew, round and round until a whole round improves nothing."""
        same, at = 0, 0
        while same < len(servers) and not self.stop:
            chosen = self.plan.refill(servers[at % len(servers)], self.enumerated)
            same = 0 if self.plan.take(chosen) else same + 1
            at += 1
            self._report_if_better()

    def exchange(self) -> None:
        """Take the best exchange of two moves (or single move, or cycle of three) while there is one."""
        plan = self.plan
        if not plan.form.layers:
            return
        gain = np.stack([plan.moves(i).gain for i in range(len(plan.form.layers))])
        while not self.stop:
            # Nowhere is the last place; it has room for everything.
            slack = np.append(plan.free, np.iinfo(np.int64).max)
            change, i, a, b, j = kernels().best_pair(gain, self.sizes, slack)
            steps = [(i, a, b)] if j < 0 else [(i, a, b), (j, b, a)]
            if change <= 0:
                change, layers, places = kernels().best_cycle(gain, self.sizes, slack)
                if change <= 0:
                    return
                places = places.tolist()
                steps = list(zip(layers.tolist(), places, places[1:] + places[:1], strict=True))
            for layer, origin, target in steps:
                plan.move(layer, origin, target)
            for layer, _, _ in steps:
                gain[layer] = plan.moves(layer).gain
            self.exchanges += 1
            self._report_if_better()

    def relayer(self) -> None:
        """Empty one layer on all servers and fill it server by server; keep the old one unless that is better."""
        for i in range(len(self.plan.form.layers)):
            if self.stop:
                return
            old, saving = self.plan.part(i), self.plan.layer_saving[i]
            room = old.sum(axis=1) + self.plan.free // self.sizes[i]
            key = (old.tobytes(), room.tobytes())
            if self.settled[i] == key:
                continue
            for order in (self.servers, self.servers[::-1]):
                self.plan.put(i, np.zeros_like(old))
                self._fill_layer(i, order, room.tolist())
                if self.plan.layer_saving[i] > saving:
                    break
                self.plan.put(i, old, saving)
            else:
                self.settled[i] = key
            self._report_if_better()

    def attempt(self, change: Callable[[], None]) -> None:
        """Change the plan and climb from there; go back unless that is as good."""
        best, saving = self.plan.held.copy(), self.plan.saving
        change()
        self.to_local_optimum()
        if self.plan.saving < saving or not self.plan.allowed():
            self.plan.restore(best)

    def kick(self, generator: np.random.Generator) -> None:
        """Empty two to four servers and fill them in random order; where none may be missing, two also swap layers."""
        servers = generator.permutation(self.servers)[: int(generator.integers(2, 5))].tolist()
        self.plan.clear(servers)
        if self.plan.form.instance.coverage is not None and len(servers) > 1:
            self._swap_layers(servers[0], servers[1], generator)
        self.refill(servers)

    def _swap_layers(self, a: int, b: int, generator: np.random.Generator) -> None:
        """Let two servers swap what they hold of one layer or two that fit, once or a few times."""
        for _ in range(int(generator.integers(1, 4))):
            used = self.plan.held[[a, b]].astype(np.int64)
            change = np.array(
                [layer.size * (used[1] - used[0])[layer.items].sum() for layer in self.plan.form.layers], dtype=np.int64
            )
            room, i = self.plan.free, int(generator.integers(len(change)))
            others = np.flatnonzero((change[i] + change <= room[a]) & (-change[i] - change <= room[b]))
            alone = -room[b] <= change[i] <= room[a]
            other = int(generator.choice(others)) if len(others) else i
            if other == i and not alone:
                continue
            if self.plan.swap(i, a, b) and other != i and not self.plan.swap(other, a, b):
                self.plan.swap(i, a, b)

    def _fill_layer(self, i: int, servers: list[int], room: list[int]) -> None:
        """Fill one layer on some servers in turn, each with at most ``room`` experts, until that improves nothing."""
        same, at = 0, 0
        while same < len(servers) and not self.stop:
            n = servers[at % len(servers)]
            function = self.plan.function(i, n, self.enumerated)
            q = min(room[n], len(function.values) - 1)
            same += 1
            if function.values[q] > self.plan.layer_saving[i]:
                part = self.plan.part(i)
                part[n] = function.kept[q]
                self.plan.put(i, part, int(function.values[q]))
                same = 0
            at += 1

    def _report_if_better(self) -> None:
        if self.plan.saving > self.best:
            self.best = self.plan.saving
            self.report(self.best)
