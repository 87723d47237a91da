"""Pictures of active experts: the front with the heuristics, and the numbers of experts along it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from moeplace.active.comparison import Compared
from moeplace.active.cost import everything, summed
from moeplace.base.style import INK, SEQUENTIAL, drawing, legend_below, looks, new_figure, quiet
from moeplace.base.text import time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS: Final = 60
"""Points of the front whose numbers of experts are drawn, evenly by loss."""

HEURISTICS: Final = {"greedy": "steepest steps", "schedule": "schedules with one bend", "uniform": "one number for all"}


def front_picture(compared: Compared, title: str) -> Figure:
    """Draw time against loss, the heuristics' points in it, and below how many experts each layer has there."""
    with drawing():
        figure = new_figure(7.2, 6.4)
        above, below = figure.subplots(2, 1, height_ratios=(3, 2))
        handles, labels = _draw_front(above, compared)
        above.set_title(title)
        legend_below(figure, handles, labels)
        _draw_layers(below, compared, figure)
        return figure


def _draw_front(axes: Axes, compared: Compared) -> tuple[list[Any], list[str]]:
    instance, found = compared.instance, compared.front
    unit, name = time_unit(max(1, summed(instance.time_ns, everything(instance))))
    look = looks(["front", *HEURISTICS])
    (line,) = axes.step(found.loss, found.time_ns / unit, where="post", color=INK, linewidth=1.2)
    handles, labels = [line], [f"exact front, {len(found):,} points"]
    high = int(found.loss[-1])
    for family, text in HEURISTICS.items():
        points = compared.families[family]
        # What loses more than the fastest choice is of no use, and would only make the rest small.
        seen = points.loss <= high + (high - int(found.loss[0])) // 20
        handles.append(
            axes.scatter(
                points.loss[seen], points.time_ns[seen] / unit, s=16 if family == "uniform" else 7, zorder=3,
                color=look[family].color, marker=("o", "s", "^", "D")[look[family].marker % 4],
            )
        )  # fmt: skip
        labels.append(text)
    if instance.minimises == "time_ns":
        handles.append(axes.axvline(instance.budget, color=INK, linestyle=(0, (3, 2)), linewidth=0.9))
    else:
        handles.append(axes.axhline(instance.budget / unit, color=INK, linestyle=(0, (3, 2)), linewidth=0.9))
    labels.append("budget")
    axes.set_xlabel("loss")
    axes.set_ylabel(f"time of the layers, {name} a step")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    axes.set_ylim(bottom=0)
    return handles, labels


def _draw_layers(axes: Axes, compared: Compared, figure: Figure) -> None:
    found, instance = compared.front, compared.instance
    wanted = np.linspace(int(found.loss[0]), int(found.loss[-1]), ROWS)
    at = np.searchsorted(found.loss, wanted.astype(np.int64), side="right") - 1
    active = found.active(at)
    image = axes.imshow(
        active.T, aspect="auto", origin="lower", cmap=SEQUENTIAL, vmin=0.5, vmax=instance.top_k + 0.5,
        interpolation="nearest", extent=(float(wanted[0]), float(max(wanted[-1], wanted[0] + 1)), -0.5,
        instance.layers - 0.5),
    )  # fmt: skip
    quiet(axes)
    axes.set_xlabel("loss of the front's point")
    axes.set_ylabel("layer")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    step = max(1, instance.top_k // 8)
    bar = figure.colorbar(image, ax=axes, ticks=list(range(1, instance.top_k + 1, step)))
    bar.set_label("active experts")
