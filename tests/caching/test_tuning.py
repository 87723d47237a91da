"""Every limit of every method at a tiny value: bounds hold, placements fit, exact is exact or says that it is not."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from random_instances import (
    apart_document,
    brute_force,
    brute_force_2,
    brute_force_joint,
    random_document,
    random_document_2,
    random_instance,
    random_joint_document,
)

import moeplace
from moeplace import Instance, MethodLimitError, Placement
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import stopping
from moeplace.caching.bounds import by_layers, concave, independent, joint_layers, joint_proving, proving
from moeplace.caching.bounds.by_layers import CachingLayers
from moeplace.caching.bounds.independent import IndependentLayers
from moeplace.caching.bounds.joint_proving import JointProving
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.heuristics import joint_search
from moeplace.caching.heuristics.joint import JointForms
from moeplace.caching.heuristics.joint_search import JointSearch
from moeplace.caching.heuristics.knapsack import fill
from moeplace.caching.methods import auto, column_generation, greedy
from moeplace.caching.methods.column_generation import generate
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent

NEVER_ZERO = {
    "chunk",
    "every",
    "between",
    "most_prices",
    "first_plans",
    "first_entries",
    "most_cuts",
    "coarse",
    "patience",
    "turn_cuts",
}
"""What cannot be nothing, as its documentation says."""

INSTANCES = [random_instance(seed, 12) for seed in (3, 8, 11, 16)]
OPTIMA = [brute_force(instance) for instance in INSTANCES]
# Of version 2: without a cloud, with slots, with loading.
DOCUMENTS_2 = [random_document_2(np.random.default_rng(seed), 12) for seed in (1044,)]
INSTANCES_2 = [Instance.from_document(document) for document in DOCUMENTS_2]
JOINT_DOCUMENTS = [random_joint_document(np.random.default_rng(seed)) for seed in (25, 42)]
JOINT = [Instance.from_document(document) for document in JOINT_DOCUMENTS]
JOINT_OPTIMA = [brute_force_joint(document) for document in JOINT_DOCUMENTS]
OPTIMA_2 = [brute_force_2(document) for document in DOCUMENTS_2]


def tiny(name: str, value: Any) -> list[Any]:
    """Return tiny values of a field."""
    if isinstance(value, tuple):
        if isinstance(value[0], int):
            return [(1, 1)] if name == "turns" else [(), (1,)]
        return [(), tuple((*stage[:-1], 1) for stage in value[:1])]
    if isinstance(value, float):
        return [1e-3] if name == "shortened" else [0.0]
    return [1] if name in NEVER_ZERO else [0, 2]


def each_tiny(tuning: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a tuning with one field at a tiny value, and its name, for every field, also of the tunings in it."""
    for field in dataclasses.fields(tuning):
        value, name = getattr(tuning, field.name), path + field.name
        if dataclasses.is_dataclass(value):
            changes = each_tiny(value, name + ".")
        else:
            changes = ((f"{name}={v}", v) for v in tiny(field.name, value))
        for told, changed in changes:
            yield told, dataclasses.replace(tuning, **{field.name: changed})


def each_tiny_read(usual: Any, run: Callable[[Any, str], None]) -> Iterator[str]:
    """Run with the usual limits, and again with each one at tiny values that the first run has read; yield their names.

    A limit that a run never reads cannot change it: the same steps once more would show nothing. The runs depend on no
    clock.
    """
    places: dict[int, list[str]] = {}
    for path, part in parts(usual):
        places.setdefault(id(part), []).append(path)
    read: set[str] = set()

    def noting(part: Any, name: str) -> Any:
        read.update(path + name for path in places.get(id(part), ()))
        return object.__getattribute__(part, name)

    with pytest.MonkeyPatch.context() as patch:
        for kind in {type(part) for _, part in parts(usual)}:
            patch.setattr(kind, "__getattribute__", noting, raising=False)
        run(usual, "as usual")
    for told, tuning in each_tiny(usual):
        if told.partition("=")[0] in read:
            run(tuning, told)
            yield told


def parts(tuning: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a tuning and all tunings in it, with what comes before the names of their fields."""
    yield path, tuning
    for field in dataclasses.fields(tuning):
        if dataclasses.is_dataclass(value := getattr(tuning, field.name)):
            yield from parts(value, f"{path}{field.name}.")


def test_what_a_run_reads_is_noted() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        read: int = 5
        unread: int = 5

    @dataclasses.dataclass(frozen=True)
    class Outer:
        inner: Inner = Inner()
        copied: Inner = Inner()
        read: int = 5
        unread: int = 5

    def run(tuning: Outer, told: str) -> None:
        ran.append((told, tuning))
        assert tuning.inner.read >= 0
        assert tuning.read >= 0
        dataclasses.replace(tuning.copied, unread=1)  # which reads what it keeps

    ran: list[tuple[str, Outer]] = []
    usual = Outer(copied=Inner())
    found = list(each_tiny_read(usual, run))
    assert found == [f"{name}={value}" for name in ("inner.read", "copied.read", "read") for value in (0, 2)]
    assert [told for told, _ in ran] == ["as usual", *found]
    assert [tuning.read for _, tuning in ran] == [5, 5, 5, 5, 5, 0, 2]
    assert "__getattribute__" not in vars(Inner)


def judged(instance: Instance, search: Incumbent, optimum: int, told: str) -> None:
    assert search.placement.fits(instance), told
    assert search.latency_ns == cost_ns(instance, search.placement), told
    assert search.bound_ns is None or search.bound_ns <= optimum <= search.latency_ns, told
    assert list(search.failures) == [], told  # a bound above a placement's cost is dropped, and noted


def test_tiny_limits_of_the_proof_by_layers() -> None:
    tried: set[str] = set()
    for instance, optimum in zip(INSTANCES + INSTANCES_2, OPTIMA + OPTIMA_2, strict=True):

        def run(tuning: Any, told: str, instance: Instance = instance, optimum: int = optimum) -> None:
            with stopping(None) as stop:
                search = caching_incumbent(instance, stop)
                if by_layers.refuses(instance, tuning=tuning) is None:
                    CachingLayers(saving_form(instance), search, 1, tuning).proof().run()
            judged(instance, search, optimum, told)

        tried.update(each_tiny_read(by_layers.USUAL, run))
    assert len(tried) > 40


def test_tiny_limits_of_independent_layers() -> None:
    found = 0
    tried: set[str] = set()
    for document in map(apart_document, range(12)):
        optimum, instance = brute_force_2(document), Instance.from_document(document)
        if optimum is None or instance.coverage is None or independent.refuses(instance) is not None:
            continue
        found += 1

        def run(tuning: Any, told: str, instance: Instance = instance, optimum: int = optimum) -> None:
            with stopping(None) as stop:
                search = caching_incumbent(instance, stop)
                IndependentLayers(instance, search, 1, tuning).run()
            judged(instance, search, optimum, told)

        tried.update(each_tiny_read(independent.USUAL, run))
    assert found > 2
    assert tried


@pytest.mark.parametrize("wide", [False, True], ids=["priced exactly", "concave bound"])
def test_tiny_limits_of_column_generation(wide: bool) -> None:
    # Without the aggregated problem there is only the concave bound.
    usual = (
        column_generation.Tuning(proving=proving.Tuning(exact_experts=0, most_terms=0))
        if wide
        else column_generation.USUAL
    )
    bounds: set[str | None] = set()
    tried: set[str] = set()
    for instance, optimum in zip(INSTANCES[:2] + INSTANCES_2, OPTIMA[:2] + OPTIMA_2, strict=True):

        def run(tuning: Any, told: str, instance: Instance = instance, optimum: int = optimum) -> None:
            with stopping(None) as stop:
                search = caching_incumbent(instance, stop)
                generate(instance, search, 0, 1, started=False, kicks=3, enumerated=4, tuning=tuning)
                judged(instance, search, optimum, told)
            bounds.add(search.bound_source)

        tried.update(each_tiny_read(usual, run))
    assert len(tried) > 30
    assert not wide or "concave bound" in bounds


def test_the_ascent_is_as_long_as_the_instance_is_large() -> None:
    form = saving_form(INSTANCES[0])
    pairs = len(form.instance.servers) * form.instance.n_items
    for stages, few_terms, many_pairs in (
        ("stages", True, pairs + 1),
        ("long_stages", True, pairs),
        ("short_stages", False, pairs + 1),
        ("short_stages", False, pairs),
    ):
        terms = form.most_terms if few_terms else form.most_terms - 1
        tuning = concave.Tuning(many_terms=terms, many_pairs=many_pairs)
        bound = concave.ConcaveBound(form, tuning=tuning)
        assert bound.stages == getattr(tuning, stages)
        bound.improve(lambda: False)
        assert bound.passes == sum(steps for _, steps in bound.stages)


def test_tiny_limits_of_the_race_of_bounds() -> None:
    usual = proving.Tuning(exact_experts=0, light_cells=0)
    for told, tuning in each_tiny(usual):
        if told.startswith(("layers.", "concave.", "independent.", "exact_experts", "most_")):
            continue  # as alone
        for instance, optimum in zip(INSTANCES[:2], OPTIMA, strict=False):
            with stopping(None) as stop:
                search = caching_incumbent(instance, stop)
                proving.prove(saving_form(instance), search, tuning)
            judged(instance, search, optimum, told)


def test_tiny_limits_of_auto() -> None:
    for told, tuning in each_tiny(auto.USUAL):
        if told.startswith(("columns.", "proving.", "joint.", "joint_proving.")):
            continue  # as column generation and the joint methods have it
        for instance, optimum in zip(INSTANCES[:2], OPTIMA, strict=False):
            with stopping(None) as stop:
                outcome = auto.pick(
                    instance,
                    caching_incumbent(instance, stop),
                    0,
                    1,
                    started=False,
                    tuning=tuning,
                )
            assert outcome.bound_ns == optimum == cost_ns(instance, outcome.placement), told


def test_tiny_limits_of_joint_methods() -> None:
    sources = set()
    for usual in (joint_proving.USUAL, joint_proving.Tuning(layers=joint_layers.Tuning(most_shares=0))):
        concave = usual is not joint_proving.USUAL
        for told, tuning in each_tiny(usual):
            if told.startswith("layers.") == concave or told.startswith(("layers.layers.", "concave.concave.")):
                continue  # as the bounds of one number of active experts have it
            for instance, optimum in zip(JOINT, JOINT_OPTIMA, strict=True):
                with stopping(None) as stop:
                    search = caching_incumbent(instance, stop)
                    JointProving(JointForms(instance), search, tuning).run(1)
                judged(instance, search, optimum, told)
                sources.add(search.bound_source)
    assert len(sources) == 2
    for told, found in each_tiny(joint_search.USUAL):
        for instance, optimum in zip(JOINT, JOINT_OPTIMA, strict=True):
            with stopping(None) as stop:
                search = caching_incumbent(instance, stop)
                columns = JointSearch(JointForms(instance), search, seed=0, started=False, tuning=found)
                columns.begin()
                columns.improve(3)
            judged(instance, search, optimum, told)


def test_tiny_limits_of_greedy() -> None:
    form = saving_form(Instance.from_document(random_document(np.random.default_rng(3), 12)))
    begin = Placement.empty(form.instance).cached
    for told, tuning in each_tiny(greedy.USUAL):
        with pytest.raises(MethodLimitError, match="starting sets"):
            list(greedy._starts(form, begin, 3, tuning))
        assert told
    assert moeplace.solve(form.instance, "greedy", enumerate=3).placement is not None


# --- what the kernels of heuristics keep and try ------------------------------------------------------------------


def test_what_is_remembered_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    instances = [random_instance(seed, 24) for seed in range(6)]
    methods = ("local-search", "column-generation", "greedy")
    usual = [moeplace.solve(i, method, seed=1).placement for i in instances for method in methods]
    for most in (1, 2):
        monkeypatch.setattr("moeplace.caching.heuristics.working_placement.MOST_REMEMBERED", most)
        assert [moeplace.solve(i, method, seed=1).placement for i in instances for method in methods] == usual


def test_layers_too_large_to_try_all_sets_are_peeled(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        instance = random_instance(seed, 24)
        held = np.random.default_rng(seed).random((len(instance.servers), instance.n_items)) < 0.5
        for layer in saving_form(instance).layers:
            part = np.ascontiguousarray(held[:, layer.items])
            monkeypatch.undo()
            peeled, exact = layer.value_function(part, 0), layer.value_function(part, 0, enumerated=20)
            monkeypatch.setattr("moeplace.caching.saving.MOST_ENUMERATED", layer.n_experts - 1)
            limited = layer.value_function(part, 0, enumerated=20)
            assert limited.values.tolist() == peeled.values.tolist(), seed
            assert (limited.values <= exact.values).all(), seed
            assert (limited.values == exact.values)[limited.proven].all(), seed


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_knapsack_of_few_entries_keeps_what_it_says(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moeplace.caching.heuristics.knapsack.MOST_ENTRIES", most)
    rng = np.random.default_rng(most)
    for case in range(40):
        sizes = rng.choice([3, 5, 7, 11, 13], int(rng.integers(1, 6)), replace=False).tolist()
        functions = [np.concatenate(([0], np.cumsum(rng.integers(0, 9, 3)))) for _ in sizes]
        capacity = int(rng.integers(0, 60))
        best = max(
            sum(int(f[q]) for f, q in zip(functions, counts, strict=True))
            for counts in itertools.product(*(range(len(f)) for f in functions))
            if sum(s * q for s, q in zip(sizes, counts, strict=True)) <= capacity
        )
        filling = fill(functions, sizes, capacity)
        assert sum(s * q for s, q in zip(sizes, filling.counts, strict=True)) <= capacity, case
        assert filling.value == sum(int(f[q]) for f, q in zip(functions, filling.counts, strict=True)), case
        assert 0 <= filling.ratio <= 1, case
        assert filling.ratio * best <= filling.value <= best, case
