"""``--as PROBLEM``: commands that make instances of several problems, each with options of its own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from moeplace.problems import FIRST

OPTION = "--as"


class ByProblem(click.Command):
    """A command of the first problem that hands over to another command where ``--as`` names another problem.

    Parameters
    ----------
    others : mapping of str to str
        The other problems by name, and the command of each as ``module:attribute``; imported when it is used.
    """

    def __init__(self, *args: Any, others: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.others = others
        self.params.append(
            click.Option(
                [OPTION, "problem"],
                type=click.Choice([FIRST, *others]),
                default=FIRST,
                show_default=True,
                expose_value=False,
                help=f"The problem that the instance is of; {OPTION} NAME --help lists the options of another one.",
            )
        )

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the arguments, by the options of the problem that they name."""
        name, rest = _taken(args)
        if name not in self.others:  # the first problem; a name of none is refused by the option
            return super().make_context(info_name, args, parent, **extra)
        return self.command_of(name).make_context(f"{info_name} {OPTION} {name}", rest, parent, **extra)

    def command_of(self, name: str) -> click.Command:
        """Return the command of another problem."""
        module, _, attribute = self.others[name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


def _taken(args: list[str]) -> tuple[str, list[str]]:
    """Return the problem that arguments name, and the others; the last one counts, as with every option.

    Examples
    --------
    >>> _taken(["trace.npz", "--as", "active-experts", "-o", "out.json"])
    ('active-experts', ['trace.npz', '-o', 'out.json'])
    >>> _taken(["--", "--as=active-experts"])  # file names
    ('caching', ['--', '--as=active-experts'])
    """
    name, rest, at = FIRST, [], 0
    while at < len(args) and args[at] != "--":
        if args[at] == OPTION and at + 1 < len(args):
            at += 1
            name = args[at]
        elif args[at].startswith(f"{OPTION}="):
            name = args[at].partition("=")[2]
        else:
            rest.append(args[at])
        at += 1
    return name, rest + args[at:]
