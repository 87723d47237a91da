"""Which experts a request will use, predicted from the prompts of earlier ones that are like it.

A *history* is what earlier requests used: for each layer the share of its activations that each expert had, beside a
vector of the prompt's text. A new prompt gets the mean of the shares of the prompts most like it, weighted by a softmax
of the likeness. Like prompts are found among all of the history, or by a tree of medoids as in Remoe (arXiv 2512.18674,
similar-prompts search): each inner node splits its prompts among ``branches`` medoids, and the search goes down to the
medoid most like the prompt, so that it compares with a few prompts only and may miss the most like one.

Vectors come from :class:`TextVectors` (TF-IDF, its leading components), or from anywhere else: rows of any length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int64
from moeplace.base.errors import InputError

Float = npt.NDArray[np.float64]


class TextVectors:
    """TF-IDF of words, and its leading components by a singular value decomposition (latent semantic analysis).

    By scikit-learn, the extra ``predict``. Words are runs of letters and digits, in small letters; a word's weight is
    ``(1 + log tf) * (log((1 + n) / (1 + df)) + 1)``, and rows have length 1.

    Parameters
    ----------
    texts : sequence of str
        The prompts of the history, at least two.
    components : int or None
        Leading components that are kept, at most as many as there are; None keeps all words.

    Attributes
    ----------
    history : float64 array [M, D]
        The vectors of the history's prompts.

    Raises
    ------
    InputError
        Fewer than two prompts, no words in them, or scikit-learn is not installed.
    """

    def __init__(self, texts: Sequence[str], components: int | None = 60) -> None:
        if len(texts) < 2:
            raise InputError(f"expected at least 2 prompts, found {len(texts)}")
        try:  # here: it takes seconds to load, and is an extra
            from sklearn.decomposition import TruncatedSVD
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError:
            raise InputError("vectors of prompts need scikit-learn: install moeplace[predict]") from None
        self._words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"[^\W_]+")
        try:
            counted = self._words.fit_transform(texts)
        except ValueError:  # what it says of an empty vocabulary
            raise InputError("no prompt has a word") from None
        self._leading: Any = None
        kept = 0 if components is None else min(components, min(counted.shape) - 1)
        if kept >= 1:
            self._leading = TruncatedSVD(kept, algorithm="arpack", random_state=0)  # a fixed start repeats exactly
            with np.errstate(divide="ignore", invalid="ignore"):  # shares of the variance, where all are alike
                self._leading.fit(counted)
        self.history = self._reduced(counted)

    def of(self, texts: Sequence[str]) -> Float:
        """Return the vectors of texts, [n, D], each of length 1 or nothing."""
        return self._reduced(self._words.transform(texts))

    def _reduced(self, counted: Any) -> Float:
        from sklearn.preprocessing import normalize

        found = counted.toarray() if self._leading is None else normalize(self._leading.transform(counted))
        vectors: Float = np.asarray(found, dtype=np.float64)
        return vectors


def shares_of(counts: npt.NDArray[np.integer]) -> Float:
    """Return the share of a layer's activations that each expert has, of ``counts [..., L, E]``.

    A layer without activations has equal shares.
    """
    total = counts.sum(axis=-1, keepdims=True).astype(np.float64)
    equal = np.full(counts.shape, 1 / counts.shape[-1])
    shares: Float = np.divide(counts, total, out=equal, where=total > 0)
    return shares


@dataclass(frozen=True, eq=False)
class History:
    """What earlier requests used.

    Attributes
    ----------
    vectors : float64 array [M, D]
        Of their prompts; their products are how much they are alike.
    shares : float64 array [M, L, E]
    """

    vectors: Float
    shares: Float

    def __post_init__(self) -> None:
        if len(self.vectors) != len(self.shares) or not len(self.shares):
            raise InputError(f"expected a vector a prompt, found {len(self.vectors)} of {len(self.shares)} prompts")

    def equal(self) -> Float:
        """Return equal shares, [L, E]: the prediction of who knows nothing."""
        return np.full(self.shares.shape[1:], 1 / self.shares.shape[2])

    def mean(self) -> Float:
        """Return the mean of all shares, [L, E]: the prediction of who does not look at the prompt."""
        mean: Float = self.shares.mean(axis=0)
        return mean

    def weighted(self, among: Int64, vector: Float, neighbours: int, temperature: float) -> Float:
        """Return the shares of the prompts most like one, among some, weighted by a softmax of likeness."""
        alike = self.vectors[among] @ vector
        order = np.argsort(-alike, kind="stable")[:neighbours]
        weight = np.exp((alike[order] - alike[order[0]]) / temperature)
        found: Float = np.tensordot(weight / weight.sum(), self.shares[among[order]], axes=1)
        return found

    def nearest(self, vector: Float, neighbours: int = 15, temperature: float = 0.1) -> Float:
        """Return the prediction of the prompts most like one, all of the history looked at, [L, E]."""
        return self.weighted(np.arange(len(self.shares)), vector, neighbours, temperature)


@dataclass(frozen=True)
class _Node:
    members: Int64
    medoids: Int64
    children: tuple[_Node, ...]


class PromptTree:
    """A tree of medoids over a history.

    Parameters
    ----------
    history : History
    branches : int
        Medoids of an inner node (the paper's beta).
    leaf : int
        Prompts up to which a node is not split (the paper's alpha).
    seed : int
        Of the first medoids.
    """

    def __init__(self, history: History, branches: int = 4, leaf: int = 60, seed: int = 0) -> None:
        if branches < 2 or leaf < 1:
            raise InputError(f"expected at least 2 branches and leaves of 1, found {branches} and {leaf}")
        self.history, self._branches, self._leaf = history, branches, leaf
        self.root = self._node(np.arange(len(history.shares)), np.random.default_rng(seed))

    def _node(self, members: Int64, rng: np.random.Generator) -> _Node:
        if len(members) <= self._leaf:
            return _Node(members, np.zeros(0, dtype=np.int64), ())
        vectors = self.history.vectors[members]
        alike = vectors @ vectors.T
        medoids = rng.choice(len(members), min(self._branches, len(members)), replace=False)
        for _ in range(20):  # alternate: members go to their medoid, medoids to the middle of their members
            own = alike[:, medoids].argmax(axis=1)
            moved = medoids.copy()
            for j in range(len(medoids)):
                group = np.flatnonzero(own == j)
                if len(group):
                    moved[j] = group[alike[np.ix_(group, group)].sum(axis=1).argmax()]
            if (moved == medoids).all():
                break
            medoids = moved
        own = alike[:, medoids].argmax(axis=1)
        kept = [j for j in range(len(medoids)) if (own == j).any()]
        if len(kept) < 2:  # all alike: nothing splits them
            return _Node(members, np.zeros(0, dtype=np.int64), ())
        children = tuple(self._node(members[own == j], rng) for j in kept)
        return _Node(members, members[medoids[kept]], children)

    def leaf(self, vector: Float) -> Int64:
        """Return the prompts of the leaf that a vector leads to."""
        node = self.root
        while node.children:
            node = node.children[int((self.history.vectors[node.medoids] @ vector).argmax())]
        return node.members

    def nearest(self, vector: Float, neighbours: int = 15, temperature: float = 0.1) -> Float:
        """Return the prediction of the prompts most like one in its leaf, [L, E]."""
        return self.history.weighted(self.leaf(vector), vector, neighbours, temperature)


def divergence(one: Float, other: Float) -> float:
    """Return the Jensen-Shannon divergence (natural logarithm) of shares ``[L, E]``, the mean over layers.

    Examples
    --------
    >>> round(divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])), 6), divergence(np.eye(2), np.eye(2))
    (0.693147, 0.0)
    """
    middle = (one + other) / 2

    def entropy(shares: Float) -> Float:
        logarithm = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        found: Float = -(shares * logarithm).sum(axis=-1)
        return found

    return float(np.mean(entropy(middle) - (entropy(one) + entropy(other)) / 2))


def whole_tokens(shares: Float, tokens: int, top_k: int) -> list[list[int]]:
    """Return tokens of each expert that have these shares: ``tokens * top_k`` in each layer, at most ``tokens`` each.

    Parameters
    ----------
    shares : float64 array [L, E]
    tokens, top_k : int
    """
    if top_k > shares.shape[1]:
        raise InputError(f"expected at least top_k = {top_k} experts, found {shares.shape[1]}")
    result = []
    for layer in shares:
        wanted = _capped(layer, tokens * top_k, tokens)
        whole = np.floor(wanted).astype(np.int64)
        missing = tokens * top_k - int(whole.sum())
        order = np.argsort(-(wanted - whole), kind="stable")
        for e in [e for e in order.tolist() if whole[e] < tokens][:missing]:
            whole[e] += 1
        while (short := tokens * top_k - int(whole.sum())) > 0:  # only by rounding of floats
            whole[np.flatnonzero(whole < tokens)[:short]] += 1
        result.append(whole.tolist())
    return result


def _capped(shares: Float, total: int, most: int) -> Float:
    """Return amounts proportional to shares but for those that would be above ``most``; they sum to ``total``."""
    free, amounts = np.ones(len(shares), dtype=np.bool_), np.zeros(len(shares))
    weight = shares + 1e-12
    while True:
        left = total - amounts[~free].sum()
        amounts[free] = left * weight[free] / weight[free].sum() if free.any() else 0
        over = free & (amounts > most)
        if not over.any():
            return amounts
        amounts[over] = most
        free &= ~over


def token_rows(shares: Float, tokens: int, top_k: int) -> dict[str, list[Any]]:
    """Return output tokens with ``top_k`` distinct experts each, whose use has these shares: a request's ``decode``.

    Which experts a token uses *together* is not in shares. Here tokens take them by systematic sampling along a random
    order of the experts (Madow 1949), a new order for each token; each is used as often as :func:`whole_tokens` says.
    """
    rows: dict[str, list[Any]] = {"layer": [], "experts": [], "count": []}
    for layer, uses in enumerate(whole_tokens(shares, tokens, top_k)):
        left = np.array(uses, dtype=np.int64)
        rng = np.random.default_rng([layer, tokens])
        found: Counter[tuple[int, ...]] = Counter()
        for t in range(tokens):
            rest = tokens - t
            order = rng.permutation(len(left))
            must = [int(e) for e in order if left[e] == rest]  # else too few tokens would be left for it
            chance = np.cumsum(np.where(np.isin(order, must), 0, left[order]))
            picked = list(must)
            free = top_k - len(must)
            if free:
                step = chance[-1] / free
                at = np.searchsorted(chance, (rng.random() + np.arange(free)) * step, side="right")
                picked += [int(e) for e in order[np.unique(at)]]
                for e in order:  # a heavy expert may be hit twice
                    if len(picked) == top_k:
                        break
                    if left[e] and int(e) not in picked:
                        picked.append(int(e))
            left[picked] -= 1
            found[tuple(sorted(picked))] += 1
        for experts, count in sorted(found.items()):
            rows["layer"].append(layer)
            rows["experts"].append(list(experts))
            rows["count"].append(count)
    return rows
