"""What a picture must show with many methods: each its own look, none hidden, the legend whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from run_directories import make_plan, planned, record, write_run

import moeplace
from moeplace.base import style
from moeplace.caching import pictures as of_instances
from moeplace.library import instance_files
from moeplace.report import pictures
from moeplace.report.collect import collect
from moeplace.report.page import _SHAPES
from moeplace.report.statistics import Curve, Trial

MANY = [f"module_{i}:method_with_a_long_name[kicks={i}]" for i in range(20)]


def test_looks_are_told_apart() -> None:
    looks = [style.Look.number(i) for i in range(480)]
    assert len({look.color for look in looks[:16]}) == 16  # no colour twice
    assert len({(look.color, look.marker) for look in looks[:80]}) == 80
    assert len({(look.color, look.marker, look.dash) for look in looks}) == 480
    assert len({color.lower() for color in style.PALETTE}) == len(style.PALETTE)
    assert len(style.MARKERS) == len(style.BOKEH_MARKERS) == len(_SHAPES)
    assert len(style.DASHES) == len(style.BOKEH_DASHES)


def test_colours_stand_out_on_white_and_on_black() -> None:
    for color in style.PALETTE:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) > 2, f"{color} vanishes on white"


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    """Return runs of many methods that all find the same at the same time."""
    plan = make_plan(MANY)
    found = []
    for path in instance_files("tiny")[:2]:
        instance = planned(path, moeplace.load(path))
        assert instance.best_known is not None
        best = instance.best_known.latency_ns
        found.append((instance, [record(instance, plan, m, latency_ns=2 * best, baseline_ns=4 * best) for m in MANY]))
    run = write_run(tmp_path / "run", plan, [i for i, _ in found], [r for _, rs in found for r in rs])
    return list(collect([run]).trials)


DRAWINGS = [pictures.performance, pictures.quality, pictures.over_time, pictures.over_size]


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_every_method_is_seen_and_named(draw: Any, trials: list[Trial]) -> None:
    looks = style.looks(MANY)
    with style.drawing():
        figure = draw(trials, looks)
        whole_legend(figure, MANY)
    for axes in figure.axes:
        places: dict[tuple[Any, Any], set[float]] = {}
        for line in axes.lines:
            if line.get_marker() not in ("None", "", None):
                places.setdefault((line.get_color(), line.get_marker()), set()).update(line.get_xdata())
        assert set(places) == {(look.color, style.MARKERS[look.marker]) for look in looks.values()}
        every = [x for found in places.values() for x in found]
        assert len(every) == len(set(every)), "markers stand on each other"
        low, high = axes.get_xlim()
        assert low <= min(every) < max(every) <= high
        bottom, top = axes.get_ylim()
        for line in axes.lines:
            assert np.all((line.get_ydata() >= bottom) & (line.get_ydata() <= top)), "a curve leaves the axes"


def whole_legend(figure: Any, names: list[str]) -> None:
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    box = legend.get_window_extent(renderer)
    assert box.x0 >= 0, "the legend is cut"
    assert box.x1 <= figure.bbox.x1, "the legend is cut"
    for axes in figure.axes:
        if axes.get_visible():
            assert axes.get_window_extent(renderer).y0 >= box.y1, "the legend hides a panel"
            assert axes.get_window_extent(renderer).height > 100, "the legend leaves no room"


def test_a_cut_legend_is_found() -> None:
    from matplotlib.lines import Line2D

    with style.drawing():
        figure = style.new_figure(6.0, 4.0)
        figure.subplots()
        figure.legend([Line2D([], [])] * 20, MANY, loc="outside lower center", ncols=4)
        with pytest.raises(AssertionError, match="legend"):
            whole_legend(figure, MANY)


def test_one_endless_name_widens_the_picture() -> None:
    from matplotlib.lines import Line2D

    with style.drawing():
        figure = style.new_figure(4.0, 3.0)
        figure.subplots()
        style.legend_below(figure, [Line2D([], [])], ["x" * 200])
        whole_legend(figure, ["x" * 200])


def test_marks_stand_on_the_curve() -> None:
    looks = style.looks(["a", "b", "c"])
    curve = Curve(np.array([2.0, 10.0, 100.0]), np.array([0.1, 0.5, 0.9]))
    for method in looks:
        x, y = pictures.marks(curve, looks, method, 1.0, 1000.0)
        assert (x >= 2).all()
        assert y.tolist() == [0.1 if at < 10 else 0.5 if at < 100 else 0.9 for at in x]


def test_pictures_of_one_instance_have_whole_legends() -> None:
    points = [
        of_instances.CapacityPoint(method=m, factor=s, share=s, saving=s / 2, at_most=s)
        for m in MANY
        for s in (0.1, 0.5)
    ]
    with style.drawing():
        names = [name for method in MANY for name in (method, f"bound of {method}")]
        whole_legend(of_instances.capacity_curve(points, "title"), names)
        searches = [
            of_instances.Progression(label=m, costs=[(0.1, 100), (1.0, 90)], bounds=[(0.5, 80)], ended_s=2.0)
            for m in MANY
        ]
        figure = of_instances.progress(searches, 10, "title")
        whole_legend(figure, [f"{m}: {kind}" for m in MANY for kind in ("placement", "bound")])
        marked = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "", None)]
        assert len(marked) == 2 * len(MANY)
        for at in (0, 1):  # placements, which coincide; bounds, which do
            places = [x for line in marked[at::2] for x in line.get_xdata()]
            assert len(places) == len(set(places)), "markers stand on each other"
