"""Router weights that stand beside a trace of arrays, entry for entry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moeplace.base.errors import InputError
from moeplace.scenarios.traces.arrays import ArrayTrace
from moeplace.scenarios.traces.common import Damage


class Gates:
    """The weights of a trace's rows, in the order in which :meth:`ArrayTrace.batches` yields them.

    Parameters
    ----------
    path : path-like
        A ``.npz`` or ``.npy`` file with an array for each of the trace's, of the same shape; of several arrays each
        pair's names begin alike (``law_experts``, ``law_gates``). Whole numbers or fractions, not negative.
    trace : ArrayTrace
        Its requests have been read.

    Raises
    ------
    InputError
        The file cannot be read, or an array is missing or has another shape.
    """

    def __init__(self, path: str | os.PathLike[str], trace: ArrayTrace) -> None:
        self._path = Path(path)
        self._parts: list[npt.NDArray[Any]] = []
        self._at = self._row = 0
        with Damage(self._path), self._path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"": loaded} if isinstance(loaded, np.ndarray) else loaded
            self._parts += [self._find(stem, shape, arrays) for stem, shape in trace.shapes()]

    def _find(self, stem: str, shape: tuple[int, ...], arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        found = {name: arrays[name] for name in arrays if name.startswith(stem)}
        fitting = {name: array for name, array in found.items() if array.shape == shape and array.dtype.kind in "iuf"}
        if len(fitting) != 1:
            begins = f" whose name begins with {stem!r}" if stem else ""
            found_said = f"{len(fitting)} of them: {', '.join(fitting)}" if fitting else "none"
            raise InputError(f"expected one array {list(shape)} of weights{begins}, found {found_said}",
                             file=str(self._path))  # fmt: skip
        (name, array), = fitting.items()  # fmt: skip
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError("a weight is no finite number", place=name, file=str(self._path))
        if array.min(initial=0) < 0:
            raise InputError("a weight is negative; logits are no weights", place=name, file=str(self._path))
        return array.reshape(-1, shape[-1])

    def take(self, rows: int) -> npt.NDArray[Any]:
        """Return the weights of the next rows, which are of one array."""
        while self._row == len(self._parts[self._at]):
            self._at, self._row = self._at + 1, 0
        part = self._parts[self._at][self._row : self._row + rows]
        self._row += rows
        return part
