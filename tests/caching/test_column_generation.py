"""Columns, their master problem, column-generation and the methods that auto combines."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import looped
from random_instances import brute_force, random_document, random_instance, random_instance_2, random_placement
from scipy.optimize import linprog

import moeplace.base.incumbent
import moeplace.base.workers
from moeplace import Instance, MethodError, Placement, solve
from moeplace.base.errors import NoSolutionError
from moeplace.base.stop import stopping
from moeplace.base.workers import Resumed
from moeplace.caching.bounds import proving
from moeplace.caching.heuristics import diving
from moeplace.caching.heuristics.column_search import ColumnSearch, Tuning
from moeplace.caching.heuristics.columns import ColumnPool
from moeplace.caching.heuristics.diving import dive
from moeplace.caching.heuristics.pricing import exchanged, peeled, price
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.methods import auto
from moeplace.caching.saving import held_by, saving_form
from moeplace.caching.searching import caching_incumbent
from moeplace.cli import main
from moeplace.layers.master import Master
from moeplace.solving import certified

BOTH = ["column-generation", "auto"]


def wide_document(seed: int, experts: int = 18, users: int = 5, tokens: int = 40, layers: int = 2) -> dict[str, Any]:
    """Layers too wide to be enumerated, three servers with room for a part."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for u, layer, _ in itertools.product(range(users), range(layers), range(tokens)):
        rows["demand"].append(u)
        rows["layer"].append(layer)
        rows["experts"].append((rng.permutation(experts)[:2] // (1 + u % 2)).tolist())
        rows["count"].append(1)
    rows["experts"] = [sorted(set(e)) for e in rows["experts"]]
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": "wide",
        "latency_model": "max",
        "models": [
            {"name": "m", "layers": layers, "experts": experts, "top_k": 2, "expert_bytes": [3, 5] * (layers // 2)}
        ],
        "servers": [{"name": f"s{n}", "capacity_bytes": 40} for n in range(3)],
        "demands": [
            {
                "user": f"u{u}",
                "model": "m",
                "tokens": tokens,
                "device_ns": 0,
                "server_ns": rng.integers(1, 80, 3).tolist(),
                "cloud_ns": 100,
            }
            for u in range(users)
        ],
        "activations": rows,
    }


# --- columns -------------------------------------------------------------------------------------------------------


@looped("seed", range(60))
def test_peeling_all_servers_equals_recomputation(seed: int) -> None:
    instance = random_instance(seed, max_variables=24)
    rng = np.random.default_rng(seed)
    cost = rng.random(len(instance.servers)) * 100
    for layer in saving_form(instance).layers:
        held = rng.random((len(instance.servers), layer.n_experts)) < 0.8
        savings, worths, server, expert = layer.peel(held, cost)
        assert len(savings) == len(worths) == len(server) + 1 == held.sum() + 1
        for i in range(len(savings)):
            if i:
                assert held[server[i - 1], expert[i - 1]]
                held[server[i - 1], expert[i - 1]] = False
            assert savings[i] == layer.saving_ns(held)
            assert worths[i] == pytest.approx(savings[i] - cost @ held.sum(axis=1), abs=1e-3)


@looped("seed", range(40))
def test_priced_columns_fit_and_are_valued_exactly(seed: int) -> None:
    instance = random_instance(seed, max_variables=24)
    rng = np.random.default_rng(seed)
    capacity = instance.capacity_bytes
    begin = random_placement(instance, rng).cached
    for layer in saving_form(instance).layers:
        prices = rng.random(len(capacity)) * layer.saving_ns(np.ones_like(begin[:, layer.items])) / 4
        start = np.ascontiguousarray(begin[:, layer.items])

        def worth(part: Any, saving: int) -> float:
            return saving - float(prices @ part.sum(axis=1)) * layer.size  # noqa: B023

        found = price(layer, start, capacity, prices, 12)
        alone = [peeled(layer, capacity, prices), exchanged(layer, start, capacity // layer.size, prices * layer.size)]
        for part, saving in found + alone:
            assert saving == layer.saving_ns(part)
            assert (part.sum(axis=1) * layer.size <= capacity).all() or part is alone[0][0]
        worths = [worth(start, layer.saving_ns(start)), *(worth(*column) for column in found)]
        assert all(b >= a - 1e-6 * abs(a) for a, b in itertools.pairwise(worths))


def test_a_pool_keeps_the_best_column_of_equal_use() -> None:
    instance = random_instance(6, max_variables=24)
    form = saving_form(instance)
    pool = ColumnPool(form)
    part = np.zeros((len(instance.servers), form.layers[0].n_experts), dtype=np.bool_)
    part[0, 0] = True
    assert pool.add(0, part, 5)
    assert not pool.add(0, part, 5)
    other = np.zeros_like(part)
    other[0, 1] = True
    assert pool.add(0, other, 7)
    assert not pool.add(0, part, 6)
    layer, saving, load = pool.table()
    assert saving[layer == 0].tolist() == [0, 7]
    assert load[0, layer == 0].tolist() == [0, form.layers[0].size]
    pool.forget([pool.listed()[1]])
    assert pool.table()[1][:1].tolist() == [0]
    assert pool.add(0, part, 1)


class Watched(ColumnSearch):
    """A search that looks at what its pool is left with after every merge."""

    forgot = 0

    def _merge(self) -> bool:
        before = {id(column) for found in self.pool.columns for column in found}
        better = super()._merge()
        after = {id(column) for found in self.pool.columns for column in found}
        self.forgot += len(before - after) > len(self.pool.columns)  # some make way for better ones in any case
        for i, found in enumerate(self.pool.columns):
            assert not found[0].part.any(), "the empty column fits beside any others"
            usage = self._part(i).sum(axis=1)
            assert any(np.array_equal(column.usage, usage) for column in found), "the incumbent's column"
        return better


def test_a_pool_never_forgets_what_every_merge_needs() -> None:
    forgot = 0
    for seed, experts in ((3, 12), (10, 18)):
        document = wide_document(seed, experts, layers=6)
        for server in document["servers"]:
            server["capacity_bytes"] = 90
        for kept in (1, 20):
            instance = Instance.from_document(document)
            search, context = searching(instance=instance)
            form = saving_form(instance)
            columns = Watched(form, search, seed=0, started=False, tuning=Tuning(kept=kept, between=1))
            columns.begin()
            columns.improve(8)
            context.__exit__(None, None, None)
            forgot += columns.forgot
    assert forgot


# --- the master problem --------------------------------------------------------------------------------------------


def random_master(seed: int) -> Master:
    rng = np.random.default_rng(seed)
    layers, each, servers = int(rng.integers(1, 5)), 5, int(rng.integers(1, 4))
    saving, load = rng.integers(0, 1000, layers * each), rng.integers(0, 20, (servers, layers * each))
    saving[::each], load[:, ::each] = 0, 0
    return Master(np.repeat(np.arange(layers), each), saving, load, rng.integers(0, 40, servers))


@looped("seed", range(25))
def test_a_merge_is_the_best_combination(seed: int) -> None:
    master = random_master(seed)
    groups = [np.flatnonzero(master.layer == i).tolist() for i in range(master.layer[-1] + 1)]
    best = max(
        int(master.value[list(choice)].sum())
        for choice in itertools.product(*groups)
        if (master.usage[:, list(choice)].sum(axis=1) <= master.budget).all()
    )
    empty = np.array([group[0] for group in groups])
    found = master.merge(np.arange(len(master.layer)), empty, 10_000, lambda: False)
    if found is None:
        assert best == 0
    else:
        assert master.value[found].sum() == best
        assert (master.usage[:, found].sum(axis=1) <= master.budget).all()
        assert master.merge(np.arange(len(master.layer)), found, 10_000, lambda: False) is None
    assert master.merge(np.arange(len(master.layer)), empty, 10_000, lambda: True) is None


@looped("seed", range(25))
def test_prices_are_the_duals_of_the_linear_program(seed: int) -> None:
    master = random_master(seed)
    relaxed = master.relax(lambda: False)
    assert relaxed is not None
    prices = relaxed.prices
    assert (prices >= 0).all()
    layers = np.arange(master.layer[-1] + 1)
    fits = (master.usage <= master.budget[:, None]).all(axis=0)
    result = linprog(
        -master.value[fits],
        A_ub=master.usage[:, fits],
        b_ub=master.budget,
        A_eq=(master.layer[fits] == layers[:, None]).astype(float),
        b_eq=np.ones(len(layers)),
    )
    worth = np.where(fits, master.value - prices @ master.usage, -np.inf)
    lagrangian = sum(worth[master.layer == i].max() for i in layers) + prices @ master.budget
    assert lagrangian == pytest.approx(-result.fun, rel=1e-6, abs=1e-6)
    assert relaxed.value == pytest.approx(-result.fun, rel=1e-6, abs=1e-6)
    assert relaxed.share @ master.value == pytest.approx(relaxed.value, rel=1e-6, abs=1e-6)
    assert np.bincount(master.layer, relaxed.share) == pytest.approx(1)
    assert not relaxed.share[~fits].any()


def test_a_layer_without_a_plan_that_fits_goes_without_one() -> None:
    master = Master(np.array([0, 0, 1]), np.array([5, 7, 9]), np.array([[1, 2, 8]]), np.array([4]))
    assert master.relax(lambda: False) is None
    relaxed = master.relax(lambda: False, 100)
    assert relaxed is not None
    assert relaxed.share.tolist() == pytest.approx([1, 0, 3 / 8])
    assert relaxed.value == pytest.approx(5 + 9 - 5 / 8 * 100)


# --- dives ---------------------------------------------------------------------------------------------------------


def test_a_dive_ends_with_what_fits_and_costs_no_less_than_the_optimum() -> None:
    ended = missed = 0
    for seed in range(60):
        instance = random_instance_2(seed) if seed % 3 == 0 else random_instance(seed, max_variables=24)
        form = saving_form(instance)
        with stopping(None) as stop:
            try:
                begin = held_by(instance, None, stop)
            except NoSolutionError:
                continue
            pool = ColumnPool(form)
            pool.add_plan(WorkingPlacement(form, begin))
            first = len(pool)
            held = [dive(pool, instance.usable_bytes, 4, np.random.default_rng(seed), stop) for _ in range(2)]
        for found in held:
            if found is None:
                missed += 1
                continue
            ended += 1
            assert Placement(found).fits(instance), seed
            assert form.saving_ns(found) == sum(
                pool.like(i, np.ascontiguousarray(found[:, layer.items])).saving  # type: ignore[union-attr]
                for i, layer in enumerate(form.layers)
            ), seed
        assert len(pool) >= first
    assert ended > 80
    assert missed < ended / 4


def test_dives_price_within_what_is_left_and_differ_by_their_noise() -> None:
    document = wide_document(2, experts=12, layers=6)
    for server in document["servers"]:
        server["capacity_bytes"] = 61
    instance = Instance.from_document(document)
    form = saving_form(instance)

    def dived(tuning: diving.Tuning, seed: int) -> tuple[list[int], int]:
        pool = ColumnPool(form)
        pool.add_plan(WorkingPlacement(form, np.zeros((3, instance.n_items), dtype=np.bool_)))
        rng = np.random.default_rng(seed)
        with stopping(None) as stop:
            found = [dive(pool, instance.usable_bytes, 12, rng, stop, tuning) for _ in range(3)]
        assert all(held is not None for held in found)
        return [form.saving_ns(held) for held in found if held is not None], len(pool)

    usual, known = dived(diving.USUAL, 0)
    assert min(usual) > 0
    assert (usual, known) == dived(diving.USUAL, 0)
    assert usual != dived(diving.USUAL, 1)[0]
    # Without pricing there is nothing but the empty columns.
    assert dived(diving.Tuning(repeated=0), 0) == ([0, 0, 0], len(form.layers))


def test_a_dive_that_is_stopped_has_nothing() -> None:
    instance = random_instance(3, max_variables=24)
    with stopping(0) as stop:
        pool = ColumnPool(saving_form(instance))
        assert dive(pool, instance.usable_bytes, 4, np.random.default_rng(0), stop) is None


def test_columns_fit_what_experts_can_fill() -> None:
    document = wide_document(0)
    document["models"][0]["expert_bytes"] = [6, 10]
    for n, server in enumerate(document["servers"]):
        server["capacity_bytes"] = 39 + n
    instance = Instance.from_document(document)
    assert instance.usable_bytes.tolist() == [38, 40, 40]
    search, context = searching(instance=instance)
    assert ColumnSearch(saving_form(instance), search, seed=0, started=False).capacity.tolist() == [38, 40, 40]
    context.__exit__(None, None, None)


# --- the methods ---------------------------------------------------------------------------------------------------


@looped("seed", range(60))
def test_the_optimum_is_between_bound_and_cost(seed: int) -> None:
    instance = random_instance(seed)
    optimum = brute_force(instance)
    for method, threads in itertools.product(BOTH, (1, 2) if seed % 4 == 0 else (1,)):
        solution = solve(instance, method, threads=threads)
        assert moeplace.check(instance, solution).ok
        assert solution.objective.bound_ns is not None
        assert solution.objective.bound_ns <= optimum <= solution.objective.latency_ns
        if method == "auto":
            assert solution.status.solution == "optimal"
            assert solution.picked_because


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("threads", [1, 2])
def test_interrupted_at_any_moment_it_returns_placement_and_bound(method: str, threads: int) -> None:
    rng = np.random.default_rng(threads)
    cases = [(random_instance(seed, max_variables=12), True) for seed in (3, 11, 17)]
    cases += [(Instance.from_document(wide_document(seed)), False) for seed in (0, 1)]
    for instance, tiny in cases:
        optimum = brute_force(instance) if tiny else None
        for _ in range(3):
            moment, seen = int(rng.integers(1, 8)), []

            def interrupt(progress: moeplace.Progress) -> None:
                seen.append(progress)  # noqa: B023
                if len(seen) == moment:  # noqa: B023
                    signal.raise_signal(signal.SIGINT)

            solution = solve(instance, method, threads=threads, progress=interrupt)
            assert solution.objective.bound_ns is not None
            assert moeplace.check(instance, solution).ok
            costs = [p.latency_ns for p in seen[:moment] if p.latency_ns is not None]
            assert solution.objective.latency_ns <= min(costs)
            if optimum is not None:
                assert solution.objective.bound_ns <= optimum <= solution.objective.latency_ns
            elif len(seen) >= moment:
                assert solution.status.termination in ("interrupted", "optimal")


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("limit", [0.0, 0.02, 0.2])
def test_out_of_time_it_still_returns_placement_and_bound(method: str, limit: float) -> None:
    instance = Instance.from_document(wide_document(2, experts=40, tokens=300))
    solution = solve(instance, method, time_limit=limit)
    assert solution.status.termination == "time_limit"
    assert solution.objective.bound_ns is not None
    assert moeplace.check(instance, solution).ok


@pytest.mark.parametrize("parameters", [{"method": "column-generation"}, {"method": "auto", "gap": 0.1}])
def test_the_same_placement_each_time(parameters: dict[str, Any]) -> None:
    for document in (wide_document(3), wide_document(4, experts=8)):
        instance = Instance.from_document(document)
        runs = [solve(instance, seed=5, **parameters) for _ in range(2)]
        assert runs[0].placement == runs[1].placement
        assert runs[0].objective == runs[1].objective


def test_columns_are_never_worse_than_the_local_optimum_they_begin_with() -> None:
    for seed in range(3):
        instance = Instance.from_document(wide_document(seed))
        local = solve(instance, "local-search")
        assert solve(instance, "column-generation").objective.latency_ns <= local.objective.latency_ns
        start = solve(instance, "random", seed=seed)
        improved = solve(instance, "column-generation", start=start, kicks=0)
        assert improved.objective.latency_ns <= start.objective.latency_ns


def test_auto_picks_by_size() -> None:
    small = solve(Instance.from_document(wide_document(0, experts=8)), "auto")
    assert small.method == "layer-enumeration"
    assert "layers of 8 experts" in str(small.picked_because)
    large = solve(Instance.from_document(wide_document(0, experts=30)), "auto", gap=0.2)
    assert large.method == "column-generation"
    assert "layers of 30 experts on 3 servers are too large" in str(large.picked_because)
    assert large.objective.gap is not None
    assert large.objective.gap <= 0.2


@pytest.mark.parametrize("method", BOTH)
def test_instances_of_nothing(method: str) -> None:
    base = wide_document(0)
    cases: dict[str, dict[str, Any]] = {
        "no servers": {"servers": [], "demands": [{**d, "server_ns": []} for d in base["demands"]]},
        "no rows": {"activations": {key: [] for key in base["activations"]}},
        "no room": {"servers": [{**s, "capacity_bytes": 0} for s in base["servers"]]},
        "out of reach": {"demands": [{**d, "server_ns": [None] * 3} for d in base["demands"]]},
    }
    for change in cases.values():
        solution = solve(Instance.from_document({**base, **change}), method)
        assert solution.placement == []
        assert solution.status.solution == "optimal"


@pytest.mark.parametrize("method", BOTH)
def test_the_certificate_is_of_the_bound(method: str) -> None:
    instance = Instance.from_document(wide_document(1))
    solution, certificate = certified(instance, method, gap=0.3)
    assert certificate is not None
    assert certificate.bound_ns == solution.objective.bound_ns
    assert solution.bound_source in ("concave bound", "layer enumeration")


def test_the_gap_table_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wide.json").write_text(json.dumps(wide_document(0, experts=8)))
    methods = ["column-generation", "layer-enumeration", "local-search"]
    assert main(["gap", "wide.json", "--methods", ",".join(methods), "--json"]) == 0
    (document,) = json.loads(capfd.readouterr().out)
    rows = {row["method"]: row for row in document["methods"]}
    assert list(rows) == methods
    assert document["best_bound_ns"] == rows["layer-enumeration"]["latency_ns"]
    assert all(row["latency_ns"] >= document["best_bound_ns"] for row in rows.values())


def test_storage_without_end() -> None:
    for seed in range(12):
        document = random_document(np.random.default_rng(seed), 12)
        for model in document["models"]:
            model["expert_bytes"] = 1
        finite, endless = (
            {**document, "servers": [{"name": "s", "capacity_bytes": much}, *document["servers"][1:]]}
            for much in (10**6, 2**63 - 1)
        )
        optimum = brute_force(Instance.from_document(finite))
        for method, threads in (("column-generation", 1), ("auto", 2)):
            solution = solve(Instance.from_document(endless), method, threads=threads)
            bound = solution.objective.bound_ns
            assert bound is not None, seed
            assert bound <= optimum <= solution.objective.latency_ns, (seed, method)


def test_auto_ends_by_itself_where_costs_have_too_many_digits_for_a_proof() -> None:
    # The costs' sum takes 63 bits: weights are rounded up, the bound stays a little below the best cost.
    document = random_document(np.random.default_rng(0), 9, "sum")
    document["models"] = [{"name": "m", "layers": 1, "experts": 3, "top_k": 3, "expert_bytes": 6}]
    document["servers"] = [{"name": f"s{n}", "capacity_bytes": 6} for n in range(2)]
    times = [([218797, 218797], 256356), ([None, 138018], 216987), ([251711, None], 503422)]
    document["demands"] = [
        {"user": f"u{d}", "model": "m", "tokens": 2**43, "device_ns": 0, "server_ns": near, "cloud_ns": cloud}
        for d, (near, cloud) in enumerate(times)
    ]
    document["activations"] = {
        "demand": [0, 0, 1, 2, 2],
        "layer": [0] * 5,
        "experts": [[0, 1, 2], [2], [0, 1, 2], [0, 1, 2], [0, 2]],
        "count": [3098306351443, 1099511627772, 2485753157263, 2496662564613, 1099511627773],
    }
    instance = Instance.from_document(document)
    optimum = brute_force(instance)
    for threads in (1, 2):
        solution = solve(instance, "auto", threads=threads)
        assert solution.objective.latency_ns == optimum, threads


def test_column_generation_refuses_negative_kicks() -> None:
    with pytest.raises(moeplace.InputError, match="kicks must be at least 0, found -1"):
        solve(random_instance(0), "column-generation", kicks=-1)


def test_all_threads_but_one_value_the_layers_of_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    instance, used = Instance.from_document(wide_document(0)), []

    class Counted:
        def __init__(self, *given: Any, tuning: Any = None) -> None:
            used.append(next(number for number in given if isinstance(number, int)))

        def run(self) -> None: ...

        def proof(self) -> Any:
            return self

        def improve(self, *_: Any) -> None: ...

    monkeypatch.setattr(proving, "CachingLayers", Counted)
    monkeypatch.setattr(proving, "ConcaveBound", Counted)
    for threads, expected in ((1, 1), (2, 1), (4, 3)):
        solve(instance, "column-generation", threads=threads, kicks=0)
        assert used == [expected, expected], threads
        used.clear()


# --- works that take turns -----------------------------------------------------------------------------------------


def searching(time_limit: float | None = None, instance: Instance | None = None) -> Any:
    instance = instance or Instance.from_document(wide_document(0))
    context = stopping(time_limit)
    return caching_incumbent(instance, context.__enter__(), Placement.empty(instance)), context


def test_works_take_turns() -> None:
    search, context = searching()
    log: list[str] = []

    def work(name: str, looks: int) -> None:
        for _ in range(looks):
            log.append(name)
            assert not search.checkpoint()

    search.run(lambda: work("a", 6), lambda: work("b", 2), turns=(2, 1))
    context.__exit__(None, None, None)
    assert "".join(log) == "aabaabaa"


def test_asking_whether_a_search_has_ended_neither_waits_nor_counts() -> None:
    search, context = searching()
    log: list[str] = []

    def work(name: str, checkpoints: int) -> None:
        for _ in range(checkpoints):
            log.append(name)
            for _ in range(5):
                assert search.ended is None
            assert not search.checkpoint()

    search.run(lambda: work("a", 6), lambda: work("b", 2), turns=(2, 1))
    context.__exit__(None, None, None)
    assert "".join(log) == "aabaabaa"


def test_a_resumed_work_goes_on_from_checkpoint_to_checkpoint() -> None:
    log: list[str] = []
    over: list[bool] = []

    def work(name: str, checkpoints: int) -> Any:
        def run(stop: Any) -> None:
            for _ in range(checkpoints):
                log.append(name)
                if stop():
                    log.append(name.upper())
                    return

        return Resumed(run, lambda: bool(over))

    a, b = work("a", 4), work("b", 9)
    a.resume(2)
    b.resume()
    a.resume(9)
    assert ("".join(log), a.done, b.done) == ("aabaa", True, False)
    a.resume()
    b.give_up()
    assert ("".join(log), b.done) == ("aabaaB", True)
    c, d = work("c", 3), work("d", 3)
    over.append(True)
    c.resume(3)
    d.give_up()  # never begun
    assert "".join(log[6:]) == "cC"

    def fails(stop: Any) -> None:
        stop()
        raise ZeroDivisionError("by zero")

    failing = Resumed(fails, lambda: False)
    failing.resume()
    with pytest.raises(ZeroDivisionError, match="by zero"):
        failing.resume(5)
    assert failing.done
    failing.resume()  # raised once


def racing(**changes: Any) -> proving.Tuning:
    return proving.Tuning(exact_experts=0, light_cells=0, **changes)


@looped("seed", range(4))
def test_bounds_that_race_hold_and_end_where_each_alone_does(seed: int) -> None:
    instance = random_instance(seed, 14)
    optimum, form = brute_force(instance), saving_form(instance)
    bounds = []
    # The race, also in turns of one checkpoint and without a beginning of the concave bound's own; the concave bound
    # alone, and the bound by layers before it.
    for tuning in (racing(), racing(turn_cuts=1, turn_cells=1, slow=1.0), racing(most_terms=0), proving.USUAL):
        search, context = searching(instance=instance)
        search.prove(instance.baseline_ns - form.most_ns, proving.EVERYTHING)
        proving.prove(form, search, tuning)
        context.__exit__(None, None, None)
        assert search.bound_ns <= optimum <= search.latency_ns
        assert not search.failures
        bounds.append(search.bound_ns)
    assert min(bounds[:2]) >= max(bounds[2:]), "neither bound is lost"


def test_a_race_is_the_same_each_time() -> None:
    instance = Instance.from_document(wide_document(0))
    tuning = auto.Tuning(proving=racing(turn_cuts=2))
    found = []
    for _ in range(2):
        search, context = searching(instance=instance)
        claims: list[tuple[int, str]] = []
        prove = search.prove

        def told(bound: int, source: str, *more: Any) -> None:
            claims.append((bound, source))  # noqa: B023
            prove(bound, source, *more)  # noqa: B023

        search.prove = told
        auto.pick(instance, search, 0, 1, started=False, tuning=tuning)
        context.__exit__(None, None, None)
        found.append((claims, search.placement.cached.tobytes(), search.ended))
    assert found[0] == found[1]
    assert {source for _, source in found[0][0]} >= {"concave bound", "layer enumeration"}


def test_an_increment_that_is_wrong_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = WorkingPlacement.move
    instance = Instance.from_document(wide_document(0))
    optimum = solve(instance, "column-generation", kicks=2).objective
    assert optimum.bound_ns == optimum.latency_ns
    for off in (10**6, 1, -1):

        def wrong(plan: WorkingPlacement, i: int, origin: int, target: int, off: int = off) -> None:
            right(plan, i, origin, target)
            plan.put(i, plan.part(i), plan.layer_saving[i] + off)

        monkeypatch.setattr(WorkingPlacement, "move", wrong)
        solution = solve(instance, "column-generation", kicks=2)
        assert off < 10**6 or "was claimed for a placement that costs" in str(solution.details["solver_failure"])
        assert moeplace.check(instance, solution).ok, off
        assert solution.objective.bound_ns <= optimum.latency_ns <= solution.objective.latency_ns, off


def test_incumbent_and_workers_know_no_problem() -> None:
    for module in (moeplace.base.incumbent, moeplace.base.workers):
        imported = {value.__module__ for value in vars(module).values() if hasattr(value, "__module__")}
        assert not imported & {
            "moeplace.caching.evaluation",
            "moeplace.caching.instance",
            "moeplace.caching.placement",
        }, module


def test_a_work_that_fails_ends_the_others() -> None:
    search, context = searching()
    ended = threading.Event()

    def endless() -> None:
        while not search.checkpoint():
            pass
        ended.set()

    def failing() -> None:
        raise MethodError("as expected")

    for turns in (None, (1, 1)):
        ended.clear()
        with pytest.raises(MethodError, match="as expected"):
            search.run(endless, failing, turns=turns)
        assert ended.wait(5)
    context.__exit__(None, None, None)


def test_works_end_with_the_time() -> None:
    search, context = searching(0.1)

    def endless() -> None:
        while not search.checkpoint():
            pass

    search.run(endless, endless, turns=(3, 3))
    context.__exit__(None, None, None)
    assert search.outcome().termination == "time_limit"
