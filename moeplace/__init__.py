"""Where to cache the experts of a Mixture-of-Experts model on edge servers, and how far from optimal that is.

The flow of data is: file, :class:`Instance`, aggregated problem, method, :class:`Solution`, :func:`check`.

Names are imported when they are first used: the command line answers ``--help`` without numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeplace.base.errors import InputError, MethodError, MethodLimitError, MoeplaceError, OutputError
    from moeplace.base.registry import MethodInfo, describe
    from moeplace.base.result import Outcome, Progress
    from moeplace.base.stop import stopping
    from moeplace.caching.building import Model
    from moeplace.caching.checking import Report
    from moeplace.caching.evaluation import Evaluation, latency_ns
    from moeplace.caching.instance import Instance
    from moeplace.caching.placement import Placement
    from moeplace.caching.solution import Solution
    from moeplace.comparing import compare
    from moeplace.problems import check, load, read_solution
    from moeplace.solving import solve

__all__ = [
    "Evaluation",
    "InputError",
    "Instance",
    "MethodError",
    "MethodInfo",
    "MethodLimitError",
    "Model",
    "MoeplaceError",
    "Outcome",
    "OutputError",
    "Placement",
    "Progress",
    "Report",
    "Solution",
    "check",
    "compare",
    "describe",
    "latency_ns",
    "load",
    "read_solution",
    "solve",
    "stopping",
]

# No public name may be the name of a module of the package: importing the module would replace it.
_HOME = {
    "caching.building": ["Model"],
    "caching.checking": ["Report"],
    "base.errors": ["InputError", "MethodError", "MethodLimitError", "MoeplaceError", "OutputError"],
    "caching.evaluation": ["Evaluation", "latency_ns"],
    "caching.instance": ["Instance"],
    "caching.placement": ["Placement"],
    "base.result": ["Outcome", "Progress"],
    "caching.solution": ["Solution"],
    "base.registry": ["MethodInfo", "describe"],
    "base.stop": ["stopping"],
    "comparing": ["compare"],
    "problems": ["check", "load", "read_solution"],
    "solving": ["solve"],
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            value = getattr(import_module(f"moeplace.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'moeplace' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
