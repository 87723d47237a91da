"""The Pareto front: every choice that is not worse in one of time and loss without being better in the other. Exact.

Layers are merged one after the other. A front of the layers so far, moved by what a number of active experts of the
next layer takes and loses, is sorted still; so the points of the next front come out of a merge of ``K`` sorted lists,
and what another point is no worse than is dropped. That loses nothing: a choice whose first layers are dominated is
dominated itself. What has to be held is the front, not the budget: its size depends on the numbers of points only, not
on how large losses are (docs/benchmarks/active.md has it grow with layers and resolution).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace.active.instance import Instance
from moeplace.base.arrays import Int64
from moeplace.base.documents import INT64_MAX
from moeplace.base.errors import MethodLimitError
from moeplace.layers.oracle import no_stop


@dataclass(frozen=True)
class Tuning:
    """Limits; none of them changes a front that is returned.

    Attributes
    ----------
    most_points : int
        Points of the fronts of 1, 2, ... layers together, above which there is no front: each takes 6 bytes or so.
    piece : int
        Points that are merged at a time.
    """

    most_points: int = 200_000_000
    piece: int = 1 << 16


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """How the points of a front came about: the point of the layers before, and the active experts of this one."""

    before: npt.NDArray[np.integer]
    k: npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Front:
    """A Pareto front (`P` points), by rising loss and falling time.

    Attributes
    ----------
    time_ns, loss : int64 array [P]
        Of all layers, without what is fixed.
    kept : int
        Points of the fronts of 1, 2, ... layers together.
    """

    time_ns: Int64
    loss: Int64
    kept: int
    _layers: tuple[_Layer, ...]

    def __len__(self) -> int:
        return len(self.loss)

    def active(self, points: npt.ArrayLike) -> Int64:
        """Return the active experts of some points, int64 [P, L]."""
        at: npt.NDArray[np.integer] = np.asarray(points, dtype=np.int64)
        found = np.empty((len(at), len(self._layers)), dtype=np.int64)
        for layer in range(len(self._layers) - 1, -1, -1):
            found[:, layer] = self._layers[layer].k[at]
            at = self._layers[layer].before[at]
        return found

    def at(self, *, loss: int | None = None, time_ns: int | None = None) -> int | None:
        """Return the point of least time within a loss, or of least loss within a time; None where none is within."""
        if loss is not None and time_ns is None:
            found = int(np.searchsorted(self.loss, loss, side="right")) - 1
            return found if found >= 0 else None
        if time_ns is not None and loss is None:
            found = int(np.searchsorted(-self.time_ns, -time_ns))
            return found if found < len(self) else None
        raise ValueError("expected a loss or a time")


def front(instance: Instance, *, stop: Callable[[], bool] = no_stop, tuning: Tuning = USUAL) -> Front:
    """Return the whole front of an instance, whatever its budget.

    Parameters
    ----------
    instance : Instance
    stop : callable
        Asked after each layer and each piece.
    tuning : Tuning

    Raises
    ------
    MethodLimitError
        The front would be too large to hold.
    InterruptedError
        ``stop`` said so.
    """
    from moeplace.active import _front_kernels

    loss, time_ns = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    layers: list[_Layer] = []
    kept = 0
    plan = np.min_scalar_type(instance.top_k)
    for own_time, own_loss in zip(instance.time_ns, instance.loss, strict=True):
        point = np.int32 if len(loss) <= np.iinfo(np.int32).max else np.int64
        heads, best, full = np.zeros(instance.top_k, dtype=np.int64), INT64_MAX, True
        pieces: list[tuple[Int64, Int64, npt.NDArray[np.integer], npt.NDArray[np.integer]]] = []
        while full:
            if stop():
                raise InterruptedError("the front was stopped")
            out = tuple(np.empty(tuning.piece, dtype=kind) for kind in (np.int64, np.int64, point, plan))
            count, best, full = _front_kernels.merge_layer(loss, time_ns, own_loss, own_time, heads, *out, best)
            pieces.append(tuple(part[:count].copy() for part in out))  # type: ignore[arg-type]
            kept += count
            if kept > tuning.most_points:
                raise MethodLimitError("front", f"its points are more than {tuning.most_points:,}, all layers together")
        loss, time_ns, before, k = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        layers.append(_Layer(before, k))
    return Front(time_ns, loss, kept, tuple(layers))
