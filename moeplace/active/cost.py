"""What a choice costs, exactly: sums of integers over the layers, and whether it is within the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from moeplace.active.document import Choice
from moeplace.active.instance import Instance
from moeplace.base.arrays import Int64
from moeplace.base.errors import NoSolutionError

NS_PER_S: Final = 10**9


def summed(table: Int64, choice: Choice) -> int:
    """Return the sum of a table's entries that a choice takes."""
    return sum(row[k - 1] for row, k in zip(table.tolist(), choice.active_experts, strict=True))


def cost(instance: Instance, choice: Choice) -> int:
    """Return what a choice costs: what the instance minimises."""
    return summed(instance.cost, choice)


def refuses(instance: Instance, choice: Choice) -> str | None:
    """Return why a choice is not allowed, or None."""
    numbers = choice.active_experts
    if len(numbers) != instance.layers:
        return f"it is for {len(numbers)} layers, the instance has {instance.layers}"
    for layer, k in enumerate(numbers):
        if not 1 <= k <= instance.top_k:
            return f"layer {layer} has {k} active experts, expected 1 to {instance.top_k}"
    used = summed(instance.usage, choice)
    return None if used <= instance.budget else f"it {needs(instance, used)}"


def needs(instance: Instance, used: int) -> str:
    """Say that so much of the budget is too much."""
    what = "loses" if instance.minimises == "time_ns" else "takes"
    unit = "" if instance.minimises == "time_ns" else " ns"
    return f"{what} {used:,}{unit}, more than the budget of {instance.budget:,}{unit}"


def everything(instance: Instance) -> Choice:
    """Return the choice of all experts in all layers."""
    return Choice([instance.top_k] * instance.layers)


def least(instance: Instance) -> Choice:
    """Return the choice that uses least of the budget, of those the cheapest.

    Raises
    ------
    NoSolutionError
        Even that is more than there is: no choice is within the budget.
    """
    if instance.least_usage > instance.budget:
        raise NoSolutionError(f"the choice that {_spares(instance)} {needs(instance, instance.least_usage)}")
    order = np.lexsort((instance.cost, instance.usage), axis=1)
    return Choice((order[:, 0] + 1).tolist())


def _spares(instance: Instance) -> str:
    return "loses least" if instance.minimises == "time_ns" else "takes least time"


def reference(instance: Instance) -> int:
    """Return what is minimised, with all experts in all layers."""
    return cost(instance, everything(instance))


def tokens_per_s(instance: Instance, time_ns: int) -> float | None:
    """Return the tokens of all requests in a second, where the layers take so long a step.

    Examples
    --------
    >>> from moeplace.active.instance import Instance
    >>> toy = Instance.from_document({
    ...     "format": "moeplace/active-experts", "version": 1, "name": "toy",
    ...     "model": {"name": "toy-moe", "layers": 1, "experts": 2, "top_k": 2},
    ...     "time_ns": [[100, 300]], "loss": [[5, 0]], "fixed_ns": 100, "tokens_per_step": 4, "loss_budget": 5})
    >>> tokens_per_s(toy, 300), tokens_per_s(toy, 100)
    (10000000.0, 20000000.0)
    """
    step = time_ns + instance.fixed_ns
    return instance.tokens_per_step * NS_PER_S / step if step else None


def numbers(instance: Instance, choice: Choice) -> dict[str, Any]:
    """Return what a solution's objective says besides the value."""
    time_ns = summed(instance.time_ns, choice)
    return {
        "time_ns": time_ns,
        "loss": summed(instance.loss, choice),
        "tokens_per_s": tokens_per_s(instance, time_ns),
    }


def sums(table: Int64, active: Int64) -> Int64:
    """Return the sums of many choices.

    Parameters
    ----------
    table : int64 array [L, K]
    active : int array [P, L]
        Active experts of each layer.

    Returns
    -------
    int64 array [P]
    """
    return np.asarray(table[np.arange(len(table)), active - 1].sum(axis=1))


def choice_of(row: Sequence[int] | Int64) -> Choice:
    """Return the choice of a row of active experts."""
    return Choice([int(k) for k in row])
