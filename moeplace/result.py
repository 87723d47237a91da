"""What a method returns and what is written of it: outcome, solution, gap.

The gap conventions (formulation, section 5) live here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from moeplace.documents import NonNegative, Termination, parse
from moeplace.errors import InputError
from moeplace.files import read_json, write_bytes
from moeplace.instance import Instance
from moeplace.placement import Placement

if TYPE_CHECKING:
    from moeplace.certificates import Certificate


def gap(latency_ns: int, bound_ns: int | None) -> float | None:
    """Return ``(C - bound) / C`` (G1), 0 if they are equal (also when C = 0), None without a bound.

    Examples
    --------
    >>> gap(200, 150), gap(0, 0), gap(200, None)
    (0.25, 0.0, None)
    """
    if bound_ns is None:
        return None
    return 0.0 if latency_ns == bound_ns else (latency_ns - bound_ns) / latency_ns


def saving_ratio(latency_ns: int, bound_ns: int | None, baseline_ns: int) -> float | None:
    """Return ``saving / (baseline - bound)`` (G2), a certified approximation ratio; None without a bound.

    Examples
    --------
    >>> saving_ratio(200, 150, 250), saving_ratio(250, 250, 250), saving_ratio(200, None, 250)
    (0.5, 1.0, None)
    """
    if bound_ns is None:
        return None
    return 1.0 if baseline_ns == bound_ns else (baseline_ns - latency_ns) / (baseline_ns - bound_ns)


@dataclass(frozen=True)
class Progress:
    """How far a running method is.

    Attributes
    ----------
    elapsed_s : float
        Wall seconds since the method began.
    latency_ns : int or None
        Cost of the best placement so far, token-ns.
    bound_ns : int or None
        Best proven lower bound so far, token-ns.
    share : float or None
        Share of the work done, where it can be known.
    """

    elapsed_s: float
    latency_ns: int | None = None
    bound_ns: int | None = None
    share: float | None = None


ProgressCallback: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """What a method may return instead of a bare :class:`~moeplace.placement.Placement`.

    Attributes
    ----------
    placement : Placement
    bound_ns : int or None
        Proven lower bound on the cost, token-ns; None where nothing is proven.
    bound_source : str or None
        Whose proof the bound rests on.
    termination : str
        Why the method ended, see :data:`moeplace.documents.Termination`.
    guarantee : str or None
        The theorem that applies to this instance, with its ratio.
    method, picked_because : str or None
        What ran in the method's place and why, where it picked another.
    details : dict
        What the method says of its run (counts, shares), by name.
    certificate : Certificate, optional
        What proves exactly ``bound_ns``, where the method can show it; without, the bound rests on ``bound_source``.
    """

    placement: Placement
    bound_ns: int | None = None
    bound_source: str | None = None
    termination: Termination = "completed"
    guarantee: str | None = None
    method: str | None = None
    picked_because: str | None = None
    details: dict[str, int | float | str] = field(default_factory=dict)
    certificate: Certificate | None = None


SOLVER_FAILURE = "solver_failure"
REFUSED_CLAIM = "refused_claim"
NOTHING_FITS = "nothing_fits"
WARNINGS = (SOLVER_FAILURE, REFUSED_CLAIM, NOTHING_FITS)
"""Names in a solution's ``details`` under which a sentence says what a person should know before using it."""


class InstanceReference(Struct, frozen=True):
    """The instance a solution belongs to."""

    name: str
    sha256: str


class Assignment(Struct, frozen=True):
    """The experts of one model on one server, as [layer, expert] pairs."""

    server: str
    model: str
    experts: list[tuple[NonNegative, NonNegative]]


class Objective(Struct, frozen=True):
    """The numbers of a solution; ``None`` is "not known"."""

    latency_ns: int
    baseline_ns: int
    bound_ns: int | None
    gap: float | None
    saving_ratio: float | None


class Status(Struct, frozen=True):
    """Why the method ended, and what is proven of its placement."""

    termination: Termination
    solution: Literal["optimal", "feasible"]


class Solution(Struct, frozen=True):
    """A solution document, format ``moeplace/solution`` version 1.

    Attributes
    ----------
    instance : InstanceReference
        Name and hash of the instance.
    placement : list of Assignment
        What each server caches.
    objective : Objective
        Exact cost, baseline, bound (token-ns) and the two ratios.
    status : Status
    method : str
        What ran. ``picked_because`` says why, where ``auto`` picked it.
    parameters : dict
        The method's parameters that were given.
    seed, threads, wall_s : int, int, float
        As the run had them; wall seconds after loading.
    bound_source, guarantee : str or None
        Whose proof the bound rests on; the theorem that applies.
    details : dict
        What the method says of its run, by name.
    versions : dict
        Versions of moeplace and of the solver.
    """

    format: Literal["moeplace/solution"]
    version: Literal[1]
    instance: InstanceReference
    placement: list[Assignment]
    objective: Objective
    status: Status
    method: str | None = None
    picked_because: str | None = None
    parameters: dict[str, Any] = {}
    seed: int | None = None
    threads: int | None = None
    wall_s: float | None = None
    bound_source: str | None = None
    guarantee: str | None = None
    details: dict[str, int | float | str] = {}
    versions: dict[str, str] = {}

    @property
    def warnings(self) -> list[str]:
        """What a person should know before using this, a sentence each."""
        return [str(self.details[name]) for name in WARNINGS if name in self.details]

    def document(self) -> dict[str, Any]:
        """Return the solution document as plain dicts and lists."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document

    def to_json(self) -> bytes:
        """Return the solution document as indented JSON, experts of one server on one line."""
        return _layout(self.document())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the solution document, whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_bytes(path, self.to_json())

    def placement_on(self, instance: Instance) -> Placement:
        """Return the placement as one of an instance with these servers and experts.

        Raises
        ------
        InputError
            A server, model or expert that the instance has not, a pair given twice, or a full server.
        """
        cached = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
        for i, assignment in enumerate(self.placement):
            place = f"placement[{i}]"
            if assignment.server not in instance.server_index:
                raise InputError(f"the instance has no server {assignment.server!r}", place=f"{place}.server")
            if assignment.model not in instance.model_index:
                raise InputError(f"the instance has no model {assignment.model!r}", place=f"{place}.model")
            n, m = instance.server_index[assignment.server], instance.model_index[assignment.model]
            model = instance.models[m]
            for j, (layer, expert) in enumerate(assignment.experts):
                here = f"{place}.experts[{j}]"
                if layer >= model.layers or expert >= model.experts:
                    size = f"{model.layers} layers of {model.experts} experts"
                    raise InputError(f"no expert [{layer}, {expert}], the model has {size}", place=here)
                item = instance.item(m, layer, expert)
                if cached[n, item]:
                    raise InputError(f"[{layer}, {expert}] is on the server already", place=here)
                cached[n, item] = True
        placement = Placement(cached)
        try:
            placement.check_fits(instance)
        except InputError as error:
            raise InputError(error.message, place="placement") from None
        return placement


def assignments(instance: Instance, placement: Placement) -> list[Assignment]:
    """Return a placement in the form a document holds it: servers and models in order, experts ascending."""
    result = []
    for n, server in enumerate(instance.servers):
        for m, model in enumerate(instance.models):
            items = instance.model_items(m)
            held = np.flatnonzero(placement.cached[n, items])
            if len(held):
                layer, expert = np.divmod(held, model.experts)
                pairs = list(zip(layer.tolist(), expert.tolist(), strict=True))
                result.append(Assignment(server.name, model.name, pairs))
    return result


def read_solution(path: str | os.PathLike[str]) -> Solution:
    """Read a solution file.

    Raises
    ------
    InputError
        The file cannot be read or is no solution document.
    """
    document = read_json(path)
    try:
        return parse(document, Solution)
    except InputError as error:
        raise error.in_file(str(path)) from None


def _layout(document: dict[str, Any]) -> bytes:
    parts = []
    for key, value in document.items():
        if key == "placement" and value:
            text = "[\n" + ",\n".join("    " + msgspec.json.encode(entry).decode() for entry in value) + "\n  ]"
        else:
            text = msgspec.json.encode(value).decode()
        parts.append(f"  {msgspec.json.encode(key).decode()}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()
