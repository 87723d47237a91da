"""Pictures of one instance, one placement or one search: what ``moeplace plot`` draws."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from moeplace.base import style
from moeplace.base.arrays import Int64
from moeplace.base.text import size, time_unit
from moeplace.caching.document import Model
from moeplace.caching.instance import Instance
from moeplace.caching.shown import reference
from moeplace.caching.view import PlacementView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moeplace.bench.records import Record

MOST_PANELS = 12
"""Stations or layers that a picture shows by themselves."""
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CapacityPoint:
    """What one method reaches with the capacities scaled by a factor.

    Attributes
    ----------
    method : str
    factor : float
        Every server's capacity is multiplied by it.
    share : float
        All capacity together, as a share of the bytes of all experts.
    saving : float
        ``(baseline - C) / baseline``.
    at_most : float or None
        The saving that no placement exceeds, by the method's own bound.
    """

    method: str
    factor: float
    share: float
    saving: float
    at_most: float | None


@dataclass(frozen=True)
class BudgetPoint:
    """What one way to choose reaches within a loss budget.

    Attributes
    ----------
    way : str
        A method, or several one after the other.
    budget : int
    cost : int
        Token-ns.
    bound : int or None
        That no placement with any choice within the budget costs less, token-ns.
    """

    way: str
    budget: int
    cost: int
    bound: int | None


@dataclass(frozen=True)
class Progression:
    """A search over time: (seconds, cost) and (seconds, bound), improvements only, token-ns.

    Attributes
    ----------
    label : str
    costs, bounds : list of (float, int)
    ended_s : float
        When the method ended.
    """

    label: str
    costs: list[tuple[float, int]]
    bounds: list[tuple[float, int]]
    ended_s: float


def search_of(record: Record, label: str) -> Progression:
    """Return what a run reported on its way and its checked end."""
    costs = [(t, ns) for t, ns, _ in record.trajectory if ns is not None]
    bounds = [(t, ns) for t, _, ns in record.trajectory if ns is not None]
    return Progression(label, falling(costs), rising(bounds), record.wall_s or 0.0)


def falling(steps: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return the steps that are lower than every one before.

    Examples
    --------
    >>> falling([(1.0, 5), (2.0, 7), (3.0, 4)])
    [(1.0, 5), (3.0, 4)]
    """
    result: list[tuple[float, int]] = []
    for seconds, value in steps:
        if not result or value < result[-1][1]:
            result.append((seconds, value))
    return result


def rising(steps: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return the steps that are higher than every one before."""
    return [(seconds, -value) for seconds, value in falling([(seconds, -value) for seconds, value in steps])]


def item_tokens(instance: Instance) -> Int64:
    """Return how many tokens used each expert, over all demands, int64 [I]."""
    result = np.zeros(instance.n_items, dtype=np.int64)
    np.add.at(result, instance.rows.item, np.repeat(instance.rows.count, np.diff(instance.rows.start)))
    return result


def block_tokens(instance: Instance) -> Int64:
    """Return how many tokens have an activation row in each block, int64 [B]."""
    rows = instance.rows
    result = np.zeros(instance.n_blocks, dtype=np.int64)
    np.add.at(result, instance.item_block[rows.item[rows.start[:-1]]], rows.count)
    return result


def pair_tokens(instance: Instance, block: int) -> Int64:
    """Return how many tokens used each pair of experts of a block, int64 [E, E]; the diagonal is each by itself."""
    rows = instance.rows
    chosen = np.flatnonzero(instance.item_block[rows.item[rows.start[:-1]]] == block)
    taken = rows.take(chosen)
    first, last = int(instance.block_start[block]), int(instance.block_start[block + 1])
    uses = sp.csr_array(
        (np.ones(len(taken.item), dtype=np.int64), taken.item - first, taken.start), shape=(len(taken), last - first)
    )
    weighted = uses.multiply(taken.count[:, None]).tocsr()
    result: Int64 = (uses.T @ weighted).toarray().astype(np.int64)
    return result


def lift(pairs: Int64, tokens: int) -> Float64:
    """Return ``P(i and j) / (P(i) P(j))`` of every pair of experts; NaN on the diagonal and for experts never used.

    Parameters
    ----------
    pairs : int64 array [E, E]
        As :func:`pair_tokens` gives it.
    tokens : int
        Tokens of the layer.

    Examples
    --------
    >>> lift(np.array([[2, 1, 0], [1, 2, 0], [0, 0, 0]]), 4).tolist()  # as often together as by chance
    [[nan, 1.0, nan], [1.0, nan, nan], [nan, nan, nan]]
    """
    alone = np.diagonal(pairs).astype(np.float64)
    expected = np.outer(alone, alone)
    result: Float64 = np.divide(pairs * float(tokens), expected, out=np.full(pairs.shape, np.nan), where=expected > 0)
    np.fill_diagonal(result, np.nan)
    return result


def placement_map(view: PlacementView, title: str) -> Figure:
    """Draw where stations and users are, what is cached where, and each user's latency before and after."""
    instance, layout = view.instance, view.layout
    n = len(instance.servers)
    panels = min(n, MOST_PANELS)
    columns = min(max(panels, 1), 4)
    rows = -(-panels // columns)
    figure = style.new_figure(9.6, 5.0 + 1.35 * rows)
    upper, lower = figure.subfigures(2, 1, height_ratios=[5.0, max(1.35 * rows, 0.01)])
    left, right = upper.subplots(1, 2, width_ratios=[1.25, 1.0])
    figure.suptitle(f" {title}", x=0.01, ha="left", fontsize=11, fontweight="bold")

    saved = np.divide(
        view.before_ns - view.after_ns, view.before_ns, out=np.zeros_like(view.before_ns), where=view.before_ns > 0
    )
    low, high = color_range(saved)
    dots = left.scatter(
        layout.user[:, 0], layout.user[:, 1], c=saved, cmap=f"{style.SEQUENTIAL}_r", vmin=low, vmax=high, s=34,
        edgecolors=style.INK, linewidths=0.4, zorder=2,
    )  # fmt: skip
    left.scatter(
        layout.station[:, 0], layout.station[:, 1], marker="s", s=90, facecolors="white", edgecolors=style.VERMILION,
        linewidths=1.8, zorder=3,
    )  # fmt: skip
    for server, (x, y) in zip(instance.servers, layout.station.tolist(), strict=True):
        left.annotate(
            server.name, (x, y), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8, fontweight="bold",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}, zorder=4,
        )  # fmt: skip
    left.set_aspect("equal", adjustable="datalim")
    left.margins(0.08)
    if layout.is_map:
        left.set_title("stations (squares) and users (dots)")
        left.set_xlabel("m")
        left.set_ylabel("m")
    else:
        style.quiet(left)
        left.set_title("no positions known: near means a short time")
        left.set_xticks([])
        left.set_yticks([])
    bar = figure.colorbar(dots, ax=left, orientation="horizontal", shrink=0.6, aspect=40, pad=0.02)
    bar.set_label("share of a user's latency that is saved")
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    bar.outline.set_visible(False)

    _before_and_after(right, view)
    if panels:
        _caches(lower, view, panels, rows, columns)
    return figure


def color_range(saved: Float64) -> tuple[float, float]:
    """Return the shares between which colours run, in whole tenths around the data.

    Examples
    --------
    >>> color_range(np.array([0.31, 0.58])), color_range(np.array([]))
    ((0.3, 0.6), (0.0, 1.0))
    """
    if not len(saved):
        return 0.0, 1.0
    low, high = math.floor(10 * float(saved.min())), math.ceil(10 * float(saved.max()))
    return low / 10, max(high, low + 1) / 10


def _before_and_after(axes: Axes, view: PlacementView) -> None:
    order = np.lexsort((-view.after_ns, -view.before_ns))
    before, after = view.before_ns[order] / 1e6, view.after_ns[order] / 1e6
    place = np.arange(1, len(order) + 1)
    axes.vlines(place, after, before, color="#9ca3af", linewidth=1.0)
    axes.plot(
        place, before, linestyle="none", marker="o", color=style.VERMILION, markerfacecolor="white",
        label=reference(view.instance),
    )  # fmt: skip
    axes.plot(place, after, linestyle="none", marker="s", markersize=4, color=style.BLUE, label="this placement")
    axes.set_ylim(0, 1.2 * float(before.max(initial=0.0)) or 1.0)
    axes.set_title("latency of each user")
    axes.set_ylabel("ms per token, mean over its tokens")
    axes.set_xlabel("users, slowest first")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.legend(loc="upper right", ncols=2)


def _caches(figure: Any, view: PlacementView, panels: int, rows: int, columns: int) -> None:
    instance = view.instance
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for n, axes in zip(range(panels), grid.flat, strict=False):
        axes.set_visible(True)
        style.quiet(axes)
        axes.imshow(
            _by_layer(instance, view.cached[n]), cmap="Greys", vmin=0, vmax=1.25, aspect="auto", interpolation="nearest"
        )
        axes.set_xticks([])
        axes.set_yticks([])
        capacity = instance.servers[n].capacity_bytes
        full = f"{math.floor(100 * view.used_bytes[n] / capacity)} % of " if capacity else ""
        name = instance.servers[n].name
        more = (
            f"; {len(instance.servers) - panels} more stations" if n == panels - 1 < len(instance.servers) - 1 else ""
        )
        axes.set_title(f"{name}: {full}{size(capacity)}{more}", fontsize=8)
    grid[rows - 1, 0].set_xlabel("experts", fontsize=8)
    grid[rows - 1, 0].set_ylabel("layers", fontsize=8)


def _by_layer(instance: Instance, cached: npt.NDArray[np.bool_]) -> Float64:
    """Return a station's cache as a picture: one line a layer, one column an expert; 0.12 is "not cached"."""
    width = int(np.diff(instance.block_start).max(initial=1))
    result = np.full((instance.n_blocks, width), np.nan)
    for block in range(instance.n_blocks):
        items = slice(int(instance.block_start[block]), int(instance.block_start[block + 1]))
        result[block, : items.stop - items.start] = np.where(cached[items], 1.0, 0.12)
    return result


def capacity_curve(points: Sequence[CapacityPoint], title: str, most: float | None = None) -> Figure:
    """Draw the saving of each method against the capacity.

    Parameters
    ----------
    points : sequence of CapacityPoint
    title : str
    most : float, optional
        The saving if every server held every expert.
    """
    figure = style.new_figure(6.6, 4.2)
    axes = figure.subplots()
    methods = list(dict.fromkeys(point.method for point in points))
    handles, labels = [], []
    widest = max((point.share for point in points), default=1.0)
    for i, method in enumerate(methods):
        look = style.Look.number(i)
        aside = widest * min(0.06, 0.008 * len(methods)) * ((i + 0.5) / len(methods) - 0.5)
        own = sorted((point for point in points if point.method == method), key=lambda point: point.share)
        (line,) = axes.plot(
            [point.share + aside for point in own], [point.saving for point in own], color=look.color,
            linestyle=style.DASHES[look.dash], marker=style.MARKERS[look.marker],
        )  # fmt: skip
        handles.append(line)
        labels.append(method)
        proven = [point for point in own if point.at_most is not None]
        if proven:
            (bound,) = axes.plot(
                [point.share + aside for point in proven], [point.at_most for point in proven], color=look.color,
                linestyle="none", marker="_", markersize=6, markeredgewidth=1.6,
            )  # fmt: skip
            handles.append(bound)
            labels.append(f"bound of {method}")
    if most is not None:
        handles.append(axes.axhline(most, color=style.GREY, linewidth=1.0, linestyle=(0, (1, 2))))
        labels.append("every server holds everything")
    axes.set_title(title)
    axes.set_xlabel("capacity of all servers together, as a share of all experts' bytes; methods side by side")
    axes.set_ylabel("latency saved")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    style.legend_below(figure, handles, labels, columns=3)
    return figure


def budget_curve(points: Sequence[BudgetPoint], tokens: int, title: str) -> Figure:
    """Draw what each way costs against the loss budget; bounds as dashes in its colour.

    Parameters
    ----------
    points : sequence of BudgetPoint
    tokens : int
        Costs are shown per token.
    title : str
    """
    figure = style.new_figure(6.6, 4.2)
    axes = figure.subplots()
    unit, unit_name = time_unit(max(point.cost for point in points) / tokens)
    scale = tokens * unit
    handles, labels = [], []
    for i, way in enumerate(dict.fromkeys(point.way for point in points)):
        look = style.Look.number(i)
        own = sorted((point for point in points if point.way == way), key=lambda point: point.budget)
        (line,) = axes.plot(
            [point.budget for point in own], [point.cost / scale for point in own], color=look.color,
            linestyle=style.DASHES[look.dash], marker=style.MARKERS[look.marker],
        )  # fmt: skip
        handles.append(line)
        labels.append(way)
        if proven := [(point.budget, point.bound / scale) for point in own if point.bound is not None]:
            (bound,) = axes.plot(
                *zip(*proven, strict=True), color=look.color, linestyle="none", marker="_", markersize=11,
                markeredgewidth=1.6,
            )  # fmt: skip
            handles.append(bound)
            labels.append(f"bound of {way}")
    axes.set_title(title)
    axes.set_xlabel("loss budget")
    axes.set_ylabel(f"latency, {unit_name} per token")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    axes.set_xlim(left=0)
    style.legend_below(figure, handles, labels, columns=3)
    return figure


def active_layers(models: Sequence[Model], choices: Sequence[tuple[str, Sequence[int]]], title: str) -> Figure:
    """Draw how many experts each layer uses, a line for each choice and a panel for each model.

    Parameters
    ----------
    models : sequence of Model
    choices : sequence of (str, sequence of int [B])
        What to write beside a line, and the numbers of active experts, model by model.
    title : str
    """
    most, lines = max(model.top_k for model in models), len(choices)
    # As wide as layers, what stands beside the lines, and the title need; letters are about 0.08 inches wide.
    beside = 0.08 * max(len(label) for label, _ in choices)
    width = max(1.4 + beside + 0.2 * max(model.layers for model in models), 0.085 * len(title) + 0.2)
    figure = style.new_figure(width, len(models) * (0.75 + 0.24 * lines) + 0.5)
    panels = figure.subplots(len(models), 1, squeeze=False)[:, 0]
    table = np.array([active for _, active in choices], dtype=np.int64)
    image, first = None, 0
    for model, axes in zip(models, panels, strict=True):
        own, first = table[:, first : first + model.layers], first + model.layers
        image = axes.imshow(
            own, aspect="auto", cmap=style.SEQUENTIAL, vmin=0.5, vmax=most + 0.5, interpolation="nearest"
        )
        style.quiet(axes)
        for (line, layer), k in np.ndenumerate(own):
            colour = "white" if k <= (most + 1) / 2 else style.INK
            axes.text(layer, line, str(k), ha="center", va="center", fontsize=7, color=colour)
        axes.set_yticks(range(lines), [f" {label}" for label, _ in choices])
        axes.set_xticks(range(0, model.layers, max(1, -(-model.layers // 12))))
        axes.set_xlabel("layer" if len(models) == 1 else f"layer of {model.name}")
    figure.suptitle(f" {title}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    bar = figure.colorbar(image, ax=list(panels), ticks=list(range(1, most + 1, max(1, most // 8))))
    bar.set_label("active experts")
    bar.outline.set_visible(False)
    return figure


def coactivation(instance: Instance, blocks: Sequence[int], title: str) -> Figure:
    """Draw for each chosen block how much more often than by chance two experts are used by the same token."""
    columns = min(len(blocks), 4)
    rows = -(-len(blocks) // columns)
    figure = style.new_figure(max(2.3 * columns, 4.4), 2.45 * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(blocks) :]:
        axes.set_visible(False)
    tokens = block_tokens(instance)
    image = None
    for block, axes in zip(blocks, grid.flat, strict=False):
        pairs = pair_tokens(instance, block)
        order = np.argsort(-np.diagonal(pairs), kind="stable")
        ratios = lift(pairs, int(tokens[block]))[np.ix_(order, order)]
        shown = np.log2(np.maximum(ratios, 2.0**-9))  # never together is the darkest; NaN stays
        image = axes.imshow(shown, cmap=style.SEQUENTIAL, vmin=-2, vmax=2, interpolation="nearest")
        style.quiet(axes)
        axes.set_facecolor("#d0d3d8")
        axes.set_xticks([])
        axes.set_yticks([])
        several = len(instance.models) > 1
        name = f"{instance.models[int(instance.block_model[block])].name}, " if several else ""
        axes.set_title(f"{name}layer {int(instance.block_layer[block])}", fontsize=9)
    grid[rows - 1, 0].set_xlabel("experts, most used first", fontsize=8)
    grid[0, 0].set_ylabel("experts, most used first", fontsize=8)
    figure.suptitle(f" {title}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    bar = figure.colorbar(image, ax=grid, orientation="horizontal", shrink=0.7, aspect=40, extend="both", pad=0.03)
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "as by chance", "2 times", "4 times"])
    bar.set_label(
        "tokens that use both, as a multiple of what independence says\n"
        "light grey: an expert and itself, or one that is never used"
    )
    bar.outline.set_visible(False)
    return figure


def popularity(instance: Instance, title: str) -> Figure:
    """Draw for each model the share of a layer's tokens that use its most used expert, its second, and so on."""
    used = [m for m in range(len(instance.models)) if block_tokens(instance)[_blocks(instance, m)].any()]
    figure = style.new_figure(max(5.6 * min(len(used), 2), 5.6), 3.9 * -(-len(used) // 2))
    grid = figure.subplots(-(-len(used) // 2), min(len(used), 2), squeeze=False)
    for axes in grid.flat[len(used) :]:
        axes.set_visible(False)
    tokens, uses = block_tokens(instance), item_tokens(instance)
    for m, axes in zip(used, grid.flat, strict=False):
        model = instance.models[m]
        shares = np.array(
            [
                np.sort(uses[instance.block_start[block] : instance.block_start[block + 1]])[::-1] / tokens[block]
                for block in _blocks(instance, m).tolist()
                if tokens[block]
            ]
        )
        rank = np.arange(1, model.experts + 1)
        axes.plot(rank, shares.T, color="#b8c4d0", linewidth=0.8)
        axes.plot(rank, np.median(shares, axis=0), color=style.BLUE, marker="o", markersize=3.5)
        mean = float(shares.sum(axis=1).mean()) / model.experts
        axes.axhline(mean, color=style.VERMILION, linestyle=(0, (4, 2)), linewidth=1.2)
        axes.annotate(
            "all experts alike", (1, mean), xycoords=("axes fraction", "data"), xytext=(-2, 3),
            textcoords="offset points", ha="right", fontsize=8, color=style.VERMILION,
        )  # fmt: skip
        axes.set_title(f"{model.name}: {len(shares)} layers (grey), their median (blue)")
        axes.set_xlabel("experts of a layer, most used first")
        axes.set_ylabel("tokens that use the expert")
        axes.set_xlim(0.5, model.experts + 0.5)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    figure.suptitle(f" {title}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _blocks(instance: Instance, model: int) -> npt.NDArray[np.intp]:
    return np.flatnonzero(instance.block_model == model)


def progress(searches: Sequence[Progression], tokens: int, title: str, best: Mapping[str, int] | None = None) -> Figure:
    """Draw cost and bound of some searches over time.

    Parameters
    ----------
    searches : sequence of Progression
    tokens : int
        Costs are shown per token.
    title : str
    best : mapping of str to int, optional
        Costs drawn as horizontal lines, by their label.
    """
    from matplotlib.lines import Line2D

    figure = style.new_figure(6.6, 4.3)
    axes = figure.subplots()
    values = [ns for search in searches for _, ns in (*search.costs, *search.bounds)] + list((best or {}).values())
    unit, unit_name = time_unit(max([*values, 0]) / tokens)
    scale = tokens * unit
    begin = min([t for s in searches for t, _ in (*s.costs, *s.bounds) if t > 0], default=0.01)
    begin = max(min(begin, 0.1), 1e-3)
    handles, labels = [], []
    for i, search in enumerate(searches):
        look = style.Look.number(i)
        for kind, steps, dash in (("placement", search.costs, "solid"), ("bound", search.bounds, (0, (4, 2)))):
            if not steps:
                continue
            x = [max(t, begin) for t, _ in steps] + [max(search.ended_s, begin)]
            y = [ns / scale for _, ns in steps] + [steps[-1][1] / scale]
            axes.plot(x, y, drawstyle="steps-post", color=look.color, linestyle=dash)
            marks = style.staggered(x[0], x[-1], i, len(searches))
            face = "white" if kind == "placement" else look.color
            axes.plot(
                marks, [y[bisect_right(x, at) - 1] for at in marks], linestyle="none", color=look.color,
                marker=style.MARKERS[look.marker], markerfacecolor=face,
            )  # fmt: skip
            handles.append(
                Line2D(
                    [], [], color=look.color, linestyle=dash, marker=style.MARKERS[look.marker], markerfacecolor=face
                )
            )
            labels.append(f"{search.label}: {kind}")
    for label, cost in (best or {}).items():
        handles.append(axes.axhline(cost / scale, color=style.GREY, linewidth=1.0, linestyle=(0, (1, 2))))
        labels.append(label)
    style.log_x(axes)
    axes.set_title(title)
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"latency, {unit_name} per token")
    style.legend_below(figure, handles, labels, columns=2)
    return figure
