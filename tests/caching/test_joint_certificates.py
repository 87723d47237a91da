"""Certificates where active experts are open: verified by code of its own, and none proves more than is true."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from random_instances import random_joint_document
from wrong_certificates import corrupted_cuts, corrupted_layers

import moeplace
from moeplace import Instance
from moeplace.base.documents import parse
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.base.stop import Stop
from moeplace.caching.bounds import by_layers, concave, joint_concave, joint_layers, layer_oracle
from moeplace.caching.bounds.joint_concave import JointConcave, everything
from moeplace.caching.bounds.joint_layers import JointLayers
from moeplace.caching.certificates import ActiveCuts, CachingCertificate, Cut, Layers
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.heuristics.joint import JointForms
from moeplace.caching.layer_verification import Tuning, prove_by_layers
from moeplace.caching.searching import caching_incumbent
from moeplace.caching.verification import verify
from moeplace.caching.verification_choices import most_chosen, open_numbers
from moeplace.cli import main
from moeplace.layers import proof
from moeplace.solving import certified

MERGED = ["joint_tiny_one_after_the_other"] * 6
"""Proven by a merge, and soon searched whatever is wrong."""

QUICK = joint_concave.Tuning(rounds=1, steps=10, concave=concave.Tuning(stages=((0.05, 10),), patience=1))
"""Cuts at a few points."""

Pack = Callable[[], CachingCertificate]

ROUGH = joint_layers.Tuning(layers=by_layers.Tuning(coarse=100, fine=1))
"""Coarse weights and small scales."""

LARGE = joint_layers.Tuning(
    layers=by_layers.Tuning(oracle=layer_oracle.Tuning(most_cells=0), proof=proof.Tuning(rounds=2))
)
"""Layers too large for a search."""


def drawn(seeds: range, max_variables: int = 30) -> Iterator[tuple[int, Instance]]:
    """Seed and instance of those that have a solution."""
    for seed in seeds:
        instance = Instance.from_document(random_joint_document(np.random.default_rng(seed), max_variables))
        try:
            caching_incumbent(instance, Stop(None))
        except NoSolutionError:
            continue
        yield seed, instance


def bounds(
    instance: Instance, kind: str, tuning: joint_layers.Tuning = joint_layers.USUAL
) -> tuple[list[tuple[int, Pack]], int]:
    """All bounds of a kind in the order in which they are proven, each with what writes its certificate.

    And what the best placement costs that is known: above that no bound holds.
    """
    found: list[tuple[int, Pack]] = []
    search = caching_incumbent(instance, Stop(None))

    def prove(bound: int, source: str, certificate: Pack) -> None:
        found.append((max(bound, 0), certificate))
        search_prove(bound, source, certificate)

    search_prove, search.prove = search.prove, prove  # type: ignore[method-assign, assignment]
    forms = JointForms(instance)
    if kind == "layers":
        JointLayers(forms, search, 1, tuning).proof().run()
    else:
        search.prove(instance.baseline_ns - forms.most_saving, "everything", lambda: everything(forms))
        JointConcave(forms, search, 1, QUICK).run()
    return found, cost_ns(instance, search.placement)


def layers_of(certificate: CachingCertificate) -> Layers:
    assert isinstance(certificate.proof, Layers)
    return certificate.proof


def read(certificate: CachingCertificate) -> CachingCertificate:
    return parse(json.loads(certificate.to_json()), CachingCertificate)


@pytest.mark.parametrize("kind", ["layers", "cuts"])
def test_every_bound_on_the_way_is_verified_and_nothing_above_the_optimum(kind: str) -> None:
    seen = {"plain": 0, "merge": 0, "reached": 0, "word": 0}
    for seed, instance in drawn(range(24), 30 if kind == "layers" else 12):
        found_bounds, cost = bounds(instance, kind, (joint_layers.USUAL, ROUGH, LARGE)[seed % 3])
        for bound, pack in found_bounds:
            certificate = read(pack())
            found = verify(instance, certificate)
            if found.trusted is not None:  # slots, and a bound that takes (C6)
                seen["word"] += 1
                continue
            assert (found.problems, found.bound_ns) == ((), bound), seed
            seen["merge" if isinstance(certificate.proof, Layers) and certificate.proof.merge else "plain"] += 1
            if bound == cost:
                seen["reached"] += 1
                assert verify(instance, structs.replace(certificate, bound_ns=bound + 1)).problems, seed
    assert seen["plain"] > 15, seen
    assert seen["reached"] > 1, seen
    assert seen["word"] < seen["plain"], seen
    assert seen["merge"] > 0 or kind == "cuts", seen


def test_bounds_of_the_best_choice_are_proven_by_sums() -> None:
    """Not by what a price of loss adds: the verifier's own sums, and its own choice within the budget."""
    beyond_prices, limited = 0, list[str]()
    for seed, instance in drawn(range(24), 14):
        if (instance.layer_slots < instance.n_items).any():  # a bound that takes (C6)
            continue
        for bound, pack in bounds(instance, "layers", LARGE)[0]:
            own = layers_of(pack())
            assert prove_by_layers(instance, bound, own, Tuning(most_nodes=0)) is None, seed
            # What no choice at all says: prices alone allow more.
            at_prices = sum(layer.most for layer in own.layers)
            at_prices += sum(p * c for p, c in zip(own.prices, room(instance, own), strict=True))
            allowed = (instance.baseline_ns - bound) // own.unit * own.scale
            beyond_prices += at_prices > allowed + own.scale
            try:
                prove_by_layers(instance, bound, own, Tuning(most_choices=0))
            except InputError as error:
                limited.append(str(error))
    assert beyond_prices > 0
    assert set(limited) == {"more than 0 choices of active experts may reach beyond the bound"}


def room(instance: Instance, own: Layers) -> list[int]:
    found = open_numbers(instance)
    assert found is not None
    numbers, budget = found
    units = sum(int(size) // own.size_unit for size in instance.item_bytes)
    storage = [min(server.capacity_bytes // own.size_unit, units) for server in instance.servers]
    return [*storage, min(budget, sum(max(mine.values()) for mine in numbers))]


def test_what_solve_writes_is_verified_trusting_nothing() -> None:
    kinds = {Layers: 0, ActiveCuts: 0, Cut: 0}
    for seed in range(100, 150):
        instance = Instance.from_document(random_joint_document(np.random.default_rng(seed)))
        try:
            solution, certificate = certified(instance, "auto", seed=seed)
        except NoSolutionError:
            continue
        assert certificate is not None
        certificate = read(certificate)
        report = moeplace.check(instance, solution, certificate)
        assert report.violations == (), seed
        assert report.bound == "verified, trusting nothing", seed
        kinds[type(certificate.proof)] += 1
    assert sum(kinds.values()) > 20, kinds
    assert kinds[Layers] > 8, kinds


@pytest.mark.parametrize(
    "name",
    [
        "joint_tiny_left_out_and_held",
        "joint_tiny_one_after_the_other",
        "joint_tiny_two_models",
        "joint_small_l03e012k4_sum_loss60000_s3_u12_c090_seed3",
        "joint_small_l04e008k2_loss120000_s3_u12_c120_seed2",
        "joint_small_l04e006k3_sizes_loss80000_s3_u12_c090_seed5",
    ],
)
def test_the_set_is_proven_and_verified(name: str) -> None:
    instance = moeplace.load(name)
    solution, certificate = certified(instance, "layer-enumeration")
    assert solution.status.solution == "optimal"
    assert certificate is not None
    assert moeplace.check(instance, solution, read(certificate)).bound == "verified, trusting nothing"


def test_where_no_choice_is_left_the_certificate_is_that_of_the_rows_cut() -> None:
    """By ``auto``, and by methods that know nothing of active experts, where all may use the fewest."""
    seen = {"auto": 0, "column-generation": 0}
    for seed in range(24):
        document = random_joint_document(np.random.default_rng(seed))
        losses = [table for own in document["active"]["loss"].values() for table in own]
        document["active"]["budget"] = (
            sum(map(min, losses)) if seed % 2 else sum(map(max, losses))
        )  # fmt: skip
        instance = Instance.from_document(document)
        for method in seen:
            try:
                solution, certificate = certified(instance, method)
            except NoSolutionError:
                continue
            if certificate is None or solution.bound is None:
                continue
            found = verify(instance, read(certificate))
            assert (found.problems, found.bound_ns) == ((), solution.bound), (seed, method)
            seen[method] += found.trusted is None and isinstance(certificate.proof, Layers | Cut)
    assert min(seen.values()) > 3, seen


def test_choices_are_followed_as_enumeration_does() -> None:
    rng = np.random.default_rng(0)
    for trial in range(300):
        layers = [
            [(int(rng.integers(-20, 20)), int(rng.integers(0, 6))) for _ in range(int(rng.integers(1, 4)))]
            for _ in range(int(rng.integers(1, 5)))
        ]
        budget, need, price = int(rng.integers(0, 15)), int(rng.integers(-30, 40)), int(rng.integers(0, 12))
        sums = [(0, 0)]
        for own in layers:
            sums = [(worth + a, loss + b) for worth, loss in sums for a, b in own]
        best = max((worth for worth, loss in sums if loss <= budget), default=None)
        expected = best if best is not None and best >= need else None
        assert most_chosen(layers, budget, price, need, 1 << 10) == expected, trial
    with pytest.raises(InputError, match="more than 2 choices of active experts may reach beyond the bound"):
        most_chosen([[(0, 0), (1, 1), (2, 2)]] * 2, 4, 0, 0, 2)


# --- corrupted certificates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["layers", "cuts"])
def test_no_corrupted_certificate_proves_more_than_is_true(kind: str) -> None:
    rng = np.random.default_rng(1)
    tried = {"accepted": 0, "refused": 0}
    merged = [moeplace.load(name) for name in MERGED if kind == "layers"]
    for i, instance in enumerate(itertools.chain(merged, (instance for _, instance in drawn(range(300), 14)))):
        if sum(tried.values()) >= 400:
            break
        found_bounds, cost = bounds(instance, kind)
        certificates = [pack() for _, pack in found_bounds]
        certificates = [one for one in certificates if isinstance(one.proof, Layers | ActiveCuts)]
        if i < len(merged):
            assert layers_of(certificates[-1]).merge, instance.name
        for certificate in (certificates[0], *certificates[-1:] * 30) if certificates else ():
            corrupted = corrupted_layers if isinstance(certificate.proof, Layers) else corrupted_cuts
            wrong = corrupted(rng, certificate)
            found = verify(instance, wrong)
            if found.ok:
                assert found.bound_ns is not None
                assert wrong.bound_ns <= found.bound_ns <= cost, i
            else:
                assert found.bound_ns is None or found.bound_ns <= cost, i
                assert len(found.problems) == 1, i
                assert "\n" not in found.problems[0], i
            tried["accepted" if found.ok else "refused"] += 1
    assert tried["accepted"] > 50, tried
    assert tried["refused"] > 100, tried


@functools.cache
def proven(kind: str) -> tuple[Instance, bytes]:
    """One layer of three experts, of which a token may wait for one or two, with the certificate of its optimum."""
    document = {
        "format": "moeplace/instance", "version": 2, "name": "pair", "latency_model": "max",
        "models": [{"name": "m", "layers": 1, "experts": 3, "top_k": 2, "expert_bytes": 4}],
        "servers": [{"name": "a", "capacity_bytes": 4}, {"name": "b", "capacity_bytes": 4}],
        "demands": [{"user": "u", "model": "m", "tokens": 9, "device_ns": 0, "server_ns": [1, 2], "cloud_ns": 9}],
        "activations": {
            "demand": [0, 0], "layer": [0, 0], "experts": [[0, 1], [1, 2]], "count": [5, 4], "ranked": True,
        },
        "active": {"loss": {"m": [[1, 0]]}, "budget": 1},
    }  # fmt: skip
    instance = Instance.from_document(document)
    _, pack = bounds(instance, kind)[0][-1]
    certificate = pack()
    assert verify(instance, certificate).ok
    return instance, certificate.to_json()


def example(kind: str) -> tuple[Instance, dict[str, Any]]:
    instance, data = proven(kind)
    return instance, json.loads(data)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("layers", {"prices": [1]}, "proof.prices: 1 entries, the instance has 2 servers"),
        ("layers", {"prices": [0, 0]}, "proof.layers[0].active: numbers of active experts, but there is no price"),
        ("layers", {"prices": [0, 0, 1 << 70]}, "proof.prices: all storage costs"),
        ("layers", {"layers.active": [{"experts": 1, "odds": ""}] * 2}, "proof.layers[0].active: a number of active"),
        ("layers", {"layers.active": [{"experts": 1, "odds": "AAAA"}]}, "proof.layers[0].active[0].odds: expected"),
        ("layers", {"layers.active": [{"experts": 1, "odds": "", "slot_prices": [1]}]}, "proof.layers[0].active[0].sl"),
        ("layers", {"layers.odds": "AAAA"}, "proof.layers[0].odds: each number of active experts has odds of its own"),
        ("layers", {"layers.most": -500}, "proof.layers[0].most: a plan is worth"),
        ("cuts", {"prices": [1]}, "proof.prices: 1 entries, the instance has 2 servers"),
        ("cuts", {"cuts": []}, "proof.cuts: there is none for 1 active experts"),
        ("cuts", {"cuts.experts": 3}, "proof.cuts: there is none for 2 active experts"),
        ("cuts", {"cuts.experts": 1}, "proof.cuts[1]: there is one for 1 active experts already"),
        ("cuts", {"cuts.points": []}, "proof.cuts[0].points[*].weights[0]: the weights sum to 0, not to"),
        ("cuts", {"weight_unit": 3}, "proof.cuts[1].points[*].weights[0]: the weights sum to"),
        ("cuts", {"prices": [0, 0], "loss_price": 0}, "bound_ns: the certificate says"),
    ],
)
def test_numbers_that_do_not_fit_are_one_clear_line(kind: str, change: dict[str, Any], said: str) -> None:
    instance, document = example(kind)
    for name, value in change.items():
        first, _, second = name.partition(".")
        if second:
            document["proof"][first][0][second] = value
        else:
            document["proof"][first] = value
    found = verify(instance, parse(document, CachingCertificate))
    assert len(found.problems) == 1
    assert found.problems[0].startswith(said), found.problems


def test_cuts_of_all_choices_need_an_instance_that_has_them() -> None:
    instance, document = example("cuts")
    plain = instance.cut([2])
    document["instance"] = {"name": plain.name, "sha256": plain.sha256}
    found = verify(plain, parse(document, CachingCertificate))
    assert found.problems == ("proof.cuts: there is no choice of active experts in this instance",)


def test_the_command_line_verifies_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    name = "joint_tiny_one_after_the_other"
    assert main(["solve", name, "-o", "s.json", "--certificate", "c.json.gz"]) == 0
    assert main(["check", name, "s.json", "--certificate", "c.json.gz"]) == 0
    assert "verified, trusting nothing" in capsys.readouterr().out
    assert main(["solve", name, "-o", "s.json", "--certificate", "c.json"]) == 0
    wrong = json.loads(Path("c.json").read_text())
    wrong["bound_ns"] += 1
    Path("c.json").write_text(json.dumps(wrong))
    assert main(["check", name, "s.json", "--certificate", "c.json"]) == 1
    assert "more than the bound allows" in capsys.readouterr().out
