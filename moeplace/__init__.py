"""Where to cache the experts of a Mixture-of-Experts model on edge servers, and how far from optimal that is.

The flow of data is: file, :class:`Instance`, aggregated problem, method, :class:`Solution`, :func:`check`.
"""

from moeplace.check import Report, check
from moeplace.errors import InputError, MethodError, MethodLimitError, MoeplaceError, OutputError
from moeplace.evaluation import Evaluation, latency_ns
from moeplace.instance import Instance, load
from moeplace.placement import Placement
from moeplace.result import Outcome, Progress, Solution, read_solution
from moeplace.solving import solve

__all__ = [
    "Evaluation",
    "InputError",
    "Instance",
    "MethodError",
    "MethodLimitError",
    "MoeplaceError",
    "Outcome",
    "OutputError",
    "Placement",
    "Progress",
    "Report",
    "Solution",
    "check",
    "latency_ns",
    "load",
    "read_solution",
    "solve",
]
