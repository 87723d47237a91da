"""Successive greedy decomposition: one server at a time, one value function a layer, a knapsack over the layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

from moeplace.base.errors import InputError
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, Progress, ProgressCallback
from moeplace.base.stop import Stop, stopping
from moeplace.caching.heuristics.servers import Order, by_gain, server_order, useful_servers
from moeplace.caching.heuristics.working_placement import Refill, WorkingPlacement
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import KERNELS, held_by, saving_form


@describe(
    MethodInfo(
        imports=KERNELS,
        seeded=lambda parameters: parameters.get("order") == "random",
        summary="One server at a time: a value function for each layer, the exact knapsack over layers, repeated.",
        guarantee="top-1 or sum, a cloud, free loading: 1/2 of the best saving; one server and exact value functions:"
        " optimal; else none",
    )
)
def successive_greedy(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    order: Order = "gain",
    passes: int | None = None,
    enumerate: int = 16,
    cuts: bool = False,
    nodes: int = 0,
) -> Outcome:
    """Fill one server after the other, the others fixed, until a whole pass improves nothing.

    For each server every layer has a value function, what its best ``q`` experts save: exact where rows ask for one
    expert (sorting) and in layers of at most ``enumerate`` experts (all sets), otherwise found by peeling; with
    ``cuts`` it is exact at the corners of its upper concave envelope, too. The knapsack over layers is exact
    (:mod:`moeplace.caching.heuristics.knapsack`).
    A server keeps what it has unless that is strictly better. Once nothing improves, the
    passes go on with a branch and bound of ``nodes`` nodes on top of each value function that is not exact. The
    solution's ``details`` say, for the last filling of each server, for how many layers every value was proven on
    every server, and which share of all values was.

    Parameters
    ----------
    order : {"gain", "given", "capacity", "demand", "random"}
        Next, in the first pass, the server that then adds most; or servers as the instance lists them, largest first,
        with most requests of its nearest users first, or seeded. Later passes keep the order of the first.
    passes : int, optional
        Most passes over the servers; None is until nothing improves.
    enumerate : int
        Most experts of a layer whose sets are all tried, up to 20; the work doubles with each.
    cuts : bool
        Whether to compute the envelope of larger layers by minimum cuts. It proves more of the values; on the real
        traces that we measured the placement was no better and took four to ten times as long.
    nodes : int
        Most nodes of the branch and bound for one layer on one server, 0 for none. It proves values, all of them in
        layers of some 30 experts with a few hundred to a few thousand nodes; placements were hardly ever better for it
        (docs/benchmarks/heuristics.md), so it has to be asked for.
        On traces of a million rows 10 nodes take 1 to 3 seconds, mostly to list the terms.

    Notes
    -----
    Where the saving is monotone submodular (top-1, or ``sum``; free loading, and a cloud behind everybody) and each
    server is solved exactly, one pass gives 1/2 of the best saving, as greedy over the parts of a partition does
    (Fisher, Nemhauser, Wolsey 1978). For ``latency_model`` "max" and rows of several experts no constant holds: of two
    servers with room for one expert each, neither gains anything alone from a pair that is only used together.
    """
    if nodes < 0:
        raise InputError(f"nodes must be at least 0, found {nodes}")

    def refill(plan: WorkingPlacement, server: int) -> Refill:
        return plan.refill(server, enumerate, cuts)

    def branched(plan: WorkingPlacement, server: int) -> Refill:
        return plan.refill(server, enumerate, cuts, nodes)

    stages = [refill, branched] if nodes else [refill]
    return _decomposition(instance, time_limit, seed, threads, start, progress, order, passes, stages)


@describe(
    MethodInfo(
        imports=KERNELS,
        seeded=lambda parameters: parameters.get("order") == "random",
        summary="One server at a time by peeling and max-plus convolution of the layers' value functions; fastest.",
        guarantee="top-1 or sum: (1 - epsilon) / (2 - epsilon) of the best saving; else none",
    )
)
def max_convolution(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    order: Order = "gain",
    passes: int | None = 1,
    epsilon: float = 0.01,
) -> Outcome:
    """Fill one server after the other: value functions by one peeling sweep, merged by max-plus convolution.

    The accelerated :func:`successive_greedy`: no sets are tried, one pass is made, and with more than two sizes of
    experts on a server the lists that the merging forms are thinned out, which keeps ``1 - epsilon`` of what the
    server can add with these value functions (proof: :func:`moeplace.caching.heuristics.knapsack.fill`).

    Parameters
    ----------
    order : {"gain", "given", "capacity", "demand", "random"}
        As for ``successive-greedy``: gain, given, capacity, demand or random.
    passes : int, optional
        Most passes over the servers; None is until nothing improves.
    epsilon : float
        Share of a server's saving that may be given up, from 0 to below 1.
    """
    if not 0 <= epsilon < 1:
        raise InputError(f"epsilon must be from 0 to below 1, found {epsilon}")

    def refill(plan: WorkingPlacement, server: int) -> Refill:
        return plan.refill(server, epsilon=epsilon)

    return _decomposition(instance, time_limit, seed, threads, start, progress, order, passes, [refill])


def _decomposition(
    instance: Instance,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    order: Order,
    passes: int | None,
    stages: Sequence[Callable[[WorkingPlacement, int], Refill]],
) -> Outcome:
    """Fill servers until nothing improves, then with the next stage's value functions, where they can be better."""
    if order not in get_args(Order):
        raise InputError(f"order must be one of {', '.join(get_args(Order))}, found {order!r}")
    if passes is not None and passes < 1:
        raise InputError(f"passes must be at least 1, found {passes}")
    with stopping(time_limit) as stop:
        plan = WorkingPlacement(saving_form(instance), held_by(instance, start, stop), threads)
        servers = server_order(instance, order, seed)
        refill, *later = stages
        first = by_gain(plan, servers, refill, stop) if order == "gain" else (refill(plan, n) for n in servers)
        done: list[Refill] = []
        since_change = 0
        while servers and not stop and (passes is None or len(done) < passes * len(servers)):
            if since_change == len(servers):
                if not later or all(filled.exact_layers == len(plan.form.layers) for filled in done[-since_change:]):
                    break
                refill, since_change = later.pop(0), 0
            again = len(done) - len(servers)
            filled = next(first, None) if again < 0 else refill(plan, done[again].server)
            if filled is None:
                break  # stopped before a server was chosen
            since_change = 0 if plan.take(filled) else since_change + 1
            done.append(filled)
            if progress is not None:
                share = len(done) / (passes * len(servers)) if passes else None
                progress(Progress(stop.elapsed, instance.baseline_ns - plan.saving, share=share))
        return _outcome(plan, stop, done, started=start is not None)


def _down(share: float) -> str:
    """Show a share with nine digits, rounded down: a guarantee is never overstated."""
    return f"{math.floor(share * 10**9) / 10**9:.9f}".rstrip("0")


def _outcome(plan: WorkingPlacement, stop: Stop, fillings: list[Refill], started: bool) -> Outcome:
    instance, form = plan.form.instance, plan.form
    ratio = min((f.ratio for f in fillings), default=1.0)
    last = fillings[-len(instance.servers) :]
    exact_layers = min((f.exact_layers for f in last), default=0)
    points = sum(f.points for f in last)
    guarantee, bound, source = None, None, None
    if len(fillings) >= len(instance.servers):
        if exact_layers == len(form.layers) and ratio == 1.0 and len(useful_servers(form)) <= 1:
            bound = instance.baseline_ns - plan.saving
            source = "exact value functions and knapsack dynamic program of the only useful server"
            guarantee = "optimal: at most one useful server, exact value functions, exact knapsack"
        elif form.theorems and not started:
            share = "1/2" if ratio == 1.0 else f"{_down(ratio / (1 + ratio))}"
            solved = "exactly" if ratio == 1.0 else f"to {_down(ratio)} of its best"
            guarantee = (
                f"saving at least {share} of the best: monotone submodular saving, each server in turn solved {solved} "
                "(Fisher, Nemhauser, Wolsey 1978)"
            )
    return Outcome(
        plan.placement(),
        bound_ns=bound,
        bound_source=source,
        termination=stop.termination,
        guarantee=guarantee,
        details={
            "servers_filled": len(fillings),
            "layers": len(form.layers),
            "exact_layers": exact_layers,
            "proven_values": round(sum(f.proven for f in last) / points, 4) if points else 1.0,
        },
    )
