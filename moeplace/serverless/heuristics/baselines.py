"""Simple deployments: everything remote, and one share and one specification for all layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeplace.base.arrays import Int64
from moeplace.base.stop import Stop
from moeplace.serverless.bounds.by_specs import budgets
from moeplace.serverless.document import Deployment
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import LayerPlans, LayerTables, plans_of_sets


def by_use(tables: LayerTables) -> Int64:
    """Return a layer's experts in rising use: output tokens first, prompt tokens where these are equal, [E]."""
    order: Int64 = np.lexsort((tables.tokens, tables.instance.decoded[tables.layer])).astype(np.int64)
    return order


def shares(tables: LayerTables, counts: Sequence[int]) -> LayerPlans:
    """Return the plans in which so many experts are remote, those of least use."""
    order = by_use(tables)
    remote = np.zeros((len(counts), tables.instance.experts), dtype=np.bool_)
    for row, count in enumerate(counts):
        remote[row, order[:count]] = True
    return plans_of_sets(tables, remote)


def best_split(
    instance: Instance, tables: Sequence[LayerTables], counts: Sequence[int], stop: Stop, *, none: bool = True
) -> Deployment | None:
    """Return the best deployment that has one number of remote experts and one specification in all layers.

    Every main specification, number of ``counts`` (and no remote experts at all, with ``none``) and remote
    specification is tried; all layers have the numbers of replicas that cost least, or those that are fastest. None
    where nothing of this is within the limits.
    """
    plans = [shares(own, counts) for own in tables]
    groups = [_groups(own) for own in plans]
    keys = sorted(key for key in set.intersection(*(set(own) for own in groups)) if none or key[0])
    best: tuple[int, Deployment] | None = None
    for main in instance.main_specs:
        if stop and best is not None:
            break
        budget = budgets(instance, main)
        valued = [own.valued(main) for own in plans]
        for key in keys:
            for fastest in (False, True):
                chosen, cost, used = [], 0, np.zeros(3, dtype=np.int64)
                for own, group in zip(valued, groups, strict=True):
                    index = group[key]
                    order = own.usage[index, 0] + own.usage[index, 1] if fastest else own.cost[index]
                    at = int(index[int(np.argmin(order))])
                    chosen.append(at)
                    cost += int(own.cost[at])
                    used += own.usage[at]
                if (used <= budget).all() and (best is None or cost < best[0]):
                    layers = [own.choice(at) for own, at in zip(plans, chosen, strict=True)]
                    best = cost, Deployment.of(main, [(c.spec, c.replicas) for c in layers])
    return None if best is None else best[1]


def _groups(plans: LayerPlans) -> dict[tuple[int, int], Int64]:
    """Return which plans have so many remote experts and this specification."""
    count = (plans.part >= 0).sum(axis=1)
    keys = np.stack((count, plans.spec), axis=1)
    found, inverse = np.unique(keys, axis=0, return_inverse=True)
    return {
        (int(a), int(b)): np.flatnonzero(inverse.reshape(-1) == i).astype(np.int64) for i, (a, b) in enumerate(found)
    }
