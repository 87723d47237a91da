"""The instance: who asks for which experts, from where, and what the servers can hold.

An :class:`Instance` is validated once, when it is made, and frozen. Every expert of every model has one
number, its *item*: items are laid out model by model, layer by layer, expert by expert, so that a placement
is a boolean matrix ``[servers, items]``. A *block* is one layer of one model; items of a block are adjacent.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from moeplace.base.arrays import Bool, Int32, Int64
from moeplace.base.documents import INT64_MAX
from moeplace.base.errors import InputError, naming
from moeplace.base.files import no_garbage_collection, read_json, write_bytes
from moeplace.caching.active import Choices, active_experts, choices_of
from moeplace.caching.coverage import Coverage, coverage_of
from moeplace.caching.document import Active, Demand, LatencyModel, Loading, Model, Server, layout, lowest_version
from moeplace.caching.reading import document_hash, read
from moeplace.caching.rows import Rows

if TYPE_CHECKING:
    import pandas as pd

    from moeplace.caching.frames import Frames


@dataclass(frozen=True, eq=False, repr=False)
class Instance:
    """One caching problem (`D` demands, `N` servers, `I` items, `B` blocks); every number is an integer.

    Made by :func:`load` or :meth:`from_document`, never by hand. Arrays are read-only.

    Attributes
    ----------
    name, notes : str
        As the document gives them (no notes: empty).
    latency_model : {"max", "sum"}
        Whether a token waits for its slowest expert or for one after the other.
    models, servers, demands : tuple
        The header of the document: :class:`~moeplace.caching.document.Model`, ``Server``, ``Demand``.
    source : dict
        Where the data came from (strings and integers), possibly empty.
    capacity_bytes : int64 array [N]
        Storage of each server, bytes.
    item_bytes : int64 array [I]
        Size of each expert, bytes.
    item_block : int32 array [I]
        The block (layer of a model) of each item.
    block_start : int64 array [B + 1]
        Items of block ``b`` are ``block_start[b]:block_start[b + 1]``.
    block_model, block_layer : int32 array [B]
        Model and layer of each block.
    demand_model : int32 array [D]
        The model each demand asks for.
    tokens : int64 array [D]
        Tokens observed of each demand.
    server_ns : int64 array [D, N]
        Time until an expert's output is back from a server, ns; :data:`UNREACHABLE` where it cannot be.
    device_ns, cloud_ns : int64 array [D]
        The same for the user's own device and for the cloud, ns. Without a cloud, ``cloud_ns`` is the farthest place
        that an expert can be on: no expert that is anywhere within reach takes longer.
    has_cloud : bool array [D]
        Whether the demand has a cloud; without, :attr:`coverage` says what must be held.
    device_demand, device_item : int32 array [V]
        Pairs (demand, item): experts that the user's device holds.
    rows : Rows
        The activation rows in document order; the experts of a row in the order that the document has.
    layer_slots : int64 array [N]
        How many experts of one layer a server takes at most; :data:`~moeplace.caching.reading.NO_LIMIT` without.
    holds : bool array [N, I] or None
        What the servers hold now, which need not be loaded; None where nothing is said.
    load_block_ns : int64 array [N, B] or None
        What loading one expert of a block costs on a server, token-ns: (C2); None where loading is free.
    loading : Loading
        How many token-ns one ns of loading counts, where the document says it.
    active : Active or None
        Losses and budget, where it is to be decided how many experts each layer uses; None where every row waits for
        all its experts. What is made of it is in :mod:`moeplace.caching.active`.
    baseline_ns : int
        Total latency with empty servers, token-ns; without a cloud, with every expert as far away as can be. All
        experts of every row count, however many are active.
    """

    name: str
    notes: str
    latency_model: LatencyModel
    models: tuple[Model, ...]
    servers: tuple[Server, ...]
    demands: tuple[Demand, ...]
    source: dict[str, str | int]
    capacity_bytes: Int64
    item_bytes: Int64
    item_block: Int32
    block_start: Int64
    block_model: Int32
    block_layer: Int32
    demand_model: Int32
    tokens: Int64
    server_ns: Int64
    device_ns: Int64
    has_cloud: Bool
    cloud_ns: Int64
    device_demand: Int32
    device_item: Int32
    rows: Rows
    layer_slots: Int64
    holds: Bool | None
    load_block_ns: Int64 | None
    baseline_ns: int
    # An absent key and an empty one give documents with different hashes, and so do versions.
    _version: int = 1
    _sha256: str | None = None  # none yet: of the document that the instance makes
    _ranked: bool | UnsetType = UNSET
    _has_notes: bool = False
    _has_source: bool = False
    loading: Loading | UnsetType = UNSET
    active: Active | None = None

    @classmethod
    def from_document(cls, document: object) -> Instance:
        """Make an instance from an instance document (the object that ``json`` reads).

        Parameters
        ----------
        document : object
            The document, format ``moeplace/instance`` version 1 or 2. It is not kept.

        Returns
        -------
        Instance

        Raises
        ------
        InputError
            Whatever is wrong with the document, with the place in it.
        """
        with no_garbage_collection():
            instance = cls(**read(document), baseline_ns=0)
            instance._freeze()
            baseline = baseline_ns(instance)
            # Heuristics begin with everything everywhere: it has to fit, though no placement may cost so much.
            experts = np.diff(instance.block_start).tolist()
            loads = [] if instance.load_block_ns is None else instance.load_block_ns.tolist()
            everything = sum(ns * k for line in loads for ns, k in zip(line, experts, strict=True))
        if baseline > INT64_MAX:
            raise InputError(
                f"the latency with empty servers is {baseline} token-ns; it must fit in 63 bits ({INT64_MAX})",
                place="activations",
            )
        if baseline + everything > INT64_MAX:
            raise InputError(
                f"the latency with empty servers and loading everything cost {baseline + everything} token-ns; "
                f"together they must fit in 63 bits ({INT64_MAX})",
                place="loading",
            )
        object.__setattr__(instance, "baseline_ns", baseline)
        return instance

    def _freeze(self) -> None:
        for array in [*vars(self).values(), *vars(self.rows).values()]:
            if isinstance(array, np.ndarray):
                array.setflags(write=False)

    def cut(self, active: Sequence[int] | Int64) -> Instance:
        """Return the instance in which it is decided how many experts each layer uses: what (J2) says of one choice.

        Parameters
        ----------
        active : sequence of int [B]
            The number of active experts of each block, 1 to the model's ``top_k``.

        Returns
        -------
        Instance
            Without ``active``; every row has its first experts only, and rows of a demand that now ask for the same
            are one. Servers, demands and all that a placement must keep are the same, so every placement here is one
            there, and costs what it costs there with this choice. Its baseline is the one of its own rows.

        Raises
        ------
        InputError
            The rows are not ranked, or a number is not possible.
        """
        if not self.ranked:
            raise InputError("the experts of a row can be cut only where activations.ranked is true")
        rows = self.rows.first(active_experts(self, active)[self.row_block]).merged()
        cut = replace(self, rows=rows, active=None, baseline_ns=0, _ranked=UNSET, _sha256=None)
        cut._freeze()
        said = cut._header() | {"activations": {}} | ({} if cut.loading is UNSET else {"loading": cut.loading})
        object.__setattr__(cut, "_version", lowest_version(said))
        object.__setattr__(cut, "baseline_ns", baseline_ns(cut))
        vars(cut)["coverage"] = self.coverage  # it speaks of servers and experts, not of rows
        return cut

    @classmethod
    def from_frames(
        cls,
        models: pd.DataFrame,
        servers: pd.DataFrame,
        demands: pd.DataFrame,
        links: pd.DataFrame,
        activations: pd.DataFrame,
        device_experts: pd.DataFrame | None = None,
        holds: pd.DataFrame | None = None,
        loading_weight: int | None = None,
        ranked: bool = False,
        losses: pd.DataFrame | None = None,
        loss_budget: int | None = None,
        *,
        name: str = "frames",
        latency_model: LatencyModel = "max",
        notes: str | None = None,
        source: Mapping[str, str | int] | None = None,
    ) -> Instance:
        """Make an instance from pandas DataFrames.

        Whole numbers in a column of floats, as pandas makes of integers with gaps, are taken up to 2**53.

        Parameters
        ----------
        models, servers, demands, links, activations : DataFrame
            With the columns of :class:`moeplace.caching.frames.Frames`. ``device_ns`` (else 0) and ``tokens`` (else the
            most that are counted at one layer) may be missing, and positions; a link that is not there, or whose
            ``ns`` is missing, cannot be used; an empty ``cloud_ns`` is no cloud.
        device_experts, holds : DataFrame, optional
        loading_weight : int, optional
            How many token-ns one ns of loading counts.
        ranked : bool
            The experts of every row stand in falling router weight.
        losses : DataFrame, optional
        loss_budget : int, optional
            Where it is to be decided how many experts each layer uses: what that costs in quality, and the most that
            all layers may lose. Both or neither.
        name, latency_model, notes, source
            As in the instance document.

        Raises
        ------
        InputError
            A column is missing or unknown, a cell is not what it must be, or the whole is no instance.
        """
        from moeplace.caching.frames import Frames, document_of

        found = document_of(
            Frames(
                models, servers, demands, links, activations, device_experts, holds, loading_weight, ranked, losses,
                loss_budget,
            )
        )  # fmt: skip
        document = {"format": "moeplace/instance", "version": lowest_version(found), "name": name}
        document |= {"latency_model": latency_model, **found}
        if notes is not None:
            document["notes"] = notes
        if source is not None:
            document["source"] = dict(source)
        return cls.from_document(document)

    def to_frames(self) -> Frames:
        """Return the instance as pandas DataFrames: what :meth:`from_frames` takes."""
        from moeplace.caching.frames import frames_of

        return frames_of(self.document())

    def document(self) -> dict[str, Any]:
        """Return the instance document; the same document, value for value, that the instance was made from."""
        rows, block = self.rows, self.row_block
        expert = (rows.item - np.repeat(self.block_start[block], np.diff(rows.start))).tolist()
        bounds = rows.start.tolist()
        activations: dict[str, Any] = {
            "demand": rows.demand.tolist(),
            "layer": self.block_layer[block].tolist(),
            "experts": [expert[a:b] for a, b in itertools.pairwise(bounds)],
            "count": rows.count.tolist(),
        }
        if self._ranked is not UNSET:
            activations["ranked"] = self._ranked
        document: dict[str, Any] = {
            "format": "moeplace/instance",
            "version": self._version,
            "name": self.name,
            "latency_model": self.latency_model,
            **self._header(),
            "activations": activations,
        }
        if self.loading is not UNSET:
            document["loading"] = msgspec.to_builtins(self.loading)
        if self.active is not None:
            document["active"] = msgspec.to_builtins(self.active)
        if self._has_notes:
            document["notes"] = self.notes
        if self._has_source:
            document["source"] = dict(self.source)
        return document

    def _header(self) -> dict[str, Any]:
        said = {"models": self.models, "servers": self.servers, "demands": self.demands}
        return {key: msgspec.to_builtins(list(entries)) for key, entries in said.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the instance document, gzip where the name ends in ``.gz``; whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_bytes(path, self.to_json())

    def to_json(self) -> bytes:
        """Return the instance document as :meth:`save` writes it."""
        return layout(self.document())

    @cached_property
    def sha256(self) -> str:
        """Hash of the instance document (see :func:`moeplace.base.documents.canonical`)."""
        return document_hash(self.document()) if self._sha256 is None else self._sha256

    @property
    def ranked(self) -> bool:
        """Whether the experts of every row stand in falling router weight."""
        return self._ranked is True

    @property
    def row_block(self) -> Int32:
        """The block of each row, int32 [A]."""
        return self.item_block[self.rows.item[self.rows.start[:-1]]]

    @property
    def n_items(self) -> int:
        """Number of items (experts of all layers of all models)."""
        return len(self.item_bytes)

    @property
    def n_blocks(self) -> int:
        """Number of blocks (layers of all models)."""
        return len(self.block_model)

    @cached_property
    def usable_bytes(self) -> Int64:
        """What experts can fill of each server, bytes, int64 [N]: sums of their sizes are multiples of one unit."""
        unit = np.gcd.reduce(self.item_bytes, initial=0) or 1
        usable: Int64 = self.capacity_bytes // unit * unit
        usable.setflags(write=False)
        return usable

    @cached_property
    def coverage(self) -> Coverage | None:
        """What must be held somewhere, where demands have no cloud; None where nothing must."""
        return coverage_of(self)

    @cached_property
    def block_top_k(self) -> Int64:
        """``top_k`` of each block's model, int64 [B]."""
        return np.array([model.top_k for model in self.models], dtype=np.int64)[self.block_model]

    @cached_property
    def first_cut(self) -> Instance:
        """The instance at :attr:`Choices.first`, for what wants experts to be active before anything is decided.

        The instance itself where that is not open.

        Raises
        ------
        NoSolutionError
            No choice is within the budget.
        """
        return self if self.choices is None else self.cut(self.choices.first)

    @cached_property
    def choices(self) -> Choices | None:
        """How many experts each layer may use; None where that is not to be decided."""
        return choices_of(self)

    def load_ns(self, items: slice) -> Int64 | None:
        """Return what loading costs, token-ns, int64 [N, items]; 0 for what is held already. None where it is free."""
        if self.load_block_ns is None:
            return None
        load = self.load_block_ns[:, self.item_block[items]]
        return load if self.holds is None else np.where(self.holds[:, items], 0, load)

    @cached_property
    def most_loading_ns(self) -> int:
        """No placement that fits costs more to load, token-ns: all experts, or full servers at their dearest rates."""
        if self.load_block_ns is None:
            return 0
        experts = np.diff(self.block_start).tolist()
        sizes = self.item_bytes[self.block_start[:-1]].tolist()
        most = 0
        for costs, capacity in zip(self.load_block_ns.tolist(), self.capacity_bytes.tolist(), strict=True):
            fitting = [(c, k, s) for c, k, s in zip(costs, experts, sizes, strict=True) if s <= capacity]
            everything = sum(cost * count for cost, count, _ in fitting)
            dearest = max((-(-capacity * cost // size) for cost, _, size in fitting), default=0)
            most += min(everything, dearest)
        return most

    @cached_property
    def server_index(self) -> dict[str, int]:
        """Position of each server by name."""
        return {server.name: n for n, server in enumerate(self.servers)}

    @cached_property
    def model_index(self) -> dict[str, int]:
        """Position of each model by name."""
        return {model.name: m for m, model in enumerate(self.models)}

    @cached_property
    def model_block(self) -> list[int]:
        """First block of each model."""
        return list(itertools.accumulate((model.layers for model in self.models), initial=0))[:-1]

    def item(self, model: int, layer: int, expert: int) -> int:
        """Return the item of an expert."""
        return int(self.block_start[self.model_block[model] + layer]) + expert

    def item_name(self, item: int) -> tuple[str, int, int]:
        """Return (model name, layer, expert) of an item."""
        block = int(self.item_block[item])
        model = self.models[int(self.block_model[block])].name
        return model, int(self.block_layer[block]), item - int(self.block_start[block])

    def model_items(self, model: int) -> slice:
        """Return the range of items of a model."""
        first = self.model_block[model]
        last = first + self.models[model].layers
        return slice(int(self.block_start[first]), int(self.block_start[last]))

    @cached_property
    def rows_by_demand(self) -> tuple[Rows, Int64, npt.NDArray[np.intp] | None]:
        """Rows sorted by demand.

        Returns
        -------
        Rows
            The rows; the instance's own where they are sorted already.
        int64 array [D + 1]
            Rows of demand ``d`` are ``bounds[d]:bounds[d + 1]``.
        intp array [A] or None
            Original position of each sorted row; None where nothing moved.
        """
        rows, order = self.rows, None
        if np.any(np.diff(rows.demand) < 0):
            order = np.argsort(rows.demand, kind="stable")
            rows = rows.take(order)
        bounds = np.searchsorted(rows.demand, np.arange(len(self.demands) + 1)).astype(np.int64)
        return rows, bounds, order

    @cached_property
    def device_bounds(self) -> Int64:
        """Device experts of demand ``d`` are ``device_item[bounds[d]:bounds[d + 1]]``, int64 [D + 1]."""
        return np.searchsorted(self.device_demand, np.arange(len(self.demands) + 1)).astype(np.int64)

    def device_items(self, demand: int) -> Int32:
        """Return the items on the device of a demand, sorted."""
        return self.device_item[self.device_bounds[demand] : self.device_bounds[demand + 1]]

    def __repr__(self) -> str:
        return (
            f"<Instance {self.name!r}: {len(self.models)} models, {self.n_items} experts, {len(self.servers)} "
            f"servers, {len(self.demands)} demands, {len(self.rows)} activation rows, {self.latency_model}>"
        )


def load(path: str | os.PathLike[str]) -> Instance:
    """Read an instance file (``.json`` or ``.json.gz``).

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Instance

    Raises
    ------
    InputError
        One line: the file, the place in it, what was expected and what was found.
    """
    document = read_json(path)
    with naming(path):
        return Instance.from_document(document)


def baseline_ns(instance: Instance) -> int:
    """Return the cost with empty servers, token-ns, as an exact int even where it does not fit in 64 bits."""
    total = 0
    on_device = np.zeros(instance.n_items, dtype=np.bool_)
    rows, bounds, _ = instance.rows_by_demand
    for d in range(len(instance.demands)):
        first, last = int(bounds[d]), int(bounds[d + 1])
        if first == last:
            continue
        items = rows.item[rows.start[first] : rows.start[last]]
        start = rows.start[first:last] - rows.start[first]
        on_device[instance.device_items(d)] = True
        away = np.add.reduceat(~on_device[items], start, dtype=np.int64)
        on_device[instance.device_items(d)] = False
        size = np.diff(rows.start[first : last + 1])
        width = int(size.max()) + 1
        cloud = int(instance.cloud_ns[d])
        near = min(int(instance.device_ns[d]), cloud)
        # Rows alike in their latency are counted before they are multiplied: few products, in Python's ints.
        shapes, index = np.unique(away * width + size, return_inverse=True)
        for i, shape in enumerate(shapes.tolist()):
            out, home = shape // width, shape % width - shape // width
            tokens = sum(rows.count[first:last][index == i].tolist())
            latency = (cloud if out else near) if instance.latency_model == "max" else out * cloud + home * near
            total += tokens * latency
    return total
