"""Building an instance by calls: servers, models, users and rows are added one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from moeplace.base.errors import InputError
from moeplace.caching.document import lowest_version
from moeplace.caching.frames import most_counted
from moeplace.caching.instance import Instance

if TYPE_CHECKING:
    import numpy.typing as npt

    from moeplace.caching.document import LatencyModel
    from moeplace.caching.solution import Solution

H = TypeVar("H")


@dataclass(frozen=True)
class ServerHandle:
    """A server that was added to a :class:`Model`."""

    index: int
    name: str


@dataclass(frozen=True)
class LanguageModelHandle:
    """A language model that was added to a :class:`Model`."""

    index: int
    name: str


@dataclass(frozen=True)
class DemandHandle:
    """A user's demand for one language model that was added to a :class:`Model`."""

    index: int
    user: str
    model: str


class Model:
    """A caching problem under construction.

    Nothing is checked before :meth:`instance`, which validates the whole as a file would be; a handle of another
    ``Model`` is refused at once.

    Parameters
    ----------
    name : str
        Of the instance.
    latency_model : {"max", "sum"}
        Whether a token waits for its slowest expert or for one after the other.
    notes : str, optional
    source : dict, optional
        Where the data came from, strings and integers.
    loading_weight : int, optional
        How many token-ns one ns of loading counts; else 1.
    ranked : bool
        The experts of every row stand in falling router weight.

    Examples
    --------
    >>> m = Model("toy")
    >>> moe = m.add_model("toy-moe", layers=2, experts=4, top_k=2, expert_bytes=1000)
    >>> near, far = m.add_server("near", capacity_bytes=3000), m.add_server("far", capacity_bytes=2000)
    >>> user = m.add_user("u0", moe, server_ns={near: 2000, far: 5000}, cloud_ns=40_000)
    >>> m.add_rows(user, layer=0, experts=[0, 2], count=60)
    >>> m.add_rows(user, layer=1, experts=[[1, 3], [0, 1]], count=[40, 20])
    >>> m.instance()
    <Instance 'toy': 1 models, 8 experts, 2 servers, 1 demands, 3 activation rows, max>
    >>> m.solve(method="milp").objective.latency_ns
    420000
    """

    def __init__(
        self,
        name: str = "model",
        *,
        latency_model: LatencyModel = "max",
        notes: str | None = None,
        source: Mapping[str, str | int] | None = None,
        loading_weight: int | None = None,
        ranked: bool = False,
    ) -> None:
        self.name, self.latency_model, self.notes, self.source = name, latency_model, notes, source
        self.loading_weight, self.ranked = loading_weight, ranked
        self._active: dict[str, Any] | None = None
        self._servers: list[ServerHandle] = []
        self._models: list[LanguageModelHandle] = []
        self._demands: list[DemandHandle] = []
        self._server_documents: list[dict[str, Any]] = []
        self._model_documents: list[dict[str, Any]] = []
        self._demand_documents: list[dict[str, Any]] = []
        self._times: list[dict[int, int]] = []
        self._rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}

    def add_model(
        self,
        name: str,
        *,
        layers: int,
        experts: int,
        top_k: int,
        expert_bytes: int | Sequence[int],
        layer_index: Sequence[int] | None = None,
    ) -> LanguageModelHandle:
        """Add a language model.

        Parameters
        ----------
        name : str
        layers : int
            MoE layers, those with experts.
        experts : int
            Experts of each layer.
        top_k : int
            Most experts of a layer that a token uses.
        expert_bytes : int or sequence of int
            Bytes of one expert, of all layers or of each.
        layer_index : sequence of int, optional
            The model's own number of each layer, where dense layers count too.
        """
        sizes = _whole(expert_bytes, "expert_bytes")
        shape = {key: _whole(value, key) for key, value in (("layers", layers), ("experts", experts), ("top_k", top_k))}
        document = {"name": name, **shape, "expert_bytes": sizes}
        if layer_index is not None:
            document["layer_index"] = _whole(layer_index, "layer_index")
        self._model_documents.append(document)
        return _added(self._models, LanguageModelHandle(len(self._models), name))

    def add_server(
        self,
        name: str,
        *,
        capacity_bytes: int,
        position_m: tuple[int, int] | None = None,
        host: str | None = None,
        load_bytes_per_s: int | None = None,
        layer_slots: int | None = None,
        holds: Mapping[LanguageModelHandle, Iterable[tuple[int, int]]] | None = None,
    ) -> ServerHandle:
        """Add a server.

        Parameters
        ----------
        name : str
        capacity_bytes : int
            What it can hold.
        position_m : pair of int, optional
            Metres east and north of anywhere, for pictures.
        host : str, optional
            The machine that it belongs to, where it is a GPU.
        load_bytes_per_s : int, optional
            How fast it loads experts that it does not hold; else loading is free.
        layer_slots : int, optional
            How many experts of one layer it takes at most.
        holds : dict of LanguageModelHandle to iterable of (layer, expert), optional
            What is on it now and need not be loaded.
        """
        document: dict[str, Any] = {"name": name, "capacity_bytes": _whole(capacity_bytes, "capacity_bytes")}
        if host is not None:
            document["host"] = host
        amounts = {"position_m": position_m, "load_bytes_per_s": load_bytes_per_s, "layer_slots": layer_slots}
        document |= {key: _whole(value, key) for key, value in amounts.items() if value is not None}
        if holds is not None:
            for model in holds:
                self._own(model, self._models)
            document["holds"] = [
                {"model": model.name, "experts": _whole(experts, "holds")} for model, experts in holds.items()
            ]
        self._server_documents.append(document)
        return _added(self._servers, ServerHandle(len(self._servers), name))

    def add_user(
        self,
        name: str,
        model: LanguageModelHandle,
        *,
        server_ns: Mapping[ServerHandle, int],
        cloud_ns: int | None,
        device_ns: int = 0,
        tokens: int | None = None,
        device_experts: Iterable[tuple[int, int]] = (),
        position_m: tuple[int, int] | None = None,
    ) -> DemandHandle:
        """Add a user's demand for a language model; one who uses several is added once for each.

        Parameters
        ----------
        name : str
        model : LanguageModelHandle
        server_ns : dict of ServerHandle to int
            Time until an expert's output is back from a server, ns. A server that is left out cannot be reached.
        cloud_ns : int or None
            The same from the cloud, ns. None is no cloud: every expert of the model must be on a server of these, or on
            the device.
        device_ns : int
            The same from the user's own device, ns.
        tokens : int, optional
            Tokens that were observed; else the most that are counted at one layer.
        device_experts : iterable of (layer, expert), optional
            What the user's device holds.
        position_m : pair of int, optional
        """
        self._own(model, self._models)
        document: dict[str, Any] = {"user": name, "model": model.name}
        document["device_ns"] = _whole(device_ns, "device_ns")
        document["cloud_ns"] = None if cloud_ns is None else _whole(cloud_ns, "cloud_ns")
        if tokens is not None:
            document["tokens"] = _whole(tokens, "tokens")
        if held := _whole(device_experts, "device_experts"):
            document["device_experts"] = held
        if position_m is not None:
            document["position_m"] = _whole(position_m, "position_m")
        for server in server_ns:
            self._own(server, self._servers)
        self._demand_documents.append(document)
        self._times.append({server.index: _whole(ns, "server_ns") for server, ns in server_ns.items()})
        return _added(self._demands, DemandHandle(len(self._demands), name, model.name))

    def add_rows(
        self,
        demand: DemandHandle | Sequence[DemandHandle],
        *,
        layer: int | Sequence[int] | npt.NDArray[np.integer],
        experts: Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[np.integer],
        count: int | Sequence[int] | npt.NDArray[np.integer] = 1,
    ) -> None:
        """Add one activation row or many: so many tokens of a demand used exactly these experts of a layer.

        Parameters
        ----------
        demand : DemandHandle, or sequence [R] of them
            One for all rows, or one of each.
        layer : int or int array [R]
            Likewise.
        experts : sequence of int, or sequence [R] of them, or int array [R, k]
            The distinct experts of the row, or of each row.
        count : int or int array [R]
            Tokens, likewise.
        """
        single = isinstance(demand, DemandHandle)
        handles = [demand] if isinstance(demand, DemandHandle) else list(demand)
        for handle in {id(handle): handle for handle in handles}.values():
            self._own(handle, self._demands)
        found, at, tokens = _whole(experts, "experts"), _whole(layer, "layer"), _whole(count, "count")
        flat = np.ndim(experts) < 2 if isinstance(experts, np.ndarray) else not any(isinstance(r, list) for r in found)
        rows = [found] if flat and single and isinstance(at, int) and isinstance(tokens, int) else found
        of = [handle.index for handle in handles] * (len(rows) if single else 1)
        layers, counts = _each(at, len(rows), "layer"), _each(tokens, len(rows), "count")
        if len(of) != len(rows):
            raise InputError(f"demand: expected one or {len(rows)} of them, found {len(of)}")
        for key, values in (("demand", of), ("layer", layers), ("experts", rows), ("count", counts)):
            self._rows[key] += values

    def choose_active(
        self,
        losses: Mapping[LanguageModelHandle, Sequence[Sequence[int]] | npt.NDArray[np.integer]],
        *,
        budget: int,
    ) -> None:
        """Leave open how many experts each layer uses; rows have to be ranked.

        Parameters
        ----------
        losses : dict of LanguageModelHandle to int [layers, top_k]
            For every language model what each layer loses in quality with 1, 2, ... ``top_k`` active experts.
        budget : int
            The most that all layers may lose in sum.
        """
        for model in losses:
            self._own(model, self._models)
        tables = {model.name: _whole(table, "losses") for model, table in losses.items()}
        self._active = {"loss": tables, "budget": _whole(budget, "budget")}

    def instance(self) -> Instance:
        """Return what has been added so far as an instance.

        Raises
        ------
        InputError
            Something of it cannot be; the place is that in the instance document.
        """
        document: dict[str, Any] = {
            "format": "moeplace/instance",
            "version": 1,
            "name": self.name,
            "latency_model": self.latency_model,
            "models": self._model_documents,
            "servers": self._server_documents,
            "demands": self._demands_document(),
            "activations": self._rows | ({"ranked": True} if self.ranked else {}),
        }
        if self._active is not None:
            document["active"] = self._active
        if self.loading_weight is not None:
            document["loading"] = {"weight": _whole(self.loading_weight, "loading_weight")}
        document["version"] = lowest_version(document)
        if self.notes is not None:
            document["notes"] = self.notes
        if self.source is not None:
            document["source"] = dict(self.source)
        return Instance.from_document(document)

    def solve(self, method: str = "auto", **options: Any) -> Solution:
        """Solve what has been added so far: :func:`moeplace.solve` of :meth:`instance`."""
        from moeplace import solve

        solution: Solution = solve(self.instance(), method, **options)
        return solution

    def _demands_document(self) -> list[dict[str, Any]]:
        most = most_counted(self._rows["demand"], self._rows["layer"], self._rows["count"])
        servers = range(len(self._servers))
        return [
            {"tokens": most.get(d, 1), **document, "server_ns": [times.get(n) for n in servers]}
            for d, (document, times) in enumerate(zip(self._demand_documents, self._times, strict=True))
        ]

    def _own(self, handle: Any, known: Sequence[Any]) -> None:
        index = getattr(handle, "index", None)
        if not isinstance(index, int) or not 0 <= index < len(known) or known[index] is not handle:
            raise InputError(f"{handle!r} was not added to this model")


def _added(handles: list[H], handle: H) -> H:
    handles.append(handle)
    return handle


def _whole(value: Any, what: str) -> Any:
    """Return integers of any kind, also in lists and arrays, as Python's own."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.integer):
        return value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [_whole(entry, what) for entry in value]
    raise InputError(f"{what}: expected integers, found {value!r}")


def _each(found: Any, rows: int, what: str) -> list[int]:
    if isinstance(found, int):
        return [found] * rows
    if len(found) != rows or not all(isinstance(entry, int) for entry in found):
        raise InputError(f"{what}: expected one integer or {rows} of them, found {len(found)}")
    return list(found)
