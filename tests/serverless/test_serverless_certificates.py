"""Bounds by alphas: below every optimum, verified in integers by other code, and rejected where anything is changed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from serverless_instances import brute_force, random_document, toy

from moeplace.base.certificates import Trusted
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.base.stop import Stop
from moeplace.serverless.bounds import proving
from moeplace.serverless.bounds.alphas import UNIT, Multipliers, alpha_bound
from moeplace.serverless.bounds.alphas import Tuning as AscentTuning
from moeplace.serverless.bounds.by_alphas import AlphaBounds
from moeplace.serverless.bounds.by_specs import budgets
from moeplace.serverless.certificate import Alphas, AlphaSet, ServerlessCertificate, SpecProof
from moeplace.serverless.checking import recompute
from moeplace.serverless.cost import largest_cost
from moeplace.serverless.heuristics import climb
from moeplace.serverless.instance import Instance
from moeplace.serverless.methods.layers import layers
from moeplace.serverless.plans import layer_tables
from moeplace.serverless.problem import PROBLEM
from moeplace.serverless.searching import serverless_incumbent
from moeplace.serverless.verification import verify

FEW = AscentTuning(steps=40, later=20, every=10)


def large(tuning: Any = None, **changes: Any) -> proving.Tuning:
    """Return a tuning that takes every instance for a large one."""
    return proving.Tuning(listed_experts=0, ascent=tuning or FEW, **changes)


def solved(instance: Instance, tuning: proving.Tuning) -> Any:
    search = serverless_incumbent(instance, None, Stop(None), 0.0, None)
    proving.solve_layers(instance, search, None, 0.0, tuning=tuning)
    return search


def proof_of(instance: Instance, by: dict[int, Multipliers], bound: int) -> ServerlessCertificate:
    specs = [SpecProof(main, list(own.prices), i) for i, (main, own) in enumerate(by.items())]
    sets = [AlphaSet.make(own.first, own.every) for own in by.values()]
    return ServerlessCertificate.make(instance, bound, Alphas(specs, sets))  # type: ignore[arg-type,return-value]


def test_any_multipliers_bound_the_optimum_and_the_verifier_agrees() -> None:
    rng = np.random.default_rng(11)
    compared = 0
    for seed in range(120):
        instance = Instance.from_document(random_document(seed))
        best, tables = brute_force(instance), layer_tables(instance)
        by, bounds = {}, []
        for main in instance.main_specs:
            if budgets(instance, main).min() < 0:
                continue
            by[main] = Multipliers(
                tuple(rng.integers(0, (2, 20, 200)[seed % 3], 3).tolist()),  # type: ignore[arg-type]
                rng.integers(0, UNIT + 1, instance.layers),
                [rng.integers(0, UNIT + 1, len(rows.count)) for rows in instance.rows],
            )
            bounds.append(alpha_bound(instance, tables, main, by[main]))
        if not bounds:
            assert best is None, seed
            continue
        least = min(bounds)
        if best is not None:
            assert least <= best[0], seed
        assert verify(instance, proof_of(instance, by, least)) == [], seed
        (said, *_) = verify(instance, proof_of(instance, by, least + 1))
        assert said.endswith(f"costs at least {least}, not {least + 1}"), seed
        compared += 1
    assert compared > 80


def test_large_layers_get_a_bound_a_deployment_and_a_certificate() -> None:
    gaps, none = [], 0
    for seed in range(25):
        instance = Instance.from_document(random_document(seed))
        best, search = brute_force(instance), solved(instance, large())
        if best is None:
            none += search.bound_ns == largest_cost(instance)
            assert search.placement is None, seed
            continue
        outcome = search.outcome()
        wrong, value = recompute(instance, outcome.placement)
        assert wrong == [], seed
        assert value is not None
        assert outcome.bound_ns <= best[0] <= value, seed
        gaps.append((value - outcome.bound_ns) / max(1, value))
        if callable(outcome.certificate):
            certificate = outcome.certificate()
            assert certificate.bound_ns == outcome.bound_ns, seed
            assert verify(instance, certificate) == [], seed
            read = PROBLEM.read_certificate(json.loads(certificate.to_json()))
            assert read == certificate, seed
    assert none > 1, "prices high enough prove that there is nothing"
    assert float(np.median(gaps)) < 0.05
    assert sum(gap == 0 for gap in gaps) > 5


def test_every_limit_at_a_tiny_value() -> None:
    tunings = (
        large(AscentTuning(steps=1, later=1, every=1)),
        large(choices=1, around=0, rounds=1),
        large(climb=climb.Tuning(sweeps=1, swaps=0, pairs=0)),
        large(AscentTuning(steps=5, later=5, every=5, rate=10.0, last_rate=10.0, warm=1e-12, cold=1e-12)),
    )
    for tuning in tunings:
        for seed in range(15):
            instance = Instance.from_document(random_document(seed))
            best, search = brute_force(instance), solved(instance, tuning)
            if best is not None:
                assert search.bound_ns <= best[0] <= search.latency_ns, seed


CERTIFIED: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "a bound that is too high": (("bound_ns",), lambda v: v * 2, "costs at least"),
    "a price that is lower": (("proof", "specs", 0, "prices"), lambda v: [0, 0, 0], "costs at least"),
    "a main specification left out": (("proof", "specs"), lambda v: v[1:], "is missing"),
    "one there twice": (("proof", "specs"), lambda v: v + v[:1], "there twice"),
    "one that is none": (("proof", "specs", 0, "main"), lambda v: 99, "is none"),
    "alphas that are not there": (("proof", "specs", 0, "alphas"), lambda v: 99, "is none"),
    "an alpha above 1": (("proof", "alphas", 0, "first"), lambda v: [UNIT + 1] * len(v), "at most 1024 is 1"),
    "an alpha too few": (("proof", "alphas", 0, "first"), lambda v: v[1:], "the instance has 1 maxima"),
    "rows too few": (("proof", "alphas", 0, "every"), lambda v: "", "the instance has 2 maxima"),
    "no base64": (("proof", "alphas", 0, "every"), lambda v: "!!", "not base64"),
    "half a number": (("proof", "alphas", 0, "every"), lambda v: "AAAA", "2 bytes a number"),
}


def test_corrupted_certificates_are_rejected() -> None:
    # Memory for one local expert: the price of bytes is what proves the bound.
    document = toy(limits={"ttft_ns": 3_100_000_000}, platform={"main_mb": 140})
    document["main_specs"] = [0]
    instance = Instance.from_document(document)
    search = solved(instance, large(AscentTuning(steps=300, later=100, every=20)))
    outcome = search.outcome()
    certificate = outcome.certificate()
    best = brute_force(instance)
    assert best is not None
    assert certificate.bound_ns <= best[0]
    assert 1.2 * certificate.bound_ns > best[0]
    assert verify(instance, certificate) == []
    assert any(certificate.proof.specs[0].prices)
    for what, (path, change, said) in CERTIFIED.items():
        raw = json.loads(certificate.to_json())
        at = raw
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = change(at[path[-1]])
        faults = verify(instance, PROBLEM.read_certificate(raw))
        assert faults, what
        assert said in faults[0], (what, faults)
    with pytest.raises(InputError, match="kind"):
        PROBLEM.read_certificate(json.loads(certificate.to_json()) | {"proof": {"kind": "cut"}})


def test_the_checker_takes_certificates_and_their_instances() -> None:
    instance, other = Instance.from_document(toy()), Instance.from_document(toy(name="other"))
    search = solved(instance, large())
    outcome = search.outcome()
    certificate = outcome.certificate()
    from moeplace.base.documents import Status
    from moeplace.base.result import Finished

    cost = search.latency_ns
    ending = ("optimal", "optimal") if cost == outcome.bound_ns else ("completed", "feasible")
    run = Finished(outcome.placement, cost, outcome.bound_ns, Status(*ending), "layers", None, {}, 0, 1, 0.0,
                   outcome.bound_source, None, {}, {})  # fmt: skip
    solution = PROBLEM.finish(instance, run)
    report = PROBLEM.check(instance, solution, certificate)
    assert report.ok, report.violations
    assert report.proven == outcome.bound_ns
    assert report.trusted is None
    moved = msgspec.structs.replace(
        certificate, instance=msgspec.structs.replace(certificate.instance, sha256="0" * 64)
    )
    assert not PROBLEM.check(instance, solution, moved).ok
    assert not PROBLEM.check(other, PROBLEM.finish(other, run), certificate).ok
    word = PROBLEM.check(instance, solution, ServerlessCertificate.make(instance, outcome.bound_ns, Trusted("me")))
    assert (word.ok, word.trusted) == (True, "me")


def test_bounds_that_are_given_up_stay_bounds() -> None:
    instance = Instance.from_document(toy())
    search = serverless_incumbent(instance, None, Stop(None), 0.0, None)
    bounds = AlphaBounds(instance, layer_tables(instance), search, 0.0)
    for main in instance.main_specs:
        bounds.take(main, Multipliers((0, 0, 0), np.zeros(1, dtype=np.int64), [np.zeros(2, dtype=np.int64)]))
    best = brute_force(instance)
    assert best is not None
    assert search.bound_ns is not None
    assert 0 < search.bound_ns <= best[0]


def test_limits_that_nothing_keeps_are_said_with_how_much_is_missing() -> None:
    asked, helpless = [0, 0], 0
    for seed in range(120):
        document = random_document(seed)
        instance = Instance.from_document(document)
        if brute_force(instance) is not None:
            continue
        tables, search = layer_tables(instance), serverless_incumbent(instance, None, Stop(None), 0.0, None)
        bounds, within = AlphaBounds(instance, tables, search, 0.0), None
        for main in instance.main_specs:
            if budgets(instance, main).min() >= 0:
                within = bounds.limits(main, Multipliers.middle(instance), within, AscentTuning(steps=100, every=10))
        missing = bounds.missing()
        if missing is None:
            assert bounds.why() is None
            continue
        # With one unit less than that nothing is within the limits yet; what is not named never helps by itself.
        out = instance.request.tokens_out
        for i, key, unit in ((0, "ttft_ns", 1), (1, "tpot_ns", out)):
            if max(budgets(instance, main).min() for main in instance.main_specs) >= 0:
                wider = (missing[i] - 1) // unit if i in missing else 10**12
                changed = document | {"limits": document["limits"] | {key: document["limits"][key] + wider}}
                assert brute_force(Instance.from_document(changed)) is None, (seed, key)
                asked[i] += i in missing
                helpless += i not in missing
        for said, key in (("time to first token", 0), ("time of all output tokens", 1)):
            assert (f"the {said} is at least" in str(bounds.why())) == (key in missing), seed
    assert min(asked) > 1
    assert helpless > 10


def test_limits_that_are_far_too_tight_are_proven_before_anything_else() -> None:
    proven = {1: 0, 40: 0}
    for steps in proven:
        for seed in range(60):
            instance = Instance.from_document(random_document(seed))
            hopeless = AscentTuning(steps=steps, later=steps, every=10)
            search = solved(instance, large(hopeless=hopeless, rounds=0, last_plans=0))
            if search.bound_ns == largest_cost(instance):
                assert brute_force(instance) is None, (seed, steps)
                proven[steps] += 1
    assert 0 < proven[1] <= proven[40]


def test_why_nothing_is_within_the_limits_is_said_of_lists_too() -> None:
    instance = Instance.from_document(toy(limits={"ttft_ns": 3_005_000_000}))
    with pytest.raises(NoSolutionError) as raised:
        layers(instance, time_limit=None, seed=0, threads=1, start=None, progress=None)
    assert "where all other limits are kept, the time to first token is at least 3,00" in str(raised.value)
    assert "with everything local at the largest specification (400 MB)" in str(raised.value)


def test_what_is_listed_in_the_end_proves_what_alphas_do_not() -> None:
    few = AscentTuning(steps=1, later=1, every=1)
    ended = {0: 0, 1 << 21: 0}
    for last in ended:
        for seed in range(60):
            instance = Instance.from_document(random_document(seed))
            if brute_force(instance) is None:
                search = solved(instance, large(few, limits=few, hopeless=few, last_plans=last))
                assert search.placement is None
                ended[last] += search.bound_ns == largest_cost(instance)
    assert (
        ended[0]
        < ended[1 << 21]
        == sum(brute_force(Instance.from_document(random_document(s))) is None for s in range(60))
    )
