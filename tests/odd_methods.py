"""Methods for the tests of the command line, found as ``odd_methods:name``."""

from __future__ import annotations

import sys
import time
from typing import Any, NoReturn

from moeplace import Instance, Outcome, Placement, Progress
from moeplace.base.stop import stopping
from moeplace.caching.methods.baselines import popular
from moeplace.caching.methods.exact import cpsat


def patient(instance: Instance, **options: Any) -> Outcome:
    """Have a placement at once, then wait until the time is over or somebody asks to stop."""
    outcome = popular(instance, **options)
    with stopping(options["time_limit"]) as stop:
        print("waiting", file=sys.stderr, flush=True)
        while not stop:
            time.sleep(0.01)
        return Outcome(outcome.placement, termination="interrupted" if stop.interrupted else "time_limit")


def loud_cpsat(instance: Instance, **options: Any) -> Outcome:
    """Run ``cpsat`` and say when the solver is at work, which it is as soon as it has a bound."""

    def progress(progress: Progress) -> None:
        if progress.bound_ns is not None:
            print("waiting", file=sys.stderr, flush=True)

    return cpsat(instance, **options | {"progress": progress})


def careful(instance: Instance, **options: Any) -> Outcome:
    """Have a bound that nothing meets."""
    outcome = popular(instance, **options)
    return Outcome(outcome.placement, bound_ns=320_000, bound_source="a careful mind", guarantee="half of the saving")


def deaf(instance: Instance, **options: Any) -> NoReturn:
    """Say that the request to stop was heard, and go on for ever."""
    with stopping(None) as stop:
        print("waiting", file=sys.stderr, flush=True)
        while not stop.interrupted:
            time.sleep(0.01)
        print("heard", file=sys.stderr, flush=True)
        while True:
            time.sleep(0.01)


def liar(instance: Instance, **options: Any) -> Outcome:
    """Claim a bound that its own placement meets and better ones do not."""
    return Outcome(Placement.empty(instance), bound_ns=instance.baseline_ns, bound_source="a liar")


def overclaiming(instance: Instance, **options: Any) -> Outcome:
    """Claim a bound above the cost of its own placement."""
    return Outcome(Placement.empty(instance), bound_ns=instance.baseline_ns + 1, bound_source="a liar")


def greedy_liar(instance: Instance, **options: Any) -> Placement:
    """Return a placement that does not fit."""
    return Placement(~Placement.empty(instance).cached)


def broken(instance: Instance, **options: Any) -> Placement:
    """Fail."""
    raise RuntimeError("two\nlines")


def talkative(instance: Instance, **options: Any) -> Placement:
    """Report progress if anybody listens."""
    if options["progress"]:
        options["progress"](Progress(0.1, instance.baseline_ns, 0, 0.5))
        time.sleep(0.5)
    return Placement.empty(instance)


def tunable(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: Any,
    depth: int = 3,
    gap: float = 0.0,
    label: str | None = None,
) -> Placement:
    """Take parameters, and keep the start."""
    assert isinstance(depth, int)
    return start or Placement.empty(instance)
