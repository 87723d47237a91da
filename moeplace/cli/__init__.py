"""The command line: ``moeplace COMMAND ...``.

Each command lives in a module of its own that is imported when the command is used, so that ``--help`` is
quick and ``check`` needs no solver. Exit codes: 0 done, 1 a run failed or a check found the solution wrong,
2 bad usage or bad input, 130 interrupted, 141 nobody reads the output any more.
"""

from __future__ import annotations

import contextlib
import io
import keyword
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from moeplace.base.errors import MoeplaceError
from moeplace.base.stop import INTERRUPTED as INTERRUPTED
from moeplace.base.stop import answered, asked
from moeplace.base.text import one_line

BROKEN_PIPE = 141

COMMANDS = {
    "solve": "Find one placement for an instance.",
    "gap": "Compare methods: latency, gap to the best proven bound, time.",
    "check": "Recompute everything a solution says, without the solvers.",
    "info": "Sizes of an instance, demand and capacity, which methods fit.",
    "methods": "List every method: exact or not, guarantee, limits.",
    "instances": "List the instance library: names, sizes, best known values.",
    "models": "List the catalogue of Mixture-of-Experts architectures.",
    "generate": "Make an instance or a family: models, places, routing, storage.",
    "import": "Make an instance of measured routing traces, all or a part.",
    "score": "Apply a placement to another instance with the same servers.",
    "placement": "Write a placement as scripts and serving engines read it.",
    "bench": "Run methods over suites of instances, resumable.",
    "best-known": "Improve the best known values by what a run has found.",
    "report": "Write tables, pictures and a page of what was run.",
    "plot": "Draw an instance, a placement or a search.",
    "export": "Write the algebraic model of an instance for other solvers.",
}
"""Every command and its line in ``--help``; ``x-y`` is the function ``x_y`` of the module ``moeplace.cli.x_y``, with
``x_`` for ``x`` where that is a word of Python's own (``import``)."""


class _LazyGroup(click.Group):
    """A group that imports a command when it is used, and lists them all without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        name += "_" * keyword.iskeyword(name)
        command = getattr(import_module(f"moeplace.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            ctx.fail(f"no command {args[0]!r}; there are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="moeplace COMMAND --help tells more about one command.",
)
@click.version_option(package_name="moeplace")
def group() -> None:
    """Place experts of Mixture-of-Experts models in the caches of edge servers, and say how good that is."""


def console() -> None:
    """Run the command of this process and end the process with its exit code."""
    code = main()
    workers = sys.modules.get("moeplace.base.workers")
    if workers is not None and workers.abandoned_workers():
        # A solver that heeds no request to stop would keep the process for as long as it likes.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code; whatever goes wrong is one line on stderr.

    Parameters
    ----------
    args : sequence of str, optional
        The command and its arguments; those of the process where it is left out.

    Returns
    -------
    int
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding has not is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    name = "moeplace"
    try:
        if asked():
            raise KeyboardInterrupt
        with group.make_context(name, list(sys.argv[1:] if args is None else args)) as context:
            try:
                code = group.invoke(context)
            finally:
                name = " ".join(filter(None, (name, context.invoked_subcommand)))
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a failure still has a place to go
    except BrokenPipeError:
        _drop_stdout()
        return BROKEN_PIPE
    except click.exceptions.Exit as error:
        return INTERRUPTED if asked() else error.exit_code
    except BaseException as error:
        # A request to end that came while a library was loading may have come out as any error.
        if asked() or isinstance(error, KeyboardInterrupt | click.exceptions.Abort):
            answered()
            _complain(name, "interrupted before there was a result")
            return INTERRUPTED
        return _failure(name, error)
    return INTERRUPTED if asked() else code if isinstance(code, int) else 0


def _failure(name: str, failure: BaseException) -> int:
    """Say in one line what went wrong, and return the exit code of it."""
    try:
        raise failure
    except click.ClickException as error:
        context = getattr(error, "ctx", None)  # says with --as PROBLEM which options are meant
        path = context.command_path if context else name
        _complain(name, f"{' '.join(error.format_message().split())} (see {path} --help)")
        return 2
    except MoeplaceError as error:
        if os.environ.get("MOEPLACE_DEBUG") and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)  # of somebody's method: where in it
        _complain(name, str(error))
        return error.exit_code
    except Exception as error:
        if os.environ.get("MOEPLACE_DEBUG"):
            raise
        _drop_stdout()
        if isinstance(error, OSError):
            _complain(name, f"cannot write: {error.strerror or error}")
        else:
            what = f"{type(error).__name__}: {error}"
            _complain(name, f"internal error: {what} (MOEPLACE_DEBUG=1 shows where; please report it)")
        return 1


def _complain(name: str, message: str) -> None:
    click.echo(f"{name}: {one_line(message)}", err=True)


def _drop_stdout() -> None:
    # What is still buffered would fail again when Python ends, with a traceback.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
