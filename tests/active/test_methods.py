"""Methods of active experts against trying everything: costs, bounds, certificates, what is infeasible."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from active_instances import TOY, brute_force, drawn, instance

import moeplace
from moeplace.active import bounds
from moeplace.active.certificates import MergedLayers, Prices
from moeplace.active.document import Choice
from moeplace.active.front import Tuning, front
from moeplace.active.heuristics import filled, lower_hull, schedules, supported, uniform, walk
from moeplace.active.instance import Instance
from moeplace.active.methods import auto
from moeplace.active.searching import active_incumbent
from moeplace.active.verification import Tuning as VerifierTuning
from moeplace.active.verification import verify
from moeplace.base.certificates import Certificate
from moeplace.base.errors import InfeasibleError, MethodLimitError, NoSolutionError
from moeplace.base.stop import stopping
from moeplace.caching.certificates import Cut, Point
from moeplace.problems import find_problem
from moeplace.solving import certified

SEEDS = range(500)
EXACT = ("auto", "front", "layers", "milp", "cpsat")
HEURISTICS = ("greedy", "schedule", "uniform")


def test_exact_methods_are_brute_force() -> None:
    infeasible = 0
    for seed in SEEDS:
        problem, best = instance(seed), brute_force(drawn(seed))
        infeasible += best is None
        for method in EXACT:
            try:
                solution = moeplace.solve(problem, method)
            except NoSolutionError:
                assert best is None, (seed, method)
                continue
            assert (solution.value, solution.bound) == (best, best), (
                seed,
                method,
                solution.value,
                solution.bound,
                best,
            )
            report = moeplace.check(problem, solution)
            assert report.ok, (seed, method, report.violations)
    assert 50 < infeasible < 150


def test_heuristics_are_within_the_budget_and_their_bounds_hold() -> None:
    refused, proven = 0, 0
    for seed in SEEDS:
        problem, best = instance(seed), brute_force(drawn(seed))
        for method in HEURISTICS:
            try:
                solution, certificate = certified(problem, method)
            except NoSolutionError:
                assert best is None, (seed, method)
                continue
            except MethodLimitError:
                assert best is not None, (seed, method)
                assert method != "greedy", seed
                refused += 1
                continue
            assert best is not None, (seed, method)
            assert solution.value >= best, (seed, method)
            report = moeplace.check(problem, solution, certificate)
            assert report.ok, (seed, method, report.violations)
            if method == "greedy":
                assert certificate is not None
                assert isinstance(certificate.proof, Prices), seed
                assert report.proven == solution.bound <= best, seed
                assert report.bound == "verified, trusting nothing", seed
                proven += solution.value == solution.bound
            else:
                assert solution.bound is None
    assert refused > 20
    assert proven > 100


def test_the_price_is_the_linear_relaxation() -> None:
    from scipy.optimize import linprog

    for seed in range(0, 500, 10):
        problem = instance(seed)
        if problem.least_usage > problem.budget:
            continue
        layers, top_k = problem.layers, problem.top_k
        cost, usage = problem.cost.reshape(-1), problem.usage.reshape(-1)
        one = np.kron(np.eye(layers), np.ones(top_k))
        relaxed = linprog(cost, usage[None], [problem.budget], one, np.ones(layers), bounds=(0, 1))
        price, unit = bounds.relaxation(problem, walk(problem))
        bound = bounds.price_bound(problem, price, unit)
        assert bound - 1 - 1e-6 * bound < relaxed.fun < bound + 1e-6 * (bound + 1), seed


def test_what_is_proven_beyond_the_relaxation_is_verified_by_a_merge() -> None:
    merged, rng = 0, np.random.default_rng(0)
    tried = accepted = 0
    for seed in range(60):
        one, best = instance(seed), brute_force(drawn(seed))
        if best is None:
            continue
        for method in ("auto", "front", "layers"):
            solution, certificate = certified(one, method)
            assert certificate is not None
            report = moeplace.check(one, solution, certificate)
            assert (report.violations, report.bound) == ((), "verified, trusting nothing"), (seed, method)
            if not isinstance(certificate.proof, MergedLayers):
                continue
            merged += 1
            assert certificate.bound_ns == best, (seed, method)
            proof, raised = certificate.proof, best + 1
            (line,) = verify(one, msgspec.structs.replace(certificate, bound_ns=raised))
            assert line == f"bound_ns: a choice within the budget costs {best}", (seed, method)
            for _ in range(8):
                # Any price is good enough for a merge that ends; no price makes it say more than is true.
                price, unit = int(rng.integers(0, 1 << int(rng.integers(1, 62)))), int(rng.integers(1, 1 << 40))
                claim = max(0, best + int(rng.integers(-3, 4)))
                found = verify(one, Certificate.make(one, claim, MergedLayers([price], unit)))
                assert (found == []) == (claim <= best), (seed, method, price, unit, claim)
                tried, accepted = tried + 1, accepted + (found == [])
            few = verify(one, certificate, VerifierTuning(most_states=0))
            assert few in ([], ["proof: more than 0 choices may cost less than the bound"]), seed
            assert verify(one, msgspec.structs.replace(certificate, proof=MergedLayers(proof.prices * 2, 1))), seed
    assert merged > 60
    assert tried > 500 > accepted > 200


def test_corrupted_certificates_are_rejected() -> None:
    problem, tried = find_problem("active-experts"), 0
    for seed in range(100):
        one = instance(seed)
        if one.least_usage > one.budget:
            continue
        solution, certificate = certified(one, "greedy")
        assert certificate is not None
        assert isinstance(certificate.proof, Prices)
        price, unit = certificate.proof.prices[0], certificate.proof.unit
        wrong = {
            "two prices": msgspec.structs.replace(certificate, proof=Prices([price, 0], unit)),
            "no price": msgspec.structs.replace(certificate, proof=Prices([], unit)),
            "a higher bound": msgspec.structs.replace(certificate, bound_ns=certificate.bound_ns + 1),
            "another instance": msgspec.structs.replace(
                certificate, instance=msgspec.structs.replace(certificate.instance, sha256="0" * 64)
            ),
        }
        for other in (Prices([3 * price + unit], unit), Prices([0], unit)):
            claim = bounds.price_bound(one, other.prices[0], other.unit)
            if claim < certificate.bound_ns:
                wrong[f"a price of {other.prices[0]} / {unit}"] = msgspec.structs.replace(certificate, proof=other)
        for what, corrupted in wrong.items():
            tried += 1
            report = problem.check(one, solution, corrupted)
            assert not report.ok, (seed, what)
            assert all(line.startswith("certificate: ") for line in report.violations), (seed, what)
            assert report.bound == "not proven by the certificate", (seed, what)
    assert tried > 400
    caching = moeplace.load("tiny_two_servers_share")
    solved = moeplace.solve(caching, "greedy")
    foreign = Certificate.make(caching, 0, Prices([1], 1))
    assert "certificate: it is of another problem" in moeplace.check(caching, solved, foreign).violations
    one, cut = instance(1), Cut(1, [Point(0, [], "")], 1, [], 1)
    report = problem.check(one, moeplace.solve(one, "greedy"), Certificate.make(one, 0, cut))
    assert "certificate: it is of another problem" in report.violations


def test_infeasible_instances_say_why() -> None:
    hopeless = Instance.from_document(TOY | {"loss": [[300, 100, 50], [500, 200, 60]], "loss_budget": 109})
    for method in (*EXACT, *HEURISTICS):
        with pytest.raises(NoSolutionError) as caught:
            moeplace.solve(hopeless, method)
        said = "the choice that loses least loses 110, more than the budget of 109"
        assert str(caught.value) == f"infeasible: the instance has no solution: {said}"
        assert caught.value.exit_code == 1
    assert moeplace.solve(hopeless.with_budget(loss=110), "auto").decision == Choice([3, 3])
    slow = Instance.from_document({k: v for k, v in TOY.items() if k != "loss_budget"} | {"time_budget_ns": 99})
    with pytest.raises(NoSolutionError, match="takes least time takes 100 ns, more than the budget of 99 ns"):
        moeplace.solve(slow)


def test_the_toy_of_the_page() -> None:
    toy = Instance.from_document(TOY)
    solution = moeplace.solve(toy)
    assert solution.decision == Choice([3, 2])
    assert solution.document()["objective"] == {
        "value": 150, "bound": 150, "gap": 0.0, "reference": 180, "time_ns": 150, "loss": 200,
        "tokens_per_s": 8e9 / 250,
    }  # fmt: skip
    least_loss = moeplace.solve(Instance.from_document(
        {k: v for k, v in TOY.items() if k != "loss_budget"} | {"time_budget_ns": 150}
    ))  # fmt: skip
    assert (least_loss.value, least_loss.reference, least_loss.decision) == (200, 0, Choice([3, 2]))


def test_steepest_steps_and_what_still_fits() -> None:
    # On the hull the first layer has 1 and 3 experts only; 2 of them fit where 3 do not.
    one = Instance.from_document(
        TOY | {"model": {"name": "m", "layers": 1, "experts": 4, "top_k": 3}, "time_ns": [[90, 80, 10]],
               "loss": [[0, 60, 100]], "loss_budget": 70}
    )  # fmt: skip
    assert [step.k for step in walk(one).steps] == [3]
    assert filled(one, walk(one)) == Choice([2])
    assert lower_hull([5, 5, 1], [1, 0, 9]) == [2, 1]
    assert lower_hull([0, 1, 2, 3], [9, 6, 3, 0]) == [0, 3]  # of corners in a line the outer ones
    for seed in range(100):
        problem = instance(seed)
        family = supported(problem)
        usage, cost = (family.loss, family.time_ns) if problem.minimises == "time_ns" else (family.time_ns, family.loss)
        assert (np.diff(usage) > 0).all(), seed
        assert (np.diff(cost) < 0).all(), seed
        for used, spent in zip(usage.tolist(), cost.tolist(), strict=True):  # each is optimal for what it uses
            kind = "loss_budget" if problem.minimises == "time_ns" else "time_budget_ns"
            assert brute_force(drawn(seed) | {kind: used}) == spent, seed


def plain_schedules(layers: int, top_k: int) -> set[tuple[int, ...]]:
    def between(first: int, last: int, steps: int) -> list[int]:
        return [int(np.floor(first + (last - first) * i / steps + 0.5)) for i in range(steps + 1)]

    each = range(1, top_k + 1)
    if layers == 1:
        return {(k,) for k in each}
    if layers == 2:
        return {(b, e) for b in each for e in each}
    return {
        (*between(b, h, p), *between(h, e, layers - 1 - p)[1:])
        for b in each for h in each for e in each for p in range(1, layers - 1)
    }  # fmt: skip


def test_schedules_are_all_of_the_family() -> None:
    for seed in range(60):
        problem, document = instance(seed), drawn(seed)
        family = schedules(problem)
        every = plain_schedules(problem.layers, problem.top_k)
        sums = {
            (sum(row[k - 1] for row, k in zip(document["loss"], chosen, strict=True)),
             sum(row[k - 1] for row, k in zip(document["time_ns"], chosen, strict=True)))
            for chosen in every
        }  # fmt: skip
        best = {s for s in sums if not any(o != s and o[0] <= s[0] and o[1] <= s[1] for o in sums)}
        assert set(zip(family.loss.tolist(), family.time_ns.tolist(), strict=True)) == best, seed
        assert {tuple(row) for row in family.active.tolist()} <= every, seed
        assert {row[0] for row in uniform(problem).active.tolist()} == set(range(1, problem.top_k + 1))


def test_a_front_that_is_too_large_is_followed_by_layers() -> None:
    few = auto.Tuning(front=Tuning(most_points=2))
    followed = 0
    for seed in range(60):
        problem, best = instance(seed), brute_force(drawn(seed))
        if best is None:
            continue
        with stopping() as stop:
            outcome = auto.pick(problem, active_incumbent(problem, stop), 1, few)
        assert outcome.bound_ns == best, seed
        followed += outcome.method == "layers"
    assert followed > 10
    with pytest.raises(MethodLimitError, match="points are more than 2"):
        front(instance(4), tuning=Tuning(most_points=2, piece=1))


def test_values_at_the_limits_of_the_engine() -> None:
    for shift in (0, 30, 55):
        table = [[(5 << shift) + 3, 7 << shift, 9 << shift], [5 << shift, 6 << shift, 9 << shift]]
        large = Instance.from_document(TOY | {"time_ns": table, "fixed_ns": 0})
        found = moeplace.solve(large)
        assert (found.value, found.bound) == (15 << shift, 15 << shift), shift
        assert found.decision == Choice([3, 2])
    with pytest.raises(MethodLimitError, match=r"at most 2\*\*57 - 1 is handled"):
        moeplace.solve(large, "layers")
    assert moeplace.solve(large, "cpsat").value == 15 << 55


def test_starts_and_limits() -> None:
    toy = Instance.from_document(TOY)
    for method in ("auto", "layers", "milp", "cpsat", "front"):
        stopped = moeplace.solve(toy, method, time_limit=0, start=Choice([2, 3]))
        assert stopped.value in (150, 160), method
        assert moeplace.check(toy, stopped).ok
    with pytest.raises(moeplace.InputError, match="it loses 800, more than the budget of 250"):
        moeplace.solve(toy, "layers", start=Choice([1, 1]))
    with pytest.raises(InfeasibleError, match="a choice that does not fit: layer 0 has 9 active experts"):
        moeplace.solve(toy, "active_instances:nine")


def test_what_neither_front_nor_layers_close_is_left_to_cpsat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "prove_by_layers", lambda *args: None)
    few, left = auto.Tuning(front=Tuning(most_points=2)), 0
    for seed in range(30):
        problem, best = instance(seed), brute_force(drawn(seed))
        if best is None:
            continue
        with stopping() as stop:
            outcome = auto.pick(problem, active_incumbent(problem, stop), 1, few)
        assert outcome.bound_ns == best, seed
        left += outcome.method == "cpsat"
    assert left > 5
