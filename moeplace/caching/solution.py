"""The solution document of the caching problem."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType

from moeplace.base.arrays import Int64
from moeplace.base.documents import InstanceReference, NonNegative, Status, parse
from moeplace.base.errors import InputError, naming
from moeplace.base.files import read_json
from moeplace.base.result import Written
from moeplace.base.text import gap_percent
from moeplace.caching.active import active_experts
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement

if TYPE_CHECKING:
    import pandas as pd


class Assignment(Struct, frozen=True):
    """The experts of one model on one server, as [layer, expert] pairs."""

    server: str
    model: str
    experts: list[tuple[NonNegative, NonNegative]]


class Objective(Struct, frozen=True):
    """The numbers of a solution; ``None`` is "not known".

    Where loading costs something, ``loading_ns`` is what, and bound, gap and ratio speak of ``cost_ns``, both together.
    Where it is open how many experts are active, ``loss`` is what all layers lose of the ``loss_budget``.
    """

    latency_ns: int
    baseline_ns: int
    bound_ns: int | None
    gap: float | None
    saving_ratio: float | None
    loading_ns: int | UnsetType = UNSET
    cost_ns: int | UnsetType = UNSET
    loss: int | UnsetType = UNSET
    loss_budget: int | UnsetType = UNSET


class Solution(Written, Struct, frozen=True):
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
    active_experts : dict of list of int
        For each model the number of active experts of each layer, where that is open in the instance.
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
    active_experts: dict[str, list[NonNegative]] | UnsetType = UNSET

    @property
    def value(self) -> int:
        """The cost, by the name that all problems' solutions have for it."""
        said = self.objective
        return said.latency_ns if said.cost_ns is UNSET else said.cost_ns

    @property
    def reference(self) -> int:
        """The cost with empty servers, likewise."""
        return self.objective.baseline_ns

    @property
    def bound(self) -> int | None:
        """The proven bound, likewise."""
        return self.objective.bound_ns

    def document(self) -> dict[str, Any]:
        """Return the solution document as plain dicts and lists."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document

    def to_json(self) -> bytes:
        """Return the solution document as indented JSON, experts of one server on one line."""
        return _layout(self.document())

    def to_frame(self, instance: Instance) -> pd.DataFrame:
        """Return the placement as a DataFrame (see :meth:`moeplace.caching.placement.Placement.to_frame`)."""
        return self.placement_on(instance).to_frame(instance)

    def __repr__(self) -> str:
        gap, status = self.objective.gap, self.status
        proven = "no bound" if gap is None else f"gap {gap_percent(gap)}"
        return (
            f"<Solution of {self.instance.name!r} by {self.method}: {self.value} token-ns, {proven}, "
            f"{status.termination}>"
        )

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
        placement = Placement(cached, self.active_on(instance))
        try:
            placement.check_fits(instance)
        except InputError as error:
            raise InputError(error.message, place=error.place or "placement") from None
        return placement

    def active_on(self, instance: Instance) -> Int64 | None:
        """Return the active experts of each block, int64 [B]; None where nothing is said of them.

        Their loss may be of another budget.

        Raises
        ------
        InputError
            Of models or layers that the instance has not, or a number that cannot be.
        """
        if self.active_experts is UNSET:
            return None
        for name in self.active_experts:
            if name not in instance.model_index:
                raise InputError(f"the instance has no model {name!r}", place="active_experts")
        found: list[int] = []
        for model in instance.models:
            numbers = self.active_experts.get(model.name, [])
            if len(numbers) != model.layers:
                raise InputError(
                    f"{len(numbers)} numbers for the {model.layers} layers of {model.name!r}", place="active_experts"
                )
            found += numbers
        try:
            return active_experts(instance, found)
        except InputError as error:
            raise InputError(error.message, place="active_experts") from None


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


def active_by_model(instance: Instance, placement: Placement) -> dict[str, list[int]]:
    """Return the active experts of a placement in the form a document holds them."""
    assert placement.active is not None
    numbers = iter(placement.active.tolist())
    return {model.name: list(itertools.islice(numbers, model.layers)) for model in instance.models}


def read_solution(path: str | os.PathLike[str]) -> Solution:
    """Read a solution file.

    Raises
    ------
    InputError
        The file cannot be read or is no solution document.
    """
    document = read_json(path)
    with naming(path):
        return parse(document, Solution)


def _layout(document: dict[str, Any]) -> bytes:
    parts = []
    for key, value in document.items():
        if key == "placement" and value:
            text = "[\n" + ",\n".join("    " + msgspec.json.encode(entry).decode() for entry in value) + "\n  ]"
        else:
            text = msgspec.json.encode(value).decode()
        parts.append(f"  {msgspec.json.encode(key).decode()}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()
