"""What must be held somewhere, where demands have no cloud to fall back on: (C1) of the formulation.

Every expert of a demand's model must be on a server that the demand reaches, or on its device. Demands that reach the
same servers ask for the same; where one reach set contains another for the same expert, the smaller one says it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from moeplace.base.arrays import Bool, Int32
from moeplace.base.documents import UNREACHABLE
from moeplace.base.text import number

if TYPE_CHECKING:
    from moeplace.caching.instance import Instance

SHOWN: Final = 3
"""Experts and servers that are named where there is no placement."""


@dataclass(frozen=True, eq=False, repr=False)
class Coverage:
    """The requirements (``C`` of them, ``Q`` reach sets): item ``item[c]`` on some server of ``reach[reach_of[c]]``.

    Attributes
    ----------
    reach : bool array [Q, N]
        The servers of each reach set.
    reach_of, item : int32 array [C]
        Sorted by item, then reach set; none contains another one of the same item.
    """

    reach: Bool
    reach_of: Int32
    item: Int32

    def met(self, cached: Bool) -> Bool:
        """Return which requirements ``cached [N, I]`` meets, bool [C]."""
        copies = self.reach.astype(np.float32) @ cached.astype(np.float32)  # small counts: exact
        met: Bool = copies[self.reach_of, self.item] > 0
        return met

    def names(self, instance: Instance, reach: int) -> str:
        """Return the servers of a reach set for people, in brackets: ``" ('s0', 's1', ...)"``."""
        names = [repr(instance.servers[n].name) for n in np.flatnonzero(self.reach[reach]).tolist()]
        return f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else " (none)"

    def of(self, items: slice) -> tuple[Int32, Int32]:
        """Return reach set and item, counted from the first of ``items``, of the requirements on these items."""
        first, last = np.searchsorted(self.item, (items.start, items.stop))
        return self.reach_of[first:last], self.item[first:last] - np.int32(items.start)


def coverage_of(instance: Instance) -> Coverage | None:
    """Return the requirements of an instance's demands without a cloud, or None where there are none."""
    found: dict[bytes, int] = {}
    pairs: list[tuple[Int32, Int32]] = []
    for m in range(len(instance.models)):
        items = instance.model_items(m)
        needed: dict[bytes, Bool] = {}
        for d in np.flatnonzero((instance.demand_model == m) & ~instance.has_cloud).tolist():
            key = (instance.server_ns[d] != UNREACHABLE).tobytes()
            needs = np.ones(items.stop - items.start, dtype=np.bool_)
            needs[instance.device_items(d) - items.start] = False
            needed[key] = needed.get(key, False) | needs
        sets = {key: np.frombuffer(key, dtype=np.bool_) for key in needed}
        smallest_first = sorted(sets, key=lambda key: (int(sets[key].sum()), key))
        for i, key in enumerate(smallest_first):
            for other in smallest_first[:i]:
                if not (sets[other] & ~sets[key]).any():
                    needed[key] = needed[key] & ~needed[other]
            item = np.flatnonzero(needed[key]).astype(np.int32) + np.int32(items.start)
            if len(item):
                number = found.setdefault(key, len(found))
                pairs.append((np.full(len(item), number, dtype=np.int32), item))
    if not pairs:
        return None
    reach_of, item = (np.concatenate(column) for column in zip(*pairs, strict=True))
    order = np.lexsort((reach_of, item))
    reach = np.frombuffer(b"".join(found), dtype=np.bool_).reshape(len(found), len(instance.servers))
    return Coverage(reach, reach_of[order], item[order])


def shortage(instance: Instance, shown: int = SHOWN) -> str | None:
    """Say by counting alone why no placement can meet the coverage; None where counting shows nothing.

    What must be on the servers of one reach set, and on those of all together, is held against their capacities and
    slots. That nothing is said proves nothing: sizes may differ, and packing may fail.

    Parameters
    ----------
    instance : Instance
    shown : int
        Experts and servers that are named.
    """
    coverage = instance.coverage
    if coverage is None:
        return None
    for within in np.concatenate((coverage.reach, coverage.reach.any(axis=0, keepdims=True))):
        inside = ~(coverage.reach & ~within).any(axis=1)
        said = _short(instance, within, np.unique(coverage.item[inside[coverage.reach_of]]), shown)
        if said is not None:
            return said
    return None


def _short(instance: Instance, within: Bool, items: Int32, shown: int) -> str | None:
    if not within.any():
        return f"a demand for {instance.item_name(int(items[0]))[0]!r} has no cloud and reaches no server"
    slots, where = instance.layer_slots[within], servers_named(instance, within, shown)
    needed = sum(instance.item_bytes[items].tolist())
    room = sum(instance.capacity_bytes[within].tolist())
    if needed > room:
        return (
            f"{experts_named(instance, items, shown)} must be held on {where}: {number(needed, 'byte')}, "
            f"they have {number(room)}: {number(needed - room, 'byte')} short"
        )
    size = instance.item_bytes[items]
    largest = int(instance.capacity_bytes[within][slots > 0].max(initial=0))
    if (size > largest).any():
        return (
            f"{experts_named(instance, items[size > largest], shown)} must be held on {where}: "
            f"{number(int(size.max()), 'byte')}, and none of them holds more than {number(largest, 'byte')}"
        )
    most = sum(slots.tolist())
    block, count = np.unique(instance.item_block[items], return_counts=True)
    if int(count.max()) > most:
        own = items[instance.item_block[items] == block[count.argmax()]]
        return (
            f"{experts_named(instance, own, shown)} must be held on {where}: {number(most, 'slot')} for the layer: "
            f"{len(own) - most} short"
        )
    return None


def experts_named(instance: Instance, items: Int32, shown: int = SHOWN) -> str:
    """Return how many experts these items are, and the first ``shown`` of them by name, for people."""
    names = []
    for item in items[:shown].tolist():
        model, layer, expert = instance.item_name(item)
        names.append(f"[{layer}, {expert}] of {model!r}")
    return f"{number(len(items), 'expert')} ({', '.join(names)}{', ...' if len(items) > shown else ''})"


def servers_named(instance: Instance, within: Bool, shown: int = SHOWN) -> str:
    """Return the first ``shown`` servers of ``within [N]`` by name, and how many more they are, for people."""
    names = [repr(instance.servers[n].name) for n in np.flatnonzero(within).tolist()]
    return ", ".join(names[:shown]) + (f" or {len(names) - shown} more" if len(names) > shown else "")
