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

So what a term saves with every choice it saves once, and a further choice adds its difference only: a *piece* of the
term. A piece that counts for the choices ``L`` is modelled by what is covered while one of them is made::

    a[R,e]  =  sum over j of s[R,e,j],   0 <= s[R,e,j] <= y[j],   u <= sum over j in L of s[R,e,j]  for e in S     (J5)

with ``a[R,e]`` whether ``e`` is cached within ``R``, so that ``s[R,e,j] = a[R,e] y[j]``. Where ``L`` is all choices the
last sum is ``a[R,e]`` itself, and a cover that only such pieces need is not split. In a relaxation, ``u <= a`` and
``u <= sum over L of y`` would let the same half of an expert serve several half choices; (J5) shares it out among them,
with fewer rows (docs/formulation.md has what that is worth).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int64, row_keys
from moeplace.caching.evaluation import Evaluation
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.rows import Rows, distinct_sets
from moeplace.caching.terms import AggregatedProblem, aggregate


class Piece(NamedTuple):
    """A part of a term's saving (J4): so many token-ns where the term is satisfied and one of some choices is made.

    Attributes
    ----------
    term : int
    choices : list of int or None
        ``L``, by their places in :attr:`Open.choices`; None where every choice of the term's block counts.
    weight : int
        Token-ns, positive.
    """

    term: int
    choices: list[int] | None
    weight: int


class Open(NamedTuple):
    """What an algebraic model has of active experts.

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
    split : dict of (int, list of int)
        The covers that are split by choices, with the choices of their block: (J5).
    """

    choices: list[tuple[int, int]]
    of_block: list[list[int]]
    extra: list[int]
    loss: list[int]
    spare: int
    split: dict[int, list[int]]


NOTHING_OPEN = Open([], [], [], [], 0, {})
"""What a model has of active experts where they are not open."""


@dataclass(frozen=True, eq=False, repr=False)
class OpenProblem:
    """The terms of an instance, and what is open in it.

    Attributes
    ----------
    terms : AggregatedProblem
        All terms of all choices, each once, with the largest of its weights; where nothing is open, (A1) itself.
    pieces : list of Piece
        What terms save, by term and then from the most choices to the fewest; where nothing is open, all of it.
    open : Open
        :data:`NOTHING_OPEN` where nothing is.
    constant : int
        The cost from which savings are deducted, token-ns: with empty servers, and the smallest choice of every block.
    """

    terms: AggregatedProblem
    pieces: list[Piece]
    open: Open
    constant: int

    @cached_property
    def rows(self) -> int:
        """How many constraint rows a model needs for the terms and for what is open."""
        split = sum(1 + len(choices) for choices in self.open.split.values())
        of_pieces = np.array([piece.term for piece in self.pieces], dtype=np.intp)
        return _rows(self.terms, of_pieces) + split + self._choice_rows

    @property
    def _choice_rows(self) -> int:
        """One number for each block, and the budget; none where nothing is open."""
        return len(self.open.of_block) + 1 if self.open.of_block else 0

    def satisfied(self, placement: Placement) -> tuple[Bool, Bool, Bool, Bool]:
        """Return the values that a placement gives the variables of a model: covers, pieces, choices, split covers."""
        covered, satisfied = self.terms.satisfied(placement)
        active = placement.active
        made = [active is not None and active[block] == k for block, k in self.open.choices]
        pieces = [
            satisfied[term] and (choices is None or any(made[choice] for choice in choices))
            for term, choices, _ in self.pieces
        ]
        split = [covered[p] and made[choice] for p, choices in self.open.split.items() for choice in choices]
        values = (np.array(own, dtype=np.bool_) for own in (covered, pieces, made, split))
        return tuple(values)  # type: ignore[return-value]


def _rows(terms: AggregatedProblem, of_pieces: npt.NDArray[np.intp] | slice) -> int:
    """Return how many constraint rows a model needs for the terms, with the term of each piece."""
    own = np.diff(terms.set_start)[terms.term_set][of_pieces]
    return int(own[own > 1].sum()) + len(terms.covers[0])


def rows_needed(instance: Instance) -> int:
    """Return :attr:`OpenProblem.rows`, for which no pieces are made where nothing is open: each term is one there.

    Raises
    ------
    NoSolutionError
        No choice of active experts is within the budget.
    """
    return _rows(aggregate(instance), slice(None)) if instance.choices is None else open_problem(instance).rows


def open_problem(instance: Instance) -> OpenProblem:
    """Return what algebraic models are made of, whether active experts are open or not. Made once for an instance.

    Raises
    ------
    NoSolutionError
        No choice of active experts is within the budget.
    """
    kept: OpenProblem | None = vars(instance).get("_open_problem")
    if kept is None:
        kept = _decided_problem(instance) if instance.choices is None else _open_problem(instance)
        object.__setattr__(instance, "_open_problem", kept)
    return kept


def _decided_problem(instance: Instance) -> OpenProblem:
    terms = aggregate(instance)
    pieces = [Piece(t, None, weight) for t, weight in enumerate(terms.term_weight.tolist())]
    return OpenProblem(terms, pieces, NOTHING_OPEN, instance.baseline_ns)


def _open_problem(instance: Instance) -> OpenProblem:
    found = instance.choices
    assert found is not None
    found.check()
    useful, least = found.useful, [min(losses) for losses in found.losses]
    most = max(map(len, useful), default=1)
    # Every block has its j-th useful number in the j-th cut; one that has fewer numbers does not count there.
    cuts = [instance.cut([numbers[min(j, len(numbers) - 1)] for numbers in useful]) for j in range(most)]
    baseline = [Evaluation(cut, Placement.empty(cut)).block_ns.tolist() for cut in cuts]
    place = list(itertools.accumulate(map(len, useful), initial=0))
    of_block = [list(range(a, z)) for a, z in itertools.pairwise(place)]
    terms, weights = _merged(instance, [aggregate(cut) for cut in cuts])
    block = instance.item_block[terms.set_item[terms.set_start[terms.term_set]]].tolist()
    pieces = [piece for t, b in enumerate(block) for piece in _pieces(t, weights[t].tolist(), of_block[b])]
    _, need = terms.covers
    split = {
        p: of_block[block[term]]
        for term, choices, _ in pieces
        if choices is not None
        for p in need[terms.term_start[term] : terms.term_start[term + 1]].tolist()
    }
    choices = [(b, k) for b, numbers in enumerate(useful) for k in numbers]
    return OpenProblem(
        terms,
        pieces,
        Open(
            choices=choices,
            of_block=of_block,
            extra=[baseline[j][b] - baseline[0][b] for b, numbers in enumerate(useful) for j in range(len(numbers))],
            loss=[found.losses[b][k - 1] - least[b] for b, k in choices],
            spare=found.budget - sum(least),
            split=split,
        ),
        cuts[0].baseline_ns,
    )


def _pieces(term: int, weights: list[int], choices: list[int]) -> list[Piece]:
    """Return the pieces (J4) of a term from its weights, the first of which are for the choices of its block."""
    own = weights[: len(choices)]  # later cuts repeat a block's last number, so some of these are positive
    pieces, before = [], 0
    for w in sorted({*own} - {0}):
        level = [choice for choice, weight in zip(choices, own, strict=True) if weight >= w]
        pieces.append(Piece(term, None if len(level) == len(choices) else level, w - before))
        before = w
    return pieces


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
        term_weight=weights.max(axis=1, initial=0),
    )
    return merged, weights
