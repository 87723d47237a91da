"""Instances of version 2: no cloud, loading, slots. Evaluation and checker against the definitions."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET, structs
from random_instances import brute_force_2, naive_cost_2, pairs_of, random_document_2

import moeplace
from moeplace import Instance, Placement, Solution
from moeplace.base.arrays import Bool
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import Stop
from moeplace.caching.evaluation import Evaluation, cost_ns, latency_ns, loading_ns
from moeplace.caching.heuristics.covering import cover
from moeplace.caching.saving import Layer, saving_form
from moeplace.caching.solution import Assignment


def placed(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Return what it is started from."""
    assert start is not None
    return Outcome(start)


def wrong_solutions(instance: Instance, solution: Solution) -> dict[str, tuple[Solution, str]]:
    """Break a solution in every way that version 2 knows, with what the checker must say."""
    said, broken = solution.objective, {}

    def objective(**changes: Any) -> Solution:
        return structs.replace(solution, objective=structs.replace(said, **changes))

    if instance.load_block_ns is None:
        broken["a loading that is free"] = objective(loading_ns=0), "objective.loading_ns"
    else:
        broken["another loading"] = objective(loading_ns=said.loading_ns + 1), "objective.loading_ns"
        broken["another cost"] = objective(cost_ns=said.cost_ns - 1), "objective.cost_ns"
        broken["no loading"] = objective(loading_ns=UNSET), "objective.loading_ns"
    broken["another baseline"] = objective(baseline_ns=said.baseline_ns + 1), "objective.baseline_ns"
    if instance.coverage is not None:
        model, layer, expert = instance.item_name(int(instance.coverage.item[0]))
        kept = [
            structs.replace(part, experts=[e for e in part.experts if part.model != model or e != (layer, expert)])
            for part in solution.placement
        ]
        broken["an expert that is nowhere"] = structs.replace(solution, placement=kept), "it has no cloud"
    for n, slots in enumerate(instance.layer_slots.tolist()):
        model = instance.models[0]
        if slots < model.experts:
            server = instance.servers[n].name
            others = [part for part in solution.placement if (part.server, part.model) != (server, model.name)]
            crowd = Assignment(server, model.name, [(0, e) for e in range(slots + 1)])
            broken["too many of a layer"] = structs.replace(solution, placement=[*others, crowd]), "slots a layer"
    return broken


def test_the_checker_takes_what_is_right_and_refuses_every_broken_rule() -> None:
    seen: set[str] = set()
    for seed in range(120):
        document = random_document_2(np.random.default_rng(seed))
        instance = Instance.from_document(document)
        try:
            start = cover(instance, Stop(None))
        except NoSolutionError:
            continue
        solution = moeplace.solve(instance, f"{__name__}:placed", start=start)
        assert sum(naive_cost_2(document, pairs_of(instance, start)) or ()) == solution.value, seed
        report = moeplace.check(instance, solution)
        assert report.ok, (seed, report.violations)
        assert report.value == solution.value, seed
        for what, (wrong, why) in wrong_solutions(instance, solution).items():
            found = moeplace.check(instance, wrong)
            assert any(why in violation for violation in found.violations), (seed, what, found.violations)
            seen.add(what)
    assert len(seen) == 7, seen


def test_every_placement_is_valued_and_refused_as_the_definitions_say() -> None:
    refused = taken = 0
    for seed in range(160):
        rng = np.random.default_rng(seed)
        document = random_document_2(rng)
        instance = Instance.from_document(copy.deepcopy(document))
        assert instance.document() == document, seed
        for _ in range(12):
            placement = Placement(rng.random((len(instance.servers), instance.n_items)) < rng.choice([0.3, 0.6, 0.9]))
            expected = naive_cost_2(document, pairs_of(instance, placement))
            assert placement.fits(instance) == (expected is not None), seed
            if expected is None:
                refused += 1
                with pytest.raises(InputError):
                    placement.check_fits(instance)
                continue
            taken += 1
            evaluation = Evaluation(instance, placement)
            assert (latency_ns(instance, placement), loading_ns(instance, placement)) == expected, seed
            assert (evaluation.latency_ns, evaluation.loading_ns) == expected, seed
            assert cost_ns(instance, placement) == evaluation.cost_ns == sum(expected), seed
            assert sum(expected) <= instance.baseline_ns + instance.most_loading_ns, seed
    assert refused > 200
    assert taken > 200


def test_a_first_placement_covers_or_there_is_none() -> None:
    found = none = 0
    for seed in range(120):
        document = random_document_2(np.random.default_rng(seed), max_variables=9)
        instance = Instance.from_document(document)
        exists = brute_force_2(document) is not None
        try:
            placement = cover(instance, Stop(None))
        except NoSolutionError:
            assert not exists, seed
            none += 1
        else:
            assert exists, seed
            assert placement.fits(instance), seed
            found += instance.coverage is not None
    assert none > 10
    assert found > 30


def test_the_saving_form_is_the_cost_with_a_price_on_what_is_not_covered() -> None:
    uncovered = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        document = random_document_2(rng)
        instance = Instance.from_document(document)
        form = saving_form(instance)
        for _ in range(4):
            placement = Placement(rng.random((len(instance.servers), instance.n_items)) < rng.choice([0.3, 0.6, 0.9]))
            asked = np.zeros(instance.n_items, dtype=np.bool_)
            for layer in form.layers:
                asked[layer.items] = True
            placement = Placement(placement.cached & asked)  # what nobody asks for is in no layer
            missing = len(placement.uncovered(instance))
            saving = form.saving_ns(placement.cached)
            most = instance.baseline_ns + instance.most_loading_ns
            if missing:
                uncovered += 1
                assert saving <= instance.baseline_ns - missing * most, seed
            else:
                assert instance.baseline_ns - saving == cost_ns(instance, placement), seed
            assert saving <= form.most_ns, seed
            for layer in form.layers:
                check_moves(layer, np.ascontiguousarray(placement.cached[:, layer.items]), seed)
    assert uncovered > 60


def check_moves(layer: Layer, held: Bool, seed: int) -> None:
    """Compare what a layer says of single moves and of one server's experts with trying them all."""
    before = layer.saving_ns(held)
    full = held.sum(axis=1) >= layer.slots
    gains, moves, nowhere = layer.gains(held), layer.moves(held), len(held)
    best: dict[tuple[int, int], int] = {}
    for e in range(layer.n_experts):
        holders = [*np.flatnonzero(held[:, e]).tolist(), nowhere]
        for a, b in itertools.product(holders, range(nowhere + 1)):
            if a == b or (b < nowhere and (held[b, e] or full[b])):
                continue
            after = held.copy()
            for place, there in ((a, False), (b, True)):
                if place < nowhere:
                    after[place, e] = there
            change = layer.saving_ns(after) - before
            best[a, b] = max(change, best.get((a, b), change))
            if a == nowhere:
                assert gains[b, e] == change, seed
    assert (gains[full] < -(2**62)).all(), seed
    for a, b in itertools.product(range(nowhere + 1), repeat=2):
        assert (moves.expert[a, b] < 0) == ((a, b) not in best), seed
        assert moves.expert[a, b] < 0 or moves.gain[a, b] == best[a, b], seed
    for n in range(len(held)):
        for enumerated in (0, 20):
            function = layer.value_function(held, n, enumerated)
            assert len(function.values) == min(layer.slots[n], layer.n_experts) + 1
            after = held.copy()
            for q, (value, kept) in enumerate(zip(function.values.tolist(), function.kept, strict=True)):
                assert kept.sum() <= q, seed
                after[n] = kept
                assert layer.saving_ns(after) == value, seed
                if function.proven[q]:
                    sets = itertools.chain.from_iterable(
                        itertools.combinations(range(layer.n_experts), k) for k in range(q + 1)
                    )
                    values = []
                    for chosen in sets:
                        after[n] = False
                        after[n, list(chosen)] = True
                        values.append(layer.saving_ns(after))
                    assert value == max(values), seed
