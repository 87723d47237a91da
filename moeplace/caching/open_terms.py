r"""The aggregated problem where it is open how many experts are active: one list of terms for all choices. Exact.

Let ``k_1 < ... < k_J`` be the useful numbers of layer ``l``, ``y[l,j]`` whether it has ``k_j`` active experts (exactly
one is 1), and ``W_j[R,S]`` the weights (A2) of the instance cut to ``k_j`` experts. Then with
``z[R,S] = [every e in S is cached on some n in R]``::

    latency(x, y) = sum over l, j of y[l,j] * ( baseline_j[l] - sum over (R, S) of l of W_j[R,S] * z[R,S] )     (J3)

A term ``(R, S)`` may count for several choices, with weights of any order: rows that are cut to ``S`` by one number may
be longer with the next. Let ``0 < w_1 < w_2 < ...`` be the distinct positive ones among ``W_1, ..., W_J``, ``w_0 = 0``,
and ``L_i`` the choices ``j`` with ``W_j >= w_i``. Then::

    sum over j of y[j] * W_j * z  =  sum over i of (w_i - w_{i-1}) * u_i,     u_i = z * sum over j in L_i of y[j]   (J4)

*Proof.* ``W_j`` is the sum of ``w_i - w_{i-1}`` over the ``i`` with ``w_i <= W_j``, which are those whose ``L_i`` has
``j``; multiply by ``y[j] z`` and change the order of the sums.

So what a term saves with all choices is saved once, without asking which choice was made, and each further choice adds
its difference only. ``u_i`` is modelled by ``u_i <= z`` and ``u_i <= sum over L_i of y``, and since ``L_1`` contains
``L_2`` and so on, ``u_i <= u_1`` does in place of ``u_i <= z``. Where ``L_1`` is all choices, ``u_1`` is ``z`` itself.

*Nothing is lost in the relaxation.* For fractional ``z`` and ``y >= 0`` with sum 1, the least concave function above
the left side is the largest ``sum W_j g_j`` over ``0 <= g_j <= y[j]``, ``sum g_j <= z``: the choices of largest weight
are filled first. Of every ``L_i``, a first part of that order, they fill ``min(z, sum over L_i of y)``; adding these up
with ``w_i - w_{i-1}`` is the right side of (J4).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from moeplace.base.arrays import Bool, Int64, row_keys
from moeplace.caching.evaluation import Evaluation
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.rows import Rows, distinct_sets
from moeplace.caching.terms import AggregatedProblem, aggregate


class Open(NamedTuple):
    """What an algebraic model has of active experts; weights of terms are those of their first difference ``w_1``.

    Attributes
    ----------
    choices : list of (block, number of experts)
        The useful numbers, block by block.
    of_block : list of list of int
        The choices of each block: one of them is made.
    extra : list of int
        What each choice costs more than the smallest of its block with empty servers, token-ns.
    loss : list of int
        What each choice loses more than its block must.
    spare : int
        The most of that in sum.
    constant : int
        The cost with empty servers and the smallest choice of every block, token-ns.
    limits : dict of int to list of int
        ``L_1`` of the terms that do not count for all choices of their block.
    further : list of (int, list of int, int)
        Further differences of terms: the term, ``L_i``, and ``w_i - w_{i-1}``, for ``i >= 2``.
    """

    choices: list[tuple[int, int]]
    of_block: list[list[int]]
    extra: list[int]
    loss: list[int]
    spare: int
    constant: int
    limits: dict[int, list[int]]
    further: list[tuple[int, list[int], int]]


NOTHING_OPEN = Open([], [], [], [], 0, 0, {}, [])
"""What a model has of active experts where they are not open."""


@dataclass(frozen=True, eq=False, repr=False)
class OpenProblem:
    """The terms of an instance, and what is open in it.

    Attributes
    ----------
    terms : AggregatedProblem
        All terms of all choices, each once; where nothing is open, (A1) itself.
    open : Open or None
        None where nothing is open.
    """

    terms: AggregatedProblem
    open: Open | None

    @property
    def constant(self) -> int:
        """The cost from which savings are deducted, token-ns."""
        return self.terms.instance.baseline_ns if self.open is None else self.open.constant

    @cached_property
    def rows(self) -> int:
        """How many constraint rows a model needs for what is open: choices, budget, limits and further differences."""
        if self.open is None:
            return 0
        return len(self.open.of_block) + 1 + 2 * (len(self.open.limits) + len(self.open.further))

    def satisfied(self, placement: Placement) -> tuple[Bool, Bool, Bool, Bool]:
        """Return the values that a placement gives the variables of a model: covers, terms, choices, differences."""
        covered, satisfied = self.terms.satisfied(placement)
        if self.open is None:
            nothing = np.zeros(0, dtype=np.bool_)
            return covered, satisfied, nothing, nothing
        assert placement.active is not None
        made = [placement.active[block] == k for block, k in self.open.choices]
        for term, choices in self.open.limits.items():
            satisfied[term] &= any(made[choice] for choice in choices)
        more = [satisfied[term] and any(made[choice] for choice in choices) for term, choices, _ in self.open.further]
        return covered, satisfied, np.array(made, dtype=np.bool_), np.array(more, dtype=np.bool_)


def open_problem(instance: Instance) -> OpenProblem:
    """Return what algebraic models are made of, whether active experts are open or not. Made once for an instance.

    Raises
    ------
    NoSolutionError
        No choice of active experts is within the budget.
    """
    kept: OpenProblem | None = vars(instance).get("_open_problem")
    if kept is None:
        kept = OpenProblem(aggregate(instance), None) if instance.choices is None else _open_problem(instance)
        object.__setattr__(instance, "_open_problem", kept)
    return kept


def _open_problem(instance: Instance) -> OpenProblem:
    found = instance.choices
    assert found is not None
    found.check()
    useful, least = found.useful, [min(losses) for losses in found.losses]
    most = max(map(len, useful), default=1)
    # Every block has its j-th useful number in the j-th cut; one that has fewer numbers does not count there.
    cuts = [instance.cut([numbers[min(j, len(numbers) - 1)] for numbers in useful]) for j in range(most)]
    baseline = [Evaluation(cut, Placement.empty(cut)).block_ns.tolist() for cut in cuts]
    choices = [(b, k) for b, numbers in enumerate(useful) for k in numbers]
    place = list(itertools.accumulate(map(len, useful), initial=0))
    merged, weights = _merged(instance, [aggregate(cut) for cut in cuts])
    first, limits, further = _differences(merged, weights, useful, place)
    return OpenProblem(
        replace(merged, term_weight=first),
        Open(
            choices=choices,
            of_block=[list(range(a, z)) for a, z in itertools.pairwise(place)],
            extra=[baseline[j][b] - baseline[0][b] for b, numbers in enumerate(useful) for j in range(len(numbers))],
            loss=[found.losses[b][k - 1] - least[b] for b, k in choices],
            spare=found.budget - sum(least),
            constant=cuts[0].baseline_ns,
            limits=limits,
            further=further,
        ),
    )


def _differences(
    problem: AggregatedProblem, weights: Int64, useful: list[list[int]], place: list[int]
) -> tuple[Int64, dict[int, list[int]], list[tuple[int, list[int], int]]]:
    """Return (J4) for the weights of all terms: ``w_1``, the limits, the further differences."""
    block = problem.instance.item_block[problem.set_item[problem.set_start[problem.term_set]]].tolist()
    first = np.zeros(len(weights), dtype=np.int64)
    limits: dict[int, list[int]] = {}
    further: list[tuple[int, list[int], int]] = []
    for t, (b, row) in enumerate(zip(block, weights.tolist(), strict=True)):
        own = row[: len(useful[b])]  # later cuts repeat a block's last number, so some of these are positive
        before = 0
        for w in sorted({*own} - {0}):
            level = [place[b] + j for j, weight in enumerate(own) if weight >= w]
            if before:
                further.append((t, level, w - before))
            else:
                first[t] = w
                if len(level) < len(own):
                    limits[t] = level
            before = w
    return first, limits, further


def _merged(instance: Instance, problems: list[AggregatedProblem]) -> tuple[AggregatedProblem, Int64]:
    """Return the terms of all problems, each once, and its weight in each of them, int64 [T, J]."""
    number: dict[bytes, int] = {}
    radii = [[number.setdefault(own.tobytes(), len(number)) for own in problem.radius] for problem in problems]
    sets = [
        Rows(np.zeros(len(p.set_start) - 1, dtype=np.int32), p.set_start[1:], p.set_start, p.set_item) for p in problems
    ]
    set_start, set_item, set_of = distinct_sets(*sets)
    of_radius = np.concatenate(
        [np.array(own, dtype=np.int64)[problem.term_radius] for problem, own in zip(problems, radii, strict=True)]
    )
    of_set = np.concatenate([own[problem.term_set] for problem, own in zip(problems, set_of, strict=True)])
    _, first, term = np.unique(row_keys([of_radius, of_set]), return_index=True, return_inverse=True)
    weights = np.zeros((len(first), len(problems)), dtype=np.int64)
    problem_of = np.repeat(np.arange(len(problems)), [problem.n_terms for problem in problems])
    weights[term, problem_of] = np.concatenate([problem.term_weight for problem in problems])
    merged = AggregatedProblem(
        instance=instance,
        radius=np.frombuffer(b"".join(number), dtype=np.bool_).reshape(len(number), len(instance.servers)),
        set_start=set_start,
        set_item=set_item,
        term_radius=of_radius[first].astype(np.int32),
        term_set=of_set[first].astype(np.int32),
        term_weight=np.zeros(len(first), dtype=np.int64),
    )
    return merged, weights
