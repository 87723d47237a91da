"""Picking methods for an instance, combining them, and saying why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from moeplace.base.documents import Termination
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.bounds import joint_proving, proving
from moeplace.caching.bounds.joint_concave import everything
from moeplace.caching.bounds.joint_proving import JointProving
from moeplace.caching.bounds.proving import EVERYTHING, IMPORTS, apart, prices_exactly, prove, prove_everything
from moeplace.caching.decided import joint_certificate
from moeplace.caching.formulations import aggregated_rows
from moeplace.caching.formulations import improve as improve_model
from moeplace.caching.heuristics import column_search, joint_search
from moeplace.caching.heuristics.column_search import ColumnSearch, ColumnTuning
from moeplace.caching.heuristics.joint import JointForms
from moeplace.caching.heuristics.joint_search import JointSearch
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent


@dataclass(frozen=True)
class Tuning:
    """When what is tried. Whatever the numbers are, placements fit and bounds hold.

    Attributes
    ----------
    exact_rows : int
        Constraint rows of the aggregated model up to which CP-SAT is given the time that is left.
    kicks : int
        Kicks before CP-SAT has a single thread for itself.
    turns : tuple of int
        Checkpoints that columns and bound have in turn, where they share one thread.
    columns : moeplace.caching.heuristics.column_search.Tuning
    proving : moeplace.caching.bounds.proving.Tuning
    joint : moeplace.caching.heuristics.column_search.ColumnTuning
    joint_proving : moeplace.caching.bounds.joint_proving.Tuning
        Both where active experts are open.
    """

    exact_rows: int = 200_000
    kicks: int = 8
    turns: tuple[int, int] = column_search.TURNS
    columns: column_search.Tuning = column_search.USUAL
    proving: proving.Tuning = proving.USUAL
    joint: ColumnTuning = joint_search.USUAL
    joint_proving: joint_proving.Tuning = joint_proving.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""

ENDED: dict[Termination, str] = {
    "interrupted": "interrupted",
    "time_limit": "the time was used up",
    "optimal": "an optimal placement was reached",
    "gap_limit": "the gap asked for was reached",
}
"""How a search may end."""


@describe(
    MethodInfo(
        summary="Exchanges first; then proof and better placements side by side, by methods picked for the instance.",
        exact=True,
        guarantee=f"a proven bound; optimal, given time, up to {USUAL.exact_rows:,} constraint rows",
        limits="with threads=1 bound and placement take turns, with 2 or more they go on at the same time,"
        " the proof of layers on all threads but one",
        takes=("active",),
        imports=IMPORTS,  # CP-SAT's take seconds to load and are mostly not needed
    )
)
def auto(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Find a good placement in seconds, then close the gap from both sides until gap, time or interruption.

    Layers of up to 16 experts on a few servers are proven by ``layer-enumeration``; larger ones get its bound or the
    concave bound, while ``column-generation`` goes on improving the placement. Where that ends without a proof and the
    aggregated model is small enough, CP-SAT goes on. Where active experts are open, ``alternating`` finds both together
    and ``layer-enumeration`` bounds them; where no choice is left, it is the problem with that one.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        if instance.choices is None:
            search = caching_incumbent(instance, stop, start, gap, progress)
            return pick(instance, search, seed, threads, started=start is not None)
        forms = JointForms(instance)
        if not forms.single:
            search = caching_incumbent(instance, stop, start, gap, progress)
            return pick_joint(forms, search, seed, threads, started=start is not None)
        # Fewer active experts are not within the budget, and more are of no use.
        decided = instance.cut(forms.first)
        search = caching_incumbent(decided, stop, None if start is None else start.at(None), gap, progress)
        outcome = pick(decided, search, seed, threads, started=start is not None)
        return replace(
            outcome,
            placement=outcome.placement.at(forms.first),
            certificate=joint_certificate(instance, outcome.certificate),
        )


def pick(
    instance: Instance,
    search: Incumbent,
    seed: int,
    threads: int,
    *,
    started: bool,
    tuning: Tuning = USUAL,
) -> Outcome:
    """Pick methods for a search's instance and run them, as :func:`auto` does."""
    form = saving_form(instance)
    prove_everything(form, search)
    columns = ColumnSearch(form, search, seed=seed, started=started, tuning=tuning.columns)
    most = max((model.experts for model in instance.models), default=0)
    alone = form.most_terms <= tuning.proving.most_terms and apart(instance, tuning.proving)
    parts = _Parts(
        columns,
        lambda threads: prove(form, search, tuning.proving, threads, columns.listen),
        alone,
        not alone and most > tuning.proving.exact_experts,
        lambda: alone or prices_exactly(instance, tuning.proving),
        lambda: form.most_terms <= tuning.proving.most_terms and aggregated_rows(instance) <= tuning.exact_rows,
        lambda: improve_model("cpsat", instance, search, seed=seed, threads=1),
        ("local-search", "the first climb"),
        "column-generation",
        lambda small: (
            "nothing couples the layers but what is within one: each is proven by itself"
            if alone
            else f"layers of {most} experts, up to {tuning.proving.exact_experts} are enumerated"
            if small
            else f"layers of {most} experts on {len(instance.servers)} servers are too large to enumerate"
        ),
    )
    return _side_by_side(parts, search, threads, tuning)


def pick_joint(
    forms: JointForms,
    search: Incumbent,
    seed: int,
    threads: int,
    *,
    started: bool,
    tuning: Tuning = USUAL,
) -> Outcome:
    """Pick methods for a search's instance that leaves active experts open and run them, as :func:`auto` does."""
    instance = forms.instance
    search.prove(instance.baseline_ns - forms.most_saving, EVERYTHING, lambda: everything(forms))
    proof = JointProving(forms, search, tuning.joint_proving)
    enumerated = tuning.joint_proving.exact_experts
    most = max((model.experts for model in instance.models), default=0)

    def few() -> bool:
        rows = sum(forms.uniform_form(k).n_rows for k in forms.numbers)
        return rows <= tuning.exact_rows and aggregated_rows(instance) <= tuning.exact_rows

    parts = _Parts(
        JointSearch(forms, search, seed=seed, started=started, tuning=tuning.joint, hints=proof.prices),
        proof.run,
        False,
        not proof.exact,
        lambda: proof.exact,
        few,
        lambda: improve_model("cpsat", instance, search, seed=seed, threads=1),
        ("alternating", "the first turns"),
        "alternating",
        lambda small: (
            f"active experts are open; layers of {most} experts, up to {enumerated} are enumerated"
            if small
            else f"active experts are open; layers of {most} experts on {len(instance.servers)} servers are too large"
            " to enumerate"
        ),
    )
    return _side_by_side(parts, search, threads, tuning)


@dataclass(frozen=True, eq=False)
class _Parts:
    """What is run side by side.

    Attributes
    ----------
    columns : ColumnSearch or JointSearch
        Begins, and then improves the placement.
    prove : callable
        Proves what can be proven, on so many threads.
    alone : bool
        Whether that finds the placements as well, and so has all threads.
    large : bool
        Whether that cannot end in a proof of optimality soon: with two threads the proof then does not wait for a good
        placement to begin from.
    small : callable
        Whether it may, exactly; asked once, after the beginning, since it may take as long as that.
    few : callable
        Whether the instance is small enough for CP-SAT; asked once, when the proof has ended.
    solve : callable
        Runs it.
    beginning : (str, str)
        The method's name where the beginning is all, and what the beginning is.
    improving : str
        The method's name where layers are not small.
    because : callable
        Says why these were picked, of whether it is small.
    """

    columns: ColumnSearch | JointSearch
    prove: Callable[[int], None]
    alone: bool
    large: bool
    small: Callable[[], bool]
    few: Callable[[], bool]
    solve: Callable[[], None]
    beginning: tuple[str, str]
    improving: str
    because: Callable[[bool], str]


def _side_by_side(parts: _Parts, search: Incumbent, threads: int, tuning: Tuning) -> Outcome:
    """Begin, then prove and improve side by side, in turns on one thread, and let CP-SAT go on where that ends."""
    columns, (method, beginning) = parts.columns, parts.beginning
    at_once = threads > 1 and parts.large
    if not at_once:
        search.run(lambda: search.attempt(beginning, columns.begin))
    if ended := search.ended:
        return replace(search.outcome(), method=method, picked_because=f"{ENDED[ended]} by {beginning}")

    small = parts.small()
    because = parts.because(small)

    def solve() -> None:
        search.attempt("cpsat", parts.solve)

    def prove_in(threads: int) -> None:
        search.attempt("the proof", lambda: parts.prove(threads))

    def last() -> bool:
        return not search.ended and parts.few()

    def both() -> None:
        prove_in(max(1, threads - 1))  # one is for the placement
        if last():
            tried.append("cpsat")
            solve()
            # Nothing is left that could prove more: without this, kicks would go on for ever where CP-SAT's answer is
            # the best to its own arithmetic but not to the last unit.
            columns.stop.over = True
        columns.threads = threads  # those that have proven have nothing else to do

    def improve(kicks: int | None) -> Callable[[], None]:
        def work() -> None:
            if at_once:
                columns.begin()
            columns.improve(kicks)

        return lambda: search.attempt(parts.improving, work)

    tried: list[str] = []
    if threads > 1 and not parts.alone:
        search.run(both, improve(None))
    elif small:
        search.run(lambda: prove_in(threads if parts.alone else 1))
        if last():
            search.run(improve(tuning.kicks))
            tried.append("cpsat")
            search.run(solve)
        elif not search.ended:
            search.run(improve(None))
    elif last():
        search.run(improve(tuning.kicks), lambda: prove_in(1), turns=tuning.turns)
        if not search.ended:
            tried.append("cpsat")
            search.run(solve)
    else:
        search.run(improve(None), lambda: prove_in(1), turns=tuning.turns)
    if tried:
        because += "; what ended without a proof was followed by cpsat"
    outcome = search.outcome()
    details = outcome.details | columns.details
    method = "layer-enumeration" if small else parts.improving
    return replace(outcome, method=method, picked_because=because, details=details)
