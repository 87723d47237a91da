"""Run directories for tests of reports: real solves in this process, and records made up to the digit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

import moeplace
from moeplace import Instance, MoeplaceError, Progress
from moeplace.bench.planning import tasks_of
from moeplace.bench.records import (
    RUN,
    SOLUTIONS,
    BenchPlan,
    Environment,
    KnownValues,
    PlannedInstance,
    PlannedMethod,
    Record,
    RecordWriter,
    Run,
    RunData,
    run_key,
)
from moeplace.library import read_best_known

ENVIRONMENT = Environment(
    machine="x86_64",
    cpu="a processor",
    system="Linux",
    python="3.11.2",
    cores=2,
    memory_bytes=8 * 10**9,
    versions={"moeplace": "0.1.0", "numpy": "2.0.0"},
    commit="0123456789abcdef",
    dirty=False,
    workers=1,
    scheduler=None,
    load_average=0.1,
    started="2026-11-22T12:00:00Z",
)


def planned(path: Path, instance: Instance, set_name: str | None = None) -> PlannedInstance:
    known = read_best_known(path.parent).get(instance.name)
    return PlannedInstance(
        set=set_name or path.parent.name,
        name=instance.name,
        path=str(path.resolve()),
        sha256=instance.sha256,
        file_sha256="",
        latency_model=instance.latency_model,
        servers=len(instance.servers),
        demands=len(instance.demands),
        models=len(instance.models),
        layers=instance.n_blocks,
        items=instance.n_items,
        rows=len(instance.rows),
        capacity_bytes_total=int(instance.capacity_bytes.sum()),
        item_bytes_total=int(instance.item_bytes.sum()),
        tokens=int(instance.tokens.sum()),
        best_known=known and KnownValues(known.latency_ns, known.bound_ns, known.optimal),
    )


def record(instance: PlannedInstance, plan: BenchPlan, method: str, seed: int = 0, **changes: Any) -> Record:
    """Make up a record of a run that went well; ``changes`` say how it really went."""
    fields: dict[str, Any] = {
        "key": run_key(instance.sha256, method, {}, seed, plan),
        "set": instance.set,
        "instance": instance.name,
        "sha256": instance.sha256,
        "method": method,
        "parameters": {},
        "seed": seed,
        "threads": 1,
        "time_limit": plan.time_limit,
        "status": "ok",
        "message": None,
        "termination": "completed",
        "latency_ns": None,
        "baseline_ns": None,
        "bound_ns": None,
        "bound_source": None,
        "guarantee": None,
        "picked_because": None,
        "wall_s": 1.0,
        "process_s": 1.5,
        "cpu_s": 1.2,
        "peak_bytes": 10**8,
        "trajectory": [],
        "started": "2026-11-22T12:00:00Z",
        "worker": "w0",
        "solution": None,
    }
    return Record(**(fields | changes))


def write_run(
    folder: Path,
    plan: BenchPlan,
    instances: list[PlannedInstance],
    records: list[Record],
    solutions: dict[str, bytes] | None = None,
) -> Path:
    """Write a run directory."""
    folder.mkdir()
    run = Run("moeplace/run", 1, ENVIRONMENT, plan, instances)
    (folder / RUN).write_bytes(msgspec.json.encode(run))
    writer = RecordWriter(folder)
    for each in records:
        writer.add(each, (solutions or {}).get(each.key))
    writer.close()
    return folder


def make_plan(methods: list[str], seeds: list[int] | None = None, time_limit: float = 10.0) -> BenchPlan:
    return BenchPlan([], [PlannedMethod(m, m) for m in methods], seeds or [0], time_limit, 5.0, None, 1)


def solved_run(
    folder: Path, paths: list[Path], methods: list[str], seeds: list[int] | None = None, time_limit: float = 10.0
) -> Path:
    """Solve instances with methods, here and now, and write the run directory that the harness would."""
    plan = make_plan(methods, seeds, time_limit)
    instances, records, solutions = [], [], {}
    for path in paths:
        instance = moeplace.load(path)
        entry = planned(path, instance)
        instances.append(entry)
        for method in methods:
            for seed in plan.seeds:
                made, document = _solve(instance, entry, plan, method, seed)
                records.append(made)
                if document is not None:
                    solutions[made.key] = document
    return write_run(folder, plan, instances, records, solutions)


def _solve(
    instance: Instance, entry: PlannedInstance, plan: BenchPlan, method: str, seed: int
) -> tuple[Record, bytes | None]:
    steps: list[tuple[float, int | None, int | None]] = []

    def listen(progress: Progress) -> None:
        steps.append((progress.elapsed_s, progress.latency_ns, progress.bound_ns))

    try:
        solution = moeplace.solve(instance, method, time_limit=plan.time_limit, seed=seed, progress=listen)
    except MoeplaceError as error:
        return record(entry, plan, method, seed, status="refused", message=str(error), wall_s=None), None
    said = solution.objective
    assert solution.wall_s is not None
    steps.append((solution.wall_s, said.latency_ns, said.bound_ns))
    made = record(
        entry,
        plan,
        method,
        seed,
        termination=solution.status.termination,
        latency_ns=said.latency_ns,
        baseline_ns=said.baseline_ns,
        bound_ns=said.bound_ns,
        bound_source=solution.bound_source,
        wall_s=solution.wall_s,
        trajectory=steps,
    )
    made = msgspec.structs.replace(made, solution=f"{SOLUTIONS}/{made.key}.json")
    return made, solution.to_json()


def complete(data: RunData) -> None:
    """Every run of the plan is recorded, each once, and every solution is there and right."""
    keys = [record.key for record in data.records]
    assert sorted(keys) == sorted(task.key for task in tasks_of(data.run))
    assert len(set(keys)) == len(keys)
    problems = {i.sha256: moeplace.load(data.instance_path(i)) for i in data.run.instances}
    for record in data.records:
        if record.status == "ok":
            solution = data.solution(record)
            assert solution.objective.latency_ns == record.latency_ns
            assert moeplace.check(problems[record.sha256], solution).ok
    names = {f"{record.key}.json" for record in data.records if record.solution}
    assert {path.name for path in (data.folder / "solutions").iterdir()} == names
