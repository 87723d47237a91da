"""Which placements the page shows, and their data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from moeplace.base.errors import InputError, naming
from moeplace.base.text import gap_percent, number
from moeplace.bench.records import PlannedInstance
from moeplace.caching.instance import Instance, load
from moeplace.caching.view import ViewsOf
from moeplace.report.collect import Collection, Entry
from moeplace.report.statistics import pooled

MOST_BYTES = 1_200_000
"""Data of the placement view, at most; what does not fit is left out, and the page says so."""
MOST_BYTES_OF_ONE = MOST_BYTES // 6
"""Of one instance: above it, only its best placements are shown."""


@dataclass
class Placements:
    """The placement view's data.

    Attributes
    ----------
    instances : list of dict
        As the page's script reads them.
    facts : str
        What was chosen, and what was left out.
    """

    instances: list[dict[str, Any]] = field(default_factory=list)
    facts: str = ""


def choose(collection: Collection, most: int, most_rows: int = 1_500_000) -> Placements:
    """Return the placements of some instances: of each method the best one it found.

    Parameters
    ----------
    collection : Collection
    most : int
        Instances to show, taken evenly from the sets and from small to large within each.
    most_rows : int
        Activation rows of the instances shown, together: reading them takes most of the time.

    Returns
    -------
    Placements
        Instances whose file is not found or is another one now are left out.

    Raises
    ------
    InputError
        A solution of the run directory is missing or damaged.
    """
    result, room, missing, cut = Placements(), MOST_BYTES, 0, False
    by_instance = pooled_entries(collection.entries)
    for instance in _evenly(collection, most):
        if instance.problem != "caching" or instance.items is None or instance.servers is None:
            continue  # placements are caching's
        entries = best_of_each_method(by_instance.get((instance.set, instance.sha256), []), collection.methods)
        each = instance.items * instance.servers // 4 + 20 * (instance.demands or 0)
        fit = max(1, MOST_BYTES_OF_ONE // max(each, 1))
        cut, entries = cut or len(entries) > fit, entries[:fit]
        size = each * len(entries) + 60 * (instance.demands or 0)
        if not entries or (instance.rows or 0) > most_rows or size > room:
            continue
        try:
            problem = _instance(instance, entries)
        except InputError:
            missing += 1
            continue
        shown = _instance_document(problem, instance, entries)
        room -= size
        most_rows -= instance.rows or 0
        result.instances.append(shown)
    total = len(collection.instances)
    result.facts = f"the best of each method on {len(result.instances)} of {number(total, 'instance')}"
    if cut:
        result.facts += "; of the largest ones only the best placements"
    if missing:
        result.facts += f"; the files of {missing} others are not where they were"
    return result


def pooled_entries(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Return the entries by set and instance."""
    result: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        result.setdefault((entry.record.set, entry.record.sha256), []).append(entry)
    return result


def best_of_each_method(entries: Sequence[Entry], methods: Sequence[str]) -> list[Entry]:
    """Return the run of lowest cost (then lowest seed) of each method, best method first."""
    best: dict[str, Entry] = {}
    for entry in entries:
        if entry.trial.latency_ns is not None and entry.record.solution is not None:
            before = best.get(entry.trial.method)
            if before is None or _rank(entry) < _rank(before):
                best[entry.trial.method] = entry
    return sorted(best.values(), key=lambda entry: (_rank(entry)[0], methods.index(entry.trial.method)))


def _rank(entry: Entry) -> tuple[int, int]:
    assert entry.trial.latency_ns is not None
    return entry.trial.latency_ns, entry.trial.seed


def _evenly(collection: Collection, most: int) -> list[PlannedInstance]:
    """Return instances in the order of the sets, about as many of each, evenly from small to large."""
    by_set: dict[str, list[PlannedInstance]] = {}
    for instance in sorted(collection.instances, key=lambda i: ((i.items or 0) * (i.servers or 0), i.name)):
        by_set.setdefault(instance.set, []).append(instance)
    room, chosen = most, {}
    for left, name in enumerate(sorted(by_set, key=lambda name: len(by_set[name]))):
        share = room // (len(by_set) - left)
        chosen[name] = _spread(by_set[name], share)
        room -= len(chosen[name])
    return [instance for name in collection.sets for instance in chosen.get(name, [])]


def _spread(instances: list[PlannedInstance], most: int) -> list[PlannedInstance]:
    if most >= len(instances):
        return instances
    if most < 2:
        return instances[-1:] * most
    return [instances[round(i * (len(instances) - 1) / (most - 1))] for i in range(most)]


def _instance(planned: PlannedInstance, entries: Sequence[Entry]) -> Instance:
    instance = load(entries[0].data.instance_path(planned))
    if instance.sha256 != planned.sha256:
        raise InputError("is another instance now", file=planned.path)
    return instance


def _instance_document(instance: Instance, planned: PlannedInstance, entries: Sequence[Entry]) -> dict[str, Any]:
    views = ViewsOf(instance)
    placements = []
    for entry in entries:
        solution = entry.data.solution(entry.record)
        with naming(entry.data.folder / str(entry.record.solution)):
            placement = solution.placement_on(instance)
        shown = views.view(placement).document()
        gap, problem = entry.trial.gap, entry.trial.problem
        shown["label"] = entry.trial.method + (f", seed {entry.trial.seed}" if _seeds(entries) else "")
        shown["gap"] = "" if gap is None else f"gap {gap_percent(gap)} (bound of {problem.bound_by})"
        shown["note"] = "best known cost" if entry.trial.latency_ns == problem.best_ns else ""
        placements.append(shown)
    return views.document() | {"set": planned.set, "placements": placements}


def _seeds(entries: Sequence[Entry]) -> bool:
    return len(pooled((entry.trial for entry in entries), lambda trial: str(trial.seed))) > 1
