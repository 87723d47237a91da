"""Taking what a run has found into the ``best_known.json`` files of its instances."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from moeplace.base.documents import BestKnown
from moeplace.base.errors import ContradictionError, InputError
from moeplace.bench.records import PlannedInstance, Record, RunData, locate
from moeplace.comparing import improved
from moeplace.library import read_best_known, write_best_known
from moeplace.problems import load


@dataclass(frozen=True)
class Improvement:
    """A better record of an instance; ``before`` is None where there was none (of this very instance)."""

    instance: str
    file: Path
    before: BestKnown | None
    after: BestKnown


def update(data: RunData, folder: str | os.PathLike[str] | None = None) -> list[Improvement]:
    """Improve the best known values by the best checked solution and the best proven bound of a run.

    A bound counts if it is of an ``ok`` record, says whose proof it is, and no checked cost of the run contradicts it.
    Every solution that would improve something is read and checked anew. Either all files are improved or, where
    there is a contradiction, none.

    Parameters
    ----------
    data : RunData
    folder : path-like, optional
        Where the instances are (a set, or a folder of sets); where the run has them by default.

    Returns
    -------
    list of Improvement

    Raises
    ------
    ContradictionError
        A cost is below a bound, or the checker rejects a solution; all of them are named.
    InputError
        An instance is not there any more, or has changed; a solution is not the one that its record is of.
    """
    books: dict[Path, dict[str, BestKnown]] = {}
    improvements: list[Improvement] = []
    wrong: list[str] = []
    for instance in data.run.instances:
        candidates = _candidates(data, instance)
        if not candidates:
            continue
        path = locate(instance, folder)
        if path.parent not in books:
            books[path.parent] = read_best_known(path.parent)
        book = books[path.parent]
        before = book.get(instance.name)
        if before is not None and before.sha256 != instance.sha256:
            before = None
        candidates = [record for record in candidates if _may_improve(before, record)]
        if not candidates:
            continue
        problem = load(path)
        if problem.sha256 != instance.sha256:
            raise InputError("has changed since the run", file=str(path))
        after = before
        try:
            for record in candidates:
                solution = data.solution(record)
                if (solution.value, solution.bound) != (record.latency_ns, record.bound_ns):
                    raise InputError(
                        f"the cost {solution.value} and the bound {solution.bound}; the record of this run has "
                        f"{record.latency_ns} and {record.bound_ns}",
                        file=str(data.folder / str(record.solution)),
                    )
                after = improved(after, problem, msgspec.structs.replace(solution, method=record.method))
        except ContradictionError as error:
            wrong.append(f"{error} ({record.key} in {data.folder})")
            continue
        if after is not None and after != before:
            book[instance.name] = after
            improvements.append(Improvement(instance.name, path.parent, before, after))
    if wrong:
        raise ContradictionError("; ".join(wrong))
    for parent in sorted({improvement.file for improvement in improvements}):
        write_best_known(parent, books[parent])
    return improvements


def _candidates(data: RunData, instance: PlannedInstance) -> list[Record]:
    """Return the records with the lowest cost and with the highest bound of an instance."""
    ok = [r for r in data.records if r.sha256 == instance.sha256 and r.status == "ok" and r.solution is not None]
    proven = [r for r in ok if r.bound_ns is not None and r.bound_source is not None]
    chosen = [min(ok, key=lambda r: r.latency_ns or 0)] if ok else []
    chosen += [max(proven, key=lambda r: r.bound_ns or 0)] if proven else []
    return list({record.key: record for record in chosen}.values())


def _may_improve(known: BestKnown | None, record: Record) -> bool:
    if known is None or (record.latency_ns is not None and record.latency_ns < known.latency_ns):
        return True
    if record.bound_ns is None or record.bound_source is None:
        return False
    return known.bound_ns is None or record.bound_ns > known.bound_ns
