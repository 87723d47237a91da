"""Certificates by lists: optima verified by other code, trusting nothing; what is changed proves nothing false."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from serverless_instances import brute_force, random_document, toy

import moeplace
from moeplace.base.certificates import Trusted
from moeplace.base.errors import InputError
from moeplace.base.stop import Stop
from moeplace.serverless import layer_verification
from moeplace.serverless.bounds import proving
from moeplace.serverless.certificate import ListedSpec, Lists, ListStep, ServerlessCertificate
from moeplace.serverless.instance import Instance
from moeplace.serverless.layer_verification import prove_by_lists
from moeplace.serverless.problem import PROBLEM
from moeplace.serverless.searching import serverless_incumbent
from moeplace.serverless.verification import verify
from moeplace.solving import certified


def proven(instance: Instance, tuning: proving.Tuning = proving.USUAL) -> Any:
    search = serverless_incumbent(instance, None, Stop(None), 0.0, None)
    proving.solve_layers(instance, search, None, 0.0, tuning=tuning)
    outcome = search.outcome()
    return outcome.certificate() if outcome.placement is not None else None


def optima(seeds: range, **sizes: int) -> Any:
    """Yield seeds, instances, their optima and certificates."""
    for seed in seeds:
        instance = Instance.from_document(random_document(seed, **sizes))
        best = brute_force(instance)
        if best is not None:
            yield seed, instance, best[0], proven(instance)


def test_every_optimum_is_verified_and_one_more_is_not() -> None:
    merged = priced = 0
    for seed, instance, best, certificate in optima(range(150)):
        assert isinstance(certificate.proof, Lists), seed
        assert certificate.bound_ns == best, seed
        assert verify(instance, certificate) == [], seed
        assert PROBLEM.read_certificate(json.loads(certificate.to_json())) == certificate, seed
        more = msgspec.structs.replace(certificate, bound_ns=best + 1)
        assert verify(instance, more), seed
        merged += any(spec.merge for spec in certificate.proof.specs)
        priced += any(any(spec.prices) for spec in certificate.proof.specs)
    assert merged > 10
    assert priced > 10


def corrupted(raw: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Change a few things of a certificate's document."""
    raw = copy.deepcopy(raw)
    specs = raw["proof"]["specs"]

    def changed(prices: list[int]) -> None:
        prices[int(rng.integers(3))] = int(rng.choice([0, 1, 3, 10**6, 10**12])) + int(rng.integers(5))

    for _ in range(int(rng.integers(1, 4))):
        spec = specs[int(rng.integers(len(specs)))] if specs else None
        kind = int(rng.integers(8))
        if kind == 0 or spec is None:
            raw["bound_ns"] += int(rng.choice([1, 2, 1000, 10**9]))
        elif kind == 1:
            specs.remove(spec)
        elif kind == 2:
            spec["scale"] = int(rng.choice([1, 2, 1000]))
        elif kind == 3:
            spec.pop("merge", None)
        elif kind == 4 and "merge" in spec:
            spec["merge"].pop(int(rng.integers(len(spec["merge"]))))
            if not spec["merge"]:
                del spec["merge"]
        elif kind == 5 and "merge" in spec:
            spec["merge"].reverse()
        elif kind == 6 and "merge" in spec and spec["merge"][0]["prices"]:
            changed(spec["merge"][0]["prices"][0])
        else:
            changed(spec["prices"])
    return raw


def test_no_corrupted_certificate_proves_more_than_is_true() -> None:
    rng = np.random.default_rng(5)
    tried = refused = 0
    for seed, instance, best, certificate in (*optima(range(50)), *optima(range(30), layers=4, experts=2)):
        raw = json.loads(certificate.to_json())
        for _ in range(8):
            other = PROBLEM.read_certificate(corrupted(raw, rng))
            tried += 1
            if verify(instance, other):
                refused += 1
            else:
                assert other.bound_ns <= best, seed
    assert tried > 400
    assert refused > tried / 4


def test_a_shipped_instance_is_verified_trusting_nothing() -> None:
    instance = moeplace.load("gpt2-moe_short_loose")
    solution, certificate = certified(instance, "auto")
    assert certificate is not None
    assert isinstance(certificate.proof, Lists)
    report = moeplace.check(instance, solution, certificate)
    assert report.ok
    assert solution.status.solution == "optimal"


def test_numbers_beyond_64_bits() -> None:
    found = 0
    for seed in range(25):
        document = random_document(seed)
        document["platform"]["gpu_price"] = document["platform"]["gpu_price"] * 2**50 + 1
        instance = Instance.from_document(document)
        best = brute_force(instance)
        if best is None:
            continue
        certificate = proven(instance)
        found += best[0] > 2**63
        assert certificate.bound_ns == best[0], seed
        assert isinstance(certificate.proof, Lists), seed
        assert verify(instance, certificate) == [], seed
        assert verify(instance, msgspec.structs.replace(certificate, bound_ns=best[0] + 1)), seed
    assert found > 3


def test_a_merge_alone_proves_it() -> None:
    """Without prices all is left to the merge; and beyond its limit nothing is proven."""
    merged = 0
    for seed, instance, best, _ in optima(range(60), layers=4, experts=2):
        steps = [ListStep(layer, []) for layer in range(instance.layers)]
        proof = Lists([ListedSpec(main, [0, 0, 0], 1, steps) for main in instance.main_specs])
        assert prove_by_lists(instance, best, proof) == [], seed
        assert prove_by_lists(instance, best + 1, proof)[0].endswith("a combination of plans costs less"), seed
        if wrong := prove_by_lists(instance, best, proof, layer_verification.Tuning(most_states=0)):
            assert wrong[0].endswith("at most 0 are looked at"), seed
            merged += 1
    assert merged > 10


def test_beyond_the_limits_whose_word_it_is_is_said() -> None:
    few = layer_verification.Tuning(most_experts=0)
    for seed, instance, best, certificate in optima(range(10)):
        (said,) = prove_by_lists(instance, best, certificate.proof, few)
        assert said == f"layers of {instance.experts} experts: plans are listed up to 0", seed
        assert proven(instance, proving.Tuning(verified=few)).proof == Trusted(proving.SOURCE), seed


def test_what_is_not_of_the_instance_is_refused() -> None:
    instance = Instance.from_document(toy())
    bound = proven(instance).bound_ns

    def said(*specs: ListedSpec, bound: int = bound + 1) -> str:
        return verify(instance, ServerlessCertificate.make(instance, bound, Lists(list(specs))))[0]

    zero = [0, 0, 0]
    assert said(ListedSpec(9, zero)) == "specs[0]: specification 9 is none, or there twice"
    assert said(ListedSpec(0, zero), ListedSpec(0, zero)) == "specs[1]: specification 0 is none, or there twice"
    assert said(ListedSpec(0, zero, 1, [ListStep(7, [])])) == "specs[0].merge[0]: there is no layer 7"
    steps = [ListStep(0, []), ListStep(0, [])]
    twice = [said(ListedSpec(main, zero, 1, steps)) for main in instance.main_specs]
    assert any(line.endswith("a layer is merged twice") for line in twice)
    assert "costs at least" in said()
    for prices, scale in (([0, 0], 1), ([0, 0, -1], 1), (zero, 0)):
        raw = {"kind": "lists", "specs": [{"main": 0, "prices": prices, "scale": scale}]}
        document = json.loads(ServerlessCertificate.make(instance, 1, Lists([])).to_json()) | {"proof": raw}
        with pytest.raises(InputError, match="specs"):
            PROBLEM.read_certificate(document)
