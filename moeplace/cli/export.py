"""``moeplace export``: the algebraic model of an instance, for other solvers."""

from __future__ import annotations

import click

from moeplace.base.text import one_line
from moeplace.cli.options import check_output, file_name, instance_argument


@click.command()
@instance_argument
@click.option("--model", default="milp", show_default=True, metavar="NAME", help="milp or milp-textbook.")
@click.option("-o", "--output", type=file_name, required=True, metavar="FILE", help="Ends in .mps or .lp.")
def export(instance: str, model: str, output: str) -> None:
    """Write an algebraic model of INSTANCE in MPS or LP format, by the ending of FILE's name."""
    from moeplace.base.registry import find_formulation
    from moeplace.caching.formulations import FORMATS
    from moeplace.caching.formulations import export as write_model
    from moeplace.caching.instance import load

    find_formulation(model)
    check_output(output, instance, endings=FORMATS)
    write_model(load(instance), model, output)
    click.echo(f"written to {one_line(output)}")
