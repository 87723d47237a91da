"""The exact front beside what the heuristics reach, over all budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from moeplace.active.cost import summed, tokens_per_s
from moeplace.active.front import USUAL, Front, Tuning, front
from moeplace.active.heuristics import Family, Walk, filled, schedules, supported, uniform, walk
from moeplace.active.instance import Instance
from moeplace.layers.oracle import no_stop

SHARES: Final = (0, 1, 2, 5, 10, 15, 20, 30, 40, 50, 65, 80, 100)
"""Where on the front's loss, in percent of its range, a table looks."""

COLUMNS: Final = ("family", "loss", "time_ns", "tokens_per_s", "active_experts")
"""What :meth:`Compared.records` says of a point."""


@dataclass(frozen=True)
class Look:
    """What is reached within one loss.

    Attributes
    ----------
    loss : int
        The budget. ``time_ns`` is the front's there, ``used`` the loss of that point.
    excess : dict
        By heuristic, how far above the front's its time is, as a share; None where it reaches nothing.
    """

    loss: int
    used: int
    time_ns: int
    excess: dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Compared:
    """A front and the heuristics.

    Attributes
    ----------
    instance : Instance
    front : Front
    """

    instance: Instance
    front: Front

    @cached_property
    def families(self) -> dict[str, Family]:
        """What each heuristic reaches, whatever the budget: ``greedy``'s corners, schedules, single numbers."""
        return {"greedy": supported(self._timed), "schedule": schedules(self._timed), "uniform": uniform(self._timed)}

    @cached_property
    def _timed(self) -> Instance:
        """The same with a budget of loss."""
        return self.instance.with_budget(loss=int(self.front.loss[-1]))

    @cached_property
    def _walk(self) -> Walk:
        return walk(self._timed)

    def budgets(self, shares: Sequence[int] = SHARES) -> list[int]:
        """Return losses at some percentages of the front's range, each once."""
        low, high = int(self.front.loss[0]), int(self.front.loss[-1])
        return sorted({low + (high - low) * share // 100 for share in shares})

    def look(self, loss: int) -> Look:
        """Say what is reached within a loss; it is not below the front's least."""
        at = self.front.at(loss=loss)
        assert at is not None, "the loss is below the front's least"
        least = int(self.front.time_ns[at])
        timed = self.instance.with_budget(loss=loss)
        reached: dict[str, int | None] = {"greedy": summed(timed.time_ns, filled(timed, self._walk))}
        for name in ("schedule", "uniform"):
            best = self.families[name].best(timed)
            reached[name] = None if best is None else int(self.families[name].time_ns[best])
        excess = {
            name: None if time_ns is None or (least == 0 and time_ns) else (time_ns - least) / least if least else 0.0
            for name, time_ns in reached.items()
        }
        return Look(loss, int(self.front.loss[at]), least, excess)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield every point of the front and of the heuristics, by the names of :data:`COLUMNS`."""
        points = {"front": Family(self.front.active(range(len(self.front))), self.front.time_ns, self.front.loss)}
        for name, family in (points | self.families).items():
            for active, time_ns, loss in zip(
                family.active.tolist(), family.time_ns.tolist(), family.loss.tolist(), strict=True
            ):
                rate = tokens_per_s(self.instance, time_ns)
                yield dict(zip(COLUMNS, (name, loss, time_ns, rate, active), strict=True))


def compare(instance: Instance, *, stop: Callable[[], bool] = no_stop, tuning: Tuning = USUAL) -> Compared:
    """Return the front of an instance beside the heuristics; raises as :func:`moeplace.active.front.front` does."""
    return Compared(instance, front(instance, stop=stop, tuning=tuning))
