"""The caching problem, as everything that serves every problem takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import UNSET

from moeplace.base.certificates import AnyCertificate
from moeplace.base.documents import parse
from moeplace.base.problem import Problem
from moeplace.base.registry import METHODS, MODELS, ORDER
from moeplace.base.result import NOTHING_FITS, Finished, relative_gap, saving_ratio
from moeplace.caching import checking
from moeplace.caching.certificates import CachingCertificate
from moeplace.caching.coverage import shortage
from moeplace.caching.decided import adapted
from moeplace.caching.evaluation import cost_ns, loading_ns
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.shown import VIEW
from moeplace.caching.solution import Objective, Solution, active_by_model, assignments

NO_PLACEMENT = "no_placement"
"""What a remark on an instance without any placement goes by; no solution's details ever have it."""


def _check_fits(instance: Instance, placement: Placement) -> None:
    placement.check_fits(instance)


def _decision(instance: Instance, solution: Solution) -> Placement:
    return solution.placement_on(instance)


def _finish(instance: Instance, run: Finished) -> Solution:
    loading, choices = loading_ns(instance, run.decision), instance.choices
    numbers: dict[str, Any] = {}
    if instance.load_block_ns is not None:
        numbers = {"loading_ns": loading, "cost_ns": run.cost}
    if choices is not None:
        numbers |= {"loss": choices.loss(run.decision.active), "loss_budget": choices.budget}
    return Solution(
        format="moeplace/solution",
        version=1,
        placement=assignments(instance, run.decision),
        objective=Objective(
            latency_ns=run.cost - loading,
            baseline_ns=instance.baseline_ns,
            bound_ns=run.bound,
            gap=relative_gap(run.cost, run.bound),
            saving_ratio=saving_ratio(run.cost, run.bound, instance.baseline_ns),
            **numbers,
        ),
        active_experts=UNSET if choices is None else active_by_model(instance, run.decision),
        **run.envelope(instance),
    )


def _read_solution(document: object) -> Solution:
    return parse(document, Solution)


def _check(instance: Instance, solution: Solution, certificate: AnyCertificate | None) -> checking.Report:
    return checking.check(instance, solution, certificate)


def _read_certificate(document: object) -> CachingCertificate:
    return parse(document, CachingCertificate)


def _remarks(instance: Instance) -> dict[str, str]:
    """Say so where no expert fits anywhere (the units are wrong, most likely), or not all that must."""
    if instance.choices is not None and (said := instance.choices.shortage) is not None:
        return {NO_PLACEMENT: said}
    if (said := shortage(instance)) is not None:
        return {NO_PLACEMENT: f"no placement exists: {said}"}
    if not len(instance.item_bytes) or not len(instance.capacity_bytes):
        return {}
    smallest, largest = int(instance.item_bytes.min()), int(instance.capacity_bytes.max())
    if smallest <= largest:
        return {}
    said = f"no expert fits on any server: the smallest expert has {smallest:,} bytes, the largest server {largest:,}"
    return {NOTHING_FITS: f"{said}; are the units right?"}


def _from_values(instance: Instance, values: Mapping[str, float]) -> Placement:
    from moeplace.caching.formulations import placement_of_values

    return placement_of_values(instance, values)


def _model_limit(instance: Instance, name: str) -> str | None:
    from moeplace.caching.formulations import refuses

    return refuses(name)(instance)


def _compile(modules: Sequence[str], say: Callable[[], None]) -> None:
    from moeplace.caching.compiling import compile_loops

    compile_loops(modules, say)


def _sizes(instance: Instance) -> dict[str, Any]:
    return {
        "latency_model": instance.latency_model,
        "servers": len(instance.servers),
        "demands": len(instance.demands),
        "models": len(instance.models),
        "layers": instance.n_blocks,
        "items": instance.n_items,
        "rows": len(instance.rows),
        "capacity_bytes_total": sum(instance.capacity_bytes.tolist()),
        "item_bytes_total": sum(instance.item_bytes.tolist()),
        "tokens": sum(instance.tokens.tolist()),
    }


PROBLEM = Problem(
    name="caching",
    instance_format="moeplace/instance",
    solution_format="moeplace/solution",
    methods=METHODS,
    instance_type=Instance,
    decision_type=Placement,
    solution_type=Solution,
    from_document=Instance.from_document,
    cost=cost_ns,
    check_fits=_check_fits,
    reference=lambda instance: int(instance.baseline_ns),
    finish=_finish,
    read_solution=_read_solution,
    decision=_decision,
    check=_check,
    adapt=adapted,
    read_certificate=_read_certificate,
    remarks=_remarks,
    sizes=_sizes,
    method_order=ORDER,
    models=MODELS,
    model_limit=_model_limit,
    from_values=_from_values,
    compile=_compile,
    view=VIEW,
)
