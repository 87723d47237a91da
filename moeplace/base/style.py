"""How pictures look: a palette that colour-blind readers can tell apart, with markers and dashes for print in grey.

Figures are made without ``pyplot``, so that nothing here touches the state of a program that uses the library, and are
saved so that the same data give the same bytes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeplace.base.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#AA3377", "#56B4E9"
PALETTE = [
    BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000", "#8C6D31",
    "#3A3FC4", "#8B1A2B", "#6AA6A6", "#84A54A", "#004D33", "#E0527A", "#5B2A86", "#7F7F7F",
]  # fmt: skip
"""Okabe and Ito (2008), with a darker purple and a brown for their yellow, which vanishes on white; eight
more, of which some need markers and dashes to be told apart by colour-blind readers."""
DASHES = ["solid", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1))]
BOKEH_DASHES: list[list[int]] = [[], [8, 3], [2, 2], [8, 3, 2, 3], [14, 4], [5, 2, 2, 2, 2, 2]]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", ">"]
BOKEH_MARKERS = [
    "circle", "square", "triangle", "diamond", "inverted_triangle", "cross", "x", "star", "hex", "plus",
]  # fmt: skip

LEGEND_ROW = 0.19
"""Height in inches of a row of a legend; figures have room for two."""

MARKS = 4
"""Markers on a curve."""

INK, GREY, FAINT = "#1f2328", "#6b7280", "#e3e6ea"
SEQUENTIAL = "cividis"
"""Colour map of quantities: even in lightness, so it prints in grey, and made for colour-blind readers."""


@dataclass(frozen=True)
class Look:
    """Colour, dashes and marker of one method, the same in every picture of a report."""

    color: str
    dash: int
    marker: int

    @classmethod
    def number(cls, i: int) -> Look:
        """Return the ``i``-th method's look; the first 80 differ in colour or marker."""
        return cls(PALETTE[i % len(PALETTE)], (i + i // len(PALETTE)) % len(DASHES), i % len(MARKERS))


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Return the look of each method."""
    return {method: Look.number(i) for i, method in enumerate(methods)}


@contextmanager
def drawing() -> Iterator[None]:
    """Set what matplotlib draws with, for the time of the block."""
    import matplotlib

    settings: dict[str, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.7,
        "xtick.color": INK,
        "ytick.color": INK,
        "text.color": INK,
        "text.parse_math": False,  # a $ in a name is a $
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "svg.hashsalt": "moeplace",
        "path.simplify": True,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A name may hold letters that the font has not; a box for one of them is no reason to complain.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, laid out by matplotlib's constraints."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def picture_format(path: str | Path) -> str:
    """Return the format that a file's name asks for.

    Raises
    ------
    InputError
        The name ends in none of :data:`SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"expected a name that ends in {', '.join(SUFFIXES)}", file=str(path))
    return suffix[1:]


def rendered(figure: Figure, kind: str) -> bytes:
    """Return a figure as "png", "svg" or "pdf"; the same figure gives the same bytes."""
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=160, metadata=undated[kind])
    data = buffer.getvalue()
    # matplotlib ends some lines of an SVG file with a space.
    return b"\n".join(line.rstrip() for line in data.split(b"\n")) if kind == "svg" else data


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 4) -> None:
    """Put one legend for the whole figure under its panels: as many columns as fit, the figure higher by its rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # matplotlib leaves out labels that begin with an underscore.
    shown = [f" {label}" if label.startswith("_") else label for label in labels]
    renderer = FigureCanvasAgg(figure).get_renderer()
    for count in range(max(1, min(columns, len(shown))), 0, -1):
        legend = figure.legend(list(handles), shown, loc="outside lower center", ncols=count, handlelength=3.2)
        needed = legend.get_window_extent(renderer).width / figure.dpi + 0.1
        if count == 1:
            figure.set_figwidth(max(figure.get_figwidth(), needed))
        elif needed > figure.get_figwidth():
            legend.remove()
            continue
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, -(-len(shown) // count) - 2))
        return


def log_x(axes: Axes) -> None:
    """Make the axis across logarithmic, with plain numbers; a short one has labels between the powers of ten, too."""

    def between(value: float, _: int) -> str:
        low, high = axes.get_xlim()
        digit = round(value / 10.0 ** math.floor(math.log10(value) + 1e-9))
        wanted = range(2, 10) if high < 5 * low else (2, 5) if high < 50 * low else ()
        return f"{value:,.12g}" if digit in wanted else ""

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    axes.xaxis.set_minor_formatter(between)


def staggered(first: float, last: float, i: int, n: int) -> list[float]:
    """Return where on a logarithmic axis the ``i``-th of ``n`` curves has its markers.

    No two curves with the same ends have one at the same place, so that of curves that coincide each is seen.
    """
    return [first * (last / first) ** ((k + (i + 0.5) / n) / MARKS) for k in range(MARKS)]


def quiet(axes: Axes) -> None:
    """Take the grid and the frame from a panel that shows no axes."""
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
