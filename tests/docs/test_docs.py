"""The documentation: its examples do what it says, its links lead somewhere, its site builds without a warning."""

from __future__ import annotations

import functools
import importlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from document_examples import OPTIONS, RUN, SHOWN, Example, Session, commands, examples, same

import moeplace
from moeplace import Instance
from moeplace.base.documents import parse
from moeplace.cli import COMMANDS
from moeplace.library import set_names
from moeplace.problems import find_problem

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MADE = DOCS / "instances"  # pages that a build makes of the README files of the instance sets
STUDENTS = DOCS / "students"  # notebooks without answers, which a build makes, too
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
    if DOCS.is_dir() and not page.is_relative_to(MADE)
]
pytestmark = pytest.mark.skipif(not PAGES, reason="the documents are in the checkout only")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if any(e.language in RUN for e in examples(page))], ids=name)
def test_the_examples_of_a_page(page: Path, apart: Path) -> None:
    for folder in ("instances", "scripts", "docs"):
        (apart / folder).symlink_to(ROOT / folder)
    session = Session()
    for example in examples(page):
        session.run(example)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_run_or_known_to_be_shown(page: Path) -> None:
    for example in examples(page):
        assert example.language in (*RUN, *SHOWN, "") or "file" in example.options, example.place
        assert set(example.options) <= set(OPTIONS), example.place
        if example.language == "console":
            assert commands(example), example.place
        if not example.language:
            assert not re.search(r"^\$ |^(import|from) ", example.text, re.MULTILINE), f"{example.place}: an example?"
    if page.is_relative_to(DOCS):
        hidden = re.findall(r"(?:^|\n)\n {4,}(?:\$ |moeplace |pip |python |import )", page.read_text())
        assert not hidden, f"{page.name}: an example in an indented block is not run: {hidden}"


def example(text: str, language: str = "console", **options: str) -> Example:
    return Example(Path("page.md"), 1, language, text, options)


def test_wrong_examples_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session()
    session.run(example('{"format": 3}\n', "json", file="odd.json"))
    session.run(example("$ moeplace info odd.json\nmoeplace info: odd.json: ...\n", exit="2"))
    session.run(example('$ cat odd.json | head -c 9\n{"format"\n'))
    session.run(example("a = 1\n", "python"))
    session.run(example("assert a == 1\n", "python"))
    session.run(example("raise ValueError\n", "python", skip="shown only"))
    with pytest.raises(AssertionError):
        session.run(example("assert a == 2\n", "python"))
    with pytest.raises(AssertionError, match="exit code 2, expected 0"):
        session.run(example("$ moeplace info odd.json\n"))
    with pytest.raises(AssertionError, match="the page shows\nyes"):
        session.run(example("$ echo no\nyes\n"))
    session.run(example("$ echo no\nyes\n", add="matter"))


def test_what_is_not_compared() -> None:
    row = "cpsat   24.982  65.84 %  0 %  0 %  24.982  {}  optimal\n"
    assert same(row.format("9.58"), row.format("10.44"))
    assert not same(row.format("9.58"), row.format("9.58").replace("24.982", "24.983"))
    assert same("proven by cpsat (CP-SAT 9.15.6755)", "proven by cpsat (CP-SAT 9.12.1)")
    assert same("first\n...\nlast", "first\nany\nthing\nlast")
    assert not same("first\n...\nlast", "first\nany\nthing")
    assert not same("", "something")


def test_the_method_of_the_contributing_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (code,) = [e.text for e in examples(ROOT / "CONTRIBUTING.md") if e.language == "python"]
    (tmp_path / "own_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_method", raising=False)
    instance = moeplace.load(ROOT / "instances/tiny/tiny_two_servers_share.json")
    solution = moeplace.solve(instance, "own_method:random_fill", seed=3)
    assert moeplace.check(instance, solution).ok
    assert solution.status.termination == "completed"


def test_the_method_of_the_benchmarking_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from moeplace.bench.records import read_run
    from moeplace.cli import main

    page = examples(DOCS / "benchmarking.md")
    (code,) = [e.text for e in page if e.language == "python"]
    assert len(code.splitlines()) <= 21
    monkeypatch.chdir(tmp_path)
    Path("own_method.py").write_text(code)
    (toml,) = [e.text for e in page if e.language == "toml"]
    toml = toml.replace("my_module:my_method", "own_method:most_requested").replace("kicks = 1000", "kicks = 10")
    Path("methods.toml").write_text(toml)
    methods = ["--methods", "own_method:most_requested[reach=2],cpsat", "--methods-file", "methods.toml"]
    assert main(["bench", "tiny", *methods, "--time-limit", "20", "--workers", "1", "-o", "run"]) == 0
    data = read_run("run")
    assert len(data.records) == 4 * 8
    assert {record.status for record in data.records} == {"ok"}
    own = [r for r in data.records if r.method == "own_method:most_requested[reach=2]"]
    assert any(r.latency_ns < r.baseline_ns for r in own)  # it caches something
    assert all(r.latency_ns >= data.best_bound(r.sha256)[0] for r in own)


def test_the_documents_of_the_formats_page() -> None:
    texts = [e.text for e in examples(DOCS / "formats.md") if e.language == "json"]
    instance_document, solution_document, active_instance, active_solution = texts
    instance = Instance.from_document(json.loads(instance_document))
    stated = json.loads(solution_document)
    stated["instance"]["sha256"] = instance.sha256
    solution = parse(stated, moeplace.Solution)
    assert moeplace.check(instance, solution).violations == ()
    assert moeplace.solve(instance).objective == solution.objective
    problem = find_problem("active-experts")
    active, said = problem.from_document(json.loads(active_instance)), json.loads(active_solution)
    said["instance"]["sha256"] = active.sha256
    assert moeplace.check(active, problem.read_solution(said)).violations == ()
    assert moeplace.solve(active).document()["objective"] == said["objective"]


# --- the mathematics ----------------------------------------------------------------------------------------------

EQUATION = re.compile(r"\(([A-Z]\d+)\)")


def test_the_equations_that_the_code_cites_are_on_the_page() -> None:
    pages = "".join((DOCS / page).read_text() for page in ("formulation.md", "active.md", "serverless.md"))
    labels = re.findall(r"^\$\$ \(([A-Z]\d+)\)$", pages, re.MULTILINE)
    assert len(labels) == len(set(labels)) > 15
    code = [*(ROOT / "moeplace").rglob("*.py"), *(ROOT / "models").rglob("*.py")]
    cited = {label: path.name for path in code for label in EQUATION.findall(path.read_text())}
    assert {label: file for label, file in cited.items() if label not in labels} == {}
    assert {"A1", "P2", "G1"} <= set(cited)


# --- links and the site --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "instances").rglob("*.md"))], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" in link:
            continue
        target = (page.parent / link).resolve()
        if target.is_relative_to(MADE):  # made of the set's README when the site is built
            target = ROOT / "instances" / target.stem.replace("index", ".") / "README.md"
        elif target.is_relative_to(STUDENTS):
            target = ROOT / "notebooks" / target.name.replace("_exercises", "")
        assert target.exists(), link


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []  # what a browser asks for without a click
        self.words: list[str] = []
        self.feed(file.read_text())

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for key, value in attributes:
            if value and key in ("id", "name"):
                self.anchors.add(value)
            if value and key in ("href", "src") and tag != "link":
                self.links.append(value)
            if value and (
                key in ("src", "srcset", "data", "poster") or (key == "href" and tag in ("link", "use", "image"))
            ):
                self.loaded.append(value)


_page = functools.cache(_Page)
"""A page, parsed once: several things are looked for on each."""


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """One test: the site is built once, whatever the number of processes."""
    for package in ("sphinx", "ziamath"):
        pytest.importorskip(package, reason="the site needs the extra 'docs'")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    links_lead_somewhere(tmp_path / "html")
    nothing_comes_from_a_network(tmp_path / "html")
    options_keep_their_dashes(tmp_path / "html")
    everything_has_a_page(tmp_path / "html")


def links_lead_somewhere(site: Path) -> None:
    pages = {file: _page(file) for file in site.rglob("*.html")}
    assert len(pages) > 15
    broken = []
    for file, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(link)
            if "://" in target or target.startswith(("mailto:", "data:")):
                continue
            goal = (file.parent / unquote(target.partition("?")[0])).resolve() if target else file
            known = pages.get(goal)
            if not goal.exists() or (anchor and known is not None and unquote(anchor) not in known.anchors):
                broken.append(f"{file.relative_to(site)}: {link}")
    assert broken == []


def nothing_comes_from_a_network(site: Path) -> None:
    for file in site.rglob("*.html"):
        assert [url for url in _page(file).loaded if "//" in url.partition("data:")[0]] == [], file.name
    for file in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()[\s\"']*(https?:)?//", file.read_text()), file.name


def test_a_page_that_loads_from_a_network_is_found(tmp_path: Path) -> None:
    pages = {
        "script": '<script src="https://cdn.example/tex.js"></script>',
        "sheet": '<link rel="stylesheet" href="//cdn.example/a.css">',
        "picture": '<img src="http://example.org/a.png">',
    }
    for name_, body in pages.items():
        folder = tmp_path / name_
        folder.mkdir()
        (folder / "page.html").write_text(body)
        with pytest.raises(AssertionError):
            nothing_comes_from_a_network(folder)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "page.html").write_text(
        '<a href="https://example.org">x</a><img src="data:image/png;base64,//8=">'
    )
    nothing_comes_from_a_network(tmp_path / "good")
    (tmp_path / "good" / "page.css").write_text("@import url('https://example.org/a.css');")
    with pytest.raises(AssertionError):
        nothing_comes_from_a_network(tmp_path / "good")


def options_keep_their_dashes(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = "".join(_page(file).words)
        assert re.findall(r".{0,20}[\u2013\u2014].{0,20}", text) == [], file.name
    assert "--time-limit" in "".join(_page(site / "reference/cli.html").words)


def everything_has_a_page(site: Path) -> None:
    commands_page = (site / "reference/cli.html").read_text()
    for command in COMMANDS:
        assert f'id="moeplace-{command}"' in commands_page
    modules = set(re.findall(r'id="module-([\w.]+)"', "".join(f.read_text() for f in site.glob("reference/**/*.html"))))
    for path in (ROOT / "moeplace").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not re.search(r"\._|\.cli\b", module):
            assert module in modules, f"{module} is on no page of docs/reference"
    for set_name in set_names():
        assert (site / f"instances/{set_name}.html").exists(), f"the set {set_name} has no README.md"
    mathematics = (site / "formulation.html").read_text()
    assert 'id="equation-a1"' in mathematics.lower()
    assert "(A1)" in mathematics
    labels = re.findall(r'aria-label="([^"]*)"[^>]*>\s*<(?:symbol|use|path|rect)', mathematics)
    assert len(labels) == mathematics.count('class="math notranslate') > 50  # every formula is drawn
    assert any("W_{R,S}" in label for label in labels)
    notebooks = (site / "notebooks.html").read_text()
    assert len(re.findall(r'href="_downloads/\w+/\d\d_\w+_exercises\.ipynb"', notebooks)) == len(
        list((ROOT / "notebooks").glob("*.ipynb"))
    )


def test_formulas_are_drawn_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sphinx", "ziamath"):
        pytest.importorskip(package, reason="the site needs the extra 'docs'")
    monkeypatch.syspath_prepend(DOCS)
    formulas = importlib.import_module("formulas")
    outlines: set[str] = set()
    first = formulas.drawn(r"x_{n} \le 1", inline=True, outlines=outlines)
    assert 'fill="currentColor"' in first
    assert "black" not in first
    assert "vertical-align" in first
    again = formulas.drawn("x", inline=False, outlines=outlines)
    assert "<symbol" not in again  # an outline is on the page once
    assert "<use" in again
    for wrong in (r"\nosuchcommand x", r"\frac{1}", "x_{"):
        with pytest.raises(Exception):  # noqa: B017, PT011 - the library's own for what it cannot read
            formulas.drawn(wrong, inline=False, outlines=set())
