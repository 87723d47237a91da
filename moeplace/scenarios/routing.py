"""Generated routing: which experts the tokens of a task use, like what was measured on two real traces.

The model. Tokens are of a few hundred *kinds*, kinds of a few *families*; a task is a distribution over the kinds
(Zipf's law by a common ranking, spread apart per task, by family and by kind). At each layer a kind has a weight for
every expert::

    log weight[layer, kind, expert] = base[layer, expert] + own[layer] * g + shared[layer] * h + family[layer] * f

where g is normal for each (layer, kind, expert), h for each (layer, kind, group of experts), so that experts of a
group come and go together, and f for each (layer, family, expert). ``top_k`` experts are drawn one after the other
without replacement, by weight. Within a request kinds come again (an urn), and a layer goes by the current *subject*
of the request, a kind that stays for a while, with probability ``context[layer]``, else by the token itself. So
popularity is skewed, tasks differ, pairs of experts are used together more often than independence says, and tokens
that are near to each other are alike.

``base``, ``own``, ``shared``, ``family`` and ``context`` of every layer are fitted to the traces by
``scripts/fit_routing.py`` and kept in ``routing.json``; which expert has which rank is drawn. What the fit reaches is
in ``docs/benchmarks/routing.md``. *Another shape than a measured one is an extrapolation*: the trace with the nearer
number of experts (as a ratio) lends its layers by relative depth and its popularity curve by relative rank.

Everything is integer arithmetic on 64-bit random numbers (SplitMix64) and two tables, of the normal quantiles and of
the exponential function, rounded to 1/256 and 2**-20: a seed gives the same tokens on every platform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from moeplace.base.errors import InputError

Int64 = npt.NDArray[np.int64]

KINDS: Final = ("measured", "independent")
UNIT: Final = 256
"""Logits, scales and normal numbers are integers in 1/256; probabilities in 1/65536."""


class FittedRouting(Struct, frozen=True, forbid_unknown_fields=True):
    """What was fitted to one trace; logits and scales in 1/256, probabilities in 1/65536.

    Attributes
    ----------
    name, origin, licence : str
        The model, where its trace is from, and under which terms.
    layers, experts, top_k, tokens : int
        Shape of the trace.
    kinds, families : int
        Kinds of tokens, and families of kinds.
    zipf, task_spread, family_spread : int
        Exponent of the kinds' frequencies; standard deviations of a task's own log frequencies, by kind and by family.
    request, novelty, stay : int
        Tokens of a request; the urn's parameter, tokens; probability that the subject stays.
    group : int
        Experts of a group.
    own, shared, family, context : list of int [L]
        Scales of a kind's effect on one expert and on a group, and of its family's on one expert; probability that a
        layer goes by the subject.
    base : list of list of int [L][E]
        Logits by rank, from the most popular expert.
    independent : list of list of int [L][E]
        The same where all tokens are alike (own, shared, family and context 0).
    """

    name: str
    origin: str
    licence: str
    layers: int
    experts: int
    top_k: int
    tokens: int
    kinds: int
    families: int
    zipf: int
    task_spread: int
    family_spread: int
    request: int
    novelty: int
    stay: int
    group: int
    own: list[int]
    shared: list[int]
    family: list[int]
    context: list[int]
    base: list[list[int]]
    independent: list[list[int]]


@cache
def fitted() -> tuple[FittedRouting, ...]:
    """Return the fitted table that comes with the package, one entry a trace."""
    text = files("moeplace.scenarios").joinpath("routing.json").read_bytes()
    return tuple(msgspec.json.decode(text, type=list[FittedRouting]))


@cache
def _bell() -> Int64:
    """Return the normal quantiles at (i + 1/2) / 4096, in 1/256."""
    normal = NormalDist()
    return np.array([round(UNIT * normal.inv_cdf((i + 0.5) / 4096)) for i in range(4096)], dtype=np.int64)


@cache
def _power() -> Int64:
    """Return exp(-i / 256) in 2**-20, at least 1: weights span six decades."""
    return np.array([max(1, round(2**20 * math.exp(-i / UNIT))) for i in range(14 * UNIT)], dtype=np.int64)


class Routing:
    """What a model's router does with the tokens of each task. Made by :meth:`draw`.

    Attributes
    ----------
    layers, experts, top_k : int
        Shape of the model.
    tasks : tuple of str
        Names of the tasks.
    kind : {"measured", "independent"}
    fitted_to : str
        The trace that lent its parameters.
    extrapolated : bool
        Whether the shape is another than the trace's.
    """

    def __init__(
        self, fit: FittedRouting, layers: int, experts: int, top_k: int, *, tasks: int, seed: int, kind: str
    ) -> None:
        from moeplace.scenarios import _kernels

        self.layers, self.experts, self.top_k, self.kind = layers, experts, top_k, kind
        self.tasks = tuple(f"task-{t}" for t in range(tasks))
        self.fitted_to = fit.name
        self.extrapolated = (layers, experts, top_k) != (fit.layers, fit.experts, fit.top_k)
        alike = kind == "independent"
        depth = [(2 * layer + 1) * fit.layers // (2 * layers) for layer in range(layers)]
        curves = [(fit.independent if alike else fit.base)[at] for at in depth]
        start = np.random.default_rng(seed).integers(0, 2**63, size=3, dtype=np.int64).astype(np.uint64)
        rank = np.array([_kernels.shuffled(experts, _add(start[0], layer)) for layer in range(layers)])
        mates = np.array([_kernels.shuffled(experts, _add(start[1], layer)) for layer in range(layers)])
        base = np.array([_stretched(curve, experts) for curve in curves], dtype=np.int64)
        kinds = 1 if alike else fit.kinds
        self._request, self._novelty, self._stay = fit.request, fit.novelty, fit.stay
        self._context = np.array([0 if alike else fit.context[at] for at in depth], dtype=np.int64)
        own = np.array([0 if alike else fit.own[at] for at in depth], dtype=np.int64)
        shared = np.array([0 if alike else fit.shared[at] for at in depth], dtype=np.int64)
        family = np.array([0 if alike else fit.family[at] for at in depth], dtype=np.int64)
        shape = (layers, kinds, experts)
        self._weight = np.empty(shape, dtype=np.int32)
        self._cut = np.empty(shape, dtype=np.int64)
        self._alias = np.empty(shape, dtype=np.int16)
        self._total = np.empty(shape[:2], dtype=np.int64)
        _kernels.routing_tables(
            np.take_along_axis(base, rank, axis=1), own, shared, family, mates // fit.group, fit.families,
            _power(), _bell(), start[2], self._weight, self._cut, self._alias, self._total,
        )  # fmt: skip
        self._kind_tables = [self._mixture(fit, kinds, _add(start[2], -1 - task)) for task in range(tasks)]

    @classmethod
    def draw(
        cls,
        layers: int,
        experts: int,
        top_k: int,
        *,
        tasks: int,
        seed: int,
        kind: Literal["measured", "independent"] = "measured",
    ) -> Routing:
        """Draw the router of a model.

        Parameters
        ----------
        layers, experts, top_k : int
            Shape of the model: MoE layers, experts of a layer, experts of a token.
        tasks : int
            How many tasks there are; each has a profile of its own.
        seed : int
            Gives the same router, bit for bit, everywhere.
        kind : {"measured", "independent"}
            "measured": like the traces. "independent": the same popularity curves, but every token alike and experts
            drawn independently but for being distinct. That is *unrealistic* (no tasks, no lift, too many distinct
            sets) and there for comparison.

        Returns
        -------
        Routing

        Raises
        ------
        InputError
            A shape that no model has.
        """
        if layers < 1 or experts < 1 or not 1 <= top_k <= experts:
            raise InputError(f"no such model: {layers} layers, {experts} experts, top_k {top_k}")
        if experts > np.iinfo(np.int16).max:
            raise InputError(f"{experts} experts a layer; routing is drawn for at most {np.iinfo(np.int16).max}")
        if tasks < 1:
            raise InputError(f"{tasks} tasks; at least one is needed")
        if kind not in KINDS:
            raise InputError(f"no kind of routing {kind!r}; there are {', '.join(KINDS)}")
        fit = min(fitted(), key=lambda f: Fraction(max(f.experts, experts), min(f.experts, experts)))
        return cls(fit, layers, experts, top_k, tasks=tasks, seed=seed, kind=kind)

    def sample(self, task: int, tokens: int, rng: np.random.Generator) -> npt.NDArray[np.int16]:
        """Draw the experts of a run of tokens of one task: requests, one after the other.

        Parameters
        ----------
        task : int
            Index in :attr:`tasks`.
        tokens : int
        rng : numpy.random.Generator
            One 63-bit integer is taken from it.

        Returns
        -------
        int16 array [tokens, layers, top_k]
            Distinct experts of every token and layer, in no particular order.
        """
        from moeplace.scenarios import _kernels

        out = np.empty((tokens, self.layers, self.top_k), dtype=np.int16)
        seed = np.uint64(rng.integers(0, 2**63, dtype=np.int64))
        cut, alias, total = self._kind_tables[task]
        _kernels.sample_tokens(
            out, self._weight, self._cut, self._alias, self._total, cut, alias, total,
            self._context, self._request, self._novelty, self._stay, seed,
        )  # fmt: skip
        return out

    def _mixture(self, fit: FittedRouting, kinds: int, seed: np.uint64) -> tuple[Int64, Int64, int]:
        """Return the alias table of the kinds' frequencies in one task."""
        from moeplace.scenarios import _kernels

        power = _power()
        logarithm = np.array([round(UNIT * math.log(v + 1)) for v in range(kinds)], dtype=np.int64)
        own = _kernels.normals(_bell(), kinds, seed)
        kin = _kernels.normals(_bell(), fit.families, _add(seed, 2**63))[np.arange(kinds) % fit.families]
        logit = (-fit.zipf * logarithm + fit.task_spread * own + fit.family_spread * kin) >> 8
        weight = power[np.minimum(logit.max() - logit, len(power) - 1)]
        cut, alias, total = np.empty(kinds, np.int64), np.empty(kinds, np.int64), int(weight.sum())
        _kernels.fill_alias(weight, cut, alias, total)
        return cut, alias, total


def _add(seed: Any, number: int) -> np.uint64:
    return np.uint64((int(seed) + number) % 2**64)


def _stretched(curve: Sequence[int], experts: int) -> list[int]:
    """Return a popularity curve for another number of experts: linear between ranks, in integers."""
    known = len(curve)
    result = []
    for rank in range(experts):
        # The middle of rank r of E lies at (r + 1/2) * known / E - 1/2, in ranks of the curve.
        at = min(max((2 * rank + 1) * known - experts, 0), 2 * experts * (known - 1))
        left, part = divmod(at, 2 * experts)
        right = min(left + 1, known - 1)
        result.append((curve[left] * (2 * experts - part) + curve[right] * part) // (2 * experts))
    return result
