"""What people are shown of a serverless instance and of its deployments: lines and tables."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from moeplace.base.plain import PlainSolution
from moeplace.base.problem import Lines, Scale, Table, View
from moeplace.base.text import NOTHING, duration, gap_percent, number, one_line, percent, size
from moeplace.serverless.cost import evaluate
from moeplace.serverless.document import MB
from moeplace.serverless.instance import Instance


def headline(instance: Instance) -> str:
    """Say in one line what an instance is."""
    model, request = instance.model, instance.request
    counts = [
        f"{number(model.layers, 'layer')} of {number(model.experts, 'expert')}, top-{model.top_k}",
        f"{number(request.tokens_in, 'token')} in, {number(request.tokens_out)} out",
        f"{number(len(instance.main_specs), 'main specification')}, {len(instance.remote_specs)} remote",
    ]
    return f"{instance.name}: {', '.join(counts)}"


def _micro_usd(instance: Instance, amount: int) -> Decimal:
    return amount * Decimal(instance.platform.price_unit_usd) * 10**6


def _in_usd(instance: Instance, amount: int) -> str:
    return f"{_micro_usd(instance, amount):.5g} µUSD" if amount else "0 µUSD"  # a Decimal's 0 has the unit's exponent


def _scale(instance: Instance) -> Scale:
    def text(amount: int | None) -> str:
        return NOTHING if amount is None else f"{_micro_usd(instance, amount):.6g}"

    return Scale(text, "µUSD")


def _exact(instance: Instance, amount: int) -> str:
    unit = one_line(instance.platform.price_unit_usd)
    return f"{amount} x {unit} USD, {_in_usd(instance, amount)}"


def _summary(instance: Instance, solution: PlainSolution) -> Lines:
    said, times = solution.objective, solution.numbers or {}
    lines = [("cost", _in_usd(instance, said.value))]
    if said.reference is None:
        lines.append(("", "everything local is not within the limits"))
    elif said.reference:
        saved = (said.reference - said.value) / said.reference
        side = "above" if saved < 0 else "below"
        lines.append(("", f"{percent(abs(saved))} {side} everything local, {_in_usd(instance, said.reference)}"))
    for name, key, limit in (
        ("first token", "ttft_ns", instance.limits.ttft_ns),
        ("each token", "tpot_ns", instance.limits.tpot_ns),
    ):
        lines.append((name, f"{duration(times.get(key))} of {duration(limit)}"))
    return lines


def _proof(instance: Instance, solution: PlainSolution) -> Lines:
    if solution.bound is None:
        return [("gap", "no bound: nothing is proven")]
    if solution.gap == 0:
        return [("gap", f"0 %: proven optimal by {solution.bound_source}")]
    bound = f"no deployment costs less than {_in_usd(instance, solution.bound)}"
    return [("gap", f"{gap_percent(solution.gap)}: {bound}, proven by {solution.bound_source}")]


def _details(instance: Instance, solution: PlainSolution) -> tuple[Lines, list[Table]]:
    deployment = solution.decision
    spent = evaluate(instance, deployment)
    main = instance.specs[deployment.main_spec]
    local = spent.local_bytes // instance.model.expert_bytes
    total = instance.layers * instance.experts
    lines = [("main", f"{size(main.mb * MB)}, {number(local)} of {number(total, 'expert')} local")]
    columns = ("layer", "local", "remote", "memory", "replicas", "prefill", "decode", "remote cost")
    rows = []
    for layer, choice in enumerate(deployment.layers):
        far = sum(map(len, choice.replicas))
        rows.append(
            [
                str(layer),
                str(instance.experts - far),
                str(far),
                NOTHING if choice.spec is None else size(instance.specs[choice.spec].mb * MB),
                str(len(choice.replicas)),
                duration(spent.prefill_ns[layer]),
                duration(spent.decode_ns[layer]),
                _in_usd(instance, spent.remote_cost[layer]),
            ]
        )
    return lines, [Table(columns, columns, rows)]


def _info(instance: Instance) -> dict[str, Any]:
    return {
        "name": instance.name,
        "sha256": instance.sha256,
        "model": instance.model.name,
        "layers": instance.layers,
        "experts": instance.experts,
        "top_k": instance.model.top_k,
        "expert_bytes": instance.model.expert_bytes,
        "tokens_in": instance.request.tokens_in,
        "tokens_out": instance.request.tokens_out,
        "rows": sum(len(rows.count) for rows in instance.rows),
        "main_mb": [instance.specs[v].mb for v in instance.main_specs],
        "remote_mb": [instance.specs[v].mb for v in instance.remote_specs],
        "ttft_ns": instance.limits.ttft_ns,
        "tpot_ns": instance.limits.tpot_ns,
    }


def _info_lines(said: Mapping[str, Any]) -> Lines:
    held = said["layers"] * said["experts"] * said["expert_bytes"]
    remote = said["remote_mb"]
    return [
        ("instance", said["name"]),
        ("hash", said["sha256"]),
        (
            "model",
            f"{said['model']}: {number(said['layers'], 'layer')} of {number(said['experts'], 'expert')}, "
            f"top-{said['top_k']}",
        ),
        ("experts", f"{size(said['expert_bytes'])} each, {size(held)} in all"),
        (
            "request",
            f"{number(said['tokens_in'], 'token')} in, {number(said['tokens_out'])} out, {said['rows']:,} rows",
        ),
        ("main", f"{number(len(said['main_mb']), 'specification')}, {_span(said['main_mb'])}"),
        ("remote", f"{number(len(remote), 'specification')}{', ' + _span(remote) if remote else ''}"),
        ("limits", f"first token {duration(said['ttft_ns'])}, each token {duration(said['tpot_ns'])}"),
    ]


def _span(mb: list[int]) -> str:
    return f"{size(mb[0] * MB)} to {size(mb[-1] * MB)}"


VIEW = View(
    headline=headline,
    cost="cost",
    reference=lambda instance: "everything local",
    scale=_scale,
    short=_in_usd,
    exact=_exact,
    summary=_summary,
    proof=_proof,
    details=_details,
    info=_info,
    info_lines=_info_lines,
    checked="cost, limits, times, reference, gap, status, hash",
    lost="the solution names what the instance has not",
)
"""What people are shown of the serverless problem."""
