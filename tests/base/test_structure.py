"""Who imports whom: directions go down only, and modules form no circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import moeplace

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = {"caching", "active", "serverless"}
DOORS = {"problems", "solving", "comparing", "library"}
LAYERS = {
    "base": set[str](),
    "solvers": {"base"},
    "scenarios": {"base"},
    "layers": {"base", "solvers.scheduler"},
    **{problem: {"base", "layers", "solvers", "scenarios"} for problem in PROBLEMS},
    "schemas": {"base", "bench"} | PROBLEMS | DOORS,
    **{door: {"base", "layers", "solvers", "scenarios"} | PROBLEMS | DOORS for door in DOORS},
    "bench": {"base", "solvers"} | DOORS,
    "report": {"base", "bench"} | DOORS,
    "cli": {"base", "bench", "report", "layers", "solvers", "scenarios"} | PROBLEMS | DOORS,
    "interrupt": {"base"},
    "registry": {"base"},
}
"""What each part may import beside itself and the public names of the package: whole parts, or one module of them."""

EXCEPTIONS = {("report.placements", "caching.instance"), ("report.placements", "caching.view")}
"""Imports against the directions that wait to be removed: this list only shrinks."""


def modules(folder: Path) -> dict[str, Path]:
    """Return the modules of a package by their full names."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """Return the known modules that a file imports: in functions too, but not what only a type checker reads."""
    found: set[str] = set()

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                look(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in known else str(node.module))
        for child in ast.iter_child_nodes(node):
            look(child)

    look(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in found if name in known}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Each module of the package with those that it imports."""
    found = modules(Path(moeplace.__file__).parent)
    return {name: imports(path, set(found)) - {name} for name, path in found.items()}


def short(name: str) -> str:
    return name.removeprefix("moeplace").removeprefix(".")


def test_imports_go_down_only(graph: dict[str, set[str]]) -> None:
    wrong = set()
    for name, targets in graph.items():
        part = short(name).split(".")[0]
        if part in ("", "__main__"):  # the public names, which are found when they are asked for, and the command
            continue
        assert part in LAYERS, f"{name}: say in this test what {part} may import"
        for target in targets:
            to = short(target)
            may = LAYERS[part] | {part}
            # The public names count for the parts above the problems, which are written as users write.
            allowed = part not in ("base", "layers", "solvers", "scenarios") if to == "" else False
            if not (allowed or to in may or to.split(".")[0] in may):
                wrong.add((short(name), to))
    assert wrong - EXCEPTIONS == set(), "imports against the directions (module, what it imports)"
    assert EXCEPTIONS - wrong == set(), "exceptions that are needed no longer: take them off the list"


def test_methods_import_nothing_from_each_other(graph: dict[str, set[str]]) -> None:
    rooms = {f"moeplace.{problem}.methods" for problem in PROBLEMS}
    for name, targets in graph.items():
        room = name.rpartition(".")[0]
        if room in rooms:
            assert not {target for target in targets if target.startswith(f"{room}.")}, name


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                found.append(group)

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def test_no_circles_among_modules(graph: dict[str, set[str]]) -> None:
    # The package itself imports nothing before a public name is asked for.
    package = {name: targets - {"moeplace"} for name, targets in graph.items() if name != "moeplace"}
    assert circles(package) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]  # it would be found


@pytest.mark.skipif(not (ROOT / "models").is_dir(), reason="the folder of models is in the checkout only")
def test_formulations_import_their_problem_and_base_only() -> None:
    known = modules(Path(moeplace.__file__).parent)
    found = modules(ROOT / "models" / "moeplace_models")
    everything = set(known) | set(found)
    wrong = set()
    for name, path in found.items():
        problem = name.split(".")[1] if "." in name else ""
        own = (f"moeplace_models.{problem}", f"moeplace.{problem}", "moeplace.base")
        for target in imports(path, everything):
            if not any(target == part or target.startswith(part + ".") for part in own):
                wrong.add((name, target))
    assert wrong == set()
