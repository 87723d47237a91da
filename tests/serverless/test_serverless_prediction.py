"""Predictions: shares of what is known, the prompts most like one, whole tokens that keep the shares."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from moeplace.base.errors import InputError
from moeplace.serverless.prediction import (
    History,
    PromptTree,
    TextVectors,
    divergence,
    shares_of,
    token_rows,
    whole_tokens,
)

THEMES = ("sum prove integer theorem", "cell protein gene tissue", "court law statute judge", "planet orbit star mass")


def made(seed: int, prompts: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return prompts of four themes, their shares (each theme has experts of its own), and the themes."""
    rng = np.random.default_rng(seed)
    theme = rng.integers(0, 4, prompts)
    texts = [" ".join(rng.choice(THEMES[t].split(), 6)) + " the question" for t in theme]
    counts = rng.integers(0, 4, (prompts, 3, 8))
    counts[np.arange(prompts), :, theme] += 30
    return texts, shares_of(counts), theme


def test_like_prompts_predict_better_than_the_mean_and_the_mean_than_nothing() -> None:
    for components in (None, 5):
        texts, shares, _ = made(1, 200)
        vectors = TextVectors(texts[:150], components)
        history = History(vectors.history, shares[:150])
        tree, queries = PromptTree(history, branches=4, leaf=40), vectors.of(texts[150:])
        equal, of_all = history.equal(), history.mean()
        predicted = {
            "equal": [equal] * 50,
            "mean": [of_all] * 50,
            "nearest": [history.nearest(vector) for vector in queries],
            "tree": [tree.nearest(vector) for vector in queries],
        }
        mean = {
            name: np.mean([divergence(p, t) for p, t in zip(found, shares[150:], strict=True)])
            for name, found in predicted.items()
        }
        assert mean["nearest"] < 0.3 * mean["mean"], mean
        assert mean["tree"] < 0.5 * mean["mean"], mean
        assert mean["mean"] < mean["equal"], mean


def test_vectors_are_those_of_the_formula() -> None:
    texts = ["Prove a_b: sum, SUM sum 7", "the sum of a cell", "a cell"]
    vectors = TextVectors(texts, None)
    words = ["7", "a", "b", "cell", "of", "prove", "sum", "the"]
    counts = np.array([[1, 1, 1, 0, 0, 1, 3, 0], [0, 1, 0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0, 0, 0]], dtype=float)
    tf = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    expected = tf * (np.log(4 / (1 + (counts > 0).sum(axis=0))) + 1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(vectors.history, expected), words
    assert np.allclose(vectors.of(["cell a", "nothing known"]), [expected[2], np.zeros(8)])
    reduced = TextVectors(texts, 60)
    assert reduced.history.shape == (3, 2)
    assert np.allclose(np.linalg.norm(reduced.history, axis=1), 1)
    assert (reduced.of(["nothing known"]) == 0).all()
    assert (reduced.history == TextVectors(texts, 60).history).all(), "the same each time"
    alike = TextVectors(["one two", "one two", "one two"], 1).history
    assert np.allclose(alike @ alike.T, 1)


def test_without_the_library_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(InputError, match=r"^vectors of prompts need scikit-learn: install moeplace\[predict\]$"):
        TextVectors(["one", "two"])


def test_a_prompt_of_the_history_finds_itself() -> None:
    texts, shares, _ = made(2, 60)
    vectors = TextVectors([f"{text} number{i}" for i, text in enumerate(texts)], None)
    history = History(vectors.history, shares)
    for i in range(60):
        assert np.allclose(history.nearest(history.vectors[i], neighbours=1), shares[i]), i


def test_a_tree_has_every_prompt_in_one_leaf() -> None:
    texts, shares, _ = made(3, 120)
    history = History(TextVectors(texts).history, shares)
    for branches, leaf in ((2, 1), (4, 10), (3, 500)):
        tree, members, open_nodes = PromptTree(history, branches, leaf), [], []
        open_nodes.append(tree.root)
        while open_nodes:
            node = open_nodes.pop()
            members += [] if node.children else node.members.tolist()
            open_nodes += node.children
        assert sorted(members) == list(range(120)), (branches, leaf)
    alike = History(np.ones((50, 2)), np.full((50, 1, 2), 0.5))
    assert len(PromptTree(alike, 2, 5).leaf(np.ones(2))) == 50, "what is all alike is not split for ever"


def test_whole_tokens_and_rows_keep_the_shares() -> None:
    rng = np.random.default_rng(4)
    for trial in range(150):
        experts = int(rng.integers(1, 9))
        top_k, tokens = int(rng.integers(1, experts + 1)), int(rng.integers(1, 25))
        shares = shares_of((rng.random((2, experts)) ** 4 * 1000).astype(np.int64))
        uses, rows = whole_tokens(shares, tokens, top_k), token_rows(shares, tokens, top_k)
        found = np.zeros((2, experts), dtype=np.int64)
        for layer, picked, count in zip(rows["layer"], rows["experts"], rows["count"], strict=True):
            assert len(set(picked)) == len(picked) == top_k, trial
            found[layer, picked] += count
        assert found.tolist() == uses, trial
        for layer in range(2):
            assert sum(uses[layer]) == tokens * top_k, trial
            assert max(uses[layer]) <= tokens, trial
            free = [e for e in range(experts) if uses[layer][e] < tokens]
            if len(free) == experts:  # nothing was cut off
                assert all(abs(uses[layer][e] - shares[layer, e] * tokens * top_k) < 1 for e in free), trial


def test_shares_and_divergence_at_the_ends() -> None:
    assert shares_of(np.zeros((1, 4), dtype=np.int64)).tolist() == [[0.25] * 4]
    one, other = np.array([[0.5, 0.5, 0.0]]), np.array([[0.0, 0.5, 0.5]])
    assert divergence(one, one) == 0
    assert divergence(one, other) == pytest.approx(np.log(2) / 2)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 prompts"):
        TextVectors(["one"])
    with pytest.raises(InputError, match="no prompt has a word"):
        TextVectors(["...", "!"])
    history = History(np.ones((2, 2)), np.ones((2, 1, 2)) / 2)
    with pytest.raises(InputError, match="2 branches"):
        PromptTree(history, 1)
    with pytest.raises(InputError, match="a vector a prompt"):
        History(np.ones((3, 2)), np.ones((2, 1, 2)) / 2)
    with pytest.raises(InputError, match="top_k = 3"):
        whole_tokens(np.ones((1, 2)) / 2, 4, 3)
