"""Instances of version 2: no cloud, loading, slots. Evaluation and checker against the definitions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET, structs
from random_instances import brute_force_2, naive_cost_2, pairs_of, random_document_2

import moeplace
from moeplace import Instance, Placement, Solution
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import Stop
from moeplace.caching.evaluation import Evaluation, cost_ns, latency_ns, loading_ns
from moeplace.caching.heuristics.covering import cover
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
