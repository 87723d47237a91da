"""Policies over windows: what is paid, by the definitions; what each decides, by trying everything; what is proven."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from random_instances import naive_cost_2, pairs_of, random_document_2
from small_methods import exhaustive

from moeplace import InputError, Instance, Placement
from moeplace.base.errors import NoSolutionError
from moeplace.caching import replay as policies
from moeplace.caching.evaluation import Evaluation, cost_ns
from moeplace.caching.replay import POLICIES, Order, Step, check_windows, pay, with_held, without_loading

Document = dict[str, Any]


def holding(document: Document, instance: Instance, held: Placement | None) -> Document:
    """Return a document whose servers hold a placement; None: in which loading is free."""
    document = copy.deepcopy(document)
    for n, server in enumerate(document["servers"]):
        server.pop("holds", None)
        if held is None:
            server.pop("load_bytes_per_s", None)
            continue
        server["holds"] = [
            {
                "model": model["name"],
                "experts": [[layer, e] for k, j, layer, e in sorted(pairs_of(instance, held)) if (k, j) == (n, m)],
            }
            for m, model in enumerate(document["models"])
        ]
    return document


def drifting(seed: int, windows: int, max_variables: int) -> list[Document]:
    """Draw windows: everything as in the first, but each with some of the rows and other counts."""
    rng = np.random.default_rng(seed)
    first = random_document_2(rng, max_variables)
    if rng.random() < 0.7:  # most with a price that matters
        for server in first["servers"]:
            server["load_bytes_per_s"] = int(rng.integers(10**8, 10**12))
        first["loading"] = {"weight": int(rng.integers(1, 20))}
    found = []
    for _ in range(windows):
        document = copy.deepcopy(first)
        rows = document["activations"]
        kept = [i for i in range(len(rows["count"])) if rng.random() < 0.6]
        document["activations"] = {key: [column[i] for i in kept] for key, column in rows.items()}
        document["activations"]["count"] = [int(rng.integers(1, c + 1)) for c in document["activations"]["count"]]
        found.append(document)
    return found


def test_payments_are_those_of_the_definitions() -> None:
    paid = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        document = random_document_2(rng)
        instance = Instance.from_document(document)
        shape = (len(instance.servers), instance.n_items)
        drawn = (Placement(rng.random(shape) < rng.choice([0.3, 0.6, 0.9])) for _ in range(12))
        before, now = Placement(rng.random(shape) < 0.5), next((p for p in drawn if p.fits(instance)), None)
        if now is None:
            continue
        expected = naive_cost_2(holding(document, instance, before), pairs_of(instance, now))
        assert expected is not None, seed
        paid += 1
        payment = pay(instance, before, now)
        assert (payment.latency_ns, payment.loading_ns) == expected, seed
        assert payment.cost_ns == sum(expected), seed
        new = pairs_of(instance, now) - pairs_of(instance, before)
        sizes = [m["expert_bytes"] for m in document["models"]]
        assert payment.moved_experts == len(new), seed
        assert payment.moved_bytes == sum(s if isinstance(s := sizes[m], int) else s[k] for _, m, k, _ in new), seed
        assert cost_ns(with_held(instance, before), now) == payment.cost_ns, seed
        assert cost_ns(without_loading(instance), now) == payment.latency_ns, seed
        hits = Evaluation(instance, now).hits
        if hits is not None:
            assert hits.away == (payment.requests_away / payment.requests, payment.rows_away / payment.rows), seed
        columns = document["activations"]
        assert payment.rows == sum(columns["count"]), seed
        counts = zip(columns["count"], columns["experts"], strict=True)
        assert payment.requests == sum(count * len(experts) for count, experts in counts), seed
    assert paid > 50


def run(
    windows: list[Instance], chosen: list[str], start: Placement | None = None
) -> tuple[list[Step], dict[str, tuple[Placement, int]]]:
    """Replay with exact decisions; return the steps, and each decision with its bound."""
    decisions: dict[str, tuple[Placement, int]] = {}

    def decide(order: Order) -> Placement:
        assert order.key not in decisions
        instance = order.instance()
        if order.start is not None:
            order.start.check_fits(instance)
        outcome = exhaustive(instance, start=order.start)
        assert outcome.bound_ns is not None
        decisions[order.key] = outcome.placement, outcome.bound_ns
        return outcome.placement

    return list(policies.replay(windows, chosen, decide, start)), decisions


class Tried:
    """Everything that is allowed over some windows, valued by the definitions."""

    def __init__(self, documents: list[Document], windows: list[Instance]) -> None:
        first, shape = windows[0], (len(windows[0].servers), windows[0].n_items)
        held = itertools.product((False, True), repeat=int(np.prod(shape)))
        self.allowed = [p for h in held if (p := Placement(np.array(h).reshape(shape))).fits(first)]
        self.number = {p.cached.tobytes(): i for i, p in enumerate(self.allowed)}
        free = [holding(document, first, None) for document in documents]
        pairs = [pairs_of(first, p) for p in self.allowed]
        self.latency = [[sum(naive_cost_2(document, own) or ()) for own in pairs] for document in free]
        """Of each window and placement."""
        weight = documents[0].get("loading", {"weight": 1})["weight"]
        price = [
            weight * -(-size * 10**9 // server["load_bytes_per_s"]) if "load_bytes_per_s" in server else 0
            for server in documents[0]["servers"]
            for size in first.item_bytes.tolist()
        ]
        flat = [p.cached.ravel().tolist() for p in self.allowed]
        self.loading = [
            [sum(each for a, b, each in zip(x, y, price, strict=True) if b and not a) for y in flat] for x in flat
        ]
        """Of changing from each placement to each."""

    def cost(self, t: int, before: Placement | None, now: Placement) -> int:
        """Return latency and loading on window t; None before: loading is free."""
        j = self.number[now.cached.tobytes()]
        return self.latency[t - 1][j] + (0 if before is None else self.loading[self.number[before.cached.tobytes()]][j])

    def least(self, t: int, before: Placement | None) -> int:
        """Return the least that any placement costs on window t."""
        return min(self.cost(t, before, now) for now in self.allowed)

    def best_sequence(self, first: Placement, paid: list[int]) -> int:
        """Return the least that any sequence of placements costs, each of them known beforehand."""
        least = {self.number[first.cached.tobytes()]: 0}
        for t in paid:
            least = {
                j: self.latency[t - 1][j] + min(value + self.loading[i][j] for i, value in least.items())
                for j in range(len(self.allowed))
            }
        return min(least.values())


def test_every_policy_decides_as_it_says_and_nobody_is_below_the_bounds() -> None:
    """Beside each decision all placements are tried; beside all of them, all sequences of placements."""
    tried = changed = kept = loose = 0
    for seed in range(100):
        documents = drifting(seed, 4, 6)
        windows = [Instance.from_document(document) for document in documents]
        started, all_of_them = seed % 2 == 1, Tried(documents, windows)
        if not all_of_them.allowed:
            with pytest.raises(NoSolutionError):
                run(windows, ["stay"])
            continue
        tried += 1
        cost, allowed = all_of_them.cost, all_of_them.allowed
        start = allowed[seed % len(allowed)] if started else None
        steps, decisions = run(windows, list(POLICIES), start)
        paid = list(range(1 if started else 2, 5))
        first = start if start is not None else decisions["free-001"][0]
        assert [(step.window, step.policy) for step in steps] == [(t, name) for t in paid for name in POLICIES], seed
        if not started:
            assert cost(1, None, first) == all_of_them.least(1, None), seed
        force, total, horizon = dict.fromkeys(POLICIES, first), dict.fromkeys(POLICIES, 0), 0
        for t in paid:
            bound = all_of_them.least(t, None)
            assert decisions[f"free-{t:03}"][1] == bound, seed
            if t == paid[0]:
                bound = max(bound, decisions[f"hindsight-{t:03}"][1])
            horizon += bound
            for step in (s for s in steps if s.window == t):
                before, now, name = force[step.policy], step.placement, step.policy
                assert step.payment.cost_ns == cost(t, before, now) >= bound, (seed, t, name)
                total[name] += step.payment.cost_ns
                force[name] = now
                moved = not (now.cached == before.cached).all()
                changed += moved
                if name == "hindsight":
                    assert step.payment.cost_ns == all_of_them.least(t, before), seed
                elif name == "stay" or t == 1:
                    assert not moved, seed
                    assert step.payment.moved_bytes == step.payment.loading_ns == 0, seed
                elif name == "loading":
                    assert cost(t - 1, before, now) == all_of_them.least(t - 1, before), seed
                else:
                    candidate = decisions[f"free-{t - 1:03}"][0]
                    taken = name == "always" or cost(t - 1, before, candidate) < cost(t - 1, before, before)
                    kept += not taken
                    assert (now.cached == (candidate if taken else before).cached).all(), seed
        best = all_of_them.best_sequence(first, paid)
        assert horizon <= best <= min(total.values()), seed
        loose += best < total["hindsight"]  # a yardstick that looks at one window at a time
    assert tried > 40
    assert changed > 80
    assert kept > 10
    assert loose > 0


def test_policies_do_not_depend_on_each_other() -> None:
    seen = 0
    for seed in range(20):
        windows = [Instance.from_document(document) for document in drifting(seed, 3, 6)]
        try:
            together, _ = run(windows, list(POLICIES))
        except NoSolutionError:
            continue
        seen += 1
        for name in POLICIES:
            alone, decisions = run(windows, [name])
            own = [step for step in together if step.policy == name]
            assert [(s.window, s.payment, s.source) for s in alone] == [(s.window, s.payment, s.source) for s in own]
            if name in ("stay", "loading"):
                assert {key for key in decisions if key.startswith("free")} == {"free-001"}
    assert seen > 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["servers"].pop(), "1 servers, the first window has 2"),
        (lambda d: d["servers"][1].update(name="other"), r"servers\[1\].name is 'other', in the first window 'b'"),
        (
            lambda d: d["servers"][0].update(capacity_bytes=9),
            r"servers\[0\].capacity_bytes is 9, in the first window 4",
        ),
        (lambda d: d["servers"][0].pop("load_bytes_per_s"), r"servers\[0\].load_bytes_per_s is not said, in the .* 7"),
        (
            lambda d: d["servers"][0].update(layer_slots=1),
            r"servers\[0\].layer_slots is 1, in the first window not said",
        ),
        (lambda d: d["models"][0].update(expert_bytes=2), r"models\[0\] is 'm', and not what the first window has"),
        (lambda d: d.update(loading={"weight": 2}), "another weight of loading"),
        (lambda d: d.update(latency_model="sum"), "the latency model is sum, that of the first window max"),
        (
            lambda d: d["demands"][0].update(server_ns=[1, None]),
            "demands without a cloud need experts on other servers",
        ),
        (lambda d: d["demands"][0].update(cloud_ns=9), "demands without a cloud need experts on other servers"),
    ],
)
def test_other_windows_are_refused_by_name(change: Callable[[Document], Any], said: str) -> None:
    document: Document = {
        "format": "moeplace/instance",
        "version": 2,
        "name": "one",
        "latency_model": "max",
        "models": [{"name": "m", "layers": 1, "experts": 3, "top_k": 1, "expert_bytes": 1}],
        "servers": [{"name": name, "capacity_bytes": 4, "load_bytes_per_s": 7, "position_m": [1, 2]} for name in "ab"],
        "demands": [
            {"user": "u", "model": "m", "tokens": 9, "device_ns": 0, "server_ns": [1, 2], "cloud_ns": None},
        ],
        "activations": {"demand": [0], "layer": [0], "experts": [[1]], "count": [3]},
    }
    first = Instance.from_document(document)
    alike = copy.deepcopy(document) | {"name": "two", "notes": "the same hardware elsewhere"}
    alike["servers"][0] |= {"position_m": [9, 9], "holds": [{"model": "m", "experts": [[0, 1]]}]}
    check_windows([first, Instance.from_document(alike)], ["one.json", "two.json"])
    other = copy.deepcopy(document)
    change(other)
    if len(other["servers"]) == 1:
        other["demands"][0]["server_ns"] = [1]
    with pytest.raises(InputError, match=rf"three.json: {said}") as caught:
        check_windows([first, first, Instance.from_document(other)], ["one.json", "two.json", "three.json"])
    assert "replay needs the same servers and models in all windows" in str(caught.value)
