"""Placements that hold too much: what is least useful is dropped, or goes elsewhere where it must be held."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.saving import SavingForm


def without_excess(form: SavingForm, held: Bool, threads: int, stop: Callable[[], bool]) -> Bool:
    """Drop the least useful experts from servers that are too full.

    Where experts must be somewhere, they may also go to a server with room.

    Parameters
    ----------
    form : SavingForm
    held : bool array [N, I]
        Changed in place.
    threads : int
    stop : callable
        Asked after each move; what is left then may still be too much.

    Returns
    -------
    bool array [N, I]
        Within the capacities; whether it meets the requirements is another matter.
    """
    plan = WorkingPlacement(form, held, threads)
    nowhere = len(held)
    elsewhere = range(nowhere) if form.instance.coverage is not None else ()
    sizes = [layer.size for layer in plan.form.layers]
    for n in range(nowhere):
        while (free := plan.free)[n] < 0 and not stop():
            gains = [plan.moves(i).gain[n] for i in range(len(sizes))]
            per_byte = [gain[nowhere] / size for gain, size in zip(gains, sizes, strict=True)]
            best, target = int(np.argmax(per_byte)), nowhere
            for m in elsewhere:
                moved = [
                    gain[m] / size if free[m] >= size else -np.inf for gain, size in zip(gains, sizes, strict=True)
                ]
                if m != n and max(moved) > per_byte[best]:
                    per_byte, best, target = moved, int(np.argmax(moved)), m
            plan.move(best, n, target)
    return plan.held
