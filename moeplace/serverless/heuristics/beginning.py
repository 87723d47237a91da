"""What every search of better deployments begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moeplace.base.incumbent import Incumbent
from moeplace.serverless.cost import best_all_local
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics import climb
from moeplace.serverless.heuristics.climb import Climb, started
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import LayerTables


@dataclass(frozen=True)
class Tuning:
    """How much is climbed.

    Attributes
    ----------
    starts : int
        Main specifications that are climbed from, the most promising first.
    climb : moeplace.serverless.heuristics.climb.Tuning
    """

    starts: int = 3
    climb: climb.Tuning = field(default_factory=climb.Tuning)


USUAL = Tuning()
"""What is used unless something else is asked for."""


def begin(
    instance: Instance,
    tables: Sequence[LayerTables],
    search: Incumbent,
    start: Deployment | None,
    tuning: Tuning = USUAL,
) -> int:
    """Offer what is all local, then climb from a start or from some main specifications; return the moves taken."""
    if start is None and (local := best_all_local(instance)) is not None:
        search.offer(local)
    mover = Climb(instance, tables, lambda: search.checkpoint() is not None, tuning.climb)
    for work in started(instance, tables, mover, start)[: tuning.starts]:
        if search.checkpoint() is not None:
            break
        search.offer(mover.climb_mains(work).deployment())
    return mover.moves
