"""How the documentation site is built: ``scripts/docs``."""

from __future__ import annotations

import ast
import functools
import gc
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, ClassVar

import numpydoc.docscrape_sphinx
from jinja2 import Template
from jinja2.sandbox import SandboxedEnvironment
from sphinx.application import Sphinx
from sphinx.domains.math import MathDomain

HERE = Path(__file__).resolve().parent
# formulas.py; student_notebooks.py; ages.py
sys.path[:0] = [str(HERE), str(HERE.parent / "scripts"), str(HERE.parent / "scripts" / "benchmarks")]

gc.set_threshold(200_000, 50, 1000)  # the trees of all pages stay: looking through them again and again takes long

project = "moeplace"
author = "the moeplace authors"
project_copyright = "the moeplace authors, MIT licence"
release = version = installed_version("moeplace")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_click", "formulas"]
html_math_renderer = "drawn"
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
smartquotes = False  # they make one dash of the two of --option
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_dmath_double_inline = False
myst_heading_anchors = 3

html_theme = "furo"
html_title = "moeplace"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

autosummary_generate = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types, shapes and units
autodoc_use_type_comments = False  # there are none, and every member's source would be parsed for them
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# External links are not looked at when the site is built or tested: that needs the network. `scripts/docs links` does.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_workers = 2
linkcheck_anchors = False
linkcheck_allowed_redirects = {r"https://doi\.org/.*": r"https://.*"}
linkcheck_ignore = [r"https://doi\.org/10\.1287/.*", r"https://doi\.org/10\.1145/.*"]  # refuse programs


class Remembering(SandboxedEnvironment):
    """Compiles a template once. Numpydoc makes an environment for every docstring: a sixth of the time of a build."""

    compiled: ClassVar[dict[str, Template]] = {}

    def get_template(self, name: Any, *args: Any, **kwargs: Any) -> Template:
        """Return a template, that of the first environment."""
        if name not in self.compiled:
            self.compiled[name] = super().get_template(name, *args, **kwargs)
        return self.compiled[name]


numpydoc.docscrape_sphinx.SandboxedEnvironment = Remembering

# Autodoc asks for the text of every default value and number, and ast goes through a module's source for each of them,
# character by character.
if hasattr(ast, "_splitlines_no_ff"):
    ast._splitlines_no_ff = functools.lru_cache(maxsize=4)(ast._splitlines_no_ff)


class NamedEquations(MathDomain):
    """Equations are numbered by their labels, (A1), so that the code can cite them whatever is added before."""

    def note_equation(self, docname: str, labelid: str, location: Any = None) -> None:
        """Note an equation; its number is its label."""
        super().note_equation(docname, labelid, location)
        self.equations[labelid] = (docname, labelid)  # type: ignore[assignment]


def copy_instance_pages(app: Sphinx) -> None:
    """Make pages of the README files of the instance sets, their links turned to where things are on the site."""
    sets = Path(app.srcdir).parent / "instances"
    pages = {"index": sets / "README.md"} | {path.parent.name: path for path in sorted(sets.glob("*/README.md"))}
    target = Path(app.srcdir) / "instances"
    target.mkdir(exist_ok=True)
    for name, source in pages.items():
        text = re.sub(r"\]\((?:\.\./)*docs/", "](../", source.read_text(encoding="utf-8"))
        text = re.sub(r"\]\((?:\.\./)?(\w+)/README\.md", r"](\1.md", text)
        text = re.sub(r"\]\((\w+\.toml)\)", rf"](../../instances/{name}/\1)", text)
        if name == "index":
            text += "\n```{toctree}\n:hidden:\n" + "\n".join(sorted(pages.keys() - {"index"})) + "\n```\n"
        page = target / f"{name}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def write_student_notebooks(app: Sphinx) -> None:
    """Write the notebooks without answers that the page of the notebooks links to."""
    from student_notebooks import write

    write(Path(app.srcdir) / "students")


def say_what_is_old(app: Sphinx, name: str, text: list[str]) -> None:
    """Say at the head of a benchmark page that it is older than the methods, where it is."""
    from ages import note

    text[0] = note(name, text[0])


def setup(app: Sphinx) -> None:
    """Register what is ours."""
    app.add_domain(NamedEquations, override=True)
    app.connect("builder-inited", copy_instance_pages)
    app.connect("builder-inited", write_student_notebooks)
    app.connect("source-read", say_what_is_old)
