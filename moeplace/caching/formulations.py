"""Caching's formulations given to solvers: what their variables mean, and files for other solvers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.base.documents import UNREACHABLE
from moeplace.base.errors import InputError, MethodLimitError
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import find_formulation
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.terms import aggregate
from moeplace.solvers.decoding import INTEGRAL, Decoding
from moeplace.solvers.exporting import check_ending, write_model

MOST_ROWS = 500_000
"""Constraint rows above which a model is not built: it would take tens of seconds and gigabytes."""


def refuses(name: str) -> Callable[[Instance], str | None]:
    """Return what says why a model of an instance is not built, or None."""

    def refuses(instance: Instance) -> str | None:
        needed = rows(name, instance)
        return f"{needed:,} constraint rows, at most {MOST_ROWS:,} are built" if needed > MOST_ROWS else None

    return refuses


def rows(name: str, instance: Instance) -> int:
    """Return how many constraint rows (about) one of our formulations has; 0 for anybody else's."""
    counts = {"milp": aggregated_rows, "cpsat": aggregated_rows, "milp-textbook": textbook_rows}
    return counts[name](instance) if name in counts else 0


def aggregated_rows(instance: Instance) -> int:
    """Return how many constraint rows the aggregated models have (without RLT rows)."""
    problem = aggregate(instance)
    size = np.diff(problem.set_start)[problem.term_set]
    return int(size[size > 1].sum()) + len(problem.covers[0]) + len(instance.servers)


def textbook_rows(instance: Instance) -> int:
    """Return about how many constraint rows the textbook model has."""
    reachable = (instance.server_ns < UNREACHABLE).sum(axis=1)
    rows = instance.rows
    pairs = np.unique(
        np.repeat(rows.demand.astype(np.int64), np.diff(rows.start)) * max(instance.n_items, 1) + rows.item
    )
    return int(reachable[pairs // max(instance.n_items, 1)].sum()) + len(pairs) + len(rows.item)


def improve(name: str, instance: Instance, search: Incumbent, *, seed: int, threads: int, **options: Any) -> None:
    """Run the solver of a formulation on an instance, from the search's incumbent."""
    if search.checkpoint():
        return
    formulation = find_formulation(name)(instance, **options)
    if name != "cpsat":
        from moeplace.solvers import highs

        # Once it is decided what is cached the best values of all columns are integers.
        highs.improve(formulation, decoding(instance, formulation.x), search, seed=seed, threads=threads, whole=True)
        return
    from moeplace.solvers import cpsat

    problem, unit = formulation.problem, formulation.unit
    formulation.hint(search.placement)
    cpsat.improve(
        formulation.model, decoding(instance, formulation.x), search, constant=instance.baseline_ns, unit=unit,
        largest=problem.total_weight / unit, seed=seed, threads=threads,
    )  # fmt: skip


def decoding(instance: Instance, x: Mapping[tuple[int, int], Any]) -> Decoding:
    """Return what the variables ``x[server, item]`` of a formulation mean."""
    pairs = np.array(list(x), dtype=np.intp).reshape(-1, 2)
    server, item = pairs[:, 0], pairs[:, 1]

    def decision(values: Bool) -> Placement:
        cached = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
        cached[server, item] = values
        return Placement(cached)

    def values(placement: Placement) -> Bool:
        held: Bool = placement.cached[server, item]
        return held

    return Decoding(list(x.values()), decision, values)


_X = re.compile(r"x[(\[_](\d+)[_,](\d+)[)\]_]?")


def placement_of_values(instance: Instance, values: Mapping[str, float]) -> Placement:
    """Return the placement that a solver's values of an exported model mean.

    Parameters
    ----------
    instance : Instance
        The one that was exported.
    values : mapping
        Values by the variables' names; ``x(n_i)`` says whether server ``n`` caches item ``i``. Other variables follow
        from these and are passed over.

    Returns
    -------
    Placement

    Raises
    ------
    InputError
        No such variable; a server or an item that the instance has not; a value that is neither 0 nor 1; a full server.
    """
    cached = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
    found = False
    for name, value in values.items():
        if (match := _X.fullmatch(name)) is None:
            continue
        found = True
        n, i = int(match[1]), int(match[2])
        if n >= len(instance.servers) or i >= instance.n_items:
            size = f"{len(instance.servers)} servers and {instance.n_items} experts (from 0)"
            raise InputError(f"the instance has {size}; was another one exported?", place=name)
        if min(abs(value), abs(value - 1)) > INTEGRAL:
            raise InputError(f"{value:g} is neither 0 nor 1: no placement, as of a relaxation", place=name)
        cached[n, i] = value > 0.5
    if not found:
        raise InputError("no variable x(SERVER_EXPERT); is it a solution of a model that moeplace export wrote?")
    placement = Placement(cached)
    placement.check_fits(instance)
    return placement


def export(instance: Instance, model: str, path: str | Path) -> None:
    """Write an algebraic model in MPS or LP format, by the name's ending, whole or not at all.

    Parameters
    ----------
    instance : Instance
    model : str
        A Pyomo formulation in the entry point group ``moeplace.models``.
    path : path-like
        Ends in ``.mps`` or ``.lp``.

    Raises
    ------
    InputError
        Unknown model or ending, or a model that Pyomo cannot write.
    MethodLimitError
        The model would be larger than is built.
    """
    check_ending(path)
    build = find_formulation(model)
    if reason := refuses(model)(instance):
        raise MethodLimitError(model, reason)
    write_model(build(instance), model, path)
