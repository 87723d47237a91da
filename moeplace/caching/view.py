"""One placement as a picture needs it: where stations and users are, what is cached, latency before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from moeplace.base.arrays import Bool, Int64
from moeplace.base.documents import UNREACHABLE
from moeplace.caching.evaluation import Evaluation
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.shown import reference

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where stations and users are drawn.

    Attributes
    ----------
    is_map : bool
        Whether these are the instance's own positions; else near means a short time.
    unit : str
        "m" on a map, "ms" in a layout by times.
    station : float array [N, 2]
    users : tuple of str
        Names, in order of first appearance.
    user : float array [U, 2]
    """

    is_map: bool
    unit: str
    station: Float64
    users: tuple[str, ...]
    user: Float64


def layout(instance: Instance) -> Layout:
    """Return the instance's positions, or a layout by its times where any position is missing.

    Without positions, stations are laid out by classical scaling (Torgerson 1952) of how differently users reach them,
    and every user at the mean of the stations, those that are near in time weighted most. That is no map.
    """
    first: dict[str, int] = {}
    for d, demand in enumerate(instance.demands):
        first.setdefault(demand.user, d)
    stations = [server.position_m for server in instance.servers]
    people = [instance.demands[d].position_m for d in first.values()]
    if UNSET not in stations and UNSET not in people:
        station, user = (np.array(points, dtype=np.float64).reshape(-1, 2) for points in (stations, people))
        return Layout(True, "m", station, tuple(first), user)
    chosen = np.array(list(first.values()), dtype=np.intp)
    station, user = _by_times(instance.server_ns[chosen], instance.cloud_ns[chosen])
    return Layout(False, "ms", station, tuple(first), user)


def _by_times(server_ns: Int64, cloud_ns: Int64) -> tuple[Float64, Float64]:
    n_users, n = server_ns.shape
    reachable = server_ns != UNREACHABLE
    # A station that cannot be reached is as far as the cloud is, for this purpose.
    ms = np.where(reachable, server_ns, cloud_ns[:, None]) / 1e6
    apart = np.abs(ms[:, :, None] - ms[:, None, :]).mean(axis=0) if n_users else np.zeros((n, n))
    station = _classical_scaling(apart)
    distance = np.linalg.norm(station[:, None] - station[None, :], axis=2)
    radius = float(distance.max(initial=0.0)) / 2 or 1.0
    if n > 1 and (distance + np.eye(n) * radius).min() < 0.05 * radius:
        angle = 2 * np.pi * np.arange(n) / n  # some would lie on top of each other
        station = radius * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    # What counts is how much farther than the nearest a station is, on the scale of the stations' differences.
    scale = 0.25 * float(apart.sum()) / max(n * (n - 1), 1) or 1.0
    farther = ms - np.where(reachable, ms, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    weight = np.where(reachable, (np.maximum(farther, 0.0) + scale) ** -2.0, 0.0)
    total = weight.sum(axis=1, keepdims=True)
    user = np.divide(weight @ station, total, out=np.zeros((n_users, 2)), where=total > 0)
    # Users with equal times would hide each other: a sunflower's spiral keeps them apart.
    turn = np.arange(n_users) * np.pi * (3 - np.sqrt(5))
    spread = 0.15 * radius * np.sqrt((np.arange(n_users) + 0.5) / max(n_users, 1))
    user += spread[:, None] * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    user[total[:, 0] == 0, 1] -= 1.6 * radius  # who reaches no station stands apart
    return station, user


def _classical_scaling(apart: Float64) -> Float64:
    n = len(apart)
    if n == 0:
        return np.zeros((0, 2))
    centring = np.eye(n) - 1 / n
    value, vector = np.linalg.eigh(-0.5 * centring @ apart**2 @ centring)
    order = np.argsort(value)[::-1][:2]
    vector = vector[:, order] * np.sqrt(np.maximum(value[order], 0.0))
    # Eigenvectors have no sign of their own: the largest entry is made positive.
    sign = np.sign(vector[np.abs(vector).argmax(axis=0), np.arange(vector.shape[1])])
    result = np.zeros((n, 2))
    result[:, : vector.shape[1]] = vector * np.where(sign == 0, 1.0, sign)
    return result


@dataclass(frozen=True, eq=False)
class PlacementView:
    """What a picture of a placement shows.

    Attributes
    ----------
    instance : Instance
    layout : Layout
    cached : bool array [N, I]
    used_bytes : list of int
        Of each server.
    saving_ns : list of int
        What each server's cache saves given the others, token-ns.
    before_ns, after_ns : float array [U]
        Mean latency per token of each user of the layout with empty servers and with the placement.
    latency_ns : int
    """

    instance: Instance
    layout: Layout
    cached: Bool
    used_bytes: list[int]
    saving_ns: list[int]
    before_ns: Float64
    after_ns: Float64
    latency_ns: int

    @classmethod
    def of(cls, instance: Instance, placement: Placement) -> PlacementView:
        """Return the view of a placement."""
        return ViewsOf(instance).view(placement)

    def document(self) -> dict[str, Any]:
        """Return the part that differs between placements of one instance, as JSON for the page."""
        return {
            "used_bytes": self.used_bytes,
            "saving_ns": self.saving_ns,
            "after_ns": np.round(self.after_ns).astype(np.int64).tolist(),
            "latency_ns": self.latency_ns,
            "cached": [
                [np.packbits(row[self.instance.model_items(m)]).tobytes().hex() for row in self.cached]
                for m in range(len(self.instance.models))
            ],
        }


class ViewsOf:
    """Views of placements of one instance; what they share is computed once.

    Parameters
    ----------
    instance : Instance
    """

    def __init__(self, instance: Instance) -> None:
        self.instance, self.layout = instance, layout(instance)
        self.before_ns = self._per_user(Evaluation(instance, Placement.empty(instance)))

    def view(self, placement: Placement) -> PlacementView:
        """Return the view of a placement that fits."""
        evaluation = Evaluation(self.instance, placement)
        return PlacementView(
            instance=self.instance,
            layout=self.layout,
            cached=placement.cached,
            used_bytes=[int(used) for used in placement.bytes_used(self.instance)],
            saving_ns=evaluation.server_saving_ns.tolist(),
            before_ns=self.before_ns,
            after_ns=self._per_user(evaluation),
            latency_ns=evaluation.latency_ns,
        )

    def document(self) -> dict[str, Any]:
        """Return what all placements of the instance share, as JSON for the page."""
        instance, layout = self.instance, self.layout
        tokens = dict.fromkeys(layout.users, 0)
        for demand in instance.demands:
            tokens[demand.user] += demand.tokens
        return {
            "name": instance.name,
            "is_map": layout.is_map,
            "stations": {
                "name": [server.name for server in instance.servers],
                "x": _rounded(layout.station[:, 0]),
                "y": _rounded(layout.station[:, 1]),
                "capacity_bytes": [server.capacity_bytes for server in instance.servers],
            },
            "users": {
                "name": list(layout.users),
                "x": _rounded(layout.user[:, 0]),
                "y": _rounded(layout.user[:, 1]),
                "tokens": list(tokens.values()),
                "before_ns": np.round(self.before_ns).astype(np.int64).tolist(),
            },
            "models": [{"name": m.name, "layers": m.layers, "experts": m.experts} for m in instance.models],
            "tokens": sum(tokens.values()),
            "baseline_ns": instance.baseline_ns,
            "reference": reference(instance),
        }

    def _per_user(self, evaluation: Evaluation) -> Float64:
        latency = evaluation.user_latency_ns
        return np.array([latency[user] for user in self.layout.users], dtype=np.float64)


def _rounded(values: Float64) -> list[float]:
    return [round(value, 3) for value in values.tolist()]
