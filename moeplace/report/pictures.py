"""The pictures of a report, in matplotlib: one panel a set, one look a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moeplace.base import style
from moeplace.base.style import Look
from moeplace.report.statistics import (
    TARGET,
    Curve,
    Trial,
    distribution,
    gap_over_time,
    performance_profile,
    pooled,
    time_grid,
    time_to_target,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FLOOR = 1e-6
"""Gaps up to this are drawn at the foot of logarithmic axes."""
NO_BOUND = "no instance has a proven bound"
FLOOR_LABEL = "≤ 0.0001 %"
TICKS = (FLOOR, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1)
SPARSE_TICKS = (FLOOR, 1e-4, 1e-2, 1)
"""Ticks of axes of shares, upright and across, where the labels need more room."""
MOST_BANDS = 8
"""Quartiles are drawn for this many methods at most: the bands of more cover each other and the lines."""
BESIDE = 1.2
"""Factor from the smallest and the largest size to the ends of their axis."""

Looks = Mapping[str, Look]


def profiles(trials: Sequence[Trial], target: float = TARGET) -> dict[str, Curve]:
    """Return the performance profile of each method, on the time to come within ``target`` of the best known.

    A problem is an instance with a seed.
    """
    by_method: dict[str, dict[tuple[str, str], dict[int, float | None]]] = {}
    for trial in trials:
        problem = trial.problem.set_name, trial.problem.sha256
        by_method.setdefault(trial.method, {}).setdefault(problem, {})[trial.seed] = time_to_target(trial, target)
    problems = {
        (problem, seed): None for times in by_method.values() for problem, seeds in times.items() for seed in seeds
    }

    def time(method: str, problem: tuple[str, str], seed: int) -> float | None:
        seeds = by_method[method].get(problem, {})
        # A method that uses no seed is run once; that run stands for every seed.
        return next(iter(seeds.values())) if len(seeds) == 1 else seeds.get(seed)

    return performance_profile({m: [time(m, *problem) for problem in problems] for m in by_method})


def distributions(trials: Sequence[Trial]) -> dict[str, Curve]:
    """Return the distribution of the excess over the best known of each method; failed runs stay in the count."""
    return {m: distribution([t.excess for t in runs]) for m, runs in pooled(trials, lambda t: t.method).items()}


def curves_over_time(trials: Sequence[Trial]) -> dict[str, Curve]:
    """Return the gap over time of each method that has runs on instances with a bound."""
    grid = time_grid(trials)
    curves = {m: gap_over_time(runs, grid) for m, runs in pooled(trials, lambda t: t.method).items()}
    return {method: curve for method, curve in curves.items() if curve is not None}


def marks(
    curve: Curve, looks: Looks, method: str, first: float, last: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where a method's markers stand on its curve, a step function with a logarithmic axis across.

    Parameters
    ----------
    curve : Curve
    looks : mapping of method to Look
        The methods, in their order.
    method : str
    first, last : float
        Ends of the axis.

    Returns
    -------
    tuple of ndarray, shape [style.MARKS]
        Across and up; fewer where the curve begins later.
    """
    x = np.array(style.staggered(first, last, list(looks).index(method), len(looks)))
    x = x[x >= curve.x[0]]
    return x, curve.y[np.searchsorted(curve.x, x, side="right") - 1]


def beside(x: Sequence[float], looks: Looks, method: str, most: float, least: float) -> npt.NDArray[np.float64]:
    """Return places on a logarithmic axis, moved a little by method, so that equal points stand side by side.

    Parameters
    ----------
    x : sequence of float
    looks : mapping of method to Look
        The methods, in their order.
    method : str
    most, least : float
        Of all places; a method takes 1.2 % of what is between them, and all together a quarter at most.
    """
    place = (list(looks).index(method) + 0.5) / len(looks) - 0.5
    by = float(max(most / least, 2.0) ** (min(0.25, 0.012 * len(looks)) * place))
    return np.array([by * each for each in x])


def performance(trials: Sequence[Trial], looks: Looks, target: float = TARGET) -> Figure:
    """Draw the performance profiles."""

    def panel(axes: Axes, runs: Sequence[Trial]) -> None:
        curves = profiles(runs, target)
        last = 1.5 * max([2.0, *(float(curve.x[-1]) for curve in curves.values())])
        for method, curve in curves.items():
            _step(axes, curve, looks, method, 1.0, last)
        style.log_x(axes)
        axes.set_xlim(1, last)
        axes.set_ylim(-0.02, 1.03)
        axes.set_xlabel("time, as a multiple of the fastest method's")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")

    return _panels(trials, looks, panel, f"runs within {100 * target:g} % of the best known")


def quality(trials: Sequence[Trial], looks: Looks) -> Figure:
    """Draw the distributions of the excess over the best known."""

    def panel(axes: Axes, runs: Sequence[Trial]) -> None:
        curves = distributions(runs)
        last = 2 * max([0.1, *(float(curve.x[-1]) for curve in curves.values())])
        for method, curve in curves.items():
            _step(axes, Curve(np.maximum(curve.x, FLOOR), curve.y), looks, method, FLOOR, last)
        axes.set_xscale("log")
        axes.set_xlim(FLOOR, last)
        axes.set_ylim(-0.02, 1.03)
        _share_ticks(axes.xaxis, SPARSE_TICKS)
        axes.set_xlabel("excess over the best known cost")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")

    return _panels(trials, looks, panel, "runs with at most this excess")


def over_time(trials: Sequence[Trial], looks: Looks) -> Figure:
    """Draw median and quartiles of the gap against time."""

    def panel(axes: Axes, runs: Sequence[Trial]) -> None:
        curves = curves_over_time(runs)
        for method, curve in curves.items():
            assert curve.low is not None
            assert curve.high is not None
            if len(curves) <= MOST_BANDS:
                axes.fill_between(
                    curve.x, np.maximum(curve.low, FLOOR), np.maximum(curve.high, FLOOR), step="post",
                    color=looks[method].color, alpha=0.12, linewidth=0,
                )  # fmt: skip
            shown = Curve(curve.x, np.maximum(curve.y, FLOOR))
            _step(axes, shown, looks, method, float(curve.x[0]), float(curve.x[-1]))
        style.log_x(axes)
        axes.margins(x=0.01)
        _gap_axis(axes)
        axes.set_xlabel("seconds")
        if not curves:
            _nothing(axes, NO_BOUND)

    return _panels(trials, looks, panel, "gap to the best bound")


def over_size(trials: Sequence[Trial], looks: Looks) -> Figure:
    """Draw the gap of every instance and method (median over seeds) against the number of placement variables."""
    figure = style.new_figure(7.6, 4.6)
    axes = figure.subplots()
    shown = {method: points for method, points in sized_gaps(trials).items() if points}
    sizes = [x for points in shown.values() for _, x, _ in points]
    for method, points in shown.items():
        look = looks[method]
        axes.plot(
            beside([x for _, x, _ in points], looks, method, max(sizes), min(sizes)),
            [max(y, FLOOR) for _, _, y in points], linestyle="none", marker=style.MARKERS[look.marker],
            color=look.color, markerfacecolor="none", clip_on=False,
        )  # fmt: skip
    if sizes:
        style.log_x(axes)
        axes.set_xlim(min(sizes) / BESIDE, max(sizes) * BESIDE)
    else:
        _nothing(axes, NO_BOUND)
    _gap_axis(axes)
    axes.set_xlabel("placement variables (servers times experts); methods side by side")
    axes.set_ylabel("gap to the best bound")
    _legend(figure, [m for m in looks if m in shown], looks, lines=False)
    return figure


def sized_gaps(trials: Sequence[Trial]) -> dict[str, list[tuple[str, int, float]]]:
    """Return (instance, variables, median gap over seeds) of each method, where gap and size are known."""
    result: dict[str, list[tuple[str, int, float]]] = {}
    for method, runs in pooled(trials, lambda trial: trial.method).items():
        points = []
        for _, of_one in pooled(runs, lambda trial: f"{trial.problem.set_name}/{trial.problem.sha256}").items():
            problem = of_one[0].problem
            gaps = [trial.gap for trial in of_one if trial.gap is not None]
            if gaps and problem.variables:
                points.append((problem.name, problem.variables, float(np.median(gaps))))
        result[method] = points
    return result


def _panels(
    trials: Sequence[Trial], looks: Looks, draw: Callable[[Axes, Sequence[Trial]], None], y_label: str
) -> Figure:
    sets = pooled(trials, lambda trial: trial.problem.set_name)
    columns = min(len(sets), 3) or 1
    rows = -(-len(sets) // columns) or 1
    figure = style.new_figure(max(4.0 * columns, 6.0), 3.2 * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(sets) :]:
        axes.set_visible(False)
    for i, (axes, (name, runs)) in enumerate(zip(grid.flat, sets.items(), strict=False)):
        draw(axes, runs)
        axes.set_title(name)
        if i % columns == 0:
            axes.set_ylabel(y_label)
    used = {trial.method for trial in trials}
    _legend(figure, [method for method in looks if method in used], looks)
    return figure


def _step(axes: Axes, curve: Curve, looks: Looks, method: str, first: float, last: float) -> None:
    look = looks[method]
    axes.plot(
        [*curve.x, last], [*curve.y, curve.y[-1]], drawstyle="steps-post", color=look.color,
        linestyle=style.DASHES[look.dash],
    )  # fmt: skip
    x, y = marks(curve, looks, method, first, last)
    if len(x):  # a line of no points and without a clip takes up room in a corner
        axes.plot(x, y, linestyle="none", color=look.color, marker=style.MARKERS[look.marker], clip_on=False)


def _gap_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_ylim(FLOOR * 0.8, 1.3)
    _share_ticks(axes.yaxis, TICKS)


def _share_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: share_label(value))


def share_label(value: float) -> str:
    """Label a tick of a logarithmic axis of shares.

    Examples
    --------
    >>> [share_label(10.0**-i) for i in range(7)]
    ['100 %', '10 %', '1 %', '0.1 %', '0.01 %', '0.001 %', '≤ 0.0001 %']
    """
    return FLOOR_LABEL if value <= FLOOR else f"{100 * value:.10f}".rstrip("0").rstrip(".") + " %"


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=style.GREY)


def _legend(figure: Figure, methods: Sequence[str], looks: Looks, *, lines: bool = True) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=looks[method].color,
            linestyle=style.DASHES[looks[method].dash] if lines else "none",
            marker=style.MARKERS[looks[method].marker],
            markerfacecolor=looks[method].color if lines else "none",
        )
        for method in methods
    ]
    if handles:
        style.legend_below(figure, handles, methods)
