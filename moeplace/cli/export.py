"""``moeplace export``: the algebraic model of an instance, for other solvers."""

from __future__ import annotations

import click

from moeplace.base.errors import InputError, MethodLimitError
from moeplace.base.text import one_line
from moeplace.cli.options import check_output, file_name, instance_argument


@click.command()
@instance_argument
@click.option("--model", default="milp", show_default=True, metavar="NAME", help="milp, or caching's milp-textbook.")
@click.option("-o", "--output", type=file_name, required=True, metavar="FILE", help="Ends in .mps or .lp.")
def export(instance: str, model: str, output: str) -> None:
    """Write an algebraic model of INSTANCE in MPS or LP format, by the ending of FILE's name."""
    from moeplace.base.registry import find_formulation
    from moeplace.problems import problem_of_file
    from moeplace.solvers.exporting import FORMATS, write_model

    check_output(output, instance, endings=FORMATS)
    problem, read = problem_of_file(instance)
    if problem.models is None:
        raise InputError(f"{problem.name} has no algebraic model", file=instance)
    build = find_formulation(model, problem.models)
    loaded = read()
    if reason := problem.model_limit(loaded, model):
        raise MethodLimitError(model, reason)
    write_model(build(loaded), model, output)
    click.echo(f"written to {one_line(output)}")
