"""A placement: which server caches which expert, and how many experts are active where that is to be decided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.errors import InputError
from moeplace.caching.active import active_experts
from moeplace.caching.instance import Instance
from moeplace.caching.reading import NO_LIMIT

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Placement:
    """Which server caches which expert, for one instance's servers and items.

    Parameters
    ----------
    cached : bool array [N, I]
        ``cached[n, i]``: server ``n`` holds item ``i``. Copied and frozen.
    active : int64 array [B], optional
        The number of active experts of each block, where the instance leaves it open
        (:attr:`~moeplace.caching.instance.Instance.choices`), and only there. Copied and frozen.
    """

    cached: Bool
    active: Int64 | None = None

    def __post_init__(self) -> None:
        cached = np.array(self.cached, dtype=np.bool_)
        if cached.ndim != 2:
            raise ValueError(f"cached must have two axes [servers, items], found {cached.ndim}")
        cached.setflags(write=False)
        object.__setattr__(self, "cached", cached)
        if self.active is not None:
            active = np.array(self.active, dtype=np.int64)
            if active.ndim != 1:
                raise ValueError(f"active must have one axis [blocks], found {active.ndim}")
            active.setflags(write=False)
            object.__setattr__(self, "active", active)

    @classmethod
    def empty(cls, instance: Instance) -> Placement:
        """Return the placement in which no server caches anything, and all experts are active."""
        cached = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
        return cls(cached, None if instance.choices is None else instance.block_top_k)

    @classmethod
    def from_pairs(cls, instance: Instance, pairs: Iterable[tuple[int, int]]) -> Placement:
        """Return the placement of the given (server, item) pairs."""
        cached = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
        for server, item in pairs:
            cached[server, item] = True
        return cls(cached)

    def at(self, active: Int64 | None) -> Placement:
        """Return the same on the servers, with these numbers of active experts."""
        return Placement(self.cached, active)

    def active_in(self, instance: Instance) -> Int64 | None:
        """Return the number of active experts of each block, int64 [B]; None where the instance leaves nothing open.

        Raises
        ------
        InputError
            The placement says too much, nothing, or what cannot be; the budget is not asked.
        """
        if instance.choices is None:
            if self.active is not None:
                raise InputError("given, but not open in this instance", place="active_experts")
            return None
        if self.active is None:
            raise InputError("not given, and open in this instance", place="active_experts")
        return active_experts(instance, self.active)

    def check_active(self, instance: Instance) -> None:
        """Raise an :class:`InputError` unless each layer has a number of active experts, all within the budget."""
        active, choices = self.active_in(instance), instance.choices
        if active is not None and choices is not None and (lost := choices.loss(active)) > choices.budget:
            raise InputError(f"the layers lose {lost}, the budget is {choices.budget}", place="active_experts")

    def bytes_used(self, instance: Instance) -> Int64:
        """Return the bytes cached on each server, int64 [N]."""
        # Item sizes sum to less than 2**63 within a model but not over many; object sums never wrap.
        if instance.item_bytes.sum(dtype=np.float64) < 2**62:
            return self.cached @ instance.item_bytes
        return np.array([sum(instance.item_bytes[row].tolist()) for row in self.cached], dtype=object)

    def overfull(self, instance: Instance) -> list[tuple[int, int]]:
        """Return (server, bytes used) of every server whose cached experts exceed its capacity."""
        used = self.bytes_used(instance)
        return [(n, int(used[n])) for n in np.flatnonzero(used > instance.capacity_bytes).tolist()]

    def crowded(self, instance: Instance) -> list[tuple[int, int, int]]:
        """Return (server, block, experts) wherever a server holds more experts of a layer than it has slots for."""
        if not instance.n_blocks or (instance.layer_slots == NO_LIMIT).all():
            return []
        counts = np.add.reduceat(self.cached.astype(np.int64), instance.block_start[:-1], axis=1)
        over = np.argwhere(counts > instance.layer_slots[:, None])
        return [(n, b, int(counts[n, b])) for n, b in over.tolist()]

    def uncovered(self, instance: Instance) -> list[tuple[int, int]]:
        """Return (reach set, item) of every requirement of :attr:`Instance.coverage` that is not met."""
        coverage = instance.coverage
        if coverage is None:
            return []
        missing = ~coverage.met(self.cached)
        return list(zip(coverage.reach_of[missing].tolist(), coverage.item[missing].tolist(), strict=True))

    def fits(self, instance: Instance) -> bool:
        """Return whether the placement, of the instance's shape, keeps capacities, slots, coverage and loss budget."""
        try:
            self.check_active(instance)
        except InputError:
            return False
        return not (self.overfull(instance) or self.crowded(instance) or self.uncovered(instance))

    def check_fits(self, instance: Instance) -> None:
        """Raise an :class:`InputError` unless the placement is one of the instance and keeps all that it asks for."""
        shape = (len(instance.servers), instance.n_items)
        if self.cached.shape != shape:
            raise InputError(f"a placement of shape {list(self.cached.shape)}, the instance needs {list(shape)}")
        self.check_active(instance)
        for n, used in self.overfull(instance):
            server = instance.servers[n]
            raise InputError(f"server {server.name!r} holds {used} bytes, its capacity is {server.capacity_bytes}")
        for n, block, count in self.crowded(instance):
            server, (model, layer, _) = instance.servers[n], instance.item_name(int(instance.block_start[block]))
            said = f"{count} experts of layer {layer} of {model!r}, it has {server.layer_slots} slots a layer"
            raise InputError(f"server {server.name!r} holds {said}")
        if missing := self.uncovered(instance):
            coverage = instance.coverage
            assert coverage is not None
            reach, item = missing[0]
            model, layer, expert = instance.item_name(item)
            names = [repr(instance.servers[n].name) for n in np.flatnonzero(coverage.reach[reach]).tolist()]
            where = f"none of {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}" if names else "no server"
            more = f", and {len(missing) - 1} more like it" if len(missing) > 1 else ""
            raise InputError(
                f"[{layer}, {expert}] of {model!r} is on {where}: demands without a cloud reach no other{more}"
            )

    def to_frame(self, instance: Instance) -> pd.DataFrame:
        """Return one row for each expert on each server: ``server``, ``model``, ``layer``, ``expert``, ``bytes``."""
        from moeplace.caching.frames import placement_frame

        self.check_fits(instance)
        return placement_frame(instance, self)

    def __repr__(self) -> str:
        return f"<Placement of {int(self.cached.sum())} experts on {len(self.cached)} servers>"
