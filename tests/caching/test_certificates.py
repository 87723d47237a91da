"""The concave bound and certificates: never above the optimum, verified by code of its own, mutations proven weaker."""

from __future__ import annotations

import ast
import base64
import copy
import inspect
import itertools
import json
import sys
from bisect import bisect_left
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import looped
from random_instances import brute_force, random_document, random_instance, random_placement
from scipy.optimize import linprog

import moeplace
from moeplace import Instance, Outcome, Placement
from moeplace.base.certificates import Certificate, Trusted
from moeplace.base.documents import parse
from moeplace.base.errors import InputError, MethodError
from moeplace.base.stop import Stop
from moeplace.caching.bounds import concave
from moeplace.caching.bounds.concave import WEIGHT_UNIT, ConcaveBound, ConcaveResult
from moeplace.caching.certificates import SHARE_BITS, CachingCertificate, Cut, read_certificate
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent
from moeplace.caching.terms import aggregate
from moeplace.caching.verification import verify
from moeplace.cli import main
from moeplace.solving import _finish, certified

INSTANCES = 500


def proofs(instance: Instance, stop_after: int | None = None, threads: int = 1) -> list[ConcaveResult]:
    """All proofs in the order in which they are found, the first of them before any work."""
    bound = ConcaveBound(saving_form(instance), threads)
    found = [bound.best]
    asked = itertools.count()
    bound.improve(lambda: stop_after is not None and next(asked) >= stop_after, lambda _, proof: found.append(proof))
    assert found[-1] is bound.best
    return found


def lp_optimum(instance: Instance) -> float:
    """The largest saving of a fractional placement, by an LP over all terms."""
    problem = aggregate(instance)
    servers, items = len(instance.servers), instance.n_items
    pairs, need = problem.covers
    n_x, n_p, n_t = servers * items, len(pairs), problem.n_terms
    if not n_t:
        return 0.0
    lines, right = [], []
    for p, (radius, item) in enumerate(pairs.tolist()):
        line = np.zeros(n_x + n_p + n_t)
        line[n_x + p] = 1
        line[[n * items + item for n in np.flatnonzero(problem.radius[radius])]] = -1
        lines.append(line)
        right.append(0)
    for t, (a, b) in enumerate(itertools.pairwise(problem.term_start.tolist())):
        for p in need[a:b].tolist():
            line = np.zeros(n_x + n_p + n_t)
            line[n_x + n_p + t], line[n_x + p] = 1, -1
            lines.append(line)
            right.append(0)
    # Rooms are rounded to whole multiples of the sizes' greatest common divisor, as the bound does.
    step = np.gcd.reduce(instance.item_bytes)
    for n, capacity in enumerate(instance.capacity_bytes.tolist()):
        line = np.zeros(n_x + n_p + n_t)
        line[n * items : (n + 1) * items] = instance.item_bytes
        lines.append(line)
        right.append(capacity // step * step)
    fits = instance.item_bytes[None, :] <= instance.capacity_bytes[:, None]
    most = np.concatenate((fits.ravel(), np.ones(n_p + n_t)))
    weight = np.concatenate((np.zeros(n_x + n_p), problem.term_weight / problem.total_weight))
    found = linprog(-weight, np.array(lines), right, bounds=np.column_stack((np.zeros(len(most)), most)))
    assert found.status == 0
    return -float(found.fun) * problem.total_weight


def test_the_cut_of_many_rows_is_the_sum_of_the_cuts_of_some() -> None:
    # More rows than are laid out, and than are added up before they are carried, with weights that need both halves.
    rng = np.random.default_rng(0)
    rows, experts, steps = 700, 6, 3
    size = rng.integers(1, 4, rows).astype(np.int32)
    which = np.array([np.sort(rng.permutation(experts)[:3]) for _ in range(rows)], dtype=np.int32)
    weight = rng.integers(0, 1 << 45, (rows, steps))
    level, x = np.array([[0, 2, 1, 3]]), rng.integers(0, concave.UNIT + 1, (4, experts))

    def cut(first: int, last: int) -> list[list[int]]:
        some = slice(first, last)
        start = np.array([0, last - first])
        found = concave.kernels().exact(
            which[some], size[some], start, weight[some], level, x, concave.UNIT, concave.UNIT // 20
        )
        assert all(halves[1].min() >= 0 and halves[1].max() < 2**32 for halves in found)
        return [((halves[0].astype(object) << 32) + halves[1]).ravel().tolist() for halves in found]

    pieces = [cut(first, first + 100) for first in range(0, rows, 100)]
    for k, whole in enumerate(cut(0, rows)):
        assert whole == [sum(values) for values in zip(*(piece[k] for piece in pieces), strict=True)]


@pytest.mark.parametrize("part", range(10))
def test_the_bound_never_passes_the_optimum_wherever_it_is_stopped(part: int) -> None:
    reported = 0
    for seed in range(part, INSTANCES, 10):
        instance = random_instance(seed)
        optimum = brute_force(instance)
        # Some are stopped after a few passes, the others run to their end.
        found = proofs(instance, stop_after=seed * 7 % 60 if seed // 10 % 5 else None)
        for proof in found:
            assert proof.bound_ns <= optimum, seed
        bounds = [proof.saving_bound for proof in found]
        assert bounds == sorted(bounds, reverse=True)
        assert found[0].saving_bound == aggregate(instance).total_weight
        last = verify(instance, found[-1].certificate())
        assert (last.problems, last.bound_ns, last.trusted) == ((), found[-1].bound_ns, None), seed
        reported += len(found) - 1
    assert reported > INSTANCES / 20


@looped("seed", range(25))
def test_it_reaches_the_optimum_of_the_linear_program(seed: int) -> None:
    instance = random_instance(seed, 30)
    found = proofs(instance)
    best = found[-1]
    optimum = lp_optimum(instance)
    assert best.saving_bound <= optimum + 1e-3 * max(optimum, 1)
    assert best.saving_bound >= int(optimum * (1 - 1e-9))
    assert best.x.min() >= 0
    assert best.x.max() <= 1
    assert best.prices.min() >= 0
    if len(found) > 1:
        used = best.x @ instance.item_bytes
        assert (used <= instance.capacity_bytes * (1 + 1e-3) + 1e-6).all()
        np.testing.assert_allclose(best.block_bytes.sum(axis=1), used)


def test_more_threads_prove_the_same() -> None:
    instance = random_instance(4, 40)
    one, two = (proofs(instance, threads=threads)[-1] for threads in (1, 2))
    assert one.certificate() == two.certificate()


def tied() -> Instance:
    """Two experts, always used together, room for one on each of two servers, only the second one near."""
    document = random_document(np.random.default_rng(0))
    document["models"] = [{"name": "m", "layers": 1, "experts": 2, "top_k": 2, "expert_bytes": 5}]
    document["servers"] = [{"name": "a", "capacity_bytes": 9}, {"name": "b", "capacity_bytes": 0}]
    document["demands"] = [{"user": "u", "model": "m", "tokens": 8, "device_ns": 0, "server_ns": [1, 3], "cloud_ns": 7}]
    document["activations"] = {"demand": [0], "layer": [0], "experts": [[0, 1]], "count": [8]}
    document["latency_model"] = "max"
    return Instance.from_document(document)


def test_by_hand() -> None:
    # Saving 8 * 6 with both experts on a, where one fits: half of it is what the bound can prove, 9 bytes or 5.
    instance = tied()
    found = proofs(instance)
    assert found[0].saving_bound == 48
    assert found[-1].saving_bound == 24
    certificate = found[-1].certificate()
    assert verify(instance, certificate).bound_ns == instance.baseline_ns - 24


def test_nothing_to_save() -> None:
    document = random_document(np.random.default_rng(1))
    for demand in document["demands"]:
        demand["server_ns"] = [None] * len(document["servers"])
    instance = Instance.from_document(document)
    (only,) = proofs(instance)
    assert only.bound_ns == instance.baseline_ns
    assert verify(instance, only.certificate()).bound_ns == instance.baseline_ns


def test_weights_near_the_limit_do_not_overflow() -> None:
    for seed in range(30):
        document = random_document(np.random.default_rng(seed))
        factor = (2**62) // max(1, Instance.from_document(document).baseline_ns)
        for demand in document["demands"]:
            for key in ("device_ns", "cloud_ns"):
                demand[key] *= factor
            demand["server_ns"] = [t if t is None else t * factor for t in demand["server_ns"]]
        instance = Instance.from_document(document)
        best = proofs(instance)[-1]
        small = brute_force(Instance.from_document(random_document(np.random.default_rng(seed))))
        assert best.bound_ns <= small * factor
        assert verify(instance, best.certificate()).bound_ns == best.bound_ns


def by_definition(instance: Instance, cut: Cut) -> int:
    """The bound that a cut proves, from the text of docs/certificates.md, in Python's fractions."""
    times, experts = instance.server_ns.tolist(), instance.rows
    constant, gradient = Fraction(0), {}
    points = [(p, p.unpacked(len(instance.servers), instance.n_items)) for p in cut.points]
    for i, d in enumerate(experts.demand.tolist()):
        requested = experts.item[experts.start[i] : experts.start[i + 1]].tolist()
        held = set(instance.device_items(d).tolist())
        cloud, device = int(instance.cloud_ns[d]), int(instance.device_ns[d])
        for row in [requested] if instance.latency_model == "max" else [[e] for e in requested]:
            levels = sorted({t for t in [*times[d], device] if t < cloud})
            for theta, following in itertools.pairwise([*levels, cloud]):
                near = [n for n, t in enumerate(times[d]) if t <= theta]
                asked = sorted(e for e in row if not (e in held and device <= theta))
                if not asked:
                    continue
                weight = int(experts.count[i]) * (following - theta)
                for point, x in points:
                    average = Fraction(point.weights[instance.item_block[row[0]]], cut.weight_unit)
                    values = [cut.unit, *(int(x[near, e].sum()) for e in asked)]
                    smallest = min(values)
                    taus = range(smallest, smallest + point.smoothing + 1)
                    at = bisect_left(taus, point.smoothing, key=lambda tau: sum(max(0, tau - z) for z in values))
                    over = [max(0, taus[at] - z) for z in values]
                    share = [o * 2**SHARE_BITS // sum(over) if sum(over) else 0 for o in over]
                    share[values.index(smallest)] += 2**SHARE_BITS - sum(share)
                    constant += average * weight * Fraction(share[0], 2**SHARE_BITS)
                    for e, part in zip(asked, share[1:], strict=True):
                        for n in near:
                            more = average * weight * Fraction(part, 2**SHARE_BITS)
                            gradient[n, e] = gradient.get((n, e), 0) + more
    step = int(np.gcd.reduce(instance.item_bytes))
    total = constant
    for n, capacity in enumerate(instance.capacity_bytes.tolist()):
        room = capacity // step * step
        price = Fraction(cut.prices[n], cut.price_unit * cut.weight_unit * 2**SHARE_BITS)
        total += price * room
        for e, size in enumerate(instance.item_bytes.tolist()):
            if size <= room:
                total += max(Fraction(0), gradient.get((n, e), Fraction(0)) - price * size)
    return max(0, instance.baseline_ns - total.__floor__())


@looped("seed", range(20))
def test_the_verifier_computes_what_the_format_says(seed: int) -> None:
    instance = random_instance(seed)
    rng = np.random.default_rng(seed)
    proof = proofs(instance, stop_after=int(rng.integers(300)))[-1]
    cut = proof.certificate().proof
    assert isinstance(cut, Cut)
    assert by_definition(instance, cut) == proof.bound_ns
    # And for any numbers, however useless.
    document = json.loads(proof.certificate().to_json())
    shape = (len(instance.servers), instance.n_items)
    document["bound_ns"] = 0
    document["proof"]["prices"] = [int(p) for p in rng.integers(0, 2**50, shape[0])]
    for point in document["proof"]["points"]:
        data = rng.integers(0, 2**16, shape).astype("<u2").tobytes()
        point |= {"smoothing": int(rng.integers(0, 2**16)), "placement": base64.b64encode(data).decode()}
    other = parse(document, CachingCertificate)
    assert isinstance(other.proof, Cut)
    found = verify(instance, other)
    assert found.ok
    assert found.bound_ns == by_definition(instance, other.proof)


def changes(document: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Certificates with one number changed."""
    found: list[dict[str, Any]] = []

    def change(path: list[Any], value: Any) -> None:
        other = copy.deepcopy(document)
        target = other
        for key in path[:-1]:
            target = target[key]
        if target[path[-1]] != value:
            target[path[-1]] = value
            found.append(other)

    proof = document["proof"]
    change(["bound_ns"], document["bound_ns"] + 1)
    change(["instance", "sha256"], "0" * 64)
    for key in ("unit", "weight_unit", "price_unit"):
        for value in (proof[key] - 1, proof[key] + 1, proof[key] // 2, 0, -1):
            change(["proof", key], value)
    for n, price in enumerate(proof["prices"]):
        for value in (price - 1, price + 1, price * 2, price // 2, 0, -price):
            change(["proof", "prices", n], value)
    change(["proof", "prices"], proof["prices"][:-1])
    change(["proof", "points"], proof["points"][:-1])
    for i, point in enumerate(proof["points"]):
        for value in (point["smoothing"] + 1, 0, 10**4, -1, 2**16):
            change(["proof", "points", i, "smoothing"], value)
        for b, weight in enumerate(point["weights"]):
            for value in (weight + 1, weight - 1, -weight, 10**6):
                change(["proof", "points", i, "weights", b], value)
        change(["proof", "points", i, "weights"], point["weights"][1:])
        data = bytearray(base64.b64decode(point["placement"]))
        at = int(rng.integers(len(data)))
        data[at] ^= 1 << int(rng.integers(8))
        change(["proof", "points", i, "placement"], base64.b64encode(data).decode())
        change(["proof", "points", i, "placement"], point["placement"][:-4])
        change(["proof", "points", i, "placement"], "?" + point["placement"][1:])
    return found


def test_one_number_changed_proves_something_true_or_is_rejected() -> None:
    rejected = weaker = 0
    for seed in range(25):
        instance = random_instance(seed)
        optimum = brute_force(instance)
        certificate = proofs(instance)[-1].certificate()
        for document in changes(json.loads(certificate.to_json()), np.random.default_rng(seed)):
            try:
                found = verify(instance, parse(document, CachingCertificate))
            except InputError:
                rejected += 1  # no certificate document any more
                continue
            # Whatever is accepted is true, and what is not proven is not accepted.
            assert found.bound_ns is None or found.bound_ns <= optimum
            assert found.ok == (found.bound_ns is not None and found.bound_ns >= document["bound_ns"])
            rejected += not found.ok
            weaker += found.ok
    assert rejected > 300
    assert weaker > 50


def test_the_checker_says_what_is_proven_and_what_was_trusted() -> None:
    instance = random_instance(3)
    proof = proofs(instance)[-1]
    placement = random_placement(instance, np.random.default_rng(0))
    outcome = Outcome(placement, proof.bound_ns, "the concave bound", certificate=proof.certificate())
    solution = _finish(instance, "test", outcome, {}, 0, 1, 0.1)
    report = moeplace.check(instance, solution, proof.certificate())
    assert report.ok
    assert (report.bound, report.proven_ns, report.trusted) == (
        "verified, trusting nothing",
        proof.bound_ns,
        None,
    )
    assert moeplace.check(instance, solution).bound == "claimed, not verified"

    trusted = Certificate.make(instance, proof.bound_ns, Trusted("some solver 1.0"))
    report = moeplace.check(instance, solution, trusted)
    assert report.ok
    assert (report.bound, report.trusted) == ("proven, trusting the word of 'some solver 1.0'", "some solver 1.0")

    weak = Certificate.make(instance, proof.bound_ns - 1, Trusted("some solver 1.0"))
    report = moeplace.check(instance, solution, weak)
    assert report.bound == "not proven by the certificate"
    assert report.violations == (
        f"certificate: it proves {proof.bound_ns - 1}, not the bound {proof.bound_ns} that the solution says",
    )
    absurd = Certificate.make(instance, solution.objective.latency_ns + 1, Trusted("some solver 1.0"))
    assert "but this placement costs" in moeplace.check(instance, solution, absurd).violations[0]
    elsewhere = replace_instance(proof.certificate())
    assert "the certificate is for" in moeplace.check(instance, solution, elsewhere).violations[0]


def replace_instance(certificate: Certificate) -> Certificate:
    document = json.loads(certificate.to_json())
    document["instance"]["sha256"] = "0" * 64
    return parse(document, CachingCertificate)


def test_a_method_gives_its_certificate_or_the_name_of_its_solver() -> None:
    instance = random_instance(7)
    proof = proofs(instance)[-1]

    def method(given: Certificate | None, bound: int | None) -> Any:
        def run(instance: Instance, **_: Any) -> Outcome:
            return Outcome(Placement.empty(instance), bound, "somebody", certificate=given)

        return run

    import odd_methods

    for given, bound, kind in (
        (proof.certificate(), proof.bound_ns, Cut),
        (None, proof.bound_ns, Trusted),
        (None, None, type(None)),
    ):
        odd_methods.given = method(given, bound)  # type: ignore[attr-defined]
        solution, certificate = certified(instance, "odd_methods:given")
        assert isinstance(certificate.proof if certificate else None, kind)
        assert certificate is None or certificate.bound_ns == solution.objective.bound_ns
    odd_methods.given = method(proof.certificate(), 0 if proof.bound_ns else None)  # type: ignore[attr-defined]
    with pytest.raises(MethodError, match="its certificate says"):
        certified(instance, "odd_methods:given")


def test_a_certificate_is_packed_only_when_it_is_asked_for() -> None:
    instance = random_instance(7)
    proof = proofs(instance)[-1]
    packs: list[int] = []

    def packed() -> Certificate:
        packs.append(1)
        return proof.certificate()

    def method(instance: Instance, **_: Any) -> Outcome:
        search = caching_incumbent(instance, Stop(), Placement.empty(instance))
        search.prove(proof.bound_ns, "concave bound", packed)
        return search.outcome()

    import odd_methods

    odd_methods.given = method  # type: ignore[attr-defined]
    assert moeplace.solve(instance, "odd_methods:given").objective.bound_ns == proof.bound_ns
    assert packs == []
    _, certificate = certified(instance, "odd_methods:given")
    assert packs == [1]
    assert certificate == proof.certificate()


def test_a_certificate_that_cannot_be_packed_fails_only_who_asks_for_it() -> None:
    instance = random_instance(7)
    import odd_methods

    for given, message in ((lambda: 1 // 0, "failed to certify: ZeroDivisionError"), (lambda: 1, "gives int")):
        outcome: Any = Outcome(Placement.empty(instance), 0, "somebody", certificate=given)  # type: ignore[arg-type]
        odd_methods.given = lambda instance, _outcome=outcome, **_: _outcome  # type: ignore[attr-defined]
        moeplace.solve(instance, "odd_methods:given")
        with pytest.raises(MethodError, match=message):
            certified(instance, "odd_methods:given")


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    instance = random_instance(3)
    files = {name: str(tmp_path / name) for name in ("i.json", "s.json", "c.json", "d.json.gz")}
    instance.save(files["i.json"])
    arguments = ["solve", files["i.json"], "--method", "cpsat", "-o", files["s.json"], "--certificate", files["c.json"]]
    assert main(arguments) == 0
    assert isinstance(read_certificate(files["c.json"]).proof, Trusted)
    capsys.readouterr()
    check = ["check", files["i.json"], files["s.json"], "--certificate"]
    assert main([*check, files["c.json"]]) == 0
    assert "trusting the word of 'CP-SAT" in " ".join(capsys.readouterr().out.split())
    proof = proofs(instance)[-1]
    proof.certificate().save(files["d.json.gz"])
    reaches = proof.bound_ns == moeplace.read_solution(files["s.json"]).objective.bound_ns
    assert main([*check, files["d.json.gz"], "--json"]) == (0 if reaches else 1)
    report = json.loads(capsys.readouterr().out)
    assert report["proven_ns"] == proof.bound_ns
    assert report["trusted"] is None
    Path(files["c.json"]).write_text('{"format": "moeplace/certificate", "version": 1}')
    assert main([*check, files["c.json"]]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*check, files["s.json"]]) == 2
    assert main([*check, str(tmp_path / "none.json")]) == 2
    assert main([*arguments[:-1], files["s.json"]]) == 2
    # A method without a bound has nothing to certify.
    missing = tmp_path / "missing.json"
    assert main(["solve", files["i.json"], "--method", "no-cache", "--certificate", str(missing)]) == 0
    assert not missing.exists()
    assert "no bound was proven" in capsys.readouterr().err


def test_the_verifier_shares_nothing_with_what_makes_certificates() -> None:
    allowed = {
        "moeplace.caching.instance",
        "moeplace.base.certificates",
        "moeplace.base.arrays",
        "moeplace.base.errors",
        "moeplace.caching.certificates",
        "moeplace.caching.layer_verification",
        "moeplace.caching.verification_choices",
        "moeplace.caching.verification_rows",
        "moeplace.caching._verification_kernels",
        "moeplace.caching._layer_verification_kernels",
    }
    from moeplace.caching import _layer_verification_kernels, _verification_kernels

    for module in (
        sys.modules["moeplace.caching.verification"],
        sys.modules["moeplace.caching.layer_verification"],
        sys.modules["moeplace.caching.verification_choices"],
        sys.modules["moeplace.caching.verification_rows"],
        sys.modules["moeplace.caching.certificates"],
        _verification_kernels,
        _layer_verification_kernels,
        sys.modules["moeplace.base.certificates"],
    ):
        tree = ast.parse(inspect.getsource(module))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found = {node.module for node in nodes if node.module and node.module.startswith("moeplace")}
        if "moeplace.caching" in found:  # a module of it
            found.remove("moeplace.caching")
            found |= {
                f"{node.module}.{name.name}"
                for node in nodes
                if node.module == "moeplace.caching"
                for name in node.names
            }
        assert found <= allowed | {"moeplace.base.documents", "moeplace.base.files", "moeplace.base.result"}, module


def test_a_certificate_survives_its_file(tmp_path: Path) -> None:
    instance = random_instance(5)
    certificate = proofs(instance)[-1].certificate()
    for name in ("c.json", "c.json.gz"):
        certificate.save(tmp_path / name)
        assert read_certificate(tmp_path / name) == certificate
    proof = certificate.proof
    assert isinstance(proof, Cut)
    assert proof.weight_unit == WEIGHT_UNIT
    assert replace(proofs(instance)[-1], saving_bound=0).bound_ns == instance.baseline_ns
