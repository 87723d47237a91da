"""What a method returns and what is written of it: outcome, solution, gap.

The gap conventions (formulation, section 5) live here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from moeplace.base.documents import InstanceReference, Termination
from moeplace.base.files import Saved

if TYPE_CHECKING:
    from moeplace.base.certificates import AnyCertificate
    from moeplace.base.documents import Named, Status


def relative_gap(latency_ns: int, bound_ns: int | None) -> float | None:
    """Return ``(C - bound) / C`` (G1), 0 if they are equal (also when C = 0), None without a bound.

    Examples
    --------
    >>> relative_gap(200, 150), relative_gap(0, 0), relative_gap(200, None)
    (0.25, 0.0, None)
    """
    if bound_ns is None:
        return None
    return 0.0 if latency_ns == bound_ns else (latency_ns - bound_ns) / latency_ns


def saving_ratio(latency_ns: int, bound_ns: int | None, baseline_ns: int) -> float | None:
    """Return ``saving / (baseline - bound)`` (G2), a certified approximation ratio; None without a bound.

    Examples
    --------
    >>> saving_ratio(200, 150, 250), saving_ratio(250, 250, 250), saving_ratio(200, None, 250)
    (0.5, 1.0, None)
    """
    if bound_ns is None:
        return None
    return 1.0 if baseline_ns == bound_ns else (baseline_ns - latency_ns) / (baseline_ns - bound_ns)


@dataclass(frozen=True)
class Progress:
    """How far a running method is.

    Attributes
    ----------
    elapsed_s : float
        Wall seconds since the method began.
    latency_ns : int or None
        Cost of the best placement so far, token-ns.
    bound_ns : int or None
        Best proven lower bound so far, token-ns.
    share : float or None
        Share of the work done, where it can be known.
    """

    elapsed_s: float
    latency_ns: int | None = None
    bound_ns: int | None = None
    share: float | None = None


ProgressCallback: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """What a method may return instead of a bare decision (caching: a ``Placement``).

    Attributes
    ----------
    placement : Placement
        The decision, of whatever kind the problem has.
    bound_ns : int or None
        Proven lower bound on the cost, token-ns; None where nothing is proven.
    bound_source : str or None
        Whose proof the bound rests on.
    termination : str
        Why the method ended, see :data:`moeplace.base.documents.Termination`.
    guarantee : str or None
        The theorem that applies to this instance, with its ratio.
    method, picked_because : str or None
        What ran in the method's place and why, where it picked another.
    details : dict
        What the method says of its run (counts, shares), by name.
    certificate : Certificate or callable, optional
        What proves exactly ``bound_ns``, where the method can show it; without, the bound rests on ``bound_source``. A
        callable returns it, and is called only where somebody asks for the certificate: packing one takes a while.
    """

    placement: Any
    bound_ns: int | None = None
    bound_source: str | None = None
    termination: Termination = "completed"
    guarantee: str | None = None
    method: str | None = None
    picked_because: str | None = None
    details: dict[str, int | float | str] = field(default_factory=dict)
    certificate: AnyCertificate | Callable[[], AnyCertificate] | None = None


@dataclass(frozen=True)
class Finished:
    """A finished run, of which a problem makes its solution document.

    Attributes
    ----------
    decision : object
        Of the problem's kind; it fits.
    cost : int
        By the problem's own evaluator. ``bound`` is at most that, or None.
    status : Status
    method, picked_because, parameters, seed, threads, wall_s, bound_source, guarantee, details, versions
        As documents say them.
    """

    decision: Any
    cost: int
    bound: int | None
    status: Status
    method: str
    picked_because: str | None
    parameters: dict[str, Any]
    seed: int
    threads: int
    wall_s: float
    bound_source: str | None
    guarantee: str | None
    details: dict[str, int | float | str]
    versions: dict[str, str]

    def envelope(self, instance: Named) -> dict[str, Any]:
        """Return what every problem's solution says, by its keys."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("decision", "cost", "bound")}
        return {"instance": InstanceReference(instance.name, instance.sha256), **said}


SOLVER_FAILURE = "solver_failure"
REFUSED_CLAIM = "refused_claim"
NOTHING_FITS = "nothing_fits"
WARNINGS = (SOLVER_FAILURE, REFUSED_CLAIM, NOTHING_FITS)
"""Names in a solution's ``details`` under which a sentence says what a person should know before using it."""


class Written(Saved):
    """What the solutions of all problems have beside the keys of their documents."""

    __slots__ = ()
    objective: Any
    details: dict[str, int | float | str]

    @property
    def gap(self) -> float | None:
        """Gap between cost and bound."""
        gap: float | None = self.objective.gap
        return gap

    @property
    def warnings(self) -> list[str]:
        """What a person should know before using this, a sentence each."""
        return [str(self.details[name]) for name in WARNINGS if name in self.details]
