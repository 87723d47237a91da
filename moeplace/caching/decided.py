"""Methods that know nothing of active experts, on instances that leave them open: the choice is made beforehand.

The method is given the instance cut to one choice (:meth:`~moeplace.caching.instance.Instance.cut`), and its placement
gets this choice back. What it proves then holds for this choice alone, and is no bound of the whole problem: with fewer
active experts somewhere, the same servers may be faster. Only at :attr:`~moeplace.caching.active.Choices.fewest` it is
one, since no choice within the budget waits less, whatever is held.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from moeplace.base.arrays import Int64
from moeplace.base.certificates import AnyCertificate
from moeplace.base.registry import Method, MethodInfo, method_info
from moeplace.base.result import Outcome, Progress
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement

ACTIVE = "active"
"""What a method says that takes open active experts itself (:attr:`moeplace.base.registry.MethodInfo.takes`)."""

Given: TypeAlias = AnyCertificate | Callable[[], AnyCertificate] | None
"""What an outcome has for a certificate."""

DETAIL = "active_experts"
"""Under which name a solution's details say that the choice was made before the method ran."""


def adapted(method: Method, instance: Instance) -> Method:
    """Return what is run of a method on an instance: the method, or what makes the choice beforehand.

    Parameters
    ----------
    method : callable
    instance : Instance

    Returns
    -------
    callable
        The method itself where nothing is open or it takes that; otherwise one of the same parameters that begins with
        the choice of ``start``, without one with :attr:`~moeplace.caching.active.Choices.first`.
    """
    info = method_info(method)
    if instance.choices is None or ACTIVE in info.takes:
        return method

    @functools.wraps(method)
    def decided(joint: Instance, *, start: Placement | None, progress: Any, **options: Any) -> Any:
        choices = joint.choices
        assert choices is not None
        active = choices.first if start is None or start.active is None else start.active
        cut = joint.first_cut if start is None else joint.cut(active)
        proven = bool((active <= choices.fewest).all())

        def told(progressed: Progress | int) -> None:
            if isinstance(progressed, Progress) and not proven:
                progressed = replace(progressed, bound_ns=None)
            progress(progressed)

        begin = None if start is None else start.at(None)
        result = method(cut, start=begin, progress=None if progress is None else told, **options)
        outcome = Outcome(result) if isinstance(result, Placement) else result
        if not isinstance(outcome, Outcome) or not isinstance(outcome.placement, Placement):
            return result
        return _joint(joint, outcome, active, proven, "those of the start" if start is not None else "the first choice")

    decided.moeplace_info = _decided_info(info)  # type: ignore[attr-defined]
    return decided


def joint_certificate(joint: Instance, given: Given) -> Given:
    """Return a certificate, or what makes one, of an instance cut to the fewest useful experts as one of the whole.

    That is how certificates without a choice are read where active experts are open (docs/certificates.md).
    """
    if given is None:
        return None

    def certificate() -> AnyCertificate:
        own = given() if callable(given) else given
        return type(own).make(joint, own.bound_ns, own.proof)

    return certificate


def _joint(joint: Instance, outcome: Outcome, active: Int64, proven: bool, whose: str) -> Outcome:
    """Return what was found with one choice as an outcome of the whole problem."""
    said = f"decided before the placement: {whose}"
    # Theorems speak of the instance that was cut.
    whole = replace(
        outcome,
        placement=outcome.placement.at(active),
        guarantee=None,
        certificate=joint_certificate(joint, outcome.certificate) if proven else None,
        details={**outcome.details, DETAIL: said if proven else f"{said}; so nothing is proven"},
    )
    if proven:
        return whole
    ended = "completed" if outcome.termination in ("optimal", "gap_limit") else outcome.termination
    return replace(whole, bound_ns=None, bound_source=None, termination=ended)


def _decided_info(info: MethodInfo) -> MethodInfo:
    def refuses(joint: Instance) -> str | None:
        choices = joint.choices
        # That there is no choice at all is said when the method runs, as it is of any instance without a solution.
        return None if choices is not None and choices.shortage is not None else info.refuses(joint.first_cut)

    return replace(info, refuses=refuses)
