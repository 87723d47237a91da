"""The most valuable experts of one layer on one server at every price: a parametric minimum cut.

With the other servers fixed, what a set ``C`` of experts on one server saves is a sum of terms "all of these experts
are in C", each of positive weight: supermodular (S1). At a price ``p`` an expert, ``max_C saving(C) - p |C|`` (S3) is
a maximum weight closure, a minimum cut in the network source -> terms -> their experts -> sink (Picard 1976). The sets
that are best at some price are the corners of the upper concave envelope of ``h(q) = max { saving(C) : |C| = q }``, and
there the envelope is ``h`` itself. Prices are chosen by halving: between two known corners, the price at which both are
worth the same (Eisner and Severance 1976); it is a fraction, so weights are multiplied by its denominator.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from moeplace.base.arrays import Bool, Int64

LARGEST: Final = 2**62


def corners(terms: Int64, weight: Int64, n_experts: int) -> list[tuple[int, Bool]] | None:
    """Return the corners of the upper concave envelope.

    Parameters
    ----------
    terms : int64 array [T, K]
        Experts of each term; a term of fewer than ``K`` repeats its first.
    weight : int64 array [T]
        What a term saves; positive.
    n_experts : int
        Experts of the layer.

    Returns
    -------
    list of (int, bool array [E]) or None
        Saving and experts of each corner, fewest experts first, from none to all. None where the weights are so large
        that a cut would not fit in 64 bits.
    """
    total = int(weight.sum())
    if total * (n_experts + 1) >= LARGEST:
        return None
    from ortools.graph.python import max_flow

    n_terms, width = terms.shape
    own = np.ones(terms.shape, dtype=np.bool_)
    own[:, 1:] = terms[:, 1:] != terms[:, :1]
    term = np.repeat(np.arange(n_terms), width)[own.ravel()]
    expert = terms[own]
    # Nodes: the source, terms, experts, the sink.
    sink = n_terms + n_experts + 1
    experts = np.arange(n_terms + 1, sink)
    tail = np.concatenate((np.zeros(n_terms, dtype=np.int64), 1 + term, experts))
    head = np.concatenate((np.arange(1, n_terms + 1), n_terms + 1 + expert, np.full(n_experts, sink)))

    found = {0: (0, np.zeros(n_experts, dtype=np.bool_)), n_experts: (total, np.ones(n_experts, dtype=np.bool_))}
    pending = [(0, n_experts)]
    while pending:
        low, high = pending.pop()
        width, rise = high - low, found[high][0] - found[low][0]
        if width < 2:
            continue
        network = max_flow.SimpleMaxFlow()
        # An arc from a term needs no more than what comes into it.
        capacity = np.concatenate((weight * width, weight[term] * width, np.full(n_experts, rise)))
        network.add_arcs_with_capacity(tail, head, capacity)
        if network.solve(0, sink) != network.OPTIMAL:
            return None
        if width * total - network.optimal_flow() <= width * found[low][0] - low * rise:
            continue  # nothing is above the line between the two
        side = np.array(network.get_source_side_min_cut(), dtype=np.int64)
        chosen = np.zeros(n_experts, dtype=np.bool_)
        chosen[side[side > n_terms] - n_terms - 1] = True
        middle = int(chosen.sum())
        found[middle] = (int(weight[chosen[terms].all(axis=1)].sum()), chosen)
        pending += [(low, middle), (middle, high)]
    return [found[q] for q in sorted(found)]
