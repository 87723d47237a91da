"""An incumbent that begins without a decision, and the plain side of a proof that feeds it."""

from __future__ import annotations

import pytest

from moeplace.base.errors import MethodError, NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop


def begun(limit: float | None = None) -> Incumbent:
    return Incumbent(None, cost=lambda d: d, fits=lambda d: d != 7, stop=Stop(limit), ceiling=10, gap=0.9)


def test_without_a_start() -> None:
    search = begun()
    assert search.ended is None
    search.prove(3, "somebody")
    assert search.ended is None, "there is no gap to anything yet"
    with pytest.raises(MethodError, match="no solution was found"):
        search.outcome()
    assert not search.offer(7)
    with pytest.raises(ValueError, match="not below the ceiling"):
        search.offer(10)
    assert search.offer(3)
    assert (search.outcome().placement, search.outcome().termination) == (3, "optimal")


def test_a_bound_at_the_ceiling_proves_that_there_is_none() -> None:
    for bound in (10, 11, 10**30):
        search = begun()
        search.prove(bound, "somebody")
        assert search.ended is not None
        with pytest.raises(NoSolutionError, match="proven by somebody"):
            search.outcome()
    search.offer(5)  # whoever said so was wrong
    assert search.bound_ns is None
    assert "no bound of it is taken" in search.failures[0]
    with pytest.raises(ValueError, match="ceiling"):
        Incumbent(None, cost=lambda d: d, fits=lambda d: True, stop=Stop())
