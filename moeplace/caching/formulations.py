"""Caching's formulations given to solvers: what their variables mean, and files for other solvers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.documents import UNREACHABLE
from moeplace.base.errors import InputError, MethodLimitError
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import find_formulation
from moeplace.caching.instance import Instance
from moeplace.caching.open_terms import rows_needed
from moeplace.caching.placement import Placement
from moeplace.caching.reading import NO_LIMIT
from moeplace.solvers.decoding import INTEGRAL, Decoding
from moeplace.solvers.exporting import check_ending, write_model

MOST_ROWS = 500_000
"""Constraint rows above which a model is not built: it would take tens of seconds and gigabytes."""


ACTIVE_MODELS = ("milp", "cpsat")
"""Our formulations that have the choice of active experts in them."""


def refuses(name: str) -> Callable[[Instance], str | None]:
    """Return what says why a model of an instance is not built, or None."""

    def refuses(instance: Instance) -> str | None:
        if instance.choices is not None:
            if name not in ACTIVE_MODELS:
                return (
                    f"how many experts are active is open, which of all models only {' and '.join(ACTIVE_MODELS)} have"
                )
            if instance.choices.shortage is not None:
                return None  # which is said by whoever builds it
        needed = rows(name, instance)
        return f"{needed:,} constraint rows, at most {MOST_ROWS:,} are built" if needed > MOST_ROWS else None

    return refuses


def rows(name: str, instance: Instance) -> int:
    """Return how many constraint rows (about) one of our formulations has; 0 for anybody else's."""
    counts = {"milp": aggregated_rows, "cpsat": aggregated_rows, "milp-textbook": textbook_rows}
    return counts[name](instance) if name in counts else 0


def aggregated_rows(instance: Instance) -> int:
    """Return how many constraint rows the aggregated models have (without RLT rows)."""
    return rows_needed(instance) + _side_rows(instance)


def _side_rows(instance: Instance) -> int:
    """Return how many rows any model has at the most for capacities, requirements and slots."""
    crowded = int(np.count_nonzero(instance.layer_slots != NO_LIMIT)) * instance.n_blocks
    return len(instance.servers) + (0 if instance.coverage is None else len(instance.coverage.item)) + crowded


def textbook_rows(instance: Instance) -> int:
    """Return about how many constraint rows the textbook model has."""
    reachable = (instance.server_ns < UNREACHABLE).sum(axis=1)
    rows = instance.rows
    pairs = np.unique(
        np.repeat(rows.demand.astype(np.int64), np.diff(rows.start)) * max(instance.n_items, 1) + rows.item
    )
    return int(reachable[pairs // max(instance.n_items, 1)].sum()) + len(pairs) + len(rows.item) + _side_rows(instance)


def improve(name: str, instance: Instance, search: Incumbent, *, seed: int, threads: int, **options: Any) -> None:
    """Run the solver of a formulation on an instance, from the search's incumbent."""
    if search.checkpoint():
        return
    formulation = find_formulation(name)(instance, **options)
    if name != "cpsat":
        from moeplace.solvers import highs

        # Once it is decided what is cached the best values of all columns are integers.
        decided = decoding(instance, formulation.x, getattr(formulation, "uses", {}))
        highs.improve(formulation, decided, search, seed=seed, threads=threads, whole=True)
        return
    from moeplace.solvers import cpsat

    if search.placement is not None:
        formulation.hint(search.placement)
    cpsat.improve(
        formulation.model, decoding(instance, formulation.x, formulation.uses), search,
        constant=formulation.problem.constant, unit=formulation.unit, largest=formulation.largest,
        seed=seed, threads=threads,
    )  # fmt: skip


def decoding(
    instance: Instance, x: Mapping[tuple[int, int], Any], uses: Mapping[tuple[int, int], Any] | None = None
) -> Decoding:
    """Return what the variables ``x[server, item]`` of a formulation mean, and ``uses[block, number]`` if it has them.

    Where a solver has a block with no number or with several, the placement has 0 there, which fits no instance.
    """
    pairs = np.array(list(x), dtype=np.intp).reshape(-1, 2)
    server, item = pairs[:, 0], pairs[:, 1]
    choices = np.array(list(uses or {}), dtype=np.int64).reshape(-1, 2)
    block, number = choices[:, 0], choices[:, 1]

    def decision(values: Bool) -> Placement:
        cached = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
        cached[server, item] = values[: len(x)]
        if instance.choices is None:
            return Placement(cached)
        made = values[len(x) :]
        chosen = np.zeros(instance.n_blocks, dtype=np.int64)
        chosen[block[made]] = number[made]
        chosen[np.bincount(block[made], minlength=instance.n_blocks) != 1] = 0
        return Placement(cached, chosen)

    def values(placement: Placement) -> Bool:
        held: Bool = placement.cached[server, item]
        if placement.active is None:
            return held
        return np.concatenate((held, placement.active[block] == number))

    return Decoding([*x.values(), *(uses or {}).values()], decision, values)


_X = re.compile(r"x[(\[_](\d+)[_,](\d+)[)\]_]?")
_USES = re.compile(r"uses[(\[_](\d+)[_,](\d+)[)\]_]?")


def placement_of_values(instance: Instance, values: Mapping[str, float]) -> Placement:
    """Return the placement that a solver's values of an exported model mean.

    Parameters
    ----------
    instance : Instance
        The one that was exported.
    values : mapping
        Values by the variables' names; ``x(n_i)`` says whether server ``n`` caches item ``i``, ``uses(b_k)`` whether
        block ``b`` uses ``k`` experts, where that is open. Other variables follow from these and are passed over.

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
    placement = Placement(cached, None if instance.choices is None else _active_of_values(instance, values))
    placement.check_fits(instance)
    return placement


def _active_of_values(instance: Instance, values: Mapping[str, float]) -> Int64:
    active = np.zeros(instance.n_blocks, dtype=np.int64)
    for name, value in values.items():
        if (match := _USES.fullmatch(name)) is None:
            continue
        block, number = int(match[1]), int(match[2])
        if block >= instance.n_blocks:
            raise InputError(
                f"the instance has {instance.n_blocks} layers (from 0); was another one exported?", place=name
            )
        if min(abs(value), abs(value - 1)) > INTEGRAL:
            raise InputError(f"{value:g} is neither 0 nor 1: no choice, as of a relaxation", place=name)
        if value > 0.5:
            if active[block]:
                raise InputError(f"the layer uses {active[block]} already", place=name)
            active[block] = number
    return active


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
