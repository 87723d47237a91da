"""The incumbent of a search for a choice."""

from __future__ import annotations

from moeplace.active.cost import cost, least, refuses
from moeplace.active.document import Choice
from moeplace.active.instance import Instance
from moeplace.base.incumbent import Incumbent
from moeplace.base.result import ProgressCallback
from moeplace.base.stop import Stop


def active_incumbent(
    instance: Instance,
    stop: Stop,
    start: Choice | None = None,
    gap: float = 0.0,
    progress: ProgressCallback | None = None,
) -> Incumbent:
    """Return the incumbent of a search on an instance, from a start or from what uses least of the budget.

    Raises
    ------
    NoSolutionError
        No choice is within the budget.
    """
    first = least(instance)
    search = Incumbent(
        first, cost=lambda choice: cost(instance, choice), fits=lambda choice: refuses(instance, choice) is None,
        stop=stop, gap=gap, progress=progress,
    )  # fmt: skip
    if start is not None:
        search.offer(start)
    return search
