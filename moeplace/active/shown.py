"""What people are shown of an instance of active experts and of its solutions: lines and tables, no screen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from moeplace.active.cost import everything, summed, tokens_per_s
from moeplace.active.instance import Instance
from moeplace.base.plain import PlainSolution
from moeplace.base.problem import Lines, Scale, Table, View
from moeplace.base.text import NOTHING, duration, number, percent, time_unit


def headline(instance: Instance) -> str:
    """Say in one line what an instance is."""
    model = instance.model
    shape = f"{number(model.layers, 'layer')} of {number(model.experts, 'expert')}, up to {model.top_k} active"
    return f"{instance.name}: {shape}; {_task(instance)}"


def _task(instance: Instance) -> str:
    if instance.minimises == "time_ns":
        return f"least time within a loss of {instance.budget:,}"
    return f"least loss within {duration(instance.budget)}"


def speed(instance: Instance, time_ns: int) -> str:
    """Show the tokens of all requests in a second."""
    rate = tokens_per_s(instance, time_ns)
    return NOTHING if rate is None else f"{rate:,.4g} tokens/s" if rate < 1000 else f"{rate:,.0f} tokens/s"


def _scale(instance: Instance) -> Scale:
    if instance.minimises == "loss":
        return Scale()
    most = summed(instance.time_ns, everything(instance))
    unit, name = time_unit(most)
    return Scale(lambda ns: NOTHING if ns is None else f"{ns / unit:.4f}", name, " per step")


def _short(instance: Instance, amount: int) -> str:
    return f"{duration(amount)} per step" if instance.minimises == "time_ns" else f"a loss of {amount:,}"


def _exact(instance: Instance, amount: int) -> str:
    if instance.minimises == "loss":
        return f"{amount}"
    return f"{amount} ns per step" + (f", {duration(amount)}" if amount >= 1000 else "")


def _summary(instance: Instance, solution: PlainSolution) -> Lines:
    said = solution.numbers or {}
    full = everything(instance)
    before, after = summed(instance.time_ns, full), int(said["time_ns"])
    fixed = f", {duration(instance.fixed_ns)} more are fixed" if instance.fixed_ns else ""
    change = f"{duration(before)} → {duration(after)} per step in the layers{fixed}"
    lines = [("time", change), ("", f"{speed(instance, before)} → {speed(instance, after)}")]
    loss, whole = int(said["loss"]), summed(instance.loss, full)
    budget = f", {instance.budget:,} allowed" if instance.minimises == "time_ns" else ""
    usual = f" ({whole:,} with {instance.top_k} everywhere)" if whole else ""
    return [*lines, ("loss", f"{loss:,}{budget}{usual}")]


def _details(instance: Instance, solution: PlainSolution) -> tuple[Lines, list[Table]]:
    chosen = solution.decision.active_experts
    mean = sum(chosen) / len(chosen)
    lines = [("experts", f"{mean:.2f} active in the mean of the layers, {instance.top_k} before")]
    rows, layer = [], 0
    for k, run in groupby(chosen):
        length = len(list(run))
        last = layer + length - 1
        time_ns, full_ns, loss = (
            sum(table[layer : last + 1, column - 1].tolist())
            for table, column in ((instance.time_ns, k), (instance.time_ns, instance.top_k), (instance.loss, k))
        )
        saved = percent((full_ns - time_ns) / full_ns if full_ns else 0.0)
        where = f"{layer}" if length == 1 else f"{layer} to {last}"
        rows.append([where, f"{k}", "█" * min(k, 32), duration(time_ns), saved, f"{loss:,}"])
        layer = last + 1
    columns = ("layers", "experts", "", "time", "saved", "loss")
    return lines, [Table(columns, ("experts", "time", "saved", "loss"), rows)]


def _info(instance: Instance) -> dict[str, Any]:
    full = everything(instance)
    least = {name: sum(table.min(axis=1).tolist()) for name, table in _tables(instance).items()}
    return {
        "name": instance.name,
        "notes": instance.notes,
        "sha256": instance.sha256,
        "model": {
            "name": instance.model.name,
            "layers": instance.model.layers,
            "experts": instance.model.experts,
            "top_k": instance.model.top_k,
        },
        "minimises": instance.minimises,
        "budget": instance.budget,
        "fixed_ns": instance.fixed_ns,
        "tokens_per_step": instance.tokens_per_step,
        "with_all_experts": {name: summed(table, full) for name, table in _tables(instance).items()},
        "least": least,
        "tokens_per_s_with_all_experts": tokens_per_s(instance, summed(instance.time_ns, full)),
        "tokens_per_s_at_most": tokens_per_s(instance, least["time_ns"]),
        "feasible": instance.least_usage <= instance.budget,
        "source": instance.source,
    }


def _tables(instance: Instance) -> dict[str, Any]:
    return {"time_ns": instance.time_ns, "loss": instance.loss}


def _info_lines(document: Mapping[str, Any]) -> Lines:
    model, full, least = document["model"], document["with_all_experts"], document["least"]
    lines = [("instance", str(document["name"]))]
    if document["notes"]:
        lines.append(("notes", document["notes"]))
    lines.append(("sha256", document["sha256"]))
    shape = f"{number(model['layers'], 'layer')} of {number(model['experts'], 'expert')}, up to {model['top_k']} active"
    lines.append(("model", f"{model['name']}: {shape}"))
    lossy = document["minimises"] == "time_ns"
    budget = f"{document['budget']:,}" if lossy else duration(document["budget"])
    task = "least time within a loss of" if lossy else "least loss within"
    possible = "" if document["feasible"] else ": no choice is within it"
    lines.append(("task", f"{task} {budget}{possible}"))
    lines.append(
        ("step", f"{number(document['tokens_per_step'], 'token')}, {duration(document['fixed_ns'])} are fixed")
    )
    lines.append(("time", f"{duration(full['time_ns'])} with all experts, {duration(least['time_ns'])} at the least"))
    rates = document["tokens_per_s_with_all_experts"], document["tokens_per_s_at_most"]
    if None not in rates:
        lines.append(("", f"{rates[0]:,.6g} tokens/s with all experts, {rates[1]:,.6g} at the most"))
    lines.append(("loss", f"{full['loss']:,} with all experts, {least['loss']:,} at the least"))
    lines += [
        ("source" if i == 0 else "", f"{key}: {value}") for i, (key, value) in enumerate(document["source"].items())
    ]
    return lines


VIEW = View(
    headline=headline,
    cost="cost",
    reference=lambda instance: "all experts",
    scale=_scale,
    short=_short,
    exact=_exact,
    summary=_summary,
    details=_details,
    info=_info,
    info_lines=_info_lines,
    checked="numbers of experts, budget, time, loss, tokens/s, reference, gap, status, hash",
    lost="the solution has other layers or numbers of experts than the instance",
)
