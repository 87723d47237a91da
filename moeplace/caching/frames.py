"""An instance and its placements as pandas DataFrames, and back; pandas is loaded when one of them is called."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from msgspec import UNSET

from moeplace.base.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from moeplace.caching.evaluation import Evaluation
    from moeplace.caching.instance import Instance
    from moeplace.caching.placement import Placement

_EXACT = 2**53
"""Up to here every whole number is a float of its own."""


class Frames(NamedTuple):
    """An instance as DataFrames: what :meth:`~moeplace.caching.instance.Instance.from_frames` takes.

    Attributes
    ----------
    models : DataFrame
        ``name``, ``layers``, ``experts``, ``top_k``, ``expert_bytes`` (an integer, or a list of one a layer), and
        ``layer_index`` (a list) where the model's own numbers of its layers are known.
    servers : DataFrame
        ``name``, ``capacity_bytes``; ``x_m`` and ``y_m`` where positions are known; ``host``, ``load_bytes_per_s``,
        ``layer_slots`` where a server has one (cells may be empty).
    demands : DataFrame
        ``user``, ``model``, ``tokens``, ``device_ns``, ``cloud_ns`` (empty: no cloud); ``x_m`` and ``y_m`` where
        positions are known.
    links : DataFrame
        ``user``, ``model``, ``server``, ``ns``: a server that is not there cannot be reached.
    activations : DataFrame
        ``user``, ``model``, ``layer``, ``experts`` (a list), ``count``.
    device_experts : DataFrame
        ``user``, ``model``, ``layer``, ``expert``.
    holds : DataFrame
        ``server``, ``model``, ``layer``, ``expert``: what is on the servers now. No row for a server: nothing is said.
    loading_weight : int or None
        No frame: how many token-ns one ns of loading counts.
    ranked : bool
        No frame: whether the experts of every row of ``activations`` stand in falling router weight.
    losses : DataFrame or None
        ``model``, ``layer``, ``active_experts``, ``loss``: what it costs in quality that a layer uses so many experts,
        a row for each number from 1 to ``top_k``. None where that is not to be decided.
    loss_budget : int or None
        No frame: the most that all layers may lose.
    """

    models: pd.DataFrame
    servers: pd.DataFrame
    demands: pd.DataFrame
    links: pd.DataFrame
    activations: pd.DataFrame
    device_experts: pd.DataFrame
    holds: pd.DataFrame | None = None
    loading_weight: int | None = None
    ranked: bool = False
    losses: pd.DataFrame | None = None
    loss_budget: int | None = None


def document_of(frames: Frames) -> dict[str, Any]:
    """Return the keys of an instance document that frames hold; those of devices may be missing, too.

    Raises
    ------
    InputError
        A column is missing or unknown, or a cell is not what it must be; the frame, the row and the column are named.
    """
    (
        models, servers, demands, links, activations, device_experts, holds, loading_weight, ranked, losses,
        loss_budget,
    ) = frames  # fmt: skip
    table = _Table("models", models, "name layers experts top_k expert_bytes", "layer_index")
    numbers = {key: table.whole(key) for key in ("layers", "experts", "top_k")}
    sizes, own = table.lists("expert_bytes"), table.lists("layer_index")
    shapes = _records(name=table.text("name"), **numbers, expert_bytes=sizes, layer_index=own)
    languages = {shape["name"]: m for m, shape in enumerate(shapes)}

    table = _Table("servers", servers, "name capacity_bytes", "x_m y_m host load_bytes_per_s layer_slots")
    names, capacity = table.text("name"), table.whole("capacity_bytes")
    there: dict[str, dict[str, list[list[int]]]] = {}
    if holds is not None:
        found = _Table("holds", holds, "server model layer expert")
        found.known("server", dict.fromkeys(names))
        columns = found.text("server"), found.text("model"), found.whole("layer"), found.whole("expert")
        for server, model, layer_number, expert in zip(*columns, strict=True):
            there.setdefault(server, {}).setdefault(model, []).append([layer_number, expert])
    places = _records(
        name=names,
        capacity_bytes=capacity,
        position_m=table.places(),
        host=table.optional_text("host"),
        load_bytes_per_s=table.optional("load_bytes_per_s"),
        layer_slots=table.optional("layer_slots"),
        holds=[
            [{"model": model, "experts": pairs} for model, pairs in there[name].items()] if name in there else None
            for name in names
        ],
    )
    times = _times(
        _Table("links", links, "user model server ns"), {name: n for n, name in enumerate(names)}, len(names)
    )
    held: dict[tuple[str, str], list[list[int]]] = {}
    if device_experts is not None:
        table = _Table("device_experts", device_experts, "user model layer expert")
        pairs_of = table.text("user"), table.text("model"), table.whole("layer"), table.whole("expert")
        for user, model, layer_number, expert in zip(*pairs_of, strict=True):
            held.setdefault((user, model), []).append([layer_number, expert])

    table = _Table("demands", demands, "user model cloud_ns", "tokens device_ns x_m y_m")
    table.known("model", languages)
    who = list(zip(table.text("user"), table.text("model"), strict=True))
    given = _records(
        user=[user for user, _ in who],
        model=[model for _, model in who],
        tokens=table.optional("tokens"),
        device_ns=[ns or 0 for ns in table.optional("device_ns")],
        server_ns=[times.pop(key, [None] * len(places)) for key in who],
        cloud_ns=table.optional("cloud_ns"),
        device_experts=[held.pop(key, None) for key in who],
        position_m=table.places(),
    )
    for what, left in (("links", times), ("device_experts", held)):
        for user, model in left:
            raise InputError(f"{what}: the user {user!r} with the model {model!r} is in no row of demands")

    table = _Table("activations", activations, "user model layer experts count")
    asked = {key: d for d, key in enumerate(who)}
    pairs = list(zip(table.text("user"), table.text("model"), strict=True))
    for i, pair in enumerate(pairs):
        if pair not in asked:
            raise table.wrong(i, "user", "a user and a model of one row of demands", pair)
    of, layer, count = [asked[pair] for pair in pairs], table.whole("layer"), table.whole("count")
    for d, most in most_counted(of, layer, count).items():
        given[d].setdefault("tokens", most)
    for demand in given:
        demand.setdefault("tokens", 1)
        demand.setdefault("cloud_ns", None)
    rows: dict[str, Any] = {"demand": of, "layer": layer, "experts": table.lists("experts"), "count": count}
    if ranked:
        rows["ranked"] = True
    document: dict[str, Any] = {"models": shapes, "servers": places, "demands": given, "activations": rows}
    if loading_weight is not None:
        document["loading"] = {"weight": int(loading_weight)}
    if (losses is None) != (loss_budget is None):
        raise InputError("losses and loss_budget belong together; one of them is missing")
    if losses is not None and loss_budget is not None:
        shape = {shape["name"]: (shape["layers"], shape["top_k"]) for shape in shapes}
        document["active"] = {"loss": _losses(losses, shape), "budget": int(loss_budget)}
    return document


def _losses(losses: pd.DataFrame, shape: dict[str, tuple[int, int]]) -> dict[str, list[list[int]]]:
    """Return the losses of every model, layer by layer; each must be there once."""
    table = _Table("losses", losses, "model layer active_experts loss")
    table.known("model", shape)
    found: dict[tuple[str, int, int], int] = {}
    columns = table.text("model"), table.whole("layer"), table.whole("active_experts"), table.whole("loss")
    for i, (model, layer, k, loss) in enumerate(zip(*columns, strict=True)):
        layers, top_k = shape[model]
        if not 0 <= layer < layers:
            raise table.wrong(i, "layer", f"a layer below {layers}", layer)
        if not 1 <= k <= top_k:
            raise table.wrong(i, "active_experts", f"a number from 1 to {top_k}", k)
        if (model, layer, k) in found:
            raise table.wrong(i, "active_experts", "a number that is there once for a layer", k)
        found[model, layer, k] = loss
    for model, (layers, top_k) in shape.items():
        for layer, k in itertools.product(range(layers), range(1, top_k + 1)):
            if (model, layer, k) not in found:
                raise InputError(f"losses: layer {layer} of {model!r} with {k} active experts is in no row")
    return {
        model: [[found[model, layer, k] for k in range(1, top_k + 1)] for layer in range(layers)]
        for model, (layers, top_k) in shape.items()
    }


def most_counted(demand: list[int], layer: list[int], count: list[int]) -> dict[int, int]:
    """Return the most tokens that one layer of each demand with rows counts: at least so many there were."""
    counted: dict[tuple[int, int], int] = {}
    for d, at, tokens in zip(demand, layer, count, strict=True):
        counted[d, at] = counted.get((d, at), 0) + tokens
    most: dict[int, int] = {}
    for (d, _), tokens in counted.items():
        most[d] = max(most.get(d, 1), tokens)
    return most


def _records(**columns: list[Any]) -> list[dict[str, Any]]:
    """Return the rows of columns as objects; what a row has not is not in its object."""
    return [
        {key: value for key, value in zip(columns, row, strict=True) if value is not None}
        for row in zip(*columns.values(), strict=True)
    ]


def _times(table: _Table, places: dict[str, int], servers: int) -> dict[tuple[str, str], list[int | None]]:
    table.known("server", places)
    found: dict[tuple[str, str], list[int | None]] = {}
    columns = table.text("user"), table.text("model"), table.text("server"), table.optional("ns")
    linked = set()
    for i, (user, model, server, ns) in enumerate(zip(*columns, strict=True)):
        if (user, model, server) in linked:
            raise table.wrong(i, "server", "a server that is there once for a user and a model", server)
        linked.add((user, model, server))
        found.setdefault((user, model), [None] * servers)[places[server]] = ns
    return found


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


class _Table:
    """A frame whose columns are known, and whose cells are read as what they must be."""

    def __init__(self, what: str, frame: pd.DataFrame, required: str, optional: str = "") -> None:
        self.what, self.frame = what, frame
        needed, known = required.split(), [*required.split(), *optional.split()]
        for column in needed:
            if column not in frame.columns:
                said = ", ".join(map(str, frame.columns)) or "none"
                raise InputError(f"{what}: the column {column!r} is missing; there are {said}")
        for column in frame.columns:
            if column not in known:
                raise InputError(f"{what}: unknown column {column!r}; it has {', '.join(known)}")
        if len(set(frame.columns)) < len(frame.columns):
            raise InputError(f"{what}: a column is there twice")

    def wrong(self, i: int, column: str, expected: str, found: object) -> InputError:
        place = f"{self.what}[{self.frame.index.tolist()[i]!r}].{column}"
        return InputError(f"expected {expected}, found {found!r}", place=place)

    def text(self, column: str) -> list[str]:
        values: list[str] = self.frame[column].tolist()
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise self.wrong(i, column, "text", value)
        return values

    def optional_text(self, column: str) -> list[str | None]:
        """Texts, None where there is none."""
        if column not in self.frame.columns:
            return [None] * len(self.frame)
        found: list[str | None] = []
        missing = self.frame[column].isna().tolist()
        for i, value in enumerate(self.frame[column].tolist()):
            if not missing[i] and not isinstance(value, str):
                raise self.wrong(i, column, "text", value)
            found.append(None if missing[i] else value)
        return found

    def optional(self, column: str) -> list[int | None]:
        """Whole numbers, None where there is none: a column of integers with gaps is one of floats in pandas."""
        if column not in self.frame.columns:
            return [None] * len(self.frame)
        values = self.frame[column]
        if values.dtype.kind in "iu" and not values.isna().any():
            return [int(value) for value in values.tolist()]
        found: list[int | None] = []
        for i, (value, missing) in enumerate(zip(values.tolist(), values.isna().tolist(), strict=True)):
            if missing:
                found.append(None)
            elif _whole(value) or (isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT):
                found.append(int(value))
            else:
                raise self.wrong(i, column, "an integer", value)
        return found

    def whole(self, column: str) -> list[int]:
        found = self.optional(column)
        for i, value in enumerate(found):
            if value is None:
                raise self.wrong(i, column, "an integer", self.frame[column].iloc[i])
        return found  # type: ignore[return-value]

    def lists(self, column: str) -> list[Any]:
        """Integers, or lists of them; None in a column that is not there and in a cell that is empty."""
        if column not in self.frame.columns:
            return [None] * len(self.frame)
        found: list[Any] = []
        for i, value in enumerate(self.frame[column].tolist()):
            if value is None or (isinstance(value, float) and value != value):
                found.append(None)
                continue
            cell = value.tolist() if isinstance(value, np.ndarray) else value
            entries = list(cell) if isinstance(cell, (list, tuple)) else [cell]
            if not all(map(_whole, entries)):
                raise self.wrong(i, column, "an integer or a list of integers", value)
            found.append([int(e) for e in entries] if isinstance(cell, (list, tuple)) else int(cell))
        return found

    def places(self) -> list[tuple[int, int] | None]:
        """Positions, None where a row has none."""
        if ("x_m" in self.frame.columns) != ("y_m" in self.frame.columns):
            raise InputError(f"{self.what}: x_m and y_m belong together")
        found: list[tuple[int, int] | None] = []
        for i, (x, y) in enumerate(zip(self.optional("x_m"), self.optional("y_m"), strict=True)):
            if (x is None) != (y is None):
                raise self.wrong(i, "x_m", "both x_m and y_m, or neither", x)
            found.append(None if x is None or y is None else (x, y))
        return found

    def known(self, column: str, names: Mapping[str, object]) -> None:
        """Refuse a cell that is none of these names."""
        for i, name in enumerate(self.text(column)):
            if name not in names:
                raise self.wrong(i, column, f"the name of a {column}", name)


def frames_of(document: Mapping[str, Any]) -> Frames:
    """Return an instance document as frames."""
    import pandas as pd

    demands, rows = document["demands"], document["activations"]
    who = [(demand["user"], demand["model"]) for demand in demands]
    links = [
        (*who[d], server["name"], ns)
        for d, demand in enumerate(demands)
        for server, ns in zip(document["servers"], demand["server_ns"], strict=True)
        if ns is not None
    ]
    held = [(*who[d], layer, e) for d, demand in enumerate(demands) for layer, e in demand.get("device_experts", ())]
    plain = ["user", "model", "tokens", "device_ns", "cloud_ns"]
    asking = pd.DataFrame([{key: d[key] for key in plain} for d in demands], columns=plain)
    if any(demand["cloud_ns"] is None for demand in demands):
        asking["cloud_ns"] = pd.array([demand["cloud_ns"] for demand in demands], dtype="Int64")
    loaded = [
        (server["name"], holding["model"], layer, expert)
        for server in document["servers"]
        for holding in server.get("holds", ())
        for layer, expert in holding["experts"]
    ]
    activations = {
        "user": [who[d][0] for d in rows["demand"]],
        "model": [who[d][1] for d in rows["demand"]],
        **{key: rows[key] for key in ("layer", "experts", "count")},
    }
    active = document.get("active")
    lost = [
        (model, layer, k, loss)
        for model, layers in ({} if active is None else active["loss"]).items()
        for layer, losses in enumerate(layers)
        for k, loss in enumerate(losses, start=1)
    ]
    return Frames(
        _models(document["models"]),
        _servers(document["servers"]),
        _placed(asking, demands),
        pd.DataFrame(links, columns=["user", "model", "server", "ns"]),
        pd.DataFrame(activations, columns=["user", "model", "layer", "experts", "count"]),
        pd.DataFrame(held, columns=["user", "model", "layer", "expert"]),
        pd.DataFrame(loaded, columns=["server", "model", "layer", "expert"]),
        document["loading"]["weight"] if "loading" in document else None,
        rows.get("ranked", False),
        None if active is None else pd.DataFrame(lost, columns=["model", "layer", "active_experts", "loss"]),
        None if active is None else active["budget"],
    )


def _servers(servers: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = _placed(pd.DataFrame(servers, columns=["name", "capacity_bytes"]), servers)
    if any("host" in server for server in servers):
        frame["host"] = pd.array([server.get("host") for server in servers], dtype=object)
    for column in ("load_bytes_per_s", "layer_slots"):
        if any(column in server for server in servers):
            frame[column] = pd.array([server.get(column) for server in servers], dtype="Int64")
    return frame


def _models(models: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = ["name", "layers", "experts", "top_k", "expert_bytes"]
    if any("layer_index" in model for model in models):
        columns.append("layer_index")
    return pd.DataFrame(models, columns=columns)


def _placed(frame: pd.DataFrame, entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Add positions, where there are any."""
    import pandas as pd

    if any("position_m" in entry for entry in entries):
        for axis, column in enumerate(("x_m", "y_m")):
            values = [entry["position_m"][axis] if "position_m" in entry else None for entry in entries]
            frame[column] = pd.array(values, dtype="Int64")  # a column of floats would lose digits
    return frame


def placement_frame(instance: Instance, placement: Placement) -> pd.DataFrame:
    """Return one row for each expert on each server: ``server``, ``model``, ``layer``, ``expert``, ``bytes``."""
    import pandas as pd

    server, item = np.nonzero(placement.cached)
    block = instance.item_block[item]
    return pd.DataFrame(
        {
            "server": [instance.servers[n].name for n in server.tolist()],
            "model": [instance.models[m].name for m in instance.block_model[block].tolist()],
            "layer": instance.block_layer[block].astype(np.int64),
            "expert": item - instance.block_start[block],
            "bytes": instance.item_bytes[item],
        }
    )


def breakdown(evaluation: Evaluation, by: Literal["demand", "server", "layer"]) -> pd.DataFrame:
    """Return a cost by who asked, by who serves, or by where in the model."""
    import pandas as pd

    instance, placement = evaluation.instance, evaluation.placement
    if by == "demand":
        return pd.DataFrame(
            {
                "user": [demand.user for demand in instance.demands],
                "model": [demand.model for demand in instance.demands],
                "tokens": instance.tokens,
                "latency_ns": evaluation.demand_ns,
                "mean_latency_ns": evaluation.demand_ns / instance.tokens,
            }
        )
    if by == "server":
        return pd.DataFrame(
            {
                "server": [server.name for server in instance.servers],
                "capacity_bytes": instance.capacity_bytes,
                "used_bytes": placement.bytes_used(instance),
                "experts": placement.cached.sum(axis=1),
                "saving_ns": evaluation.server_saving_ns,
            }
            | (
                {"host": [None if server.host is UNSET else server.host for server in instance.servers]}
                if any(server.host is not UNSET for server in instance.servers)
                else {}
            )
        )
    if by == "layer":
        return pd.DataFrame(
            {
                "model": [instance.models[m].name for m in instance.block_model.tolist()],
                "layer": instance.block_layer.astype(np.int64),
                "latency_ns": evaluation.block_ns,
            }
        )
    raise ValueError(f"by must be 'demand', 'server' or 'layer', found {by!r}")
