"""The formulations of active experts given to solvers, and what the values of their variables mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from moeplace.active.cost import choice_of, refuses
from moeplace.active.document import Choice
from moeplace.active.instance import Instance
from moeplace.base.arrays import Bool
from moeplace.base.errors import InputError
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import find_formulation
from moeplace.solvers.decoding import INTEGRAL, Decoding

MODELS: Final = "moeplace.models.active"
"""The entry point group of the formulations."""


def improve(name: str, instance: Instance, search: Incumbent, *, seed: int, threads: int) -> None:
    """Run the solver of a formulation on an instance, from the search's incumbent."""
    if search.checkpoint():
        return
    formulation = find_formulation(name, MODELS)(instance)
    if name != "cpsat":
        from moeplace.solvers import highs

        highs.improve(formulation, decoding(instance, formulation.y), search, seed=seed, threads=threads)
        return
    from moeplace.solvers import cpsat

    formulation.hint(search.placement)
    cpsat.improve(
        formulation.model, decoding(instance, formulation.y), search, constant=formulation.worst, unit=formulation.unit,
        largest=formulation.worst / formulation.unit, seed=seed, threads=threads,
    )  # fmt: skip


def decoding(instance: Instance, y: Mapping[tuple[int, int], Any]) -> Decoding:
    """Return what the variables ``y[layer, k]`` of a formulation mean; they stand layer by layer."""

    def decision(values: Bool) -> Choice:
        return choice_of(values.reshape(instance.layers, instance.top_k).argmax(axis=1) + 1)

    def values(choice: Choice) -> Bool:
        chosen: Bool = np.arange(1, instance.top_k + 1) == np.array(choice.active_experts)[:, None]
        return chosen.reshape(-1)

    return Decoding(list(y.values()), decision, values)


_Y = re.compile(r"y[(\[_](\d+)[_,](\d+)[)\]_]?")


def choice_of_values(instance: Instance, values: Mapping[str, float]) -> Choice:
    """Return the choice that a solver's values of an exported model mean.

    Parameters
    ----------
    instance : Instance
        The one that was exported.
    values : mapping
        Values by the variables' names; ``y(l_k)`` says whether layer ``l`` has ``k`` active experts.

    Raises
    ------
    InputError
        No such variable; a layer or a number that the instance has not; a value that is neither 0 nor 1; not one
        number for each layer; more of the budget than there is.
    """
    chosen: list[list[int]] = [[] for _ in range(instance.layers)]
    found = False
    for name, value in values.items():
        if (match := _Y.fullmatch(name)) is None:
            continue
        found = True
        layer, k = int(match[1]), int(match[2])
        if layer >= instance.layers or not 1 <= k <= instance.top_k:
            size = f"{instance.layers} layers (from 0) and up to {instance.top_k} active experts"
            raise InputError(f"the instance has {size}; was another one exported?", place=name)
        if min(abs(value), abs(value - 1)) > INTEGRAL:
            raise InputError(f"{value:g} is neither 0 nor 1: no choice, as of a relaxation", place=name)
        if value > 0.5:
            chosen[layer].append(k)
    if not found:
        raise InputError("no variable y(LAYER_NUMBER); is it a solution of a model that moeplace export wrote?")
    for layer, numbers in enumerate(chosen):
        if len(numbers) != 1:
            raise InputError(f"{len(numbers)} numbers of active experts, expected one", place=f"layer {layer}")
    choice = choice_of([k for (k,) in chosen])
    if reason := refuses(instance, choice):
        raise InputError(reason)
    return choice
