"""Certificates of bounds by layers: verified by code of its own, and nothing in them proves more than is true."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from random_instances import brute_force, brute_force_2, random_document_2, random_instance
from wrong_certificates import corrupted_layers

import moeplace
from moeplace import Instance
from moeplace.base.certificates import Certificate, Trusted
from moeplace.base.documents import parse
from moeplace.base.errors import InputError
from moeplace.base.stop import Stop
from moeplace.caching import verification
from moeplace.caching.bounds import by_layers, layer_oracle
from moeplace.caching.bounds.by_layers import CachingLayers
from moeplace.caching.certificates import CachingCertificate, Layers
from moeplace.caching.layer_verification import Tuning, prove_by_layers
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent
from moeplace.caching.verification import verify
from moeplace.cli import main
from moeplace.layers import proof
from moeplace.solving import certified

Pack = Callable[[], CachingCertificate]


def bounds(instance: Instance, tuning: by_layers.Tuning = by_layers.USUAL) -> list[tuple[int, Pack]]:
    """All bounds by layers in the order in which they are proven, each with what writes its certificate."""
    found = []
    search = caching_incumbent(instance, Stop(None))

    def prove(bound: int, source: str, certificate: Pack) -> None:
        found.append((max(bound, 0), certificate))
        search_prove(bound, source, certificate)

    search_prove, search.prove = search.prove, prove  # type: ignore[method-assign, assignment]
    CachingLayers(saving_form(instance), search, 1, tuning).proof().run()
    return found


def tiny(seed: int) -> tuple[Instance, int] | None:
    """An instance of a seed with its optimum, of version 2 if the seed is odd; None where nothing fits."""
    if seed % 2 == 0:
        instance = random_instance(seed, 10)
        return instance, brute_force(instance)
    document = random_document_2(np.random.default_rng(seed), 10)
    optimum = brute_force_2(document)
    return None if optimum is None else (Instance.from_document(document), optimum)


def layers_of(certificate: CachingCertificate) -> Layers:
    assert isinstance(certificate.proof, Layers)
    return certificate.proof


def test_every_bound_on_the_way_is_verified_and_nothing_above_it() -> None:
    # Coarse weights, small scales, and lists where layers would do.
    coarse = by_layers.Tuning(coarse=100, fine=1)
    kinds, slotted = {"sums": 0, "merge": 0}, 0
    for seed in range(80):
        if (drawn := tiny(seed)) is None:
            continue
        instance, optimum = drawn
        for bound, pack in bounds(instance, coarse if seed % 5 == 0 else by_layers.USUAL):
            certificate = pack()
            found = verify(instance, certificate)
            if isinstance(certificate.proof, Trusted):  # slots, and a bound that takes (C6)
                slotted += 1
                continue
            assert (found.problems, found.bound_ns, found.trusted) == ((), bound, None), seed
            kinds["merge" if certificate.proof.merge else "sums"] += 1
            if bound == optimum:
                raised = structs.replace(certificate, bound_ns=bound + 1)
                assert verify(instance, raised).problems, seed
    assert min(kinds.values()) > 15, kinds
    assert slotted < kinds["sums"], slotted


def test_layers_too_large_for_a_search_are_proven_by_sums() -> None:
    """The multipliers of the document give the verifier the very sums (L1) that the oracle has: not one unit more."""
    tuning = by_layers.Tuning(oracle=layer_oracle.Tuning(most_cells=0), proof=proof.Tuning(rounds=2))
    seen = 0
    for seed in range(0, 40, 2):
        instance = random_instance(seed, 30)
        for bound, pack in bounds(instance, tuning):
            certificate = pack()
            # A single decision is not allowed: the sums must do.
            assert prove_by_layers(instance, bound, layers_of(certificate), Tuning(most_nodes=0)) is None, seed
            seen += bool(layers_of(certificate).prices)
    assert seen > 50


def test_auto_and_the_methods_by_layers_certify_their_bounds() -> None:
    for seed in range(8):
        if (drawn := tiny(seed)) is None:
            continue
        for method in ("auto", "layer-enumeration", "column-generation"):
            solution, certificate = certified(drawn[0], method)
            assert certificate is not None
            assert certificate.bound_ns == solution.bound
            report = moeplace.check(drawn[0], solution, parse(json.loads(certificate.to_json()), CachingCertificate))
            trusted = isinstance(certificate.proof, Trusted)
            assert report.violations == (), (seed, method)
            assert trusted or report.bound == "verified, trusting nothing", (seed, method)


def test_layers_that_share_nothing_are_verified_where_a_short_search_does_it() -> None:
    instance = moeplace.load("collaboration_tiny_slots")
    solution, certificate = certified(instance, "layer-enumeration")
    assert solution.bound_source in ("independent layers", "layer enumeration")
    assert certificate is not None
    assert isinstance(certificate.proof, Layers)
    assert moeplace.check(instance, solution, certificate).bound == "verified, trusting nothing"


def test_nothing_is_packed_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> str:
        raise AssertionError("a certificate is packed that nobody asked for")

    monkeypatch.setattr(by_layers, "packed", refuse)
    assert moeplace.solve(random_instance(0), "layer-enumeration").status.solution == "optimal"


def test_limits_of_the_verifier_only_make_it_prove_less() -> None:
    instance = moeplace.load("small_l04e08k2_s3_u60_c120_seed12")
    solution, certificate = certified(instance, "layer-enumeration")
    assert solution.status.solution == "optimal"
    assert certificate is not None
    proof = layers_of(certificate)
    assert prove_by_layers(instance, certificate.bound_ns, proof, Tuning(chunk=1)) is None
    said = prove_by_layers(instance, certificate.bound_ns + 1, proof, Tuning(chunk=1))
    assert said == "merge: plans within the capacities are worth 0 units more than the bound allows"
    for name, value, text in (
        ("most_nodes", 5, "more than 5 decisions are needed"),
        ("most_plans", 3, "more than 3 plans may be"),
        ("most_states", 1, "more than 1 combinations of plans may be"),
    ):
        try:
            why = prove_by_layers(instance, certificate.bound_ns, proof, Tuning(**{name: value}))
        except InputError as error:
            why = str(error)
        assert why is not None, name
        assert text in why, name


# --- corrupted certificates ----------------------------------------------------------------------------------------


def test_no_corrupted_certificate_proves_more_than_is_true() -> None:
    rng = np.random.default_rng(0)
    tried = accepted = refused = 0
    seed = -1
    while tried < 1_000:
        seed += 1
        if (drawn := tiny(seed)) is None:
            continue
        instance, optimum = drawn
        certificates = [pack() for _, pack in bounds(instance)]
        certificates = [one for one in certificates if isinstance(one.proof, Layers) and one.proof.layers]
        # The first one knows nothing, the last one is the proof.
        for certificate in (certificates[0], *certificates[-1:] * 11) if certificates else ():
            wrong = corrupted_layers(rng, certificate)
            tried += 1
            found = verify(instance, wrong)
            if found.ok:
                assert wrong.bound_ns <= optimum, seed
                assert found.bound_ns == wrong.bound_ns, seed
                accepted += 1
            else:
                assert found.bound_ns is None, seed
                (line,) = found.problems
                assert "\n" not in line, seed
                refused += 1
    # Prices and odds that are a little worse prove the same where there is something to spare.
    assert accepted > 100
    assert refused > 300


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prices": [1, 2, 3]}, "proof.prices: 3 entries, the instance has 2 servers"),
        ({"layers": []}, "proof.layers: 0 entries, 1 layers in all"),
        ({"size_unit": 7}, "proof.size_unit: 7 does not divide"),
        ({"prices": [1 << 70, 0]}, "proof.prices: all storage costs"),
        ({"scale": 1 << 62}, "proof.unit: weights and loading sum to 2**58 units or more"),
        ({"merge": [{"layer": 1, "prices": [[0, 0]]}]}, "proof.merge[0].layer: layer 1: there are 1 (from 0)"),
        ({"merge": [{"layer": 0, "prices": [[0]]}]}, "proof.merge[0].prices[0]: 1 entries, the instance has 2 servers"),
        ({"merge": [{"layer": 0, "prices": [[0, 0]]}] * 2}, "proof.merge[1].layer: layer 0: is merged already"),
    ],
)
def test_numbers_that_do_not_fit_are_one_clear_line(change: dict[str, Any], said: str) -> None:
    instance, document = example()
    document["proof"] |= change
    found = verify(instance, parse(document, CachingCertificate))
    assert found.bound_ns is None
    assert len(found.problems) == 1
    assert found.problems[0].startswith(said), found.problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"odds": "A"}, "proof.layers[0].odds: not base64"),
        ({"odds": "AAAA"}, "proof.layers[0].odds: expected"),
        ({"most": 1 << 60}, "proof.layers[0].most: 1152921504606846976 is not between -2**58 and 2**58"),
        ({"most": -5}, "proof.layers[0].most: a plan is worth"),
        ({"slot_prices": [1]}, "proof.layers[0].slot_prices: 1 entries, the instance has 2 servers"),
    ],
)
def test_numbers_of_a_layer_that_do_not_fit_are_one_clear_line(change: dict[str, Any], said: str) -> None:
    instance, document = example()
    document["proof"]["layers"][0] |= change
    found = verify(instance, parse(document, CachingCertificate))
    assert found.bound_ns is None
    assert len(found.problems) == 1
    assert found.problems[0].startswith(said), found.problems


def example() -> tuple[Instance, dict[str, Any]]:
    """One layer of two experts and two servers, with the certificate of its optimum."""
    document = {
        "format": "moeplace/instance", "version": 1, "name": "pair", "latency_model": "max",
        "models": [{"name": "m", "layers": 1, "experts": 3, "top_k": 2, "expert_bytes": 4}],
        "servers": [{"name": "a", "capacity_bytes": 4}, {"name": "b", "capacity_bytes": 4}],
        "demands": [{"user": "u", "model": "m", "tokens": 9, "device_ns": 0, "server_ns": [1, 2], "cloud_ns": 9}],
        "activations": {"demand": [0, 0], "layer": [0, 0], "experts": [[0, 1], [1, 2]], "count": [5, 4]},
    }  # fmt: skip
    instance = Instance.from_document(document)
    bound, pack = bounds(instance)[-1]
    assert bound == brute_force(instance)
    certificate = pack()
    assert verify(instance, certificate).ok
    read: dict[str, Any] = json.loads(certificate.to_json())
    return instance, read


def test_the_command_line_verifies_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    toy = "tiny_two_servers_share"
    assert main(["solve", toy, "--method", "layer-enumeration", "-o", "s.json", "--certificate", "c.json.gz"]) == 0
    assert main(["check", toy, "s.json", "--certificate", "c.json.gz"]) == 0
    assert "verified, trusting nothing" in capsys.readouterr().out


def test_a_bound_of_nothing_and_other_instances() -> None:
    instance, document = example()
    assert verify(instance, parse(document | {"bound_ns": 0}, CachingCertificate)).ok
    foreign = Certificate.make(random_instance(0), 0, Trusted("nobody"))
    assert not verification.verify(instance, foreign).ok
