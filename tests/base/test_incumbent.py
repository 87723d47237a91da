"""What the state of a search says at every moment, whoever looks at it meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from cases import looped

from moeplace.base.errors import BoundError, NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop


def begun(kind: type[Incumbent] = Incumbent, start: Any = 10, **options: Any) -> Any:
    return kind(start, **{"cost": int, "fits": lambda decision: True, "stop": Stop(), **options})


class _LooksWhileDropping(Incumbent):
    seen: list[object]

    def _drop(self, source: str, why: str) -> None:
        self.seen = [self.ended]
        super()._drop(source, why)
        self.seen.append(self.ended)


class _OffersBetweenTwoReads(Incumbent):
    """Another thread's offer comes after a look has read the bound and before it reads the cost."""

    offered: int | None = None

    @property
    def latency_ns(self) -> int:
        if self.offered is not None and self._known_bound is not None:
            better, self.offered = self.offered, None
            self.offer(better)
        return self._known

    @latency_ns.setter
    def latency_ns(self, value: int) -> None:
        self._known = value

    @property
    def bound_ns(self) -> int | None:
        return self._known_bound

    @bound_ns.setter
    def bound_ns(self, value: int | None) -> None:
        self._known_bound = value


@looped("cost", [6, 5, 1, 0])
def test_a_false_bound_ends_nothing_while_it_is_being_dropped(cost: int) -> None:
    search = begun(_LooksWhileDropping)
    search.prove(7, "liar")
    assert search.offer(cost)
    assert search.seen == [None, None]
    assert (search.ended, search.bound_ns, search.latency_ns) == (None, None, cost)
    assert search.outcome().termination == "completed"

    racing = begun(_OffersBetweenTwoReads)
    racing.prove(7, "liar")
    racing.offered = cost
    assert racing.ended is None
    assert racing.offered is None, "the offer came during the look"
    assert (racing.ended, racing.bound_ns, racing.latency_ns) == (None, None, cost)


def test_a_search_that_ends_by_itself_says_gap_limit_only_where_a_gap_was_reached() -> None:
    search = begun()
    search.prove(3, "a proof that gave up")
    assert search.outcome().termination == "completed"
    search.ending = "gap_limit"  # as solvers say whose arithmetic was at its end
    assert search.outcome().termination == "gap_limit"
    assert begun(gap=0.5).outcome().termination == "completed"
    search = begun()
    search.ending = "gap_limit"
    assert search.outcome().termination == "completed", "there is no bound, and so no gap"
    search = begun(gap=0.5)
    search.prove(5, "a proof")
    assert search.outcome().termination == "gap_limit"


def test_the_cost_is_asked_only_of_what_fits() -> None:
    asked = []

    def cost(decision: int) -> int:
        asked.append(decision)
        return decision

    search = begun(start=9, cost=cost, fits=lambda decision: decision % 2 == 1)
    assert [search.offer(decision) for decision in (4, 5, 6, 7, 3)] == [False, True, False, False, True]
    assert asked == [9, 5, 7, 3]


def test_that_there_is_nothing_is_proven_only_while_there_is_nothing() -> None:
    search = begun(start=None, ceiling=10, none="nobody is in")
    search.prove_none("a proof")
    assert (search.ended, search.bound_ns, search.latency_ns) == ("optimal", 10, 10)
    with pytest.raises(NoSolutionError, match="nobody is in \\(proven by a proof\\)"):
        search.outcome()
    search = begun(start=None, ceiling=10)
    assert search.offer(4)
    search.prove(3, "liar")
    with pytest.raises(BoundError, match="liar: says there is none, but there is a placement of cost 4"):
        search.prove_none("liar")
    assert (search.bound_ns, search.ended) == (None, None)
    assert "no bound of it is taken" in search.failures[0]


def test_costs_that_are_claimed_are_computed_now_and_then_and_in_the_end() -> None:
    for between, computed in ((0, [20, 9, 8, 8, 7, 6]), (2, [20, 7, 6]), (64, [20, 6])):
        asked: list[int] = []

        def cost(decision: int) -> int:
            asked.append(decision)  # noqa: B023
            return decision

        search = begun(start=20, cost=cost, between=between)
        assert [search.offer(decision, decision) for decision in (9, 8, 8, 7, 6)] == [True, True, False, True, True]
        assert (search.latency_ns, search.outcome().placement, search.failures) == (6, 6, []), between
        assert asked == computed, between


@looped("between", [0, 1, 2, 3, 64])
def test_a_wrong_claim_is_caught(between: int) -> None:
    """Decisions are their costs; who offers them says less from some moment on, or more."""
    for off in (-3, -1, 1):
        search = begun(start=20, between=between)
        assert search.offer(12)
        search.offer(10, 10)
        for decision in (11, 9, 15, 8):
            search.offer(decision, decision + off)
        outcome = search.outcome()
        assert outcome.placement == search.latency_ns <= 12, (between, off)
        assert "was claimed for a placement that costs" in search.failures[0], (between, off)
        search.offer(5, 4)
        assert (search.latency_ns, search.placement) == (5, 5), "computed from then on"


def test_no_claim_refutes_a_bound_or_proves_an_optimum() -> None:
    search = begun(start=20)
    search.prove(10, "a proof")
    assert not search.offer(25, 9)
    assert (search.ended, search.bound_ns, search.latency_ns, len(search.failures)) == (None, 10, 20, 1)

    search = begun(start=20)
    search.prove(10, "a proof")
    assert search.offer(11, 10)
    assert (search.ended, search.bound_ns, search.latency_ns) == (None, 10, 11)

    search = begun(start=20)
    assert search.offer(12, 11)  # believed
    assert search.latency_ns == 11
    search.prove(12, "a proof")  # true, though above what is claimed
    assert (search.ended, search.bound_ns, search.latency_ns) == ("optimal", 12, 12)
    assert search.outcome().termination == "optimal"
