"""How good a placement is on another instance of the same servers and models: tomorrow's trace, another half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moeplace.base.result import relative_gap
from moeplace.caching.evaluation import latency_ns, loading_ns
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.solution import Solution


@dataclass(frozen=True)
class Reference:
    """What a placement is compared with on the instance it is scored on.

    Attributes
    ----------
    by : str
        Whose it is: a method, or ``best_known.json``.
    latency_ns : int
        Cost of the best placement found, with loading where it has a price, token-ns.
    bound_ns : int or None
        Proven lower bound, token-ns.
    """

    by: str
    latency_ns: int
    bound_ns: int | None


@dataclass(frozen=True)
class Score:
    """A placement on an instance, and how much better one can do there.

    Attributes
    ----------
    latency_ns, baseline_ns : int
        Latency of the placement and with empty servers, token-ns.
    references : tuple of Reference
    loading_ns : int or None
        What loading costs of what the servers there do not hold, token-ns; None where it has no price. Then saving,
        regret and gap are those of the cost, both together.
    """

    latency_ns: int
    baseline_ns: int
    references: tuple[Reference, ...] = ()
    loading_ns: int | None = None

    @property
    def cost_ns(self) -> int:
        """Latency and loading together, token-ns."""
        return self.latency_ns + (self.loading_ns or 0)

    @property
    def saving(self) -> float:
        """Share of the baseline that the placement saves; 0 where there is nothing to save."""
        return (self.baseline_ns - self.cost_ns) / self.baseline_ns if self.baseline_ns else 0.0

    @property
    def best(self) -> Reference | None:
        """The reference with the lowest cost; None without any."""
        return min(self.references, key=lambda r: r.latency_ns, default=None)

    @property
    def bound(self) -> Reference | None:
        """The reference with the best bound; None where nothing is proven."""
        proven = [reference for reference in self.references if reference.bound_ns is not None]
        return max(proven, key=lambda r: r.bound_ns or 0, default=None)

    @property
    def regret_ns(self) -> int | None:
        """Cost beyond that of the best reference, token-ns; negative where the placement is better."""
        return None if self.best is None else self.cost_ns - self.best.latency_ns

    @property
    def saving_lost(self) -> float | None:
        """Regret as a share of what the best reference saves; None without one or where it saves nothing."""
        if self.best is None or self.regret_ns is None or self.best.latency_ns >= self.baseline_ns:
            return None
        return self.regret_ns / (self.baseline_ns - self.best.latency_ns)

    @property
    def gap(self) -> float | None:
        """Gap to the best bound; None without one, or where the bound is above the cost and so cannot be true."""
        bound = None if self.bound is None else self.bound.bound_ns
        return None if bound is None or bound > self.cost_ns else relative_gap(self.cost_ns, bound)

    def crossings(self) -> list[str]:
        """Say which costs are below a bound that was called proven: then one of the two is wrong."""
        costs = [(self.cost_ns, "the placement"), *((r.latency_ns, r.by) for r in self.references)]
        return [
            f"the cost {cost} of {whose} is below the bound {known.bound_ns} of {known.by}: one of them is wrong"
            for known in self.references
            for cost, whose in costs
            if known.bound_ns is not None and cost < known.bound_ns
        ]

    def document(self) -> dict[str, Any]:
        """Return every number by name; what is not known is None."""
        best, bound = self.best, self.bound
        return {
            "latency_ns": self.latency_ns,
            **({} if self.loading_ns is None else {"loading_ns": self.loading_ns, "cost_ns": self.cost_ns}),
            "baseline_ns": self.baseline_ns,
            "saving": self.saving,
            "reference_latency_ns": best and best.latency_ns,
            "reference_by": best and best.by,
            "regret_ns": self.regret_ns,
            "saving_lost": self.saving_lost,
            "bound_ns": bound and bound.bound_ns,
            "bound_by": bound and bound.by,
            "gap": self.gap,
        }


def score(
    instance: Instance, placement: Placement | Solution, references: tuple[Reference, ...] | list[Reference] = ()
) -> Score:
    """Apply a placement to an instance.

    Parameters
    ----------
    instance : Instance
        Need not be the one that the placement was made for; servers and models have to have the same names.
    placement : Placement or Solution
    references : sequence of Reference, optional
        What it is compared with.

    Returns
    -------
    Score

    Raises
    ------
    InputError
        The instance has not the servers, models or experts of the placement, a server's storage or slots are too few,
        or demands without a cloud reach too little of it.
    """
    if isinstance(placement, Solution):
        placement = placement.placement_on(instance)
    placement.check_fits(instance)
    loading = None if instance.load_block_ns is None else loading_ns(instance, placement)
    return Score(latency_ns(instance, placement), instance.baseline_ns, tuple(references), loading)
