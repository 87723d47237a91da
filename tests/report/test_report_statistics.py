"""Every statistic of a report against numbers worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from moeplace.report import statistics as st
from moeplace.report.pictures import profiles, sized_gaps
from moeplace.report.statistics import Problem, Trial

PROBLEM = Problem("s", "p", "hash", servers=2, items=10, baseline_ns=1000, best_ns=100, bound_ns=80)


def trial(method: str = "m", problem: Problem = PROBLEM, **fields: Any) -> Trial:
    given = {"seed": 0, "status": "ok", "latency_ns": 100, "wall_s": 1.0, "time_limit": 10.0} | fields
    return Trial(problem, method, **given)


def test_gap_is_to_the_best_bound_and_excess_over_the_best_cost() -> None:
    run = trial(latency_ns=160)
    assert run.gap == (160 - 80) / 160 == 0.5
    assert run.excess == (160 - 100) / 100 == 0.6


def test_gap_is_exact_where_floats_are_not() -> None:
    big = 2**62
    problem = Problem("s", "p", "h", best_ns=big, bound_ns=big)
    assert trial(problem=problem, latency_ns=big).gap == 0.0
    nearly = trial(problem=problem, latency_ns=big + 1)
    assert float(big + 1) == float(big)  # what a float would make of it
    assert nearly.gap is not None
    assert nearly.gap > 0.0
    assert nearly.excess is not None
    assert nearly.excess > 0.0


def test_what_is_not_known_is_none() -> None:
    nothing = Problem("s", "p", "h")
    assert trial(problem=nothing).gap is None
    assert trial(problem=nothing).excess is None
    assert trial(problem=nothing).primal_integral is None
    assert trial(time_limit=None).primal_integral is None
    assert trial(status="crashed", latency_ns=None, wall_s=None).gap is None
    assert st.shifted_geometric_mean([]) is None
    assert st.mean([]) is None
    assert st.median([]) is None
    assert trial(problem=nothing, bound_ns=100).proven


def test_summary_by_hand() -> None:
    other = Problem("s", "q", "hash2", best_ns=50)  # no bound
    runs = [
        trial(latency_ns=100, bound_ns=80, wall_s=0.0),  # gap 0.2, excess 0
        trial(latency_ns=160, wall_s=3.0),  # gap 0.5, excess 0.6
        trial(problem=other, latency_ns=50, bound_ns=50, wall_s=8.0),  # no gap: the problem has no bound here
        trial(status="timeout", latency_ns=None, wall_s=None, time_limit=24.0),
        trial(status="crashed", latency_ns=None, wall_s=0.5, time_limit=24.0),
    ]
    line = st.summarise("s", "m", runs)
    assert (line.runs, line.solved, line.proven, line.optimal, line.bounded) == (5, 3, 1, 0, 2)
    assert line.gap_mean == pytest.approx(0.35)
    assert line.gap_median == pytest.approx(0.35)
    assert line.gap_max == 0.5
    assert line.excess_mean == pytest.approx(0.2)
    assert line.excess_median == 0.0
    assert line.excess_max == 0.6
    # Shifted by a second: 1, 4, 9, and 25 for each failure, whenever it came.
    assert line.time_s == pytest.approx((1 * 4 * 9 * 25 * 25) ** (1 / 5) - 1)
    assert line.failures == {"crashed": 1, "timeout": 1}
    # 0: the best at once; 0.3 + 0.7 * 60/160; 0.8 + 0.2 * 0; 1; 1
    assert line.primal_integral == pytest.approx((0 + (0.3 + 0.7 * 0.375) + 0.8 + 1 + 1) / 5)


def test_optimal_is_decided_by_whole_numbers() -> None:
    # A token-nanosecond more is a gap, however small a share it is.
    problem = Problem("s", "p", "h", best_ns=10**30, bound_ns=10**30)
    runs = [trial(problem=problem, latency_ns=10**30), trial(problem=problem, latency_ns=10**30 + 1)]
    assert [run.optimal for run in runs] == [True, False]
    assert st.summarise("s", "m", runs).optimal == 1


def test_a_failure_without_limit_leaves_the_time_open() -> None:
    runs = [trial(), trial(status="crashed", latency_ns=None, wall_s=None, time_limit=None)]
    line = st.summarise("s", "m", runs)
    assert line.time_s is None
    assert line.primal_integral is None


def test_shifted_geometric_mean() -> None:
    assert st.shifted_geometric_mean([0.0, 3.0, 15.0]) == pytest.approx((1 * 4 * 16) ** (1 / 3) - 1)
    assert st.shifted_geometric_mean([2.0, 8.0], shift=0.0) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("steps", "best", "horizon", "expected"),
    [
        ([], 100, 10.0, 1.0),  # nothing found
        ([(0.0, 100)], 100, 10.0, 0.0),  # the best at once
        ([(2.0, 200), (6.0, 100)], 100, 10.0, (2 + 4 * 0.5) / 10),
        ([(2.0, 200)], 100, 10.0, (2 + 8 * 0.5) / 10),
        ([(12.0, 100)], 100, 10.0, 1.0),  # too late
        ([(5.0, 0)], 0, 10.0, 0.5),  # cost and best are 0
        ([(5.0, 100)], 100, 0.0, None),
    ],
)
def test_primal_integral(steps: list[tuple[float, int]], best: int, horizon: float, expected: float | None) -> None:
    assert st.primal_integral(steps, best, horizon) == (None if expected is None else pytest.approx(expected))


def test_steps_believe_no_cost_below_the_checked_one() -> None:
    assert st.steps([(1.0, 10)], 50, 3.0) == [(1.0, 50)]
    assert st.steps([(2.0, 60), (1.0, 70), (2.5, 65)], 50, 3.0) == [(1.0, 70), (2.0, 60), (3.0, 50)]
    assert st.steps([(9.0, 50)], 50, 3.0) == [(3.0, 50)]  # later than its end
    assert trial(status="wrong_cost", trajectory=[(0.1, 5)]).steps == []


def test_performance_profile_by_hand() -> None:
    # Dolan and More: ratios to the fastest on each problem.
    #            p1   p2    p3     p4
    times = {"a": [1.0, 10.0, None, None], "b": [2.0, 5.0, 3.0, None]}
    curves = st.performance_profile(times)
    assert curves["a"].x.tolist() == [1.0, 2.0]
    assert curves["a"].y.tolist() == [0.25, 0.5]
    assert curves["b"].x.tolist() == [1.0, 2.0]
    assert curves["b"].y.tolist() == [0.5, 0.75]
    assert curves["a"].count == 4


def test_performance_profile_ignores_differences_of_milliseconds() -> None:
    curves = st.performance_profile({"a": [0.0001], "b": [0.009], "c": [0.02]})
    assert curves["a"].x.tolist() == curves["b"].x.tolist() == [1.0]
    assert curves["c"].x.tolist() == [1.0, 2.0]
    assert curves["c"].y.tolist() == [0.0, 1.0]


def test_profile_of_a_method_that_never_finishes() -> None:
    curves = st.performance_profile({"a": [None, None], "b": [1.0, None]})
    assert curves["a"].y.tolist() == [0.0]
    assert curves["b"].y.tolist() == [0.5]


def test_time_to_target() -> None:
    run = trial(latency_ns=101, wall_s=4.0, trajectory=[(1.0, 200), (2.0, 102), (3.0, 101)])
    assert st.time_to_target(run, 0.02) == 2.0
    assert st.time_to_target(run, 0.01) == 3.0
    assert st.time_to_target(run, 0.0) is None
    assert st.time_to_target(trial(status="failed", latency_ns=None), 1.0) is None


def test_one_run_of_a_method_without_seeds_stands_for_every_seed() -> None:
    runs = [
        trial("fixed", latency_ns=100, wall_s=1.0),
        trial("seeded", seed=0, latency_ns=100, wall_s=2.0),
        trial("seeded", seed=1, latency_ns=100, wall_s=4.0),
        trial("seeded", seed=2, latency_ns=900, wall_s=1.0),
    ]
    curves = profiles(runs)
    assert curves["fixed"].y.tolist() == [1.0]
    assert curves["fixed"].count == 3
    assert curves["seeded"].x.tolist() == [1.0, 2.0, 4.0]
    assert curves["seeded"].y.tolist() == pytest.approx([0, 1 / 3, 2 / 3])


def test_gap_over_time_by_hand() -> None:
    grid = np.array([0.5, 1.5, 2.5])
    runs = [
        trial(latency_ns=80, wall_s=2.0, trajectory=[(1.0, 160)]),  # 1, 0.5, 0
        trial(latency_ns=100, wall_s=1.0),  # 1, 0.2, 0.2
        trial(status="timeout", latency_ns=None),  # 1, 1, 1
        trial(problem=Problem("s", "q", "h2", best_ns=1)),  # no bound: left out
    ]
    curve = st.gap_over_time(runs, grid)
    assert curve is not None
    assert curve.count == 3
    assert curve.y.tolist() == pytest.approx([1.0, 0.5, 0.2])
    assert curve.low is not None
    assert curve.low.tolist() == pytest.approx([1.0, 0.35, 0.1])
    assert curve.high is not None
    assert curve.high.tolist() == pytest.approx([1.0, 0.75, 0.6])
    assert st.gap_over_time(runs[3:], grid) is None


def test_gap_over_size_is_the_median_over_seeds() -> None:
    runs = [trial(seed=seed, latency_ns=cost) for seed, cost in enumerate([80, 100, 160])]
    assert sized_gaps(runs) == {"m": [("p", 20, pytest.approx(0.2))]}


def test_distribution_keeps_failures_in_the_count() -> None:
    curve = st.distribution([0.1, None, 0.1, 0.3])
    assert curve.x.tolist() == [0.0, 0.1, 0.3]
    assert curve.y.tolist() == [0.0, 0.5, 0.75]


def test_time_grid_spans_the_limits() -> None:
    grid = st.time_grid([trial(time_limit=60.0), trial(time_limit=None, wall_s=3.0)])
    assert math.isclose(grid[0], 0.001)
    assert math.isclose(grid[-1], 60.0)


# --- methods in pairs ------------------------------------------------------------------------------------------


def on(i: int, method: str, *costs: int | None, best: int = 100) -> list[Trial]:
    """Return the runs of a method on the i-th instance, one a seed; None has no placement."""
    problem = Problem("s", f"p{i}", f"hash{i}", best_ns=best)
    return [
        trial(method, problem, seed=seed, latency_ns=cost, status="timeout" if cost is None else "ok")
        for seed, cost in enumerate(costs)
    ]


def test_the_cost_of_a_method_on_an_instance_is_its_median_over_seeds() -> None:
    assert st.middle_cost(on(0, "m", 9, 1, 4)) == 4
    assert st.middle_cost(on(0, "m", 2**62 + 1, 2**62)) == Fraction(2**63 + 1, 2)  # exact where floats are not
    assert st.middle_cost(on(0, "m", 5, 7, None)) == 7
    assert st.middle_cost(on(0, "m", 5, None)) == math.inf
    assert st.middle_cost(on(0, "m", None)) == math.inf


def test_wins_ties_and_losses_by_hand() -> None:
    runs = [
        *on(0, "a", 100), *on(0, "b", 110, 120, 130),
        *on(1, "a", 100), *on(1, "b", 100),
        *on(2, "a", 105), *on(2, "b", 104),
        *on(3, "a", 150), *on(3, "b", None),
        *on(4, "a", None), *on(4, "b", None),
        *on(5, "a", 100),  # b was not run there
    ]  # fmt: skip
    (pair,) = st.pairs("s", runs, ["a", "b"])
    assert (pair.method, pair.other, pair.instances) == ("a", "b", 5)
    assert (pair.wins, pair.ties, pair.losses, pair.p) == (2, 2, 1, None)
    (back,) = st.pairs("s", runs, ["b", "a"])
    assert (back.method, back.wins, back.ties, back.losses) == ("b", 1, 2, 2)
    assert [(p.method, p.other) for p in st.pairs("s", [*runs, *on(0, "c", 1)], ["c", "a", "b"])] == [
        ("c", "a"), ("c", "b"), ("a", "b"),
    ]  # fmt: skip
    assert st.pairs("s", on(0, "a", 1), ["a", "b"]) == []


def test_signed_rank_by_hand() -> None:
    # Six differences of one sign: 2 of the 2**6 choices of signs are as lopsided.
    assert st.signed_rank_p([-3, -1, -4, -1.5, -9, -2.6]) == pytest.approx(2 / 64)
    # Ranks 1 to 6, the first one against the others, W = 1: {} and {1}, on either side.
    assert st.signed_rank_p([-1, 2, 3, 4, 5, 6]) == pytest.approx(4 / 64)
    # W = 6, the rank of the largest: sums of at most 6 from ranks 1 to 6 are those of {}, 1, 2, 3, 4, 5, 6, 12, 13, 14,
    # 15, 23, 24, 123: 14 of them, and as many on the other side.
    assert st.signed_rank_p([1, 2, 3, 4, 5, -6]) == pytest.approx(28 / 64)
    # All magnitudes equal: the sign test. One of six against the others or none: 1 + 6, on either side.
    assert st.signed_rank_p([1, 1, 1, 1, 1, -1]) == pytest.approx(14 / 64)
    # Without a placement: above every other difference, and they share the highest ranks, 5.5 each.
    assert st.signed_rank_p([1, 2, 3, 4, math.inf, -math.inf]) == st.signed_rank_p([1, 2, 3, 4, 9, -9])
    assert st.signed_rank_p([Fraction(1, 10**30 + k) for k in range(6)]) == pytest.approx(2 / 64)


def test_signed_rank_says_nothing_of_ties_and_of_few_instances() -> None:
    assert st.signed_rank_p([]) is None
    assert st.signed_rank_p([0] * 50) is None
    assert st.signed_rank_p([1, 2, 3, 4, 5]) is None
    assert st.signed_rank_p([*[0] * 50, 1, 2, 3, 4, 5]) is None
    assert st.signed_rank_p([*[0] * 50, 1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)  # ties change nothing


def test_the_test_over_instances_sees_shares_and_not_token_ns() -> None:
    # 1 % better on five instances, and 50 % worse on one: the largest rank, whose cost is the smallest by far.
    costs = {"a": 99 * 10**9, "b": 100 * 10**9}
    runs = [run for i in range(5) for m, cost in costs.items() for run in on(i, m, cost, best=costs["a"])]
    runs += [*on(5, "a", 30, best=20), *on(5, "b", 20, best=20)]
    (pair,) = st.pairs("s", runs, ["a", "b"])
    # Ranks 3 (five times) and 6: at most 6 are {}, the five 3s, the ten pairs of them, and the 6: 17 of 64.
    assert (pair.wins, pair.losses, pair.p) == (5, 1, pytest.approx(34 / 64))


# --- over seeds ------------------------------------------------------------------------------------------------


def test_the_interval_over_seeds_by_hand() -> None:
    # Means of 0 and 1 on two instances: each of six draws is one of two values, so the resampled mean is binomial.
    runs = [run for i in range(2) for run in on(i, "m", 100, 100, 100, 200, 200, 200)]
    interval = st.interval_over_seeds(runs)
    # Of B(6, 1/2) at most 0 has 1.6 %, at most 1 has 10.9 %: the quantile of 2.5 % is 1 of 6; and the other side.
    assert interval == pytest.approx((1 / 6, 5 / 6))
    assert st.interval_over_seeds(runs) == interval  # the same each time
    line = st.summarise("s", "m", runs)
    assert (line.excess_interval, line.excess_mean) == (interval, 0.5)
    # A seed that is good on one instance and bad on the other: the mean of a set does not depend on it.
    assert st.interval_over_seeds([*on(0, "m", *[100, 200] * 3), *on(1, "m", *[200, 100] * 3)]) == (0.5, 0.5)


def test_the_interval_says_nothing_of_few_seeds_and_lost_runs() -> None:
    six = [100, 100, 100, 200, 200, 200]
    assert st.interval_over_seeds([]) is None
    assert st.interval_over_seeds(on(0, "m", *six[:5])) is None
    assert st.interval_over_seeds(on(0, "m", *six[:5], None)) is None
    assert st.interval_over_seeds([*on(0, "m", *six), *on(1, "m", *six[:5])]) is None
    assert st.interval_over_seeds([*on(0, "m", *six), *on(1, "m", *six[:5])][:6]) is not None
