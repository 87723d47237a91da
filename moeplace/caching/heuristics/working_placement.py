"""A placement under change: what the heuristics share on top of the saving form."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.workers import each
from moeplace.caching.heuristics.knapsack import fill
from moeplace.caching.placement import Placement
from moeplace.caching.saving import Moves, MoveValues, SavingForm, ValueFunction

T = TypeVar("T")

MOST_REMEMBERED: Final = 64

MOST_CELLS: Final = 1 << 25
"""Numbers kept to value moves from one placement to the next, all layers together (256 MiB)."""


@dataclass(frozen=True, eq=False)
class Refill:
    """What one server would best hold, all others fixed.

    Attributes
    ----------
    server : int
    gain : int
        Change of the saving, token-ns; not positive where the server should keep what it has.
    ratio : float
        The server gets at least this share of what its value functions allow.
    functions : list of ValueFunction
        Of each layer.
    counts : list of int
        Experts of each layer.
    """

    server: int
    gain: int
    ratio: float
    functions: list[ValueFunction]
    counts: list[int]

    @property
    def exact_layers(self) -> int:
        """Layers whose value function was exact."""
        return sum(f.exact for f in self.functions)

    @property
    def proven(self) -> int:
        """Values of all layers that are proven to be the best."""
        return sum(int(f.proven.sum()) for f in self.functions)

    @property
    def points(self) -> int:
        """Values of all layers."""
        return sum(len(f.proven) for f in self.functions)


class WorkingPlacement:
    """A placement, its exact saving and the free bytes, kept up to date.

    Parameters
    ----------
    form : SavingForm
    held : bool array [N, I]
        The placement to begin with; it must fit. Experts that nobody needs are dropped. Changed in place.
    threads : int
        Threads that value layers.
    most_cells : int
        Where moves of all layers need more numbers than this, they are valued anew each time.
    """

    def __init__(self, form: SavingForm, held: Bool, threads: int = 1, most_cells: int = MOST_CELLS) -> None:
        asked = np.zeros(held.shape[1], dtype=np.bool_)
        for layer in form.layers:
            asked[layer.items] = True
        held[:, ~asked] = False
        self.form, self.held, self.threads = form, held, threads
        self._begin = held.copy()
        self.layer_saving = [layer.saving_ns(self.part(i)) for i, layer in enumerate(form.layers)]
        self._memo: list[dict[object, Any]] = [{} for _ in form.layers]
        self._followed = sum(map(MoveValues.cells, form.layers)) <= most_cells
        self._move_values: dict[int, MoveValues] = {}

    @property
    def saving(self) -> int:
        """Baseline minus cost, token-ns."""
        return sum(self.layer_saving)

    @property
    def free(self) -> Int64:
        """Free bytes of each server, int64 [N]."""
        return self.form.capacity_bytes - self.held @ self.form.instance.item_bytes

    def allowed(self) -> bool:
        """Return whether slots and requirements are kept: capacities always are."""
        return all(layer.allows(self.held[:, layer.items]) for layer in self.form.layers)

    def placement(self) -> Placement:
        """Return the placement as it is; the one it began with in the rare case that this one is not allowed.

        Where costs are so large that requirements cannot outweigh all savings in 64 bits, one may have been given up.
        """
        return Placement(self.held if self.allowed() else self._begin)

    def part(self, i: int) -> Bool:
        """Return what the servers hold of a layer, bool [N, E], a copy (also where the layer is all there is)."""
        return np.array(self.held[:, self.form.layers[i].items], order="C")

    def put(self, i: int, part: Bool, saving: int | None = None) -> None:
        """Set what the servers hold of a layer; its saving is computed where it is not given."""
        self.held[:, self.form.layers[i].items] = part
        self.layer_saving[i] = self.form.layers[i].saving_ns(part) if saving is None else saving

    def restore(self, held: Bool) -> None:
        """Go back to another placement; only layers that differ are valued again."""
        for i, layer in enumerate(self.form.layers):
            if not np.array_equal(self.held[:, layer.items], held[:, layer.items]):
                self.put(i, np.ascontiguousarray(held[:, layer.items]))

    def clear(self, servers: list[int]) -> None:
        """Empty some servers, one after the other, but for what nobody else holds and must be held."""
        held = self.held.copy()
        held[servers] = False
        for layer in self.form.layers:
            if layer.covers:
                part = np.ascontiguousarray(self.held[:, layer.items])
                for n in servers:
                    part[n] &= layer.required(part, n)
                held[:, layer.items] = part
        self.restore(held)

    def swap(self, i: int, a: int, b: int) -> bool:
        """Let two servers swap what they hold of a layer; say whether they may, as far as the layer is concerned."""
        part = self.part(i)
        part[[a, b]] = part[[b, a]]
        if not self.form.layers[i].allows(part):
            return False
        self.put(i, part)
        return True

    def move(self, i: int, origin: int, target: int) -> None:
        """Make the best move of a layer from one place to another, as :meth:`moves` values it."""
        moves, part = self.moves(i), self.part(i)
        expert = int(moves.expert[origin, target])
        for place, held in ((origin, False), (target, True)):
            if place < len(part):
                part[place, expert] = held
        self.put(i, part, self.layer_saving[i] + int(moves.gain[origin, target]))

    def moves(self, i: int) -> Moves:
        """Value every move of one expert of a layer, see :meth:`~moeplace.caching.saving.Layer.moves`."""
        return self._remember(i, "moves", lambda part: self._moves(i, part))

    def _moves(self, i: int, part: Bool) -> Moves:
        layer = self.form.layers[i]
        if not self._followed:
            return layer.moves(part)
        if (values := self._move_values.get(i)) is None:
            values = self._move_values[i] = MoveValues(layer, part)
        else:
            values.follow(part)
        return values.moves()

    def function(self, i: int, server: int, enumerated: int = 0, cuts: bool = False, nodes: int = 0) -> ValueFunction:
        """Return the value function of a layer on a server, the other servers fixed."""
        layer = self.form.layers[i]
        key = (server, enumerated, cuts, nodes)
        return self._remember(i, key, lambda part: layer.value_function(part, server, enumerated, cuts, nodes))

    def refill(
        self, server: int, enumerated: int = 0, cuts: bool = False, nodes: int = 0, epsilon: float = 0.0
    ) -> Refill:
        """Solve one server's problem, all others fixed. Changes nothing: see :meth:`take`."""
        layers = range(len(self.form.layers))
        functions = each(lambda i: self.function(i, server, enumerated, cuts, nodes), layers, self.threads)
        sizes = [layer.size for layer in self.form.layers]
        # What only this server can hold takes its bytes first; what more is worth is then a knapsack.
        required = [f.required for f in functions]
        capacity = int(self.form.capacity_bytes[server]) - sum(map(operator.mul, required, sizes))
        if capacity < 0 or any(f.required >= len(f.values) for f in functions):
            return Refill(server, -1, 1.0, functions, required)
        filling = fill([f.values[f.required :] for f in functions], sizes, capacity, epsilon)
        counts = list(map(operator.add, required, filling.counts))
        return Refill(server, filling.value - self.saving, filling.ratio, functions, counts)

    def take(self, refill: Refill) -> bool:
        """Give a server what was found best for it if that is strictly better; return whether it is."""
        if refill.gain <= 0:
            return False
        for i, (function, count) in enumerate(zip(refill.functions, refill.counts, strict=True)):
            self.held[refill.server, self.form.layers[i].items] = function.kept[count]
            self.layer_saving[i] = int(function.values[count])
        return True

    def _remember(self, i: int, key: object, compute: Callable[[Bool], T]) -> T:
        """Compute something of a layer once for what it holds now; searches go back and forth between plans."""
        part = self.part(i)
        memo = self._memo[i]
        full_key = (key, part.tobytes())
        if full_key not in memo:
            if len(memo) >= MOST_REMEMBERED:
                memo.clear()
            memo[full_key] = compute(part)
        found: T = memo[full_key]
        return found
