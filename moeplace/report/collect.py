"""From run directories to what statistics are made of: every run beside what all runs together know of its instance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from moeplace.base.errors import InputError
from moeplace.base.text import number
from moeplace.bench.records import (
    RECORDS,
    RUN,
    KnownValues,
    PlannedInstance,
    Record,
    RunData,
    checked_costs,
    cross_checked,
    read_run,
)
from moeplace.comparing import KNOWN, highest_bound
from moeplace.report.statistics import Pair, Problem, Summary, Trial, pairs, pooled, summarise


@dataclass(frozen=True)
class Entry:
    """One record, the run directory it is from, and what statistics see of it."""

    data: RunData
    record: Record
    trial: Trial


@dataclass(frozen=True)
class Collection:
    """All runs of some run directories.

    Attributes
    ----------
    runs : list of RunData
    entries : list of Entry
        Every recorded run once.
    instances : list of PlannedInstance
        Every instance of every set once.
    problems : list of Problem
        What is known of each of them, in the same order.
    methods : list of str
        The methods' labels, in the order of the plans.
    planned : int
        Runs that were planned.
    notes : list of str
        What a reader must know: runs that are missing, records that are in several run directories.
    contradictions : list of str
        Bounds that checked costs show to be false.
    """

    runs: list[RunData]
    entries: list[Entry]
    instances: list[PlannedInstance]
    problems: list[Problem]
    methods: list[str]
    planned: int
    notes: list[str]
    contradictions: list[str]

    @property
    def trials(self) -> list[Trial]:
        """What statistics are made of, set by set."""
        return [entry.trial for entry in self.entries]

    @property
    def sets(self) -> list[str]:
        """The names of the sets in the order of the plans."""
        return list(dict.fromkeys(problem.set_name for problem in self.problems))

    def summaries(self) -> dict[str, list[Summary]]:
        """Return the summary of every method on every set."""
        by_set = pooled(self.trials, lambda trial: trial.problem.set_name)
        result = {}
        for name in self.sets:
            by_method = pooled(by_set.get(name, []), lambda trial: trial.method)
            result[name] = [summarise(name, m, by_method[m]) for m in self.methods if m in by_method]
        return result

    def pairs(self) -> dict[str, list[Pair]]:
        """Return every pair of methods on every set."""
        by_set = pooled(self.trials, lambda trial: trial.problem.set_name)
        return {name: pairs(name, by_set.get(name, []), self.methods) for name in self.sets}


def collect(folders: Sequence[str | os.PathLike[str]]) -> Collection:
    """Read run directories and put them together.

    Parameters
    ----------
    folders : sequence of path-like
        Run directories. A run that is in several of them counts as in the last one.

    Returns
    -------
    Collection

    Raises
    ------
    InputError
        One of them is no run directory or damaged, is given twice, or nothing has been recorded yet.
    """
    runs = [read_run(folder) for folder in folders]
    seen: set[str] = set()
    for data in runs:
        if (real := os.path.realpath(data.folder)) in seen:
            raise InputError("is given twice", file=str(data.folder))
        seen.add(real)
    latest: dict[str, tuple[RunData, Record]] = {}
    twice = 0
    for data in runs:
        for record in data.records:
            twice += record.key in latest
            latest[record.key] = data, record
    if not latest:
        raise InputError("no run has been recorded yet", file=", ".join(str(folder) for folder in folders))
    instances, notes = _instances(runs)
    # Each run directory was checked by itself; a bound of one may be above a cost of another.
    records, between = cross_checked([record for _, record in latest.values()], instances)
    contradictions = list(dict.fromkeys([line for data in runs for line in data.contradictions] + between))
    problems = _problems(instances, records)
    place = {(problem.set_name, problem.sha256): i for i, problem in enumerate(problems)}
    labels = _labels(runs, records)
    entries = [
        Entry(data, record, _trial(record, problems[place[record.set, record.sha256]], labels[record.key]))
        for (data, _), record in zip(latest.values(), records, strict=True)
        if (record.set, record.sha256) in place
    ]
    if not entries:
        data, record = next(iter(latest.values()))
        sets = " or ".join(dict.fromkeys(i.set for i in data.run.instances if i.sha256 == record.sha256))
        said = f"expected runs of the sets in {RUN}; {record.instance} is of the set {record.set}, there of {sets}"
        raise InputError(said, file=str(data.folder / RECORDS))
    entries.sort(key=lambda entry: place[entry.record.set, entry.record.sha256])
    order = [planned.name for data in runs for planned in data.run.plan.methods]
    of_label = {entry.trial.method: entry.record.method for entry in entries}
    methods = sorted(of_label, key=lambda label: order.index(of_label[label]))
    planned = sum(_planned(data) for data in runs) - twice
    if len(entries) < planned:
        notes.append(f"{len(entries)} of {planned} planned runs are recorded; the others are not counted anywhere")
    if twice:
        notes.append(f"{number(twice, 'run')} recorded in several run directories: counted once, as in the last")
    return Collection(runs, entries, instances, problems, methods, planned, notes, contradictions)


def _instances(runs: Sequence[RunData]) -> tuple[list[PlannedInstance], list[str]]:
    """Return every instance of every set once, with the best that any run directory knew of it."""
    result: dict[tuple[str, str], PlannedInstance] = {}
    for data in runs:
        for instance in data.run.instances:
            key = instance.set, instance.sha256
            before = result.get(key)
            known = _best(instance.best_known, before.best_known) if before else instance.best_known
            result[key] = msgspec.structs.replace(instance, best_known=known)
    names = pooled_names(list(result.values()))
    notes = [f"{name}: {n} different instances have this name" for name, n in names.items() if n > 1]
    return list(result.values()), notes


def pooled_names(instances: Sequence[PlannedInstance]) -> dict[str, int]:
    """Return how many different instances have each name."""
    hashes: dict[str, set[str]] = {}
    for instance in instances:
        hashes.setdefault(instance.name, set()).add(instance.sha256)
    return {name: len(found) for name, found in hashes.items()}


def _best(one: KnownValues | None, other: KnownValues | None) -> KnownValues | None:
    if one is None or other is None:
        return one or other
    latency = min(one.latency_ns, other.latency_ns)
    bound = max((b for b in (one.bound_ns, other.bound_ns) if b is not None), default=None)
    return KnownValues(latency, bound, latency == bound)


def _problems(instances: Sequence[PlannedInstance], records: Sequence[Record]) -> list[Problem]:
    nobody = (None, None)
    costs = checked_costs(records, instances)
    bounds: dict[str, list[tuple[int | None, str]]] = {}
    baselines: dict[str, int] = {}
    for instance in instances:
        if instance.best_known is not None:
            bounds.setdefault(instance.sha256, []).append((instance.best_known.bound_ns, KNOWN))
    for record in records:
        if record.status == "ok":
            bounds.setdefault(record.sha256, []).append((record.bound_ns, record.who))
    best = {i.sha256: costs.lowest(i.sha256) or nobody for i in instances}
    best_bound = {
        i.sha256: highest_bound(bounds.get(i.sha256, ()), costs.lowest(i.sha256)) or nobody for i in instances
    }
    for record in records:
        if record.baseline_ns is not None:
            baselines[record.sha256] = record.baseline_ns
    return [
        Problem(
            set_name=i.set,
            name=i.name,
            sha256=i.sha256,
            servers=i.servers,
            items=i.items,
            rows=i.rows,
            tokens=i.tokens,
            baseline_ns=baselines.get(i.sha256),
            best_ns=best[i.sha256][0],
            bound_ns=best_bound[i.sha256][0],
            best_by=best[i.sha256][1],
            bound_by=best_bound[i.sha256][1],
        )
        for i in instances
    ]


def _trial(record: Record, problem: Problem, label: str) -> Trial:
    ok = record.status == "ok"
    return Trial(
        problem=problem,
        method=label,
        seed=record.seed,
        status=record.status,
        latency_ns=record.latency_ns if ok else None,
        bound_ns=record.bound_ns if ok else None,
        wall_s=record.wall_s,
        time_limit=record.time_limit,
        trajectory=[(seconds, cost) for seconds, cost, _ in record.trajectory if cost is not None],
    )


def _labels(runs: Sequence[RunData], records: Sequence[Record]) -> dict[str, str]:
    """Return a label for each record: its method's, with the limits or parameters that tell equal ones apart."""
    variants: dict[str, list[dict[str, str]]] = {}
    for record in records:
        features = _features(record)
        if features not in variants.setdefault(record.method, []):
            variants[record.method].append(features)
    labels = {}
    for record in records:
        alike, features = variants[record.method], _features(record)
        differing = [text for key, text in features.items() if any(other.get(key) != text for other in alike)]
        labels[record.key] = ", ".join([record.method, *differing])
    return labels


def _features(record: Record) -> dict[str, str]:
    own = {key: f"{key}={value}" for key, value in record.parameters.items()}
    return {"": f"{record.time_limit:g} s", "threads": f"threads={record.threads}", **own}


def _planned(data: RunData) -> int:
    plan = data.run.plan
    runs = sum(len(plan.seeds) if method.seeded else 1 for method in plan.methods)
    return runs * len(data.run.instances)
