"""Proof by layers: prices for storage, every plan of every layer near its best, and their exact merge.

The proof is the engine's (:mod:`moeplace.layers.proof`); what it takes is in :mod:`moeplace.caching.bounds.by_layers`,
and for layers that share nothing in :mod:`moeplace.caching.bounds.independent`.
"""

from __future__ import annotations

from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.bounds import by_layers, joint_layers
from moeplace.caching.bounds.by_layers import USUAL, CachingLayers
from moeplace.caching.bounds.independent import IndependentLayers
from moeplace.caching.bounds.joint_layers import JointLayers
from moeplace.caching.bounds.proving import IMPORTS, apart
from moeplace.caching.heuristics.climb import climbed
from moeplace.caching.heuristics.joint import JointForms, PartStop, alternate
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent


def refuses(instance: Instance) -> str | None:
    """Say why an instance is not taken, or None."""
    if instance.choices is None:
        return by_layers.refuses(instance)
    return None if instance.choices.shortage is not None else joint_layers.refuses(JointForms(instance))


@describe(
    MethodInfo(
        summary="Prices storage, lists every plan of every layer near its best, merges the layers exactly.",
        exact=True,
        guarantee="optimal when it ends before its limits; otherwise a proven bound, as far as it came",
        limits=f"{USUAL.oracle.most_servers} servers of use to a layer; "
        "where the gap at the root is wide it ends with a bound",
        refuses=refuses,
        imports=IMPORTS,
        takes=("active",),
    )
)
def layer_enumeration(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Prove the best placement layer by layer; where active experts are open, the best of both together.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        if instance.choices is not None:
            search = caching_incumbent(instance, stop, start, gap, progress)
            search.run(lambda: search.attempt("layer-enumeration", lambda: _joint(instance, search, threads, start)))
            return search.outcome()
        limit = None if stop.remaining is None else stop.remaining / 5
        form = saving_form(instance)
        begin = climbed(form, start, limit, threads)
        search = caching_incumbent(instance, stop, begin if begin.fits(instance) else start, gap, progress)
        if start is not None:
            search.offer(start)
        if not search.ended:
            work = (
                IndependentLayers(instance, search, threads).run
                if apart(instance)
                else CachingLayers(form, search, threads).proof().run
            )
            search.run(lambda: search.attempt("layer-enumeration", work))
        return search.outcome()


def _joint(instance: Instance, search: Incumbent, threads: int, start: Placement | None) -> None:
    """Prove the best placement with its active experts."""
    forms = JointForms(instance)
    active, held = forms.decision(search.placement)
    alternate(
        forms, active, None if start is None else held, PartStop(search, 5),
        lambda chosen, placed: search.offer(forms.placement(chosen, placed)), threads,
    )  # fmt: skip
    if search.checkpoint() is None:
        JointLayers(forms, search, threads).proof().run()
