"""How many experts each layer may use, where an instance leaves that open: the losses, the budget, the choices.

With ``k[l]`` active experts at layer ``l``, a row waits for its first ``k[l]`` experts only (all of them where it has
no more), and the layer loses ``loss[l, k[l]]`` of quality::

    sum over layers l of loss[l, k[l]]  <=  budget                                                          (J1)

Nothing is said of how losses change with ``k``. But no row waits longer for fewer experts, whatever is held where, so
that a choice is never better than a smaller one that loses no more: :attr:`Choices.useful` leaves it out. What the
servers must hold (:attr:`~moeplace.caching.instance.Instance.coverage`) speaks of all experts of a model, asked for or
not, and so is the same for every choice: where experts are and how many are active is chosen independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moeplace.base.arrays import Int64
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.caching.document import Active

if TYPE_CHECKING:
    from moeplace.caching.instance import Instance


@dataclass(frozen=True)
class Choices:
    """The numbers of active experts that are worth choosing between (``B`` blocks).

    Attributes
    ----------
    budget : int
        The most that all layers may lose in sum.
    losses : list of list of int
        For each block what it loses with 1, 2, ... active experts.
    useful : list of list of int
        For each block the numbers that may be part of a best choice, ascending: each loses less than every smaller one,
        and the budget has room for it where all other layers lose as little as they can. All empty where the least
        losses are above the budget.
    """

    budget: int
    losses: list[list[int]]
    useful: list[list[int]]

    def loss(self, active: Int64) -> int:
        """Return what all layers lose in sum, exactly."""
        return sum(losses[k - 1] for losses, k in zip(self.losses, active.tolist(), strict=True))

    @property
    def shortage(self) -> str | None:
        """Why no choice is within the budget, in one line; None where there is one."""
        least = sum(map(min, self.losses))
        if least <= self.budget:
            return None
        return f"no choice of active experts is within the budget: the layers lose at least {least}, not {self.budget}"

    @property
    def fewest(self) -> Int64:
        """The smallest useful number of each block, int64 [B]: no choice within the budget waits less, but not all of
        them together may be within it.

        Raises
        ------
        NoSolutionError
            No choice is within the budget.
        """  # noqa: D205
        self.check()
        return np.array([useful[0] for useful in self.useful], dtype=np.int64)

    @property
    def first(self) -> Int64:
        """A choice within the budget, int64 [B]: :attr:`fewest` where it is, which is best then, else the least loss.

        Of equal losses it is the smallest number, so this is ``top_k`` where every expert that is left out costs.

        Raises
        ------
        NoSolutionError
            No choice is within the budget.
        """
        fewest = self.fewest
        if self.loss(fewest) <= self.budget:
            return fewest
        return np.array([useful[-1] for useful in self.useful], dtype=np.int64)

    def check(self) -> None:
        """Raise a :class:`NoSolutionError` where no choice is within the budget."""
        if (said := self.shortage) is not None:
            raise NoSolutionError(said)


def choices_of(instance: Instance) -> Choices | None:
    """Return what there is to choose in an instance, or None where every row waits for all its experts."""
    active: Active | None = instance.active
    if active is None:
        return None
    losses = [list(layer) for model in instance.models for layer in active.loss[model.name]]
    spare = active.budget - sum(map(min, losses))
    useful = []
    for layer in losses:
        most = min(layer) + spare
        falling = [k for k, loss in enumerate(layer, start=1) if loss < min(layer[: k - 1], default=loss + 1)]
        useful.append([k for k in falling if layer[k - 1] <= most])
    return Choices(active.budget, losses, useful)


def active_experts(instance: Instance, active: Sequence[int] | Int64) -> Int64:
    """Return one number of active experts for each block, int64 [B], frozen.

    Raises
    ------
    InputError
        Not one for each block, or none that the block's model can have.
    """
    found = np.array(active)
    if found.shape != (instance.n_blocks,) or (found.size and found.dtype.kind not in "iu"):
        said = f"expected {instance.n_blocks} integers, one for each layer, found {active!r:.200}"
        raise InputError(said, place="active_experts")
    if (wrong := np.flatnonzero((found < 1) | (found > instance.block_top_k))).size:
        b = int(wrong[0])
        layer, model = int(instance.block_layer[b]), instance.models[int(instance.block_model[b])]
        said = f"{found[b]} in layer {layer} of {model.name!r}, there can be 1 to {model.top_k}"
        raise InputError(said, place="active_experts")
    result = found.astype(np.int64)
    result.setflags(write=False)
    return result


def check_decided(instance: Instance) -> None:
    """Refuse an instance that leaves open how many experts are active: of all its rows' experts no bound on it follows.

    Raises
    ------
    InputError
        It does; :meth:`~moeplace.caching.instance.Instance.cut` decides it.
    """
    if instance.active is not None:
        raise InputError(
            "how many experts each layer uses is open; this is made of an instance that is cut to a choice"
        )
