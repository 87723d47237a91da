"""Remote sets that the relaxation of :mod:`moeplace.serverless.bounds.alphas` proposes."""

from __future__ import annotations

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.serverless.bounds.alphas import Multipliers, relaxations
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import LayerTables


def proposals(instance: Instance, table: LayerTables, main: int, by: Multipliers, choices: int, around: int) -> Bool:
    """Return remote sets near the relaxation's best ones.

    Parameters
    ----------
    instance : Instance
    table : LayerTables
    main : int
    by : Multipliers
    choices : int
        Specifications and numbers of replicas that are looked at, the best first.
    around : int
        How many experts more and fewer are tried, in the order of their brackets.

    Returns
    -------
    bool array [S, E]
        All different.
    """
    _, found = relaxations(instance, table, main, by)
    sets = [np.zeros(instance.experts, dtype=np.bool_)]
    for own in sorted(found, key=lambda relaxed: relaxed.value)[:choices]:
        order = sorted((bracket, e) for e, bracket in enumerate(own.brackets) if bracket is not None)
        for count in range(max(1, own.taken - around), min(len(order), own.taken + around) + 1):
            remote = np.zeros(instance.experts, dtype=np.bool_)
            remote[[e for _, e in order[:count]]] = True
            sets.append(remote)
    unique: Bool = np.unique(np.array(sets), axis=0)
    return unique
