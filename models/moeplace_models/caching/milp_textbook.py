"""``milp-textbook``: one assignment variable for every demand, layer, expert and place; the teaching baseline.

Sets: demands ``d``, items ``i`` (one expert of one layer each) that ``d`` requests, places ``p``: the servers that
``d`` can reach, the cloud where it has one, and the device where it holds the item; merged activation rows
``r = (d, S)`` with ``count_r`` tokens; times ``t[d,p]`` in units of their greatest common divisor ``g``.

Variables::

    x[n,i]   in {0,1}   server n caches item i
    y[d,i,p] in [0,1]   share of the requests of d for item i that place p serves
    z[r]     >= 0       latency of row r, in units of g                (latency_model "max" only)

Model::

    minimise  g * sum_r count_r z[r]                                  ("max")                             (1)
              g * sum_r count_r sum_{i in S} sum_p t[d,p] y[d,i,p]    ("sum")                             (1')
              both  + sum_{n,i} load_{n,i} x[n,i]
    sum_i size_i x[n,i]  <=  capacity_n                               for all servers n                   (2)
    sum_p y[d,i,p]  =  1                                              for all demands d, items i          (3)
    y[d,i,n]  <=  x[n,i]                                              for all d, i, servers n             (4)
    z[r]  >=  sum_p t[d,p] y[d,i,p]                                   for all rows r, i in S  ("max")     (5)
    sum_{n in R} x[n,i]  >=  1                                        for all requirements (R,i)          (6)
    sum_{i in l} x[n,i]  <=  slots_n                                  for all servers n, layers l         (7)

Loading, coverage (6) and slots (7) are there only where the instance has them: (C1) and (C2). Items that nobody
requests have variables where coverage needs them.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pyomo.environ as pyo

from moeplace.base.documents import UNREACHABLE
from moeplace.caching.instance import Instance
from moeplace.caching.terms import requirements, sides

CLOUD, DEVICE = "cloud", "device"


def build(instance: Instance) -> Any:
    """Build the model.

    Parameters
    ----------
    instance : Instance

    Returns
    -------
    pyomo.environ.ConcreteModel
        With ``x`` indexed by (server, item).

    Raises
    ------
    NoSolutionError
        A requirement that no server can meet.
    """
    size, capacity = instance.item_bytes.tolist(), instance.capacity_bytes.tolist()
    rows = merged_rows(instance)
    on_device = set(zip(instance.device_demand.tolist(), instance.device_item.tolist(), strict=True))
    requests = sorted({(d, i) for d, items in rows for i in items})
    servers = range(len(capacity))
    required = requirements(instance)
    asked = {i for _, i in requests} | {i for places in required for _, i in places}
    pairs = [(n, i) for n in servers for i in sorted(asked)]
    times: list[dict[Any, int]] = [
        {n: t for n, t in enumerate(times) if t != UNREACHABLE} | ({CLOUD: cloud} if has else {}) | {DEVICE: device}
        for times, cloud, has, device in zip(
            instance.server_ns.tolist(), instance.cloud_ns.tolist(), instance.has_cloud.tolist(),
            instance.device_ns.tolist(), strict=True,
        )
    ]  # fmt: skip
    g = math.gcd(*(t for place in times for t in place.values())) or 1
    t = [{p: ns // g for p, ns in place.items()} for place in times]
    places = {
        (d, i): [p for p in t[d] if p != DEVICE or (d, i) in on_device]
        for d, i in requests
    }  # fmt: skip

    model = pyo.ConcreteModel(name="milp_textbook")
    model.x = pyo.Var(pairs, domain=pyo.Binary)
    model.y = pyo.Var([(d, i, p) for (d, i), where in places.items() for p in where], bounds=(0, 1))
    x, y = model.x, model.y

    price, _, limited = sides(instance, pairs)
    loading = pyo.quicksum(ns * x[pair] for pair, ns in zip(pairs, price, strict=True) if ns)

    def latency(d: int, i: int) -> Any:
        return pyo.quicksum(t[d][p] * y[d, i, p] for p in places[d, i])

    if instance.latency_model == "max":
        order = list(rows)
        model.z = pyo.Var(range(len(order)), bounds=lambda _, r: (0, max(t[order[r][0]].values())))
        waiting = pyo.quicksum(g * rows[row] * model.z[r] for r, row in enumerate(order))
        model.cost = pyo.Objective(expr=waiting + loading)  # (1)

        @model.Constraint([(r, i) for r, (_, items) in enumerate(order) for i in items])
        def slowest(_: Any, r: int, i: int) -> Any:  # (5)
            return model.z[r] >= latency(order[r][0], i)

    else:
        tokens: Counter[tuple[int, int]] = Counter()
        for (d, items), count in rows.items():
            tokens.update({(d, i): count for i in items})
        waiting = pyo.quicksum(g * tokens[d, i] * t[d][p] * y[d, i, p] for d, i, p in y)
        model.cost = pyo.Objective(expr=waiting + loading)  # (1')

    @model.Constraint(servers)
    def capacity_rows(_: Any, n: int) -> Any:  # (2)
        used = pyo.quicksum(size[i] * x[m, i] for m, i in x if m == n)
        return used <= capacity[n] if len(x) else pyo.Constraint.Skip

    @model.Constraint(requests)
    def served(_: Any, d: int, i: int) -> Any:  # (3)
        return pyo.quicksum(y[d, i, p] for p in places[d, i]) == 1

    @model.Constraint([(d, i, n) for d, i, n in y if n not in (CLOUD, DEVICE)])
    def cached(_: Any, d: int, i: int, n: int) -> Any:  # (4)
        return y[d, i, n] <= x[n, i]

    @model.Constraint(range(len(required)))
    def held_somewhere(_: Any, c: int) -> Any:  # (6)
        return pyo.quicksum(x[pair] for pair in required[c]) >= 1

    @model.Constraint(range(len(limited)))
    def slots(_: Any, k: int) -> Any:  # (7)
        limit, crowd = limited[k]
        return pyo.quicksum(x[pair] for pair in crowd) <= limit

    return model


def merged_rows(instance: Instance) -> Counter[tuple[int, tuple[int, ...]]]:
    """Return the tokens of each distinct (demand, item set)."""
    rows = instance.rows
    items, start = rows.item.tolist(), rows.start.tolist()
    merged: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for r, (d, count) in enumerate(zip(rows.demand.tolist(), rows.count.tolist(), strict=True)):
        merged[d, tuple(sorted(items[start[r] : start[r + 1]]))] += count
    return merged
