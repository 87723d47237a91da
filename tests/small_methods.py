"""Methods for tests with tiny instances of any version, found as ``small_methods:name``."""

from __future__ import annotations

import itertools
import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np

from moeplace import Instance, Outcome, Placement
from moeplace.base.errors import NoSolutionError
from moeplace.base.stop import Stop, stopping
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.heuristics.covering import cover


def covering(instance: Instance, **options: Any) -> Placement:
    """Return what it is started from, else the first placement that covers."""
    return options["start"] or cover(instance, Stop(None))


def exhaustive(instance: Instance, **options: Any) -> Outcome:
    """Try every placement; of equals the start, else the first."""
    best: tuple[int, Placement] | None = None
    start = [] if options["start"] is None else [options["start"]]
    shape = (len(instance.servers), instance.n_items)
    every = (
        Placement(np.array(held).reshape(shape)) for held in itertools.product((False, True), repeat=np.prod(shape))
    )
    for placement in itertools.chain(start, every):
        if placement.fits(instance):
            cost = cost_ns(instance, placement)
            if best is None or cost < best[0]:
                best = cost, placement
    if best is None:
        raise NoSolutionError("none of all placements fits")
    return Outcome(best[1], bound_ns=best[0], bound_source="trying all", termination="optimal")


calls: list[str] = []
"""What :func:`counted` was asked for, by the instances' names; a test empties it."""

interrupt_at = [0]
"""The call of :func:`counted` in which somebody presses Ctrl-C, from 1."""


def counted(instance: Instance, **options: Any) -> Outcome:
    """Do what :func:`exhaustive` does, remember it, and be interrupted where a test says so."""
    with stopping(options["time_limit"]) as stop:
        calls.append(instance.name)
        if len(calls) == interrupt_at[0]:
            os.kill(os.getpid(), signal.SIGINT)
        outcome = exhaustive(instance, **options)
        return replace(outcome, bound_ns=None, termination="interrupted") if stop else outcome


def overclaiming(instance: Instance, **options: Any) -> Outcome:
    """Call what it is started from, or the first placement that covers, optimal."""
    placement = covering(instance, **options)
    return Outcome(placement, bound_ns=cost_ns(instance, placement), bound_source="a guess", termination="optimal")
