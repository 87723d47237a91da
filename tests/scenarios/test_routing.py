"""Generated routing: the same everywhere, valid, and like what it was fitted to."""

from __future__ import annotations

import hashlib
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import REALDATA

from moeplace.base.errors import InputError
from moeplace.scenarios import routing
from moeplace.scenarios.routing import FittedRouting, Routing, fitted

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


def digest(*arrays: Any) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a, dtype="<i8").tobytes() for a in arrays)).hexdigest()[:16]


def test_the_two_tables_are_the_same_everywhere() -> None:
    assert digest(routing._bell(), routing._power()) == "24002f403e2dbca6"


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((24, 32, 4), "measured", "f4e2fb7f91844114"),
        ((26, 64, 6), "measured", "b1deea6e6a453bab"),
        ((3, 256, 8), "measured", "28b2a9218e53c987"),
        ((24, 32, 4), "independent", "dfdda671fc9b590d"),
    ],
)
def test_a_seed_gives_the_same_tokens_everywhere(shape: tuple[int, int, int], kind: Any, expected: str) -> None:
    router = Routing.draw(*shape, tasks=3, seed=11, kind=kind)
    rng = np.random.default_rng(5)
    assert digest(*(router.sample(task, 200, rng) for task in range(3))) == expected


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (4, 4, 1), (32, 8, 2), (3, 60, 4), (2, 512, 10)])
def test_every_token_has_distinct_experts_of_the_model(shape: tuple[int, int, int]) -> None:
    layers, experts, top_k = shape
    router = Routing.draw(layers, experts, top_k, tasks=2, seed=1)
    tokens = router.sample(1, 700, np.random.default_rng(0))
    assert tokens.shape == (700, layers, top_k)
    assert tokens.dtype == np.int16
    assert tokens.min() >= 0
    assert tokens.max() < experts
    assert (np.diff(np.sort(tokens, axis=2), axis=2) > 0).all()
    assert router.extrapolated


def test_routers_differ_by_seed_and_tasks_have_profiles_of_their_own() -> None:
    def popularity(seed: int, task: int) -> np.ndarray:
        router = Routing.draw(4, 32, 4, tasks=2, seed=seed)
        tokens = router.sample(task, 4000, np.random.default_rng(3))
        return np.stack([np.bincount(tokens[:, layer].ravel(), minlength=32) / len(tokens) for layer in range(4)])

    assert abs(popularity(1, 0) - popularity(2, 0)).sum() / 8 > 0.5
    assert abs(popularity(1, 0) - popularity(1, 1)).sum() / 8 > 0.3


def test_independent_routing_has_no_tasks_and_no_pairs() -> None:
    router = Routing.draw(2, 32, 4, tasks=2, seed=4, kind="independent")
    used = np.zeros((40_000, 32))
    tokens = router.sample(0, 40_000, np.random.default_rng(3))
    np.put_along_axis(used, tokens[:, 0].astype(np.int64), 1, axis=1)
    share = used.mean(axis=0)
    pairs = used.T @ used / len(used)
    np.fill_diagonal(pairs, 0)
    popular = np.flatnonzero(share > 0.1)
    lift = (pairs / np.outer(share, share))[np.ix_(popular, popular)]
    # Drawn without replacement, two experts are a little rarer together than independence says.
    assert lift.max() < 1.05
    other = router.sample(1, 40_000, np.random.default_rng(4))[:, 0]
    assert abs(np.bincount(other.ravel(), minlength=32) / 40_000 - share).sum() / 8 < 0.02


@pytest.mark.parametrize(
    ("shape", "tasks", "kind", "message"),
    [
        ((0, 4, 1), 1, "measured", "no such model"),
        ((1, 4, 5), 1, "measured", "no such model"),
        ((1, 40_000, 2), 1, "measured", "at most 32767"),
        ((1, 4, 2), 0, "measured", "at least one"),
        ((1, 4, 2), 1, "real", "there are measured, independent"),
    ],
)
def test_what_cannot_be_drawn_is_refused(shape: tuple[int, int, int], tasks: int, kind: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Routing.draw(*shape, tasks=tasks, seed=0, kind=kind)


def test_stretched_curves_keep_their_ends_and_order() -> None:
    curve = [0, -10, -100, -101]
    assert routing._stretched(curve, 4) == curve
    for experts in (1, 2, 3, 7, 64):
        long = routing._stretched(curve, experts)
        assert all(a >= b for a, b in pairwise(long))
    assert routing._stretched(curve, 64)[0] == 0
    assert routing._stretched(curve, 64)[-1] == -101


def test_the_table_names_its_sources_and_is_of_their_shape() -> None:
    for fit in fitted():
        assert "commit" in fit.origin
        assert fit.licence in ("MIT", "Apache-2.0")
        assert np.shape(fit.base) == np.shape(fit.independent) == (fit.layers, fit.experts)
        for values in (fit.own, fit.shared, fit.family, fit.context):
            assert len(values) == fit.layers


@pytest.fixture(scope="module")
def statistics() -> Any:
    if not SCRIPTS.is_dir():
        pytest.skip("not a checkout: no scripts beside the tests")
    sys.path.insert(0, str(SCRIPTS))
    try:
        return import_module("routing_statistics")
    finally:
        sys.path.remove(str(SCRIPTS))


def drawn(statistics: Any, fit: FittedRouting, sizes: list[int]) -> Any:
    """Return the mean statistics of three routers."""
    runs = []
    for seed in range(3):
        router = Routing.draw(fit.layers, fit.experts, fit.top_k, tasks=len(sizes), seed=seed)
        rng = np.random.default_rng(seed)
        tasks = [router.sample(task, tokens, rng) for task, tokens in enumerate(sizes)]
        runs.append(statistics.measure(tasks, fit.experts))
    return statistics.mean(runs)


@pytest.mark.parametrize("trace", [0, 1])
def test_generated_routing_is_like_the_trace_it_was_fitted_to(statistics: Any, trace: int) -> None:
    """A cheap form of docs/benchmarks/routing.md: fewer routers, so wider limits than the 15 % there."""
    if not REALDATA.is_dir():
        pytest.skip(f"no raw data in {REALDATA} (MOEPLACE_REALDATA names another folder)")
    measured = statistics.read_traces(REALDATA)[trace]
    target = statistics.measure(measured.joined(), measured.experts)
    now = drawn(statistics, fitted()[trace], [len(tokens) for tokens in measured.joined()])
    for name, limit in (("popularity", 0.15), ("lift", 0.25), ("distinct", 0.15), ("overlap", 0.15)):
        off = np.median(abs(getattr(now, name) / getattr(target, name) - 1))
        assert off < limit, name
    independent = Routing.draw(measured.joined()[0].shape[1], measured.experts, 4, tasks=1, seed=1, kind="independent")
    alone = statistics.measure([independent.sample(0, 5000, np.random.default_rng(1))], measured.experts)
    assert np.median(abs(alone.lift / target.lift - 1)) > 0.4  # what the comparison would not let pass
