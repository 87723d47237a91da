"""How the values of a solver's variables become a decision of a problem, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from moeplace.base.arrays import Bool

INTEGRAL: Final = 1e-4
"""How far from 0 or 1 a solver may leave a binary variable: ten times the tolerance that Gurobi and CPLEX have."""


@dataclass(frozen=True)
class Decoding:
    """The binary variables that decide, and what their values mean.

    Attributes
    ----------
    variables : sequence
        The solver's variables (``V`` of them); all others follow from these.
    decision : callable
        Makes a decision of ``values``, bool array [V].
    values : callable
        Makes the values of a decision, bool array [V].
    """

    variables: Sequence[Any]
    decision: Callable[[Bool], Any]
    values: Callable[[Any], Bool]
