"""Formulas as pictures in the page, drawn when the site is built: no network, no script, no font of the reader's."""

from __future__ import annotations

import html
from typing import Any

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

EM = 24.0
"""Size at which formulas are drawn; their size on the page is in em, so that they grow with the text."""

logger = logging.getLogger(__name__)


def drawn(latex: str, *, inline: bool, outlines: set[str]) -> str:
    """Return a formula as an SVG element in the colour of the text around it.

    Parameters
    ----------
    latex : str
    inline : bool
        Whether it stands in a line of text, else by itself.
    outlines : set of str
        The letters whose outlines the page has already, by their names; those of this formula are added.

    Raises
    ------
    ValueError
        A command is not known: it would stand on the page as it is written.
    """
    formula = ziamath.Latex(latex, size=EM, color="currentColor", inline=inline)
    if "\\" in (mathml := formula.mathmlstr()):
        raise ValueError(f"a command in {latex!r} is not known: {mathml}")
    svg = formula.svgxml()
    width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
    _, top, _, _ = map(float, svg.get("viewBox", "").split())
    for outline in svg.findall("symbol"):
        if (name := outline.get("id", "")) in outlines:
            svg.remove(outline)
        outlines.add(name)
    svg.set("width", f"{width / EM:.3f}em")
    svg.set("height", f"{height / EM:.3f}em")
    if inline:
        svg.set("style", f"vertical-align: {-(height + top) / EM:.3f}em")
    svg.set("role", "img")
    svg.set("aria-label", latex.strip())
    return ziamath.zmath.ET.tostring(svg, encoding="unicode")


def _html(self: Any, node: nodes.math | nodes.math_block, *, inline: bool) -> str:
    outlines = self.__dict__.setdefault("outlines", set())  # of this page: each has a translator of its own
    try:
        return drawn(node.astext(), inline=inline, outlines=outlines)
    except Exception as error:  # whatever a formula that cannot be read makes of the library
        logger.warning("a formula cannot be drawn: %s", error, location=node)
        return f"<code>{html.escape(node.astext())}</code>"


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    self.body.append(f'<span class="math notranslate nohighlight">{_html(self, node, inline=True)}</span>')
    raise nodes.SkipNode


def visit_display(self: Any, node: nodes.math_block) -> None:
    """Write a formula by itself, with its number."""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(_html(self, node, inline=False) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer; ``html_math_renderer`` finds it."""
    ziamath.config.precision = 2  # of 24 units to the em
    app.add_html_math_renderer("drawn", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
