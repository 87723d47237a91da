"""Draw the picture of the first page: a map of the problem, and placements beside the proven bound.

    python scripts/draw_overview.py

Writes ``docs/images/overview.svg``. Everything in it is from the instance library: positions, the recorded bound,
and the placements of methods that run in a second.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import moeplace
from moeplace.base.files import write_bytes
from moeplace.library import best_known, instances_folder

SET, NAME = "small", "small_l04e08k2_s3_u50_c075_seed13"
TARGET = Path(__file__).resolve().parent.parent / "docs" / "images" / "overview.svg"
METHODS = ("no-cache", "random", "popular", "greedy", "successive-greedy", "local-search")
BLUE, ORANGE, GREY = "#006ba4", "#c85200", "#595959"
"""Told apart in print and by colour-blind readers."""


def main() -> None:
    """Draw and write the picture."""
    matplotlib.use("svg")
    plt.rcParams.update(
        {"svg.hashsalt": "moeplace", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    )
    instance = moeplace.load(instances_folder() / SET / f"{NAME}.json")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), width_ratios=(1.25, 1), layout="constrained")
    draw_map(left, instance)
    draw_latencies(right, instance)
    picture = io.BytesIO()
    figure.savefig(
        picture, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}, facecolor="white"
    )
    write_bytes(TARGET, picture.getvalue())
    print(f"{TARGET.name}: {len(picture.getvalue()) / 1000:.0f} kB")


def draw_map(axes: Axes, instance: moeplace.Instance) -> None:
    """Draw stations, users, and each user's line to the nearest station."""
    stations = np.array([server.position_m for server in instance.servers])
    users = np.array([demand.position_m for demand in instance.demands])
    for user, times in zip(users, instance.server_ns, strict=True):
        axes.plot(*zip(user, stations[times.argmin()], strict=True), color=GREY, linewidth=0.8, zorder=1)
    axes.scatter(*users.T, s=26, color=BLUE, edgecolor="white", zorder=2, label="user")
    axes.scatter(*stations.T, s=120, marker="^", color=ORANGE, edgecolor="black", zorder=3, label="base station")
    room = instance.capacity_bytes[0] // instance.item_bytes[0]
    axes.set_title(f"Room for {room} of {instance.n_items} experts each: which?", fontsize=9.5)
    axes.set(xlabel="m", ylabel="m", aspect="equal")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, handletextpad=0.2)
    axes.text(1.04, 0.72, "lines: to the\nnearest station", transform=axes.transAxes, color=GREY, va="top")


def draw_latencies(axes: Axes, instance: moeplace.Instance) -> None:
    """Draw the latency of some placements, and the proven bound."""
    tokens = int(instance.tokens.sum())
    cost = [moeplace.solve(instance, method).objective.latency_ns / tokens / 1e6 for method in METHODS]
    known = best_known(SET)[instance.name]
    assert known.bound_ns is not None
    bound = known.bound_ns / tokens / 1e6
    axes.barh(METHODS, cost, color=BLUE, height=0.6)
    for row, value in enumerate(cost):
        label = f"{value:.2f}"
        inside = value > 0.8 * max(cost)
        axes.text(value, row, f"{label} " if inside else f" {label}", va="center", ha="right" if inside else "left",
                  color="white" if inside else "black")  # fmt: skip
    axes.axvline(bound, color=ORANGE, linestyle="--", linewidth=1.5)
    axes.text(bound + 0.3, -0.75, f"no placement is below {bound:.2f} (proven)", color=ORANGE, va="center")
    axes.set(xlabel="latency per token, ms", xlim=(0, max(cost) * 1.15), ylim=(len(METHODS) - 0.5, -1.1))
    axes.set_title("What the users wait for experts", fontsize=9.5)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
