"""What people are shown of a caching instance and of its solutions: lines and tables, no screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import UNSET

from moeplace.base.arrays import Bool
from moeplace.base.documents import UNREACHABLE
from moeplace.base.problem import Lines, Scale, Table, View
from moeplace.base.text import (
    NOTHING,
    bar,
    duration,
    gap_percent,
    number,
    numbers,
    one_line,
    percent,
    ratio_down,
    size,
    time_unit,
)
from moeplace.caching.coverage import shortage
from moeplace.caching.evaluation import Evaluation, Hits
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.reading import NO_LIMIT
from moeplace.caching.solution import Solution

MOST_SERVERS = 40
"""How many servers the summary lists; the solution file has them all."""


def headline(instance: Instance) -> str:
    """Say in one line what an instance is."""
    counts = [
        number(len(instance.models), "model"),
        number(instance.n_items, "expert"),
        number(len(instance.servers), "server"),
        number(len(instance.demands), "demand"),
        number(len(instance.rows), "activation row"),
    ]
    return f"{instance.name}: {', '.join(counts)}; latency model {instance.latency_model}"


def _tokens(instance: Instance) -> int:
    return int(instance.tokens.sum())


def _scale(instance: Instance) -> Scale:
    tokens = _tokens(instance) or 1
    unit, name = time_unit(instance.baseline_ns / tokens)
    return Scale(lambda ns: NOTHING if ns is None else f"{ns / tokens / unit:.3f}", name, " per token")


def _short(instance: Instance, ns: int) -> str:
    return f"{duration(ns / max(_tokens(instance), 1))} per token"


def _exact(instance: Instance, ns: int) -> str:
    tokens = _tokens(instance)
    return f"{ns} token-ns" + (f", {duration(ns / tokens)} per token" if tokens else "")


def _summary(instance: Instance, solution: Solution) -> Lines:
    said, tokens = solution.objective, _tokens(instance)
    if not tokens:
        return []
    before, after = said.baseline_ns / tokens, said.latency_ns / tokens
    saving = (said.baseline_ns - said.latency_ns) / said.baseline_ns if said.baseline_ns else 0.0
    change = f"{duration(before)} → {duration(after)} per token"
    by = "the caches" if instance.has_cloud.all() else f"this placement against {reference(instance)}"
    lines = [("latency", f"{change}, {percent(saving)} saved by {by}")]
    if said.loading_ns is not UNSET:
        new = _new(instance, solution.placement_on(instance))
        moved = f"{number(int(new.sum()), 'expert')} to load, {size(_bytes(instance, new))}"
        cost = f"{duration(solution.value / tokens)} per token with it"
        lines.append(("loading", f"{duration(said.loading_ns / tokens)} per token: {moved}; {cost}"))
    if solution.active_experts is not UNSET:
        lines.append(("active experts", _active_line(instance, solution)))
    return lines


def _active_line(instance: Instance, solution: Solution) -> str:
    """Say how many experts are active, and what that loses."""
    active = solution.placement_on(instance).active
    assert active is not None
    fewer = int((active < instance.block_top_k).sum())
    mean, most = float(active.mean()), float(instance.block_top_k.mean())
    said = f"{mean:.3g} of {most:.3g} a layer on average, fewer in {fewer} of {number(len(active), 'layer')}"
    return f"{said}; loss {solution.objective.loss:,} of {solution.objective.loss_budget:,}"


def reference(instance: Instance) -> str:
    """Say what the cost of a placement is compared with."""
    return "empty servers" if instance.has_cloud.all() else "every expert as far away as can be"


def _new(instance: Instance, placement: Placement) -> Bool:
    """Return what a placement puts on servers that do not hold it yet, bool [N, I]."""
    return placement.cached if instance.holds is None else placement.cached & ~instance.holds


def _bytes(instance: Instance, pairs: Bool) -> int:
    return sum(int(count) * size for count, size in zip(pairs.sum(axis=0), instance.item_bytes.tolist(), strict=True))


def _proof(instance: Instance, solution: Solution) -> Lines:
    said = solution.objective
    if said.bound_ns is None or said.saving_ratio is None:
        return [("gap", "no bound: nothing is proven")]
    ratio = f"at least {ratio_down(said.saving_ratio)} of the largest possible saving"
    if said.gap == 0:
        return [("gap", f"0 %: proven optimal by {solution.bound_source}")]
    bound = f"no placement is below {_short(instance, said.bound_ns)}"
    return [
        ("gap", f"{gap_percent(said.gap)}: {bound}, proven by {solution.bound_source}"),
        ("saving", f"{ratio}, certified by that bound"),
    ]


def _details(instance: Instance, solution: Solution) -> tuple[Lines, list[Table]]:
    evaluation = Evaluation(instance, solution.placement_on(instance))
    lines, tables = [], []
    if instance.demands:
        p50, p90, p99 = (duration(evaluation.percentile_latency_ns(p)) for p in (50, 90, 99))
        users = number(len(evaluation.user_latency_ns), "user")
        lines.append(("users", f"p50 {p50}, p90 {p90}, p99 {p99} per token, over {users}"))
    if evaluation.hits:
        tables.append(hits_table(instance, evaluation.hits))
    if instance.servers:
        tables.append(_servers_table(instance, evaluation))
    if len({server.host for server in instance.servers} - {UNSET}) < sum(_has_host(instance)):
        tables.append(_hosts_table(instance, evaluation))
    return lines, tables


def hits_table(instance: Instance, hits: Hits) -> Table:
    """Return the table of who serves what share of the requests.

    Where demands have no cloud, the servers are told apart: home is the nearest one, with whatever is as near.
    """
    if instance.has_cloud.all():
        shares: tuple[str, ...] = ("device", "edge", "cloud")
        lines = [["expert requests", *map(percent, hits.experts)], ["whole rows", *map(percent, hits.rows)]]
        return Table(("served by", *shares), shares, lines)
    shares = ("device", "home", "elsewhere")
    lines = []
    for what, (device, _, cloud), away in zip(
        ("expert requests", "whole rows"), (hits.experts, hits.rows), hits.away, strict=True
    ):
        parts = [device, 1 - device - away, away - cloud, cloud]
        lines.append([what, *(percent(max(part, 0.0)) for part in parts)])
    if instance.has_cloud.any():
        shares = (*shares, "cloud")
    return Table(("served", *shares), shares, [line[: 1 + len(shares)] for line in lines])


def _has_host(instance: Instance) -> list[bool]:
    return [server.host is not UNSET for server in instance.servers]


def _hosts_table(instance: Instance, evaluation: Evaluation) -> Table:
    """Return what the machines hold that several servers belong to; an expert on two GPUs of one counts once."""
    columns = ("host", "servers", "used", "capacity", "experts", "twice or more")
    own: dict[str, list[int]] = {}
    for n, server in enumerate(instance.servers):
        if server.host is not UNSET:
            own.setdefault(server.host, []).append(n)
    used = evaluation.placement.bytes_used(instance).tolist()
    capacity = instance.capacity_bytes.tolist()
    rows = []
    for host, servers in list(own.items())[:MOST_SERVERS]:
        copies = evaluation.placement.cached[servers].sum(axis=0)
        rows.append(
            [
                one_line(host),
                number(len(servers)),
                size(sum(used[n] for n in servers)),
                size(sum(capacity[n] for n in servers)),
                number(int((copies > 0).sum())),
                number(int((copies > 1).sum())),
            ]
        )
    left = len(own) - MOST_SERVERS
    return Table(columns, columns[1:], rows, f"and {number(left, 'more host')}" if left > 0 else "")


def _servers_table(instance: Instance, evaluation: Evaluation) -> Table:
    columns: tuple[str, ...] = ("server", "cache", "used", "capacity", "experts", "saves per token")
    hosts = any(_has_host(instance))
    tokens = _tokens(instance)
    cached = evaluation.placement.cached
    used = evaluation.placement.bytes_used(instance).tolist()
    saves = evaluation.server_saving_ns.tolist()
    rows = []
    for n, server in enumerate(instance.servers[:MOST_SERVERS]):
        share = used[n] / server.capacity_bytes if server.capacity_bytes else 0.0
        rows.append(
            [
                one_line(server.name),
                bar(share),
                size(used[n]),
                size(server.capacity_bytes),
                number(int(cached[n].sum())),
                duration(saves[n] / tokens) if tokens else NOTHING,
            ]
        )
        if hosts:
            rows[-1].insert(1, NOTHING if server.host is UNSET else one_line(server.host))
    if hosts:
        columns = ("server", "host", *columns[1:])
    left = len(instance.servers) - MOST_SERVERS
    numbers = columns[3:] if hosts else columns[2:]
    return Table(columns, numbers, rows, f"and {number(left, 'more server')}" if left > 0 else "")


def _info(instance: Instance) -> dict[str, Any]:
    from moeplace.caching.terms import aggregate, distinct_rows

    choices = instance.choices
    problem = aggregate(instance if choices is None else instance.cut(instance.block_top_k))
    fastest = problem if choices is None or choices.shortage else aggregate(instance.cut(choices.fewest))
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
            | ({} if model.layer_index is UNSET else {"layer_index": model.layer_index})
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
        "best_conceivable_ns": fastest.instance.baseline_ns - fastest.total_weight,
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
    } | _newer(instance)


def _newer(instance: Instance) -> dict[str, Any]:
    """Return what there is to say of coverage, hosts, slots and loading; nothing where there are none of them."""
    found: dict[str, Any] = {}
    if not instance.has_cloud.all():
        coverage = instance.coverage
        items = np.unique(coverage.item) if coverage is not None else np.zeros(0, dtype=np.int64)
        within = coverage.reach.any(axis=0) if coverage is not None else np.zeros(len(instance.servers), dtype=np.bool_)
        found["coverage"] = {
            "demands_without_cloud": int((~instance.has_cloud).sum()),
            "experts": len(items),
            "bytes": sum(instance.item_bytes[items].tolist()),
            "reach_sets": 0 if coverage is None else len(coverage.reach),
            "servers": int(within.sum()),
            "capacity_bytes": sum(instance.capacity_bytes[within].tolist()),
            "shortage": shortage(instance),
        }
    hosts = [server.host for server in instance.servers if server.host is not UNSET]
    if hosts:
        found["hosts"] = {host: hosts.count(host) for host in dict.fromkeys(hosts)}
    if (limited := instance.layer_slots[instance.layer_slots != NO_LIMIT]).size:
        found["layer_slots"] = {"servers": len(limited), "least": int(limited.min()), "most": int(limited.max())}
        # Of a layer, on all servers together; a server without a limit has room for all.
        experts = max((model.experts for model in instance.models), default=0)
        found["layer_slots"]["in_all"] = sum(min(slots, experts) for slots in instance.layer_slots.tolist())
        found["layer_slots"]["experts_of_a_layer"] = experts
    if instance.load_block_ns is not None:
        rates = [server.load_bytes_per_s for server in instance.servers if server.load_bytes_per_s is not UNSET]
        held = None if instance.holds is None else _bytes(instance, instance.holds)
        found["loading"] = {
            "weight": 1 if instance.loading is UNSET else instance.loading.weight,
            "servers": len(rates),
            "slowest_bytes_per_s": min(rates),
            "fastest_bytes_per_s": max(rates),
            "dearest_expert_ns": int(instance.load_block_ns.max(initial=0)),
            "held_bytes": held,
        }
    elif instance.holds is not None:
        found["held_bytes"] = _bytes(instance, instance.holds)
    if instance.ranked:
        found["ranked"] = True
    if (choices := instance.choices) is not None:
        found["active"] = {
            "loss_budget": choices.budget,
            "least_loss": sum(map(min, choices.losses)),
            "largest_loss": sum(map(max, choices.losses)),
            "loss_of_top_k": choices.loss(instance.block_top_k),
            "layers_with_a_choice": sum(len(useful) > 1 for useful in choices.useful),
            "useful_choices": sum(map(len, choices.useful)),
            "shortage": choices.shortage,
        }
    return found


def _newer_lines(document: Mapping[str, Any]) -> Lines:
    lines = []
    if (active := document.get("active")) is not None:
        budget, whole = active["loss_budget"], active["loss_of_top_k"]
        lines.append(("active experts", f"open, within a loss of {budget:,}; top-k everywhere loses {whole:,}"))
        layers = number(sum(model["layers"] for model in document["models"]), "layer")
        layers = f"{active['layers_with_a_choice']} of {layers} have a choice"
        lines.append(("", f"{layers}; {number(active['useful_choices'], 'number')} of experts are worth considering"))
    elif document.get("ranked"):
        lines.append(("ranked rows", "experts stand in falling router weight; every row waits for all of them"))
    if (coverage := document.get("coverage")) is not None:
        alone, all_of_them = coverage["demands_without_cloud"], number(document["demands"], "demand")
        must = f"{number(coverage['experts'], 'expert')} of {size(coverage['bytes'])} must be on a server within reach"
        lines.append(("coverage", f"{number(alone)} of {all_of_them} without a cloud: {must}"))
        share = coverage["capacity_bytes"] / coverage["bytes"] if coverage["bytes"] else None
        if share is not None:
            memory = f"{number(coverage['servers'], 'server')} within reach with {share:.3g} times that"
            sets = number(coverage["reach_sets"], "set") + " of servers that demands reach"
            # A shortage is a warning of the instance itself, which is said with the others.
            counted = "; counting memory and slots shows nothing against a placement" * (coverage["shortage"] is None)
            lines.append(("", f"{memory}, {sets}{counted}"))
    if (hosts := document.get("hosts")) is not None:
        several = [f"{host} ({count})" for host, count in list(hosts.items())[:8]]
        lines.append(("hosts", f"{number(len(hosts))}: {', '.join(several)}{', ...' if len(hosts) > 8 else ''}"))
    if (slots := document.get("layer_slots")) is not None:
        each = f"{slots['least']}" if slots["least"] == slots["most"] else f"{slots['least']} to {slots['most']}"
        where = f"on {slots['servers']} of {number(document['servers'], 'server')}"
        in_all = f"{number(slots['in_all'])} in all for {number(slots['experts_of_a_layer'], 'expert')}"
        lines.append(("slots", f"{each} of a layer {where}, {in_all}"))
    if (loading := document.get("loading")) is not None:
        slow, fast = loading["slowest_bytes_per_s"], loading["fastest_bytes_per_s"]
        rate = f"{size(slow)}/s" if slow == fast else f"{size(slow)}/s to {size(fast)}/s"
        free = document["servers"] - loading["servers"]
        others = f", free on {number(free, 'server')}" if free else ""
        weight = f"1 ns counts {number(loading['weight'])} token-ns"
        dearest = f"at most {duration(loading['dearest_expert_ns'] / max(document['tokens'], 1))} per token an expert"
        lines.append(("loading", f"{rate}{others}; {weight}: {dearest}"))
        if loading["held_bytes"] is not None:
            lines.append(("", f"{size(loading['held_bytes'])} are held already"))
    elif "held_bytes" in document:
        lines.append(("loading", f"free; {size(document['held_bytes'])} are held already"))
    return lines


def _info_lines(document: Mapping[str, Any]) -> Lines:
    tokens, baseline = document["tokens"], document["baseline_ns"]
    best, aggregated = document["best_conceivable_ns"], document["aggregated"]
    lines = [("instance", f"{document['name']} (latency model {document['latency_model']})")]
    if document["notes"]:
        lines.append(("notes", document["notes"]))
    lines.append(("sha256", document["sha256"]))
    for model in document["models"]:
        shape = f"{number(model['layers'], 'layer')} of {number(model['experts'], 'expert')}, top {model['top_k']}"
        lines.append(("model", f"{model['name']}: {shape}, {size(model['bytes'])} in all"))
        if "layer_index" in model:
            lines.append(("", f"these are layers {numbers(model['layer_index'])} of the model (from 0)"))
    requested = f"{number(document['experts_requested'])} of {number(document['experts'], 'expert')} are asked for"
    lines.append(("experts", f"{requested}, {size(document['bytes_requested'])} of {size(document['bytes'])}"))
    lines.append(("servers", _servers_line(document)))
    lines += _newer_lines(document)
    alone = document.get("coverage", {}).get("demands_without_cloud", 0)
    near = f"{number(document['demands_near_a_server'])} with a server nearer than the "
    near += f"farthest place, {alone} without a cloud" if alone else "cloud"
    lines.append(("demands", f"{number(document['demands'])} of {number(document['users'], 'user')}, {near}"))
    lines.append(("device", f"{number(document['device_experts'], 'expert')} held on users' devices, over all demands"))
    distinct = f"{number(document['distinct_rows'])} distinct"
    lines.append(("activations", f"{number(document['rows'], 'row')}, {distinct}; {number(tokens, 'token')}"))
    if tokens:
        saving = percent((baseline - best) / baseline if baseline else 0.0)
        against = "every expert as far away as can be" if alone else "empty servers"
        lines.append(("latency", f"{duration(baseline / tokens)} per token with {against}"))
        ideal = f"{duration(best / tokens)} per token if every server held every expert"
        lines.append(("", f"{ideal}, {saving} less"))
    hits = document["hits_with_empty_servers"]
    if hits and not alone:
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
    return lines


def _servers_line(document: Mapping[str, Any]) -> str:
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


VIEW = View(
    headline=headline,
    cost="latency",
    reference=reference,
    scale=_scale,
    short=_short,
    exact=_exact,
    summary=_summary,
    proof=_proof,
    details=_details,
    info=_info,
    info_lines=_info_lines,
    checked="names, capacities, slots, coverage, active experts, latency, loading, gap, status, hash",
    lost="the placement names what the instance has not",
)
