"""The heuristics on real routing traces and against a proven bound: quality, never seconds."""

from __future__ import annotations

from typing import Any

import pytest
from cases import REALDATA, SCRIPTS

import moeplace
from moeplace import Instance, load, solve
from moeplace.library import instance_files, instance_name

METHODS = ["greedy", "max-convolution", "successive-greedy", "local-search"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark script, which makes the instances and bounds that it and these tests measure with."""
    if not SCRIPTS.is_dir():
        pytest.skip("the benchmark is in the checkout only")
    monkeypatch.syspath_prepend(str(SCRIPTS / "benchmarks"))
    import heuristics

    return heuristics


def checked(instance: Instance, method: str, **options: Any) -> moeplace.Solution:
    solution = solve(instance, method, **options)
    assert moeplace.check(instance, solution).ok
    assert solution.status.termination == "completed"
    return solution


def compare(instance: Instance, max_convolution: float = 0.99, successive: float = 0.995) -> dict[str, int]:
    """Return what each method saves, after the claims on their order: each at least as good as the one before.

    ``max_convolution`` and ``successive`` are the least shares of local search's saving that those methods reach.
    """
    found = {method: checked(instance, method) for method in METHODS[:3]}
    found["local-search"] = checked(instance, "local-search", start=found["successive-greedy"])
    saving = {method: instance.baseline_ns - solution.objective.latency_ns for method, solution in found.items()}
    assert sorted(saving.values()) == list(saving.values())
    assert saving["max-convolution"] >= max_convolution * saving["local-search"]
    assert saving["successive-greedy"] >= successive * saving["local-search"]
    return saving


SHIPPED = {
    "gpt-oss-20b_melbourne_cut_l04_s3_u12_c264": (0.99, 0.995),
    "gpt-oss-20b_melbourne_s8_u48_c060": (0.99, 0.995),
    # Sets of six, storage of one model in all: one server at a time misses about 2 %.
    "deepseek-v2-lite_arnes_cut_l08_s10_u40_c100": (0.97, 0.98),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_real_instances(name: str) -> None:
    (path,) = (path for path in instance_files("real") if instance_name(path) == name)
    compare(load(path), *SHIPPED[name])


@pytest.mark.parametrize("trace", ["GPT", "DEEPSEEK"])
def test_cut_of_a_real_trace(benchmark: Any, trace: str) -> None:
    if not REALDATA.is_dir():
        pytest.skip(f"no raw data in {REALDATA} (MOEPLACE_REALDATA names another folder)")
    document = benchmark.trace_document(
        REALDATA, getattr(benchmark, trace), users=20, stations=6, share=0.3, tokens=600
    )
    instance = Instance.from_document(document)
    saving = compare(instance)
    assert 2 * saving["greedy"] < saving["max-convolution"]  # experts that help only together
    for method in METHODS:
        options = {"kicks": 2} if method == "local-search" else {}
        runs = [checked(instance, method, seed=3, threads=threads, **options) for threads in (1, 2)]
        assert runs[0].placement == runs[1].placement, method


@pytest.mark.parametrize(
    ("shape", "least"),
    [
        ({}, {"max-convolution": 0.985, "successive-greedy": 0.99, "local-search": 0.995}),
        (
            {"experts": 16, "top_k": 1},
            {"greedy": 0.985, "max-convolution": 0.985, "successive-greedy": 0.99, "local-search": 0.995},
        ),
    ],
    ids=["top-2", "top-1"],
)
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_share_of_the_bound_on_the_hardest_seed(
    benchmark: Any, shape: dict[str, int], least: dict[str, float], share: float
) -> None:
    instance = Instance.from_document(benchmark.geometric_document(1, share=share, **shape))
    bound = benchmark.lp_bound(instance)
    for method in METHODS:
        ratio = benchmark.saved(instance, checked(instance, method)) / bound
        assert ratio <= 1.0 + 1e-6
        if method in least:
            assert ratio >= least[method], method
        else:
            assert ratio < 0.6  # experts that help only together: greedy does not see them
