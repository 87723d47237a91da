"""Local search: exchange experts across layers and servers, refill servers and layers, kick out of local optima."""

from __future__ import annotations

import numpy as np

from moeplace.base.errors import InputError
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, Progress, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.heuristics.climb import ENUMERATED, Climb
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import KERNELS, held_by, saving_form


@describe(
    MethodInfo(
        imports=KERNELS,
        seeded=lambda parameters: bool(parameters.get("kicks")),
        summary="Improves a placement (--start, else two of its own) by exchanges and refills; kicks if asked for.",
        guarantee="never worse than its start; no ratio",
    )
)
def local_search(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    kicks: int = 0,
    enumerate: int = ENUMERATED,
) -> Outcome:
    """Climb from a placement to a local optimum of all neighbourhoods, and on from there by kicks.

    Without a start it climbs twice and keeps the better end: from servers filled one after the other, and from
    one pool of all servers' storage dealt out to them (:func:`pooled_placement`), which sees sets of experts that
    no single server has room for. Where demands have no cloud, the first begins with what only covers, and the second
    with whole layers dealt to servers (:mod:`moeplace.caching.heuristics.dealing`).

    The neighbourhoods, all valued exactly and taken only when the saving grows:

    - *exchange*: move an expert between two places (servers, or nowhere), paired with a move of another layer the
      other way, so that capacities hold; or a cycle of three such moves. Moves in different layers add up.
    - *server*: all experts of one server anew, the other servers fixed (as in ``successive-greedy``).
    - *layer*: one layer on all servers anew, server by server, with the bytes that it has and what is free.

    Parameters
    ----------
    kicks : int
        Times out of a local optimum: a few servers are emptied and filled in random order, and the climb begins
        again; the better placement is kept. (Clearing a few layers instead was tried: it led to less in equal time.)
        What must be held and nobody else holds stays, and two of the servers swap what they hold of some layers.
    enumerate : int
        Most experts of a layer whose sets are all tried where a server is filled.
    """
    if kicks < 0:
        raise InputError(f"kicks must be at least 0, found {kicks}")
    with stopping(time_limit) as stop:
        plan = WorkingPlacement(saving_form(instance), held_by(instance, start, stop), threads)

        def report(saving: int, share: float | None = None) -> None:
            if progress is not None:
                progress(Progress(stop.elapsed, instance.baseline_ns - saving, share=share))

        climb = Climb(plan, stop, report, enumerate)
        climb.begin(start is not None)
        generator = np.random.default_rng(seed)
        done = 0
        while done < kicks and not stop and plan.form.layers:
            climb.attempt(lambda: climb.kick(generator))
            done += 1
            report(plan.saving, done / kicks)
        report(plan.saving, 1.0)
        return Outcome(
            plan.placement(),
            termination=stop.termination,
            details={"kicks": done, "exchanges": climb.exchanges},
        )
