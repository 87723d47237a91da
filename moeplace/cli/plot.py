"""``moeplace plot``: pictures of one instance, one placement or one search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moeplace.base.errors import InputError, naming
from moeplace.base.text import one_line, percent
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import (
    as_dict,
    check_output,
    file_name,
    find_methods_here,
    instance_argument,
    parameter_option,
    seed_option,
    threads_option,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moeplace import Instance, Progress, Solution
    from moeplace.base.stop import Stop
    from moeplace.caching.pictures import CapacityPoint, Progression

FACTORS = "0.1,0.2,0.3,0.5,0.75,1,1.5,2,3"
TIME_LIMIT = 10.0

V = TypeVar("V")
"""What of an instance is changed."""

output_option = click.option(
    "-o", "--output", type=file_name, required=True, metavar="FILE", help="The picture: .png, .svg or .pdf."
)


@click.group(no_args_is_help=False)
def plot() -> None:
    """Draw one instance, one placement or one search; readable in print and for colour-blind readers."""


@plot.command(name="map")
@instance_argument
@click.argument("solution", type=file_name, metavar="SOLUTION")
@output_option
def placement_map(instance: str, solution: str, output: str) -> None:
    """Draw stations and users, what is cached where, and the latency of each user before and after.

    Without positions in the instance, near means a short time.
    """
    from moeplace.caching.instance import load
    from moeplace.caching.solution import read_solution

    _check(output, instance, solution)
    problem = load(instance)
    chosen = read_solution(solution)
    with naming(solution):
        placement = chosen.placement_on(problem)
    from moeplace.caching.pictures import placement_map as draw
    from moeplace.caching.view import PlacementView

    view = PlacementView.of(problem, placement)
    baseline = problem.baseline_ns
    share = percent((baseline - view.latency_ns) / baseline if baseline else 0.0)
    by = f" by {chosen.method}" if chosen.method else ""
    _save(output, lambda: draw(view, f"{problem.name}{by}: {share} of the latency saved"))


@plot.command()
@instance_argument
@click.argument("solution", type=file_name, metavar="SOLUTION")
@output_option
def deployment(instance: str, solution: str, output: str) -> None:
    """Draw a serverless deployment: local and remote experts, memory, times against limits."""
    from moeplace.problems import check_same_problem, find_problem, load_with_problem, read_solution
    from moeplace.serverless.pictures import deployment as draw

    _check(output, instance, solution)
    problem, loaded = load_with_problem(instance)
    if problem.name != "serverless":
        raise InputError(f"is an instance of {problem.name}, not of serverless", file=instance)
    chosen = read_solution(solution)
    with naming(solution):
        check_same_problem(find_problem("serverless"), chosen)
        decision = problem.decision(loaded, chosen)
    by = f" by {chosen.method}" if chosen.method else ""
    _save(output, lambda: draw(loaded, decision, f"{loaded.name}{by}: {problem.view.short(loaded, chosen.value)}"))


@plot.command()
@instance_argument
@click.option("--methods", default="local-search,greedy,popular", show_default=True, metavar="A,B,C")
@click.option(
    "--factors", default=FACTORS, show_default=True, metavar="F,F,...", help="Capacities are multiplied by these."
)
@click.option(
    "--time-limit", type=float, default=TIME_LIMIT, show_default=True, metavar="S", help="Seconds a solution."
)
@seed_option
@threads_option
@parameter_option
@output_option
def capacity(
    instance: str,
    methods: str,
    factors: str,
    time_limit: float,
    seed: int,
    threads: int,
    parameters: tuple[tuple[str, Any], ...],
    output: str,
) -> int:
    """Draw saving against capacity: every server's capacity is scaled, each method solves the instance anew.

    Ctrl-C draws what there is.
    """
    from moeplace.base.stop import stopping
    from moeplace.caching.instance import load
    from moeplace.caching.pictures import capacity_curve

    solving = _Solving(methods, parameters, time_limit=time_limit, seed=seed, threads=threads)
    scales = _factors(factors)
    _check(output, instance)
    problem = load(instance)
    if not problem.item_bytes.sum() or not problem.baseline_ns:
        raise InputError("no cache can save anything: there are no experts or no latency", file=instance)
    points: list[CapacityPoint] = []
    with stopping() as stop:
        changed = ((f"{factor:g} times the capacity", factor, _scaled(problem, factor)) for factor in scales)
        for name, factor, scaled, solution in solving.each(changed, len(scales), stop):
            points.append(_point(scaled, name, factor, solution))
        if points:
            most = _most(problem)
            _save(output, lambda: capacity_curve(points, problem.name, most))
        return INTERRUPTED if stop.interrupted else 0


class _Solving:
    """Methods with their options, which solve changed instances anew; refused before anything is solved."""

    def __init__(
        self, methods: str, parameters: tuple[tuple[str, Any], ...], *, time_limit: float, seed: int, threads: int
    ) -> None:
        from moeplace.solving import check_limits

        check_limits(time_limit=time_limit, seed=seed, threads=threads)
        self._names, own = _methods(methods, parameters)
        self._options = {"time_limit": time_limit, "seed": seed, "threads": threads} | own

    def each(
        self, changed: Iterable[tuple[str, V, Instance]], count: int, stop: Stop
    ) -> Iterator[tuple[str, V, Instance, Solution]]:
        """Solve each instance by each method until a Ctrl-C; say where there is no placement, in the end.

        Yields the method, what was changed to, the changed instance and its solution.
        """
        import moeplace
        from moeplace.base.errors import NoSolutionError

        found = False
        without: list[str] = []
        for i, (label, value, instance) in enumerate(changed):
            for name in self._names:
                if stop:
                    break
                title = f"{name}, {label} ({i + 1} of {count})"
                with screen.progress_line(title, int(instance.tokens.sum()), stop) as progress:
                    try:
                        solution = moeplace.solve(instance, name, progress=progress, **self._options)
                    except NoSolutionError as error:
                        without.append(f"no point of {name} at {label}: {error}")
                        continue
                found = True
                yield name, value, instance, solution
        for line in without:
            screen.note(line)
        if without and not found:
            raise NoSolutionError("nothing among these has a placement")


def _methods(text: str, parameters: tuple[tuple[str, Any], ...]) -> tuple[list[str], dict[str, Any]]:
    """Return the methods that an option names, and their parameters; refused where one of them is not there."""
    from moeplace.base.registry import check_parameters, find_method

    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    find_methods_here(names)
    own = as_dict(parameters)
    for name in names:
        check_parameters(name, find_method(name), own)
    return names, own


def _factors(text: str) -> list[float]:
    try:
        factors = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--factors: expected numbers with commas between them, found {text!r}") from None
    if not all(0 <= factor < 1e6 for factor in factors):
        raise InputError(f"--factors: expected numbers from 0 to a million, found {text!r}")
    return sorted(set(factors))


def _scaled(instance: Instance, factor: float) -> Instance:
    """Return an instance with other capacities: the factor is taken as it is written, so 0.3 of 10 bytes are 3."""
    from fractions import Fraction

    from moeplace import Instance

    exact = Fraction(str(factor))
    document = instance.document()
    for server in document["servers"]:
        server["capacity_bytes"] = int(server["capacity_bytes"] * exact)
    return Instance.from_document(document)


def _point(instance: Instance, method: str, factor: float, solution: Any) -> CapacityPoint:
    from moeplace.caching.pictures import CapacityPoint

    bound, baseline = solution.bound, instance.baseline_ns
    capacity, items = sum(instance.capacity_bytes.tolist()), sum(instance.item_bytes.tolist())
    at_most = None if bound is None else (baseline - bound) / baseline
    return CapacityPoint(method, factor, capacity / items, (baseline - solution.value) / baseline, at_most)


def _most(instance: Instance) -> float:
    import numpy as np

    from moeplace import Placement, latency_ns

    fewest = None if instance.choices is None else instance.choices.fewest
    everything = Placement(np.ones((len(instance.servers), instance.n_items), dtype=bool), fewest)
    return (instance.baseline_ns - latency_ns(instance, everything)) / instance.baseline_ns


@plot.command()
@instance_argument
@click.option("--methods", default="auto", show_default=True, metavar="A,B,C")
@click.option("--budgets", required=True, metavar="Q,Q,...", help="Loss budgets, in the unit of the instance's losses.")
@click.option(
    "--time-limit", type=float, default=TIME_LIMIT, show_default=True, metavar="S", help="Seconds a solution."
)
@seed_option
@threads_option
@parameter_option
@output_option
def budget(
    instance: str,
    methods: str,
    budgets: str,
    time_limit: float,
    seed: int,
    threads: int,
    parameters: tuple[tuple[str, Any], ...],
    output: str,
) -> int:
    """Draw latency against the loss budget, where layers may use fewer experts: each budget is solved anew.

    Ctrl-C draws what there is.
    """
    import moeplace
    from moeplace.base.stop import stopping
    from moeplace.caching.pictures import BudgetPoint, budget_curve

    solving = _Solving(methods, parameters, time_limit=time_limit, seed=seed, threads=threads)
    wanted = _budgets(budgets)
    _check(output, instance)
    problem = _with_choices(instance)
    document = problem.document()

    def changed() -> Iterator[tuple[str, int, Instance]]:
        for most in wanted:
            document["active"]["budget"] = most
            yield f"a loss of {most:,}", most, moeplace.Instance.from_document(document)

    points: list[BudgetPoint] = []
    with stopping() as stop:
        for name, most, _, solution in solving.each(changed(), len(wanted), stop):
            points.append(BudgetPoint(name, most, solution.value, solution.bound))
        if points:
            _save(output, lambda: budget_curve(points, int(problem.tokens.sum()) or 1, problem.name))
        return INTERRUPTED if stop.interrupted else 0


def _budgets(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 19 for part in parts):
        raise InputError(f"--budgets: expected whole numbers with commas between them, found {text!r}")
    return sorted({int(part) for part in parts})


def _with_choices(file: str) -> Instance:
    from moeplace.caching.instance import load

    problem = load(file)
    if problem.choices is None:
        raise InputError("leaves nothing open: every row waits for all its experts (no key active)", file=file)
    return problem


@plot.command()
@instance_argument
@click.argument("solutions", type=file_name, nargs=-1, required=True, metavar="SOLUTION...")
@output_option
def active(instance: str, solutions: tuple[str, ...], output: str) -> None:
    """Draw how many experts each layer uses, a line for each SOLUTION; they may be of other loss budgets."""
    from moeplace.caching.pictures import active_layers
    from moeplace.caching.solution import read_solution

    _check(output, instance, *solutions)
    problem = _with_choices(instance)
    choices = problem.choices
    lines = []
    for file in solutions:
        chosen = read_solution(file)
        with naming(file):
            found = chosen.active_on(problem)
        if found is None or choices is None:
            raise InputError("does not say how many experts are active", file=file)
        by = f"{chosen.method}, " if chosen.method else ""
        lines.append((f"{by}loss {choices.loss(found):,}", found.tolist()))
    _save(output, lambda: active_layers(problem.models, lines, f"{problem.name}: active experts"))


@plot.command()
@instance_argument
@click.option("--model", metavar="NAME", help="Only this model.  [default: all]")
@click.option("--layers", metavar="L,L,...", help="Only these layers.  [default: 12 of them, evenly]")
@output_option
def coactivation(instance: str, model: str | None, layers: str | None, output: str) -> None:
    """Draw which experts of a layer are used together more often than by chance (heat map of the lift)."""
    from moeplace.caching.instance import load

    _check(output, instance)
    problem = load(instance)
    blocks = _blocks(problem, model, layers, instance)
    from moeplace.caching.pictures import coactivation as draw

    _save(output, lambda: draw(problem, blocks, f"{problem.name}: experts used together"))


def _blocks(instance: Instance, model: str | None, layers: str | None, file: str) -> list[int]:
    from moeplace.caching.pictures import MOST_PANELS, block_tokens

    if model is not None and model not in instance.model_index:
        raise InputError(f"--model: no model {model!r}; there are {', '.join(instance.model_index)}", file=file)
    used = block_tokens(instance) > 0
    blocks = [
        block
        for block in range(instance.n_blocks)
        if used[block] and (model is None or int(instance.block_model[block]) == instance.model_index[model])
    ]
    if layers is not None:
        wanted = []
        for part in layers.split(","):
            found = [b for b in blocks if part.strip() == str(int(instance.block_layer[b]))]
            if not found:
                raise InputError(f"--layers: no layer {part.strip()!r} with activations", file=file)
            wanted += found
        return list(dict.fromkeys(wanted))
    if not blocks:
        raise InputError("has no activations to draw", file=file)
    if len(blocks) <= MOST_PANELS:
        return blocks
    return [blocks[round(i * (len(blocks) - 1) / (MOST_PANELS - 1))] for i in range(MOST_PANELS)]


@plot.command()
@instance_argument
@output_option
def popularity(instance: str, output: str) -> None:
    """Draw how unevenly the experts of a layer are used."""
    from moeplace.caching.instance import load

    _check(output, instance)
    problem = load(instance)
    if not len(problem.rows):
        raise InputError("has no activations to draw", file=instance)
    from moeplace.caching.pictures import popularity as draw

    _save(output, lambda: draw(problem, f"{problem.name}: popularity of experts"))


@plot.command()
@click.argument("source", type=file_name, metavar="INSTANCE|RUN")
@click.option("--method", "methods", metavar="A,B,C", help="Methods to show.  [default: auto, or all of a RUN]")
@click.option("--instance", "name", metavar="NAME", help="The instance of a RUN.  [default: its only one]")
@click.option("--time-limit", type=float, default=60.0, show_default=True, metavar="S", help="Seconds a method.")
@seed_option
@threads_option
@parameter_option
@output_option
def progress(
    source: str,
    methods: str | None,
    name: str | None,
    time_limit: float,
    seed: int,
    threads: int,
    parameters: tuple[tuple[str, Any], ...],
    output: str,
) -> int:
    """Draw cost and proven bound over time: of a search that runs now on an INSTANCE, or of one recorded in a RUN.

    Ctrl-C ends the search and draws it.
    """
    names = None if methods is None else list(dict.fromkeys(part.strip() for part in methods.split(",")))
    _check(output, source)
    if Path(source).is_dir():
        searches, tokens, title, best = _recorded(source, name, names, seed)
        interrupted = False
    else:
        if name is not None:
            raise InputError("--instance chooses an instance of a run directory; this is a file", file=source)
        own = as_dict(parameters)
        limits = {"time_limit": time_limit, "seed": seed, "threads": threads}
        searches, tokens, title, best, interrupted = _searched(source, names or ["auto"], own, limits)
    if not any(search.costs or search.bounds for search in searches):
        raise InputError("no search found anything to draw", file=source)
    from moeplace.caching.pictures import progress as draw

    _save(output, lambda: draw(searches, tokens, title, best))
    return INTERRUPTED if interrupted else 0


def _recorded(
    folder: str, name: str | None, methods: list[str] | None, seed: int
) -> tuple[list[Progression], int, str, dict[str, int]]:
    from moeplace.caching.pictures import search_of
    from moeplace.report.collect import collect

    collection = collect([folder])
    names = list(dict.fromkeys(instance.name for instance in collection.instances))
    if name is None and len(names) > 1:
        some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise InputError(f"--instance: which of {len(names)} instances? ({some})", file=folder)
    if name is not None and name not in names:
        raise InputError(f"--instance: no instance {name!r} in this run", file=folder)
    chosen = name or names[0]
    if methods and (unknown := sorted(set(methods) - set(collection.methods))):
        known = ", ".join(collection.methods)
        raise InputError(f"--method: no method {unknown[0]!r} in this run; there are {known}", file=folder)
    searches, problem = [], None
    for entry in collection.entries:
        record, trial = entry.record, entry.trial
        seeds = {e.record.seed for e in collection.entries if e.trial.method == trial.method}
        wanted = record.instance == chosen and (methods is None or trial.method in methods)
        if not wanted or record.status != "ok" or (record.seed != seed and len(seeds) > 1):
            continue
        problem = trial.problem
        searches.append(search_of(record, trial.method))
    if problem is None:
        raise InputError(f"no run on {chosen} gave a placement (seed {seed})", file=folder)
    best = {} if problem.best_ns is None else {"best known": problem.best_ns}
    return searches, problem.tokens or 1, chosen, best


def _searched(
    file: str, methods: list[str], parameters: dict[str, Any], limits: dict[str, Any]
) -> tuple[list[Progression], int, str, dict[str, int], bool]:
    import moeplace
    from moeplace.base.registry import check_parameters, find_method
    from moeplace.base.stop import stopping
    from moeplace.caching.instance import load
    from moeplace.caching.pictures import Progression, falling, rising
    from moeplace.library import read_best_known
    from moeplace.solving import check_limits

    check_limits(**limits)
    find_methods_here(methods)
    for method in methods:
        check_parameters(method, find_method(method), parameters)
    problem = load(file)
    tokens = int(problem.tokens.sum()) or 1
    searches = []
    with stopping() as stop:
        for method in methods:
            if stop:
                break
            steps: list[Progress] = []
            with screen.progress_line(method, tokens, stop) as line:
                listen = _both(steps.append, line)
                solution = moeplace.solve(problem, method, progress=listen, **limits, **parameters)
            ended = solution.wall_s or 0.0
            costs = [(step.elapsed_s, step.latency_ns) for step in steps if step.latency_ns is not None]
            bounds = [(step.elapsed_s, step.bound_ns) for step in steps if step.bound_ns is not None]
            costs.append((ended, solution.value))
            if solution.objective.bound_ns is not None:
                bounds.append((ended, solution.objective.bound_ns))
            searches.append(Progression(method, falling(costs), rising(bounds), ended))
        interrupted = stop.interrupted
    known = read_best_known(Path(file).parent).get(problem.name)
    best = {"best known": known.latency_ns} if known and known.sha256 == problem.sha256 else {}
    return searches, tokens, problem.name, best, interrupted


def _both(first: Callable[[Progress], None], second: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    def listen(step: Progress) -> None:
        first(step)
        if second is not None:
            second(step)

    return listen


def _check(output: str, *inputs: str) -> None:
    from moeplace.base.style import SUFFIXES

    check_output(output, *inputs, endings=SUFFIXES)


def _save(output: str, draw: Callable[[], Figure]) -> None:
    from moeplace.base import style
    from moeplace.base.files import write_bytes

    with style.drawing():
        data = style.rendered(draw(), style.picture_format(output))
    write_bytes(output, data)
    click.echo(f"written to {one_line(output)}")
