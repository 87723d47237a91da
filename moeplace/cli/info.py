"""``moeplace info``: what an instance is, before anybody solves it."""

from __future__ import annotations

import json
from typing import Any

import click

from moeplace.base.text import duration, number, one_line, percent, size
from moeplace.cli import screen
from moeplace.cli.options import instance_argument, json_option


@click.command()
@instance_argument
@json_option
def info(instance: str, as_json: bool) -> None:
    """Say what INSTANCE is: sizes, demand against capacity, what caches could save, which methods fit."""
    import moeplace

    problem = moeplace.load(instance)
    document = _document(problem)
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _show(document)


def _document(instance: Any) -> dict[str, Any]:
    import numpy as np

    from moeplace import Evaluation, Placement
    from moeplace.base.documents import UNREACHABLE
    from moeplace.caching.terms import aggregate, distinct_rows

    problem = aggregate(instance)
    rows = instance.rows
    sizes = instance.item_bytes
    requested = np.unique(rows.item)
    near = (instance.server_ns < instance.cloud_ns[:, None]) & (instance.server_ns != UNREACHABLE)
    empty = Evaluation(instance, Placement.empty(instance)).hits
    arrays = [*vars(instance).values(), *vars(rows).values()]
    models = []
    for m, model in enumerate(instance.models):
        items = instance.model_items(m)
        models.append(
            {
                "name": model.name,
                "layers": model.layers,
                "experts": model.experts,
                "top_k": model.top_k,
                "bytes": sum(sizes[items].tolist()),
            }
        )
    return {
        "name": instance.name,
        "notes": instance.notes,
        "sha256": instance.sha256,
        "latency_model": instance.latency_model,
        "models": models,
        "experts": instance.n_items,
        "experts_requested": len(requested),
        "bytes": sum(sizes.tolist()),
        "bytes_requested": sum(sizes[requested].tolist()),
        "servers": len(instance.servers),
        "capacity_bytes": sum(instance.capacity_bytes.tolist()),
        "smallest_capacity_bytes": min(instance.capacity_bytes.tolist(), default=None),
        "largest_capacity_bytes": max(instance.capacity_bytes.tolist(), default=None),
        "demands": len(instance.demands),
        "users": len({demand.user for demand in instance.demands}),
        "tokens": sum(instance.tokens.tolist()),
        "demands_near_a_server": int(near.any(axis=1).sum()),
        "device_experts": len(instance.device_item),
        "rows": len(rows),
        "distinct_rows": distinct_rows(instance),
        "expert_requests": sum(rows.count.astype(object) * np.diff(rows.start)) if len(rows) else 0,
        "baseline_ns": instance.baseline_ns,
        "best_conceivable_ns": instance.baseline_ns - problem.total_weight,
        "hits_with_empty_servers": None
        if empty is None
        else {
            "expert_requests": dict(zip(("device", "edge", "cloud"), empty.experts, strict=True)),
            "rows": dict(zip(("device", "edge", "cloud"), empty.rows, strict=True)),
        },
        "aggregated": {
            "radius_sets": len(problem.radius),
            "item_sets": len(problem.set_start) - 1,
            "terms": problem.n_terms,
            "covers": len(problem.covers[0]),
            "useful_placements": int(problem.useful.sum()),
            "weight_unit_ns": problem.weight_unit,
        },
        "memory_bytes": sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)),
        "methods": _methods(instance),
    }


def _methods(instance: Any) -> list[dict[str, Any]]:
    from moeplace.base.errors import InputError
    from moeplace.base.registry import find_method, method_info, method_names

    result = []
    for name in method_names():
        try:
            reason = method_info(find_method(name)).refuses(instance)
        except InputError as error:
            reason = str(error)
        result.append({"name": name, "fits": reason is None, "reason": reason})
    return result


def _show(document: dict[str, Any]) -> None:
    tokens, baseline = document["tokens"], document["baseline_ns"]
    best, aggregated = document["best_conceivable_ns"], document["aggregated"]
    lines = [("instance", f"{document['name']} (latency model {document['latency_model']})")]
    if document["notes"]:
        lines.append(("notes", document["notes"]))
    lines.append(("sha256", document["sha256"]))
    for model in document["models"]:
        shape = f"{number(model['layers'], 'layer')} of {number(model['experts'], 'expert')}, top {model['top_k']}"
        lines.append(("model", f"{model['name']}: {shape}, {size(model['bytes'])} in all"))
    requested = f"{number(document['experts_requested'])} of {number(document['experts'], 'expert')} are asked for"
    lines.append(("experts", f"{requested}, {size(document['bytes_requested'])} of {size(document['bytes'])}"))
    lines.append(("servers", _servers(document)))
    near = f"{number(document['demands_near_a_server'])} with a server nearer than the cloud"
    lines.append(("demands", f"{number(document['demands'])} of {number(document['users'], 'user')}, {near}"))
    lines.append(("device", f"{number(document['device_experts'], 'expert')} held on users' devices, over all demands"))
    distinct = f"{number(document['distinct_rows'])} distinct"
    lines.append(("activations", f"{number(document['rows'], 'row')}, {distinct}; {number(tokens, 'token')}"))
    if tokens:
        saving = percent((baseline - best) / baseline if baseline else 0.0)
        lines.append(("latency", f"{duration(baseline / tokens)} per token with empty servers"))
        ideal = f"{duration(best / tokens)} per token if every server held every expert"
        lines.append(("", f"{ideal}, {saving} less"))
    hits = document["hits_with_empty_servers"]
    if hits:
        share = percent(hits["expert_requests"]["device"])
        whole = percent(hits["rows"]["device"])
        lines.append(("empty servers", f"{share} of expert requests and {whole} of rows are served on the device"))
    radii = number(aggregated["radius_sets"], "radius set")
    terms = f"{number(aggregated['terms'], 'term')} of {radii} and {number(aggregated['item_sets'], 'expert set')}"
    covers = f"{number(aggregated['covers'], 'pair')} to cover"
    lines.append(("aggregated", f"{terms}, {covers}; weights are multiples of {aggregated['weight_unit_ns']} token-ns"))
    useful = number(aggregated["useful_placements"], "useful choice")
    lines.append(("", f"{useful} of (server, expert)"))
    lines.append(("memory", size(document["memory_bytes"])))
    lines.append(("methods", ", ".join(m["name"] for m in document["methods"] if m["fits"])))
    lines += [("", f"not {m['name']}: {m['reason']}") for m in document["methods"] if not m["fits"]]
    screen.show(screen.facts([(label, one_line(text)) for label, text in lines]))


def _servers(document: dict[str, Any]) -> str:
    if not document["servers"]:
        return "none"
    capacity = document["capacity_bytes"]
    smallest, largest = document["smallest_capacity_bytes"], document["largest_capacity_bytes"]
    each = size(smallest) if smallest == largest else f"{size(smallest)} to {size(largest)}"
    text = f"{number(document['servers'])} of {each}, {size(capacity)} in all"
    if document["bytes"]:
        text += f": {percent(capacity / document['bytes'], 0)} of all experts"
    if document["bytes_requested"]:
        text += f", {percent(capacity / document['bytes_requested'], 0)} of those asked for"
    return text
