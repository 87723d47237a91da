"""The interactive charts of the page, in Bokeh: the data of the pictures, with names under the pointer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    CustomJSTickFormatter,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
    TapTool,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from moeplace.base import style
from moeplace.report import pictures
from moeplace.report.pictures import FLOOR, Looks
from moeplace.report.statistics import TARGET, Curve, Trial

HEIGHT = 320


class Charts:
    """The charts of one page; each method's glyphs have a name, so that the page can hide them.

    Parameters
    ----------
    looks : mapping of method to Look

    Attributes
    ----------
    figures : dict
        Bokeh figures by the name of the place they go to.
    glyphs : dict of method to list of str
        Names of the renderers of each method.
    """

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self.figures: dict[str, Any] = {}
        self.glyphs: dict[str, list[str]] = {method: [] for method in looks}

    def performance(self, place: str, trials: Sequence[Trial], target: float = TARGET) -> None:
        """Add the performance profiles of some runs."""
        curves = pictures.profiles(trials, target)
        last = 1.5 * max([2.0, *(float(curve.x[-1]) for curve in curves.values())])
        plot = self._figure(place, "time, as a multiple of the fastest method's", "share of runs", x_log=True)
        plot.x_range.start, plot.x_range.end = 1, last
        self._shares_of_runs(plot, curves, last, "@x{0.0}x", f"within {100 * target:g} %")

    def quality(self, place: str, trials: Sequence[Trial]) -> None:
        """Add the distributions of the excess."""
        found = pictures.distributions(trials)
        curves = {m: Curve(np.maximum(c.x, FLOOR), c.y, count=c.count) for m, c in found.items()}
        last = 2 * max([0.1, *(float(curve.x[-1]) for curve in curves.values())])
        plot = self._figure(place, "excess over the best known cost", "share of runs", x_log=True)
        plot.x_range.start, plot.x_range.end = FLOOR, last
        _share_axis(plot.xaxis[0], pictures.SPARSE_TICKS)
        self._shares_of_runs(plot, curves, last, "@x{0.0000 %}", "at most")

    def over_time(self, place: str, trials: Sequence[Trial]) -> None:
        """Add median and quartiles of the gap against time."""
        plot = self._figure(place, "seconds", "gap to the best bound", x_log=True, y_log=True)
        _gap_axis(plot)
        curves = pictures.curves_over_time(trials)
        if not curves:
            _say_no_bound(plot)
        for method, curve in curves.items():
            assert curve.low is not None
            assert curve.high is not None
            source = ColumnDataSource(
                {
                    "x": curve.x,
                    "y": np.maximum(curve.y, FLOOR),
                    "low": np.maximum(curve.low, FLOOR),
                    "high": np.maximum(curve.high, FLOOR),
                    "exact": curve.y,
                    "method": [method] * len(curve.x),
                    "count": [curve.count] * len(curve.x),
                }
            )
            color = self._looks[method].color
            if len(curves) <= pictures.MOST_BANDS:
                self._named(
                    method,
                    plot.varea_step("x", "low", "high", source=source, step_mode="after", color=color, fill_alpha=0.1),
                )
            line = self._line(plot, method, source)
            shown = Curve(curve.x, np.maximum(curve.y, FLOOR))
            self._points(plot, method, shown, float(curve.x[0]), float(curve.x[-1]))
            _hover(plot, line, [("", "@method"), ("median gap", "@exact{0.0000 %}"), ("seconds", "@x{0.00}")])

    def over_size(self, place: str, trials: Sequence[Trial]) -> None:
        """Add the gap of every instance and method against the number of placement variables."""
        plot = self._figure(
            place, "placement variables (servers times experts); methods side by side", "gap", x_log=True, y_log=True
        )
        _gap_axis(plot)
        gaps = pictures.sized_gaps(trials)
        if not any(gaps.values()):
            _say_no_bound(plot)
        sizes = [x for points in gaps.values() for _, x, _ in points]
        if sizes:
            plot.x_range.start, plot.x_range.end = min(sizes) / pictures.BESIDE, max(sizes) * pictures.BESIDE
        for method, points in gaps.items():
            if not points:
                continue
            look = self._looks[method]
            source = ColumnDataSource(
                {
                    "instance": [name for name, _, _ in points],
                    "x": pictures.beside([x for _, x, _ in points], self._looks, method, max(sizes), min(sizes)),
                    "size": [x for _, x, _ in points],
                    "y": [max(y, FLOOR) for _, _, y in points],
                    "exact": [y for _, _, y in points],
                    "method": [method] * len(points),
                }
            )
            marks = plot.scatter(
                "x",
                "y",
                source=source,
                marker=style.BOKEH_MARKERS[look.marker],
                size=8,
                line_color=look.color,
                fill_color=look.color,
                fill_alpha=0.25,
                line_width=1.3,
            )
            self._named(method, marks)
            _hover(
                plot,
                marks,
                [("", "@method"), ("", "@instance"), ("gap", "@exact{0.0000 %}"), ("variables", "@size{0,0}")],
            )

    def placement(self, map_place: str, cache_place: str, users_place: str) -> None:
        """Add the three charts of the placement view; the page fills their sources."""
        colors = LinearColorMapper(palette=Cividis256[::-1], low=0, high=1, name="view-colors")
        users = ColumnDataSource(
            {k: [] for k in ("name", "x", "y", "rank", "before", "after", "saved")}, name="view-users"
        )
        stations = ColumnDataSource(
            {k: [] for k in ("name", "x", "y", "share", "used", "capacity", "saves", "line")}, name="view-stations"
        )
        plot = _plain_figure(HEIGHT + 100, match_aspect=True, name="view-map")
        plot.xaxis.axis_label = plot.yaxis.axis_label = "m"
        plot.xaxis.formatter = plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
        dots = plot.scatter(
            "x", "y", source=users, size=9, fill_color={"field": "saved", "transform": colors}, line_color="white"
        )
        boxes = plot.scatter(
            "x", "y", source=stations, marker="square", size=17, fill_color="white", line_color="line", line_width=2.5
        )
        for renderer in (boxes.nonselection_glyph, boxes.selection_glyph):
            if renderer is not None and not isinstance(renderer, str):
                renderer.update(fill_alpha=1.0, line_alpha=1.0)
        plot.text(
            "x", "y", text="name", source=stations, y_offset=-12, text_align="center", text_font_size="11px",
            text_font_style="bold", text_color=style.INK, background_fill_color="white", background_fill_alpha=0.7,
        )  # fmt: skip
        plot.add_tools(TapTool(renderers=[boxes]))
        _hover(
            plot,
            dots,
            [
                ("user", "@name"),
                ("before", "@before{0.000} ms"),
                ("after", "@after{0.000} ms"),
                ("saved", "@saved{0.0 %}"),
            ],
        )
        _hover(
            plot, boxes, [("station", "@name"), ("used", "@used of @capacity"), ("saves per token", "@saves{0.000} ms")]
        )
        bar = ColorBar(
            color_mapper=colors, title="latency saved", width=10, formatter=NumeralTickFormatter(format="0 %"),
            ticker=BasicTicker(desired_num_ticks=5), title_text_font_size="11px", title_text_font_style="normal",
        )  # fmt: skip
        plot.add_layout(bar, "right")
        self.figures[map_place] = plot

        cells = ColumnDataSource({k: [] for k in ("expert", "layer", "copies", "where", "color")}, name="view-cells")
        cache = _plain_figure(HEIGHT, name="view-cache", x_range=Range1d(0, 1), y_range=Range1d(1, 0))
        cache.xaxis.axis_label, cache.yaxis.axis_label = "expert", "layer"
        cache.grid.grid_line_color = None
        cache.xaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
        cache.yaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
        squares = cache.rect(
            "expert", "layer", 1, 1, source=cells, fill_color="color", line_color="white", line_width=0.5
        )
        _hover(cache, squares, [("layer", "@layer"), ("expert", "@expert"), ("cached on", "@where")])
        self.figures[cache_place] = cache

        latency = _plain_figure(HEIGHT, name="view-latency")
        latency.xaxis.axis_label = "users, slowest first"
        latency.yaxis.axis_label = "ms per token"
        latency.xaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
        latency.y_range = Range1d(0, 1)
        latency.segment("rank", "before", "rank", "after", source=users, line_color="#9ca3af", line_width=1.5)
        latency.scatter(
            "rank", "before", source=users, size=7, marker="circle", fill_color="white", line_color=style.VERMILION,
            line_width=1.6, legend_label="empty servers",
        )  # fmt: skip
        after = latency.scatter(
            "rank", "after", source=users, size=7, marker="square", fill_color=style.BLUE, line_color=style.BLUE,
            legend_label="this placement",
        )  # fmt: skip
        _hover(latency, after, [("user", "@name"), ("before", "@before{0.000} ms"), ("after", "@after{0.000} ms")])
        latency.legend.orientation = "horizontal"
        latency.legend.location = "top_right"
        latency.legend.border_line_color = None
        latency.legend.background_fill_alpha = 0.7
        latency.legend.label_text_font_size = "11px"
        self.figures[users_place] = latency

    def _figure(self, place: str, x: str, y: str, *, x_log: bool = False, y_log: bool = False) -> Any:
        plot = _plain_figure(HEIGHT, x_axis_type="log" if x_log else "linear", y_axis_type="log" if y_log else "linear")
        plot.xaxis.axis_label, plot.yaxis.axis_label = x, y
        if x_log:
            plot.xaxis.formatter = CustomJSTickFormatter(
                code="return tick.toLocaleString('en', {maximumFractionDigits: 6})"
            )
        self.figures[place] = plot
        return plot

    def _shares_of_runs(self, plot: Any, curves: Mapping[str, Curve], last: float, x_text: str, x_name: str) -> None:
        plot.y_range.start, plot.y_range.end = -0.02, 1.03
        plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
        for method, curve in curves.items():
            x, y = np.append(curve.x, last), np.append(curve.y, curve.y[-1])
            source = ColumnDataSource({"x": x, "y": y, "method": [method] * len(x)})
            line = self._line(plot, method, source)
            self._points(plot, method, curve, plot.x_range.start, last)
            _hover(plot, line, [("", "@method"), ("runs", "@y{0.0 %}"), (x_name, x_text)])

    def _line(self, plot: Any, method: str, source: Any) -> Any:
        look = self._looks[method]
        line = plot.step(
            "x", "y", source=source, mode="after", line_color=look.color, line_width=2,
            line_dash=style.BOKEH_DASHES[look.dash],
        )  # fmt: skip
        return self._named(method, line)

    def _points(self, plot: Any, method: str, curve: Curve, first: float, last: float) -> None:
        look = self._looks[method]
        x, y = pictures.marks(curve, self._looks, method, first, last)
        marks = plot.scatter(x, y, marker=style.BOKEH_MARKERS[look.marker], size=7, color=look.color)
        self._named(method, marks)

    def _named(self, method: str, renderer: Any) -> Any:
        renderer.name = f"glyph-{sum(map(len, self.glyphs.values()))}"
        self.glyphs[method].append(renderer.name)
        return renderer


def _plain_figure(height: int, **options: Any) -> Any:
    plot = figure(
        height=height, sizing_mode="stretch_width", tools="pan,wheel_zoom,box_zoom,reset,save", min_border_right=12,
        output_backend="canvas", **options,
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.outline_line_color = None
    plot.grid.grid_line_color = style.FAINT
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "12px"
        axis.axis_label_text_color = axis.major_label_text_color = style.INK
        axis.axis_line_color = axis.major_tick_line_color = style.GREY
        axis.minor_tick_line_color = None
        axis.major_label_text_font_size = "11px"
    return plot


def _gap_axis(plot: Any) -> None:
    plot.y_range.start, plot.y_range.end = FLOOR * 0.7, 1.4
    _share_axis(plot.yaxis[0], pictures.TICKS)


def _say_no_bound(plot: Any) -> None:
    plot.text([1], [1e-3], text=[pictures.NO_BOUND], text_align="center", text_color=style.GREY, text_font_size="12px")


def _share_axis(axis: Any, ticks: Sequence[float]) -> None:
    axis.ticker = FixedTicker(ticks=list(ticks), minor_ticks=[])
    axis.major_label_overrides = {tick: pictures.share_label(tick) for tick in ticks}


def _hover(plot: Any, renderer: Any, tooltips: list[tuple[str, str]]) -> None:
    plot.add_tools(HoverTool(renderers=[renderer], tooltips=tooltips, visible=False))
