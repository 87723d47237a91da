"""``solve``: what it refuses, what it makes of somebody else's method, and what it says in the end."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import time
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from random_instances import random_instance

import moeplace
import moeplace.problems
from moeplace import InputError, Instance, MethodError, MethodLimitError, Outcome, Placement, Progress
from moeplace.base.errors import MoeplaceError
from moeplace.base.registry import MethodInfo, describe, find_method, method_info, method_names, own_parameters
from moeplace.base.result import relative_gap, saving_ratio
from moeplace.base.stop import stopping
from moeplace.library import instance_files
from moeplace.solving import COMPILING, certified, prepare

OWN = __name__
"""The methods of this file are found as ``OWN:name``."""


@pytest.fixture(scope="module")
def instance() -> Instance:
    for seed in range(100):
        found = random_instance(seed)
        if moeplace.solve(found, "cpsat").objective.latency_ns not in (0, found.baseline_ns):
            return found
    raise AssertionError


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_limit": -1}, "the time limit must be a number of seconds >= 0, found -1"),
        ({"time_limit": float("nan")}, "the time limit must be a number of seconds"),
        ({"time_limit": float("inf")}, "the time limit must be a number of seconds"),
        ({"gap": -1e-9}, "the gap must be a fraction from 0 to below 1"),
        ({"gap": 1.0}, "the gap must be a fraction from 0 to below 1"),
        ({"gap": float("nan")}, "the gap must be a fraction from 0 to below 1"),
        ({"seed": -1}, "the seed must be from 0 to 2147483647, found -1"),
        ({"seed": 2**31}, "the seed must be from 0 to 2147483647"),
        ({"threads": 0}, "threads must be at least 1, found 0"),
        ({"method": "milq"}, "no method 'milq'; there are auto, layer-enumeration, "),
        ({"method": ""}, "no method ''"),
        ({"method": "a:b:c"}, "'a:b:c' is not of the form module:function"),
        ({"method": ":f"}, "is not of the form module:function"),
        ({"method": "no_such_module:f"}, "cannot be loaded: ModuleNotFoundError"),
        ({"method": f"{OWN}:no_such_function"}, "cannot be loaded: AttributeError"),
        ({"method": "milp", "depth": 3}, "method milp has no parameter 'depth'; it has gap, rlt"),
        ({"method": "popular", "gap": 0.5}, "method popular has no parameter 'gap'; it has none"),
    ],
)
def test_arguments_are_refused(instance: Instance, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MoeplaceError, match=message):
        moeplace.solve(instance, **{"method": "popular", **arguments})


@pytest.mark.parametrize("method", ["milp", "cpsat", "popular"])
def test_a_start_must_be_of_the_instance_and_fit(instance: Instance, method: str) -> None:
    with pytest.raises(InputError, match="a placement of shape"):
        moeplace.solve(instance, method, start=Placement(np.zeros((9, 9), dtype=np.bool_)))
    full = Placement(~Placement.empty(instance).cached)
    assert full.overfull(instance)
    with pytest.raises(InputError, match=r"holds .* bytes, its capacity is"):
        moeplace.solve(instance, method, start=full)
    solution = moeplace.solve(instance, "popular")
    other = msgspec.structs.replace(
        solution, placement=[msgspec.structs.replace(part, server="?") for part in solution.placement]
    )
    with pytest.raises(InputError, match="the instance has no server '\\?'"):
        moeplace.solve(instance, method, start=other)


def test_a_solution_is_a_start(instance: Instance) -> None:
    best = moeplace.solve(instance, "cpsat")
    again = moeplace.solve(instance, "milp", start=best, time_limit=0)
    assert again.placement == best.placement
    assert again.objective.latency_ns == best.objective.latency_ns
    assert (again.objective.bound_ns, again.status.termination) == (None, "time_limit")


# --- somebody else's method --------------------------------------------------------------------------------------


def empty(instance: Instance, **options: Any) -> Placement:
    """Cache nothing."""
    return Placement.empty(instance)


def described(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), 1, "a proof", "iteration_limit", "half", "inner", "it rained")


def proves(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), instance.baseline_ns, "a liar, but consistent")


def numpy_bound(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), np.int64(3), "numpy")  # type: ignore[arg-type]


def unnamed_bound(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), 0)


def too_full(instance: Instance, **options: Any) -> Placement:
    return Placement(~Placement.empty(instance).cached)


def wrong_shape(instance: Instance, **options: Any) -> Placement:
    return Placement(np.zeros((1, 1), dtype=np.bool_))


def false_bound(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), instance.baseline_ns + 1, "nobody")


def negative_bound(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), -1, "nobody")


def float_bound(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), 1.5, "nobody")  # type: ignore[arg-type]


def unproven_optimum(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), 0, "nobody", "optimal")


def odd_termination(instance: Instance, **options: Any) -> Outcome:
    return Outcome(Placement.empty(instance), termination="tired")  # type: ignore[arg-type]


def nothing(instance: Instance, **options: Any) -> None:
    return None


def matrix(instance: Instance, **options: Any) -> Any:
    return Placement.empty(instance).cached


def hollow(instance: Instance, **options: Any) -> Outcome:
    return Outcome(None)  # type: ignore[arg-type]


def fails(instance: Instance, **options: Any) -> Placement:
    raise ZeroDivisionError("by zero")


def fails_deep_inside(instance: Instance, **options: Any) -> Placement:
    np.zeros(3).reshape(2, 2)
    raise AssertionError


def _telling(value: Any) -> Any:
    def method(instance: Instance, **options: Any) -> Placement:
        options["progress"](value)
        return Placement.empty(instance)

    return method


tells_text, tells_a_fraction, tells_nothing = _telling("12"), _telling(1.5), _telling(None)
tells_a_wrong_progress = _telling(Progress(0.0, "12"))  # type: ignore[arg-type]
tells_an_int, tells_numpy = _telling(12), _telling(np.int64(12))
tells_a_progress = _telling(Progress(0.5, np.int64(12), None))  # type: ignore[arg-type]


def limited(instance: Instance, **options: Any) -> Placement:
    raise MethodLimitError("limited", "only Tuesdays")


def short_signature(instance: Instance, *, seed: int) -> Placement:
    return Placement.empty(instance)


def thorough(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: Any,
    depth: int = 3,
) -> Placement:
    progress(Progress(0.0, instance.baseline_ns))
    assert (time_limit, seed, threads, depth) == (7.5, 11, 2, 5)
    return start or Placement.empty(instance)


def test_a_placement_is_enough(instance: Instance) -> None:
    solution = moeplace.solve(instance, f"{OWN}:empty")
    objective, status = solution.objective, solution.status
    assert objective.latency_ns == objective.baseline_ns == instance.baseline_ns
    assert (objective.bound_ns, objective.gap, objective.saving_ratio, solution.bound_source) == (None,) * 4
    assert (status.termination, status.solution) == ("completed", "feasible")
    assert solution.method == f"{OWN}:empty"
    assert moeplace.check(instance, solution).ok


def test_an_outcome_says_more(instance: Instance) -> None:
    solution = moeplace.solve(instance, f"{OWN}:described")
    assert (solution.method, solution.picked_because, solution.guarantee) == ("inner", "it rained", "half")
    assert (solution.objective.bound_ns, solution.bound_source) == (1, "a proof")
    assert solution.objective.gap == (instance.baseline_ns - 1) / instance.baseline_ns
    assert solution.objective.saving_ratio == 0
    assert (solution.status.termination, solution.status.solution) == ("iteration_limit", "feasible")
    assert moeplace.check(instance, solution).ok


def test_a_bound_that_is_met_is_an_optimum(instance: Instance) -> None:
    solution = moeplace.solve(instance, f"{OWN}:proves")
    assert (solution.status.termination, solution.status.solution) == ("optimal", "optimal")
    assert (solution.objective.gap, solution.objective.saving_ratio) == (0, 1)
    assert moeplace.check(instance, solution).ok


@pytest.mark.parametrize("method", ["numpy_bound", "unnamed_bound", "negative_bound"])
def test_bounds_of_any_integer_type_are_written(instance: Instance, method: str) -> None:
    solution = moeplace.solve(instance, f"{OWN}:{method}")
    assert type(solution.objective.bound_ns) is int
    assert solution.objective.bound_ns >= 0
    assert b'"bound_ns":' in solution.to_json()
    assert moeplace.check(instance, solution).ok


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("too_full", "returned a placement that does not fit: server .* holds"),
        ("wrong_shape", "returned a placement that does not fit: a placement of shape"),
        ("float_bound", "claims the bound 1.5"),
        ("odd_termination", "'tired'"),
        ("nothing", "returned NoneType, not a Placement or an Outcome"),
        ("matrix", "returned ndarray, not a Placement or an Outcome"),
        ("hollow", "an Outcome whose placement is NoneType"),
        ("fails", r"failed: ZeroDivisionError: by zero \(.*test_solving.py, line [0-9]+\)"),
        ("fails_deep_inside", r"failed: .*Error: .* \(.*test_solving.py, line [0-9]+\)"),
        *(
            (name, r"failed: TypeError: progress takes a Progress or a cost in token-ns, an integer; it was given")
            for name in ("tells_text", "tells_a_fraction", "tells_nothing", "tells_a_wrong_progress")
        ),
        ("short_signature", "is no method: it does not take time_limit, threads, start, progress"),
    ],
)
def test_what_a_method_must_not_do(instance: Instance, method: str, message: str) -> None:
    with pytest.raises(MethodError, match=f"{OWN}:{method} .*{message}"):
        moeplace.solve(instance, f"{OWN}:{method}")


def test_a_claim_that_cannot_be_is_dropped_and_said_and_the_placement_kept(instance: Instance) -> None:
    for method, said, bound in (
        ("false_bound", "claims the bound [0-9]+, but its own placement costs [0-9]+; the claim is not taken", None),
        ("unproven_optimum", "calls its placement optimal, but its bound is 0", 0),
    ):
        solution, certificate = certified(instance, f"{OWN}:{method}")
        assert re.search(f"{OWN}:{method} {said}", str(solution.details["refused_claim"])), method
        assert solution.warnings == [solution.details["refused_claim"]], method
        assert (solution.objective.bound_ns, solution.status.termination) == (bound, "completed"), method
        assert (certificate is None) == (bound is None), method
        assert solution.placement == [], method
        assert moeplace.check(instance, solution).ok, method


def test_progress_is_always_there_and_takes_a_bare_cost(instance: Instance) -> None:
    for method, elapsed in (("tells_an_int", None), ("tells_numpy", None), ("tells_a_progress", 0.5)):
        moeplace.solve(instance, f"{OWN}:{method}")  # nobody listens
        told: list[Progress] = []
        moeplace.solve(instance, f"{OWN}:{method}", progress=told.append)
        (progress,) = told
        assert (progress.latency_ns, type(progress.latency_ns), progress.bound_ns) == (12, int, None), method
        assert elapsed is None or progress.elapsed_s == elapsed, method


def test_a_warning_where_no_expert_fits_on_any_server() -> None:
    document = random_instance(3).document()
    assert "nothing_fits" not in moeplace.solve(Instance.from_document(document), "popular").details
    for model in document["models"]:
        model["expert_bytes"] = 1000
    for server in document["servers"]:
        server["capacity_bytes"] = 999
    solution = moeplace.solve(Instance.from_document(document), "auto")
    assert solution.warnings == [
        "no expert fits on any server: the smallest expert has 1,000 bytes, the largest server 999; "
        "are the units right?"
    ]


def test_typed_errors_of_methods_pass_and_others_keep_their_cause(instance: Instance) -> None:
    with pytest.raises(MethodLimitError, match="only Tuesdays"):
        moeplace.solve(instance, f"{OWN}:limited")
    with pytest.raises(MethodError) as failure:
        moeplace.solve(instance, f"{OWN}:fails")
    assert isinstance(failure.value.__cause__, ZeroDivisionError)


def test_everything_reaches_the_method(instance: Instance) -> None:
    told: list[Progress] = []
    start = moeplace.solve(instance, "popular")
    solution = moeplace.solve(
        instance,
        f"{OWN}:thorough",
        time_limit=7.5,
        seed=11,
        threads=2,
        start=start,
        progress=told.append,
        depth=5,
    )
    assert told == [Progress(0.0, instance.baseline_ns)]
    assert solution.placement == start.placement
    assert (solution.parameters, solution.seed, solution.threads) == ({"depth": 5}, 11, 2)


# --- the list of methods -----------------------------------------------------------------------------------------


def test_our_methods_are_found_by_their_entry_points() -> None:
    names = method_names()
    assert {"auto", "milp", "milp-textbook", "cpsat", "popular", "random", "no-cache"} <= set(names)
    assert names[0] == "auto"
    assert sorted(names) == sorted({entry.name for entry in entry_points(group="moeplace.methods")})
    for name in names:
        method = find_method(name)
        info = method_info(method)
        assert info.summary.endswith(".")
        assert own_parameters(method) is not None
        assert info.guarantee
    assert {name for name in ("milp", "cpsat", "popular") if method_info(find_method(name)).exact} == {"milp", "cpsat"}


def test_a_foreign_method_is_described_by_its_docstring() -> None:
    assert method_info(empty).summary == "Cache nothing."
    assert method_info(nothing).summary == "no description"
    assert own_parameters(empty) is None
    assert own_parameters(thorough) == {"depth": 3}


def test_gap_and_ratio() -> None:
    pairs = [(0, 0), (5, 5), (4, 3), (4, 0), (4, None)]
    assert [relative_gap(cost, bound) for cost, bound in pairs] == [0, 0, 0.25, 1, None]
    assert (saving_ratio(4, 4, 4), saving_ratio(4, 2, 8), saving_ratio(8, 2, 8)) == (1, 2 / 3, 0)
    assert saving_ratio(4, None, 8) is None
    assert relative_gap(2**62 + 1, 2**62) == 1 / (2**62 + 1)


# --- interruption and typed parameters --------------------------------------------------------------------------


def test_a_request_to_stop_reaches_nested_uses_before_and_after() -> None:
    with stopping() as outer:
        with stopping() as before:
            signal.raise_signal(signal.SIGINT)
            assert before.interrupted
            assert outer.interrupted
        with stopping() as after:
            assert after.interrupted
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_auto_heeds_an_interruption_of_its_first_phase() -> None:
    instance = moeplace.load(instance_files("small")[0])
    asked = []

    def progress(_: object) -> None:
        if not asked:
            asked.append(True)
            signal.raise_signal(signal.SIGINT)

    solution = moeplace.solve(instance, "auto", progress=progress)
    assert solution.status.termination == "interrupted"
    assert solution.method == "local-search"
    assert moeplace.check(instance, solution).ok


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("local-search", {"kicks": "abc"}, 'parameter kicks of local-search: expected an integer, found "abc"'),
        ("local-search", {"kicks": 1.5}, "parameter kicks of local-search: expected an integer, found 1.5"),
        ("local-search", {"kicks": True}, "parameter kicks of local-search: expected an integer, found true"),
        ("milp", {"rlt": "no"}, 'parameter rlt of milp: expected true or false, found "no"'),
        ("greedy", {"lazy": 1}, "parameter lazy of greedy: expected true or false, found 1"),
        (
            "successive-greedy",
            {"order": "best"},
            "order must be one of gain, given, capacity, demand, random, found 'best'",
        ),
    ],
)
def test_parameters_are_of_the_methods_types(method: str, parameters: dict[str, Any], message: str) -> None:
    instance = moeplace.load(instance_files("tiny")[0])
    with pytest.raises(InputError) as caught:
        moeplace.solve(instance, method, **parameters)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("arguments", [{"threads": 1.5}, {"seed": True}, {"time_limit": "5"}, {"gap": "0"}])
def test_arguments_are_of_their_types(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        moeplace.solve(moeplace.load(instance_files("tiny")[0]), **arguments)


# --- numbers of other kinds ---------------------------------------------------------------------------------------


def numpy_details(instance: Instance, **options: Any) -> Outcome:
    said = {"moves": np.int64(3), "share": np.float32(0.5), "done": np.bool_(True), "ok": True, "why": np.str_("rain")}
    return Outcome(Placement.empty(instance), details=said)  # type: ignore[arg-type]


def _detailing(value: Any) -> Any:
    return lambda instance, **options: Outcome(Placement.empty(instance), details=value)


details_none, details_a_list = _detailing(None), _detailing({"a": [1]})
details_nan, details_number_names = _detailing({"a": float("nan")}), _detailing({1: 2})
details_too_large = _detailing({"a": 2**70})


def test_details_of_numpy_are_written_as_plain_numbers(instance: Instance) -> None:
    solution = moeplace.solve(instance, f"{OWN}:numpy_details")
    assert solution.details == {"moves": 3, "share": 0.5, "done": 1, "ok": 1, "why": "rain"}
    assert {type(value) for value in solution.details.values()} == {int, float, str}
    assert moeplace.problems.find_problem("caching").read_solution(json.loads(solution.to_json())) == solution


@pytest.mark.parametrize("method", ["none", "a_list", "nan", "number_names", "too_large"])
def test_details_that_no_document_can_hold_are_refused(instance: Instance, method: str) -> None:
    with pytest.raises(MethodError, match="details"):
        moeplace.solve(instance, f"{OWN}:details_{method}")


@describe(
    MethodInfo("Says why it does not take an instance, wrongly.", refuses=lambda instance: instance.no_such_thing)
)
def refuses_wrongly(instance: Instance, **options: Any) -> Placement:
    return Placement.empty(instance)


@describe(MethodInfo("Needs what is not installed.", imports=("no_such_module",)))
def imports_nothing(instance: Instance, **options: Any) -> Placement:
    return Placement.empty(instance)


def test_what_a_method_says_of_itself_fails_as_the_method_does(instance: Instance) -> None:
    for method, said in (("refuses_wrongly", "AttributeError"), ("imports_nothing", "ModuleNotFoundError")):
        with pytest.raises(MethodError, match=f"{OWN}:{method} failed: {said}: "):
            moeplace.solve(instance, f"{OWN}:{method}")


# --- what comes before a method's clock ------------------------------------------------------------------------------


def test_inner_loops_are_compiled_before_the_clock_starts(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    from moeplace.base import compiled
    from moeplace.caching import compiling

    moeplace.solve(instance)
    for name in compiling.RUNS:
        importlib.import_module(name)
    compiling.compile_loops(list(compiling.RUNS))
    assert compiled.uncompiled([*compiling.RUNS, *compiling.RUNS, "no.such.module", "math"]) == []
    for name in compiling.RUNS:
        module = sys.modules[name]
        assert any(compiled._own(value, name) for value in vars(module).values()), name

    # As after an installation: nothing here, nothing on disk.
    ready, order, said = ["moeplace.caching._kernels"], [], []
    monkeypatch.setattr(compiled, "uncompiled", lambda names: [name for name in ready if name in names])
    monkeypatch.setitem(compiling.RUNS, ready[0], lambda instance: order.append("compiled"))
    problem = moeplace.problems.problem_of(instance)
    function = find_method("local-search", problem.methods, problem.method_order)
    compiling.compile_loops(["no.such.module"], lambda: said.append("nothing"))
    prepare(problem, function, said.append)
    assert (set(order), said) == ({"compiled"}, [COMPILING])
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: order.append("clock") or clock())
    order.clear()
    moeplace.solve(instance, "local-search")
    assert order[0] == "compiled"
    assert "compiled" not in order[order.index("clock") :]


def test_what_is_compiled_is_known_by_files_newer_than_the_source(tmp_path: Any) -> None:
    from moeplace.base import compiled

    source, index = tmp_path / "loops.py", tmp_path / "loops.nbi"
    source.write_text("def loop(): pass\n")
    space: dict[str, Any] = {}
    exec(compile(source.read_text(), str(source), "exec"), space)
    file = SimpleNamespace(_index_path=str(index))
    loop = SimpleNamespace(py_func=space["loop"], _cache=SimpleNamespace(_cache_file=file))
    assert not compiled._kept(loop)
    index.write_text("")
    os.utime(source, (1, 1))
    assert compiled._kept(loop)
    os.utime(index, (0, 0))
    assert not compiled._kept(loop)
    loop._cache = object()  # nothing is kept at all
    assert not compiled._kept(loop)
