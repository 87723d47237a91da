"""What can be proven of a caching instance: by layers, and by the concave bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moeplace.base.incumbent import Incumbent
from moeplace.base.workers import Resumed
from moeplace.caching.bounds import by_layers, concave, independent
from moeplace.caching.bounds.by_layers import IMPORTS as BY_LAYERS
from moeplace.caching.bounds.by_layers import CachingLayers, refuses, table_cells
from moeplace.caching.bounds.concave import ConcaveBound, ConcaveResult
from moeplace.caching.bounds.independent import IndependentLayers
from moeplace.caching.bounds.server_oracle import KERNELS as SERVERS
from moeplace.caching.certificates import CachingCertificate
from moeplace.caching.instance import Instance
from moeplace.caching.saving import SavingForm
from moeplace.layers.oracle import Float

IMPORTS = (*BY_LAYERS, *SERVERS, "moeplace.caching.bounds._concave_kernels")
"""What is imported when something is proven."""

EVERYTHING = "every server holding everything"


@dataclass(frozen=True)
class Tuning:
    """Which bound is proven when. Whatever the numbers are, bounds hold.

    Attributes
    ----------
    exact_experts : int
        Most experts of a layer that is priced exactly.
    most_terms : int
        Terms above which the aggregated problem, which the bound by layers needs, is not made.
    most_cells_later : int
        What is taken by layers once the concave bound is known (2 GiB of shares).
    light_cells : int
        Experts times sets of servers, all layers together, up to which layers that are not priced exactly come before
        the concave bound; with more, both race.
    turn_cuts, turn_cells : int
        Checkpoints of the concave bound in a turn of the race, at least 1; and what the bound by layers goes through in
        one, experts times sets of servers.
    slow : float
        A turn that lowers the bound on the saving by less than this share of it does not give right to the next one.
    missed : int
        Such turns in a row that end the beginning, in which the concave bound alone goes on.
    in_a_row : int
        Turns that the bound by layers has after it for each one of the concave bound that does not lower the bound.
    layers : moeplace.caching.bounds.by_layers.Tuning
    concave : moeplace.caching.bounds.concave.Tuning
    independent : moeplace.caching.bounds.independent.Tuning
    """

    exact_experts: int = 16
    most_terms: int = 1 << 24
    most_cells_later: int = 1 << 28
    light_cells: int = 1 << 20
    turn_cuts: int = 10
    turn_cells: int = 1 << 26
    slow: float = 1e-3
    missed: int = 3
    in_a_row: int = 3
    layers: by_layers.Tuning = by_layers.USUAL
    concave: concave.Tuning = concave.USUAL
    independent: independent.Tuning = independent.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""


def prove_everything(form: SavingForm, search: Incumbent) -> None:
    """Report the bound that needs no work: nothing saves more than every server holding everything."""
    instance = form.instance
    bound = instance.baseline_ns - form.most_ns

    def certificate() -> CachingCertificate:
        return CachingCertificate.make(instance, max(bound, 0), ConcaveBound(form).best.certificate().proof)

    search.prove(bound, EVERYTHING, certificate)


def apart(instance: Instance, tuning: Tuning = USUAL) -> bool:
    """Return whether layers share nothing and each is its servers', so that each is proven by itself."""
    return independent.refuses(instance, tuning.independent) is None


def prices_exactly(instance: Instance, tuning: Tuning = USUAL) -> bool:
    """Return whether all layers are small enough to be priced exactly."""
    if max((model.experts for model in instance.models), default=0) > tuning.exact_experts:
        return False
    return refuses(instance, tuning=tuning.layers) is None


def prove(
    form: SavingForm,
    search: Incumbent,
    tuning: Tuning = USUAL,
    threads: int = 1,
    share: Callable[[CachingLayers], None] = lambda layers: None,
) -> None:
    """Prove what can be proven by layers; where they are too large for that, the concave bound after it.

    Whoever can make use of the plans that a proof by layers collects is told of the layers by ``share``.

    The bound by layers is the stronger one where it can be had, but on millions of terms it takes minutes, and then
    it comes after the concave bound, which needs no tables of sets of servers and which a certificate shows. Where it
    is the tables that are large, as with a dozen servers and more, the two race. Both value their layers on so many
    threads. Layers that share nothing are proven one by one instead, where each is its servers'.

    Where demands have no cloud, layers that are not priced exactly always come after the concave bound, and begin with
    its prices: on DeepSeek-V2-Lite's layers that was three times as fast as their own descent, to a better bound. Not
    so where slots limit a layer, of which the concave bound knows little.
    """

    def report(saving_bound: int, found: ConcaveResult) -> None:
        if search.bound_ns is None or found.bound_ns > search.bound_ns:
            search.prove(found.bound_ns, "concave bound", found.certificate)

    def layered(stop: Callable[[], bool] | None = None) -> CachingLayers:
        """Return the layers, and tell of them."""
        found = CachingLayers(form, search, threads, layers, stop)
        share(found)
        return found

    layers = tuning.layers
    if form.most_terms <= tuning.most_terms and apart(form.instance, tuning):
        IndependentLayers(form.instance, search, threads, tuning.independent).run()
        return
    by_layers = form.most_terms <= tuning.most_terms and refuses(form.instance, tuning.most_cells_later, layers) is None
    small = prices_exactly(form.instance, tuning)
    slots = any((layer.slots < layer.n_experts).any() for layer in form.layers)
    priced = form.instance.coverage is not None and not small and not slots
    at_once = by_layers and not priced and refuses(form.instance, tuning=layers) is None
    if at_once and not small and not slots and table_cells(form.instance) > tuning.light_cells:
        _race(form, search, tuning, threads, report, layered)
        return
    if at_once:
        layered().proof().run()
    price: Float | None = None
    if not search.checkpoint() and not small:
        concave = ConcaveBound(form, threads, tuning=tuning.concave)
        concave.improve(lambda: search.checkpoint() is not None, report)
        price = concave.best.prices if priced else None
    if not search.checkpoint() and by_layers and not at_once:
        found = layered()
        found.proof().run(None if price is None else found.prices(price).astype(np.float64))


def _race(
    form: SavingForm,
    search: Incumbent,
    tuning: Tuning,
    threads: int,
    report: Callable[[int, ConcaveResult], None],
    layered: Callable[[Callable[[], bool]], CachingLayers],
) -> None:
    """Let the concave bound and the bound by layers take turns; who lowers the bound goes on.

    The concave bound is there in a second or two, and has the time to itself until it falls slowly. The bound by layers
    comes down late; where servers are many it may take longer for that than there is time, or get lower.
    """
    baseline, reached = form.instance.baseline_ns, form.instance.baseline_ns - (search.bound_ns or 0)
    concave = ConcaveBound(form, threads, tuning=tuning.concave)

    def by_layers(stop: Callable[[], bool]) -> None:
        layered(stop).proof().run()

    def ended() -> bool:
        return search.ended is not None

    def turn(at: int) -> bool:
        """Let one of them go on; say whether that has lowered the bound by a good deal."""
        nonlocal reached
        before = reached
        for _ in range(turns[at]):
            if search.checkpoint() or works[at].done:
                break
            works[at].resume()
        reached = baseline - (search.bound_ns or 0)
        return before - reached > tuning.slow * reached

    works = Resumed(lambda stop: concave.improve(stop, report), ended), Resumed(by_layers, ended)
    turns = tuning.turn_cuts, max(1, tuning.turn_cells // table_cells(form.instance))
    ascent = sum(steps for _, steps in concave.stages)

    def over() -> bool:
        return all(work.done for work in works) or search.checkpoint() is not None

    try:
        missed = 0
        while not over() and not works[0].done and (concave.passes < ascent or missed < tuning.missed):
            missed = 0 if turn(0) else missed + 1
        at, left = 1, tuning.in_a_row
        while not over():
            fell, left = turn(at), left - 1
            if not fell and left <= 0:
                at, left = (1, tuning.in_a_row) if at == 0 else (0, 1)
    finally:
        for work in works:
            work.give_up()
