"""``moeplace methods``: what there is to choose from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.text import one_line
from moeplace.cli import screen
from moeplace.cli.options import json_option

if TYPE_CHECKING:
    from moeplace.base.problem import Problem


@click.command()
@click.option("--problem", "name", metavar="NAME", help="List the methods of this problem alone.")
@json_option
def methods(name: str | None, as_json: bool) -> None:
    """List every method: exact or not, what it guarantees and when, its limits and parameters.

    Other installed problems have sections of their own; --json lists caching's, or those of the --problem.
    """
    from moeplace.problems import FIRST, find_problem, installed_problems

    if as_json:
        click.echo(json.dumps(_all(find_problem(name or FIRST)), indent=2, ensure_ascii=False))
        return
    problems, failures = ([find_problem(name)], []) if name else installed_problems()
    parts: list[Any] = []
    for problem in problems:
        if problem.name != FIRST:
            parts += [f"Problem {one_line(problem.name)}", ""]
        for method in _all(problem):
            parts += [one_line(method["name"]), _indented(_lines(method)), ""]
        parts.append(f"Others: --method module:function, or the entry point group {one_line(problem.methods)}.")
        if problem is not problems[-1]:
            parts.append("")
    screen.show(*parts, *map(one_line, failures))


def _all(problem: Problem) -> list[dict[str, Any]]:
    from moeplace.base.registry import method_names

    return [_describe(name, problem) for name in method_names(problem.methods, problem.method_order)]


def _lines(method: dict[str, Any]) -> list[tuple[str, str]]:
    if method["error"]:
        return [("not available", method["error"])]
    lines = [
        ("does", method["summary"]),
        ("exact", "yes" if method["exact"] else "no"),
        ("guarantee", method["guarantee"]),
    ]
    if method["limits"] != "none":
        lines.append(("limits", method["limits"]))
    parameters = method["parameters"]
    if parameters is None:
        lines.append(("parameters", "any"))
    elif parameters:
        explained = method["parameter_help"]
        for i, (key, value) in enumerate(parameters.items()):
            first_sentence = explained.get(key, "").split(". ")[0].rstrip(".")
            line = f"{key}={_default(value)}  {first_sentence}".strip()
            lines.append(("" if i else "parameters", line))
    return lines


def _default(value: object) -> str:
    if value is None:
        return "(up to the method)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _describe(name: str, problem: Problem) -> dict[str, Any]:
    from moeplace.base.errors import MoeplaceError
    from moeplace.base.registry import find_method, method_info, own_parameters, parameter_help

    try:
        method = find_method(name, problem.methods, problem.method_order)
        info, parameters = method_info(method), own_parameters(method)
        takes_gap = parameters is None or "gap" in parameters
        if parameters:
            parameters.pop("gap", None)  # has the option --gap
    except MoeplaceError as error:  # one broken plug-in should not hide the others
        return {
            "name": name,
            "summary": None,
            "exact": None,
            "guarantee": None,
            "limits": None,
            "takes_gap": None,
            "parameters": None,
            "parameter_help": None,
            "error": str(error),
        }
    return {
        "name": name,
        "summary": info.summary,
        "exact": info.exact,
        "guarantee": info.guarantee,
        "limits": info.limits,
        "takes_gap": takes_gap,
        "parameters": parameters,
        "parameter_help": {key: text for key, text in parameter_help(method).items() if key in (parameters or {})},
        "error": None,
    }


def _indented(lines: list[tuple[str, str]]) -> Any:
    from rich.padding import Padding

    return Padding(screen.facts(lines), (0, 0, 0, 2), expand=False)
