"""What must be held somewhere, where demands have no cloud to fall back on: (C1) of the formulation.

Every expert of a demand's model must be on a server that the demand reaches, or on its device. Demands that reach the
same servers ask for the same; where one reach set contains another for the same expert, the smaller one says it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moeplace.base.arrays import Bool, Int32
from moeplace.base.documents import UNREACHABLE
from moeplace.base.text import number, size

if TYPE_CHECKING:
    from moeplace.caching.instance import Instance


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


def shortage(instance: Instance) -> str | None:
    """Say by counting alone why no placement can meet the coverage; None where counting shows nothing.

    What must be on the servers of one reach set, and on those of all together, is held against their capacities and
    slots. That nothing is said proves nothing: sizes may differ, and packing may fail.
    """
    coverage = instance.coverage
    if coverage is None:
        return None
    groups = [(coverage.reach[q], coverage.item[coverage.reach_of == q]) for q in range(len(coverage.reach))]
    if len(groups) > 1:
        groups.append((coverage.reach.any(axis=0), np.unique(coverage.item)))
    for within, items in groups:
        if (said := _short(instance, within, items)) is not None:
            return f"no placement exists: {said}"
    return None


def _short(instance: Instance, within: Bool, items: Int32) -> str | None:
    servers = np.flatnonzero(within).tolist()
    model, layer, expert = instance.item_name(int(items[0]))
    if not servers:
        return f"a demand for {model!r} has no cloud and reaches no server"
    names = ", ".join(repr(instance.servers[n].name) for n in servers[:3]) + ", ..." * (len(servers) > 3)
    where = f"{number(len(servers), 'server')} within reach ({names})"
    sizes, capacity = instance.item_bytes[items], instance.capacity_bytes[within]
    slots = instance.layer_slots[within]
    needed, there = sum(sizes.tolist()), sum(capacity.tolist())
    if needed > there:
        return (
            f"{number(len(items), 'expert')} of {size(needed)} must be on {where}, which hold {size(there)}: "
            f"{needed - there:,} bytes are short"
        )
    largest = int(items[sizes.argmax()])
    room = int(capacity[slots > 0].max(initial=0))
    if instance.item_bytes[largest] > room:
        model, layer, expert = instance.item_name(largest)
        return f"[{layer}, {expert}] of {model!r} has {instance.item_bytes[largest]:,} bytes, more than {where} hold"
    block, count = np.unique(instance.item_block[items], return_counts=True)
    if int(count.max()) > (most := sum(slots.tolist())):
        model, layer, _ = instance.item_name(int(instance.block_start[block[count.argmax()]]))
        experts = number(int(count.max()), "expert")
        return f"{experts} of layer {layer} of {model!r} must be on {where}, which have {number(most, 'slot')} a layer"
    return None
