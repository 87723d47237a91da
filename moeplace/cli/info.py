"""``moeplace info``: what an instance is, before anybody solves it."""

from __future__ import annotations

import json
from typing import Any

import click

from moeplace.base.text import one_line
from moeplace.cli import screen
from moeplace.cli.options import instance_argument, json_option


@click.command()
@instance_argument
@json_option
def info(instance: str, as_json: bool) -> None:
    """Say what INSTANCE is: sizes, demand against capacity, what caches could save, which methods fit."""
    import moeplace
    from moeplace.problems import problem_of

    loaded = moeplace.load(instance)
    problem = problem_of(loaded)
    warnings = list(problem.remarks(loaded).values())
    document = problem.view.info(loaded) | ({"warnings": warnings} if warnings else {})
    methods = _methods(problem, loaded)
    if as_json:
        click.echo(json.dumps(document | {"methods": methods}, indent=2, ensure_ascii=False))
        return
    lines = [*problem.view.info_lines(document), *(("warning", text) for text in warnings)]
    lines += [("methods", ", ".join(m["name"] for m in methods if m["fits"]))]
    lines += [("", f"not {m['name']}: {m['reason']}") for m in methods if not m["fits"]]
    screen.show(screen.facts([(label, one_line(text)) for label, text in lines]))


def _methods(problem: Any, instance: Any) -> list[dict[str, Any]]:
    from moeplace.base.errors import InputError
    from moeplace.base.registry import find_method, method_info, method_names

    result = []
    for name in method_names(problem.methods, problem.method_order):
        try:
            method = problem.adapt(find_method(name, problem.methods), instance)
            reason = method_info(method).refuses(instance)
        except InputError as error:
            reason = str(error)
        result.append({"name": name, "fits": reason is None, "reason": reason})
    return result
