"""Counting expert sets in a stream: against a naive count, and independent of order and cuts."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeplace.base.errors import InputError
from moeplace.scenarios.counting import BadRow, SetCounts


def naive(demand: np.ndarray, experts: np.ndarray) -> Counter[tuple[int, int, tuple[int, ...]]]:
    return Counter(
        (int(d), layer, tuple(sorted(e for e in experts[t, layer].tolist() if e >= 0)))
        for t, d in enumerate(demand)
        for layer in range(experts.shape[1])
    )


def listed(counts: SetCounts) -> list[tuple[tuple[int, int, tuple[int, ...]], int]]:
    demand, layer, start, expert, count = counts.rows()
    return [
        ((int(demand[i]), int(layer[i]), tuple(expert[start[i] : start[i + 1]].tolist())), int(count[i]))
        for i in range(len(count))
    ]


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, int, np.ndarray, np.ndarray, np.random.Generator]:
    n_experts = draw(st.sampled_from([1, 2, 3, 8, 64, 127, 128, 256, 512]))
    top_k = draw(st.integers(1, min(n_experts, 10)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tokens, layers = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    pool = np.argsort(rng.random((5, layers, n_experts)), axis=2)[:, :, :top_k]  # few sets, so that they repeat
    experts = pool[rng.integers(0, 5, tokens)].copy()
    order = np.argsort(rng.random(experts.shape), axis=2)
    experts = np.take_along_axis(experts, order, axis=2)
    if top_k > 1 and draw(st.booleans()):
        experts[rng.random(experts.shape) < 0.2] = -1
        experts[:, :, 0] = np.where((experts < 0).all(axis=2), 0, experts[:, :, 0])
    return n_experts, top_k, rng.integers(0, 4, tokens), experts, rng


@given(streams())
@settings(max_examples=60, deadline=None)
def test_counts_like_a_naive_counter_in_canonical_order(stream: Any) -> None:
    n_experts, top_k, demand, experts, _ = stream
    counts = SetCounts(experts.shape[1], n_experts, top_k)
    counts.add(demand, experts)
    expected = naive(demand, experts)
    assert listed(counts) == sorted(expected.items())
    assert len(counts) == len(expected)
    assert counts.tokens.tolist() == [int((demand == d).sum()) for d in range(demand.max() + 1)]


@given(streams())
@settings(max_examples=40, deadline=None)
def test_order_and_cuts_of_the_stream_change_nothing(stream: Any) -> None:
    n_experts, top_k, demand, experts, rng = stream
    whole, cut = (SetCounts(experts.shape[1], n_experts, top_k) for _ in range(2))
    whole.add(demand, experts)
    order = rng.permutation(len(demand))
    for piece in np.array_split(order, 3):
        cut.add(demand[piece], experts[piece].astype(np.uint16 if (experts >= 0).all() else np.int16))
    assert pickle.dumps(whole.rows()) == pickle.dumps(cut.rows())
    assert whole.tokens.tolist() == cut.tokens.tolist()


def test_the_table_grows_beyond_its_first_size() -> None:
    rng = np.random.default_rng(1)
    experts = np.argsort(rng.random((20_000, 1, 64)), axis=2)[:, :, :6]
    counts = SetCounts(1, 64, 6)
    counts.add(3, experts)
    expected = naive(np.full(len(experts), 3), experts)
    assert len(expected) > 15_000
    assert dict(listed(counts)) == expected
    assert counts.tokens.tolist() == [0, 0, 0, 20_000]


@pytest.mark.parametrize(
    ("bad", "reason", "message"),
    [
        ([0, 8], "range", "row 3, layer 1: expert 8, the model has 8 (from 0)"),
        ([0, -2], "range", "row 3, layer 1: expert -2, the model has 8 (from 0)"),
        ([0, 2**40], "range", "the model has 8 (from 0)"),
        ([5, 5], "repeated", "row 3, layer 1: expert 5 stands twice in one row"),
        ([-1, -1], "empty", "row 3, layer 1: no expert at all"),
    ],
)
def test_a_bad_row_is_named_and_rows_before_it_count(bad: list[int], reason: str, message: str) -> None:
    experts = np.tile(np.array([0, 1]), (3, 2, 1)).astype(np.int64)
    experts[1, 1] = bad
    counts = SetCounts(2, 8, 2)
    with pytest.raises(BadRow) as caught:
        counts.add(0, experts)
    assert (caught.value.row, caught.value.reason) == (3, reason)
    assert message in str(caught.value)
    assert counts.rows().count.tolist() == [2, 1]


def test_arrays_and_models_of_a_wrong_shape_are_refused() -> None:
    counts = SetCounts(2, 8, 2)
    for shape in ((3, 1, 2), (3, 2, 3), (6, 2)):
        with pytest.raises(InputError, match=r"expected \[tokens, 2, 2\]"):
            counts.add(0, np.zeros(shape, dtype=np.int64))
    with pytest.raises(InputError, match="layers from 0 to 1"):
        counts.add_rows(np.array([0]), np.array([2]), np.array([[1, 2]]))
    with pytest.raises(InputError, match="must stay below"):
        counts.add_rows(np.array([2**31]), np.array([0]), np.array([[1, 2]]))
    with pytest.raises(InputError, match="no such model"):
        SetCounts(1, 2, 3)
