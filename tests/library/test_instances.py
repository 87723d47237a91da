"""The shipped instances: they load, are what the builders make, and their best known values hold."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from active_instances import brute_force as active_brute_force
from cases import REALDATA, ROOT, SCRIPTS
from random_instances import brute_force, brute_force_2, brute_force_joint
from validators import validate_instance

import moeplace
from moeplace import Instance, load
from moeplace.active.document import layout as active_layout
from moeplace.active.front import front
from moeplace.base.errors import ContradictionError
from moeplace.base.files import read_json
from moeplace.caching.document import layout
from moeplace.caching.scenarios.suites import generate, read_suite
from moeplace.comparing import improved
from moeplace.library import best_known, instance_files, instance_name, instances_folder, set_names
from moeplace.problems import find_problem, problem_of_document

FILES = instance_files()

needs_scripts = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the builders are in the checkout only")


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_the_sets_are_there() -> None:
    assert set_names() == ["tiny", "small", "medium", "large", "real", "collaboration", "joint", "active", "serverless"]
    assert len(instance_files("tiny")) == 8
    assert 20 <= len(instance_files("small")) <= 24
    assert len(instance_files("medium")) == 17
    assert len(instance_files("large")) == 11
    assert len(instance_files("real")) == 9
    assert len(instance_files("collaboration")) == 21
    assert len(instance_files("joint")) == 18
    assert len(instance_files("active")) == 40
    assert len(instance_files("serverless")) == 12


def test_an_unknown_set_is_named() -> None:
    with pytest.raises(
        moeplace.InputError, match=r"no set of instances 'huge'; there are tiny, small, medium, large, real, coll"
    ):
        instance_files("huge")


@pytest.mark.parametrize("path", FILES, ids=instance_name)
def test_instance_is_valid_loads_and_fits_its_record(path: Path) -> None:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.name.endswith(".gz") else data

    def refuse(text: str) -> None:
        raise AssertionError(f"float {text}")

    document = json.loads(data, parse_float=refuse)
    validate_instance(document)
    problem = problem_of_document(document)
    instance = problem.from_document(document)
    assert instance.name == instance_name(path)
    record = best_known(path.parent.name)[instance.name]
    assert record.sha256 == instance.sha256
    if problem.name == "caching":
        assert record.latency_ns <= instance.baseline_ns
    assert record.optimal == (record.bound_ns == record.latency_ns)
    assert (record.bound_method is None) == (record.bound_ns is None)
    if record.bound_ns is not None:
        assert record.bound_ns <= record.latency_ns


@pytest.mark.parametrize("path", instance_files("serverless"), ids=instance_name)
def test_a_serverless_instance_is_known_to_two_percent(path: Path) -> None:
    instance = load(path)
    record = best_known("serverless")[instance.name]
    assert record.bound_ns is not None
    assert record.latency_ns - record.bound_ns <= record.latency_ns // 50, "the gap is at most 2 %"
    reference = find_problem("serverless").reference(instance)
    assert reference is None or record.latency_ns <= reference


@pytest.mark.parametrize("set_name", set_names())
def test_records_are_of_shipped_instances(set_name: str) -> None:
    assert set(best_known(set_name)) == set(map(instance_name, instance_files(set_name)))


@pytest.mark.parametrize("set_name", ["tiny", "small", "active"])
def test_every_record_is_proven(set_name: str) -> None:
    assert all(record.optimal for record in best_known(set_name).values())


@pytest.mark.parametrize("path", instance_files("tiny"), ids=instance_name)
def test_tiny_optimum_is_brute_force(path: Path) -> None:
    assert brute_force(load(path)) == best_known("tiny")[instance_name(path)].latency_ns


@needs_scripts
@pytest.mark.usefixtures("builders")
def test_instances_without_a_cloud_are_rebuilt_bit_for_bit_and_those_by_hand_are_solved(tmp_path: Path) -> None:
    from instance_sets import collaboration

    records = best_known("collaboration")
    shipped = {instance_name(path): path for path in instance_files("collaboration")}
    for document in collaboration.documents():
        path = tmp_path / "rebuilt.json"
        Instance.from_document(document).save(path)
        assert path.read_bytes() == shipped[document["name"]].read_bytes(), document["name"]
        if "_tiny_" in document["name"]:
            assert brute_force_2(document) == records[document["name"]].latency_ns, document["name"]
        assert records[document["name"]].optimal, document["name"]


@needs_scripts
@pytest.mark.usefixtures("builders")
def test_instances_with_open_active_experts_are_rebuilt_bit_for_bit_and_those_by_hand_are_solved(
    tmp_path: Path,
) -> None:
    from instance_sets import joint

    records = best_known("joint")
    shipped = {instance_name(path): path for path in instance_files("joint")}
    for document in joint.documents():
        path = tmp_path / "rebuilt.json"
        Instance.from_document(document).save(path)
        assert path.read_bytes() == shipped[document["name"]].read_bytes(), document["name"]
        if "_tiny_" in document["name"]:
            assert brute_force_joint(document) == records[document["name"]].latency_ns, document["name"]
            assert records[document["name"]].optimal, document["name"]


def test_records_of_active_experts_are_points_of_the_front() -> None:
    records = best_known("active")
    for path in instance_files("active"):
        instance = load(path)
        found = front(instance)
        timed = instance.minimises == "time_ns"
        at = found.at(loss=instance.budget) if timed else found.at(time_ns=instance.budget)
        assert records[instance.name].latency_ns == (found.time_ns if timed else found.loss)[at], instance.name
        if "_tiny_" in instance.name:
            assert records[instance.name].latency_ns == active_brute_force(instance.document()), instance.name


def test_shipped_instances_stay_below_40_mb() -> None:
    assert sum(path.stat().st_size for path in FILES) < 40_000_000


@needs_scripts
def test_tiny_is_rebuilt_bit_for_bit(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, SCRIPTS / "build_instances.py", "tiny", "-o", tmp_path], check=True, capture_output=True
    )
    shipped = {path.name: path.read_bytes() for path in instance_files("tiny")}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == shipped


@needs_scripts
@pytest.mark.usefixtures("builders")
def test_small_is_rebuilt_bit_for_bit(tmp_path: Path) -> None:
    from instance_sets import small

    shipped = {instance_name(path): path for path in instance_files("small")}
    assert [recipe.name for recipe in sorted(small.RECIPES, key=lambda recipe: recipe.name)] == sorted(shipped)
    for recipe in small.RECIPES[::4]:
        path = tmp_path / "rebuilt.json"
        Instance.from_document(small.draw(recipe)).save(path)
        assert path.read_bytes() == shipped[recipe.name].read_bytes(), recipe.name


@needs_scripts
@pytest.mark.parametrize(
    "name",
    [
        "medium/switch-base-8_s3_u60_c040_seed1",
        "medium/mixtral-8x7b-int4_l12_device1_s4_u40_c100_seed1",
        "medium/phi-3.5-moe_l12_direct_s8_u60_c150_seed1",
        "medium/jamba-mini-1.6-int8+moe-llava-stablelm_storage_s6_u30_c060_seed1",
        "large/llama-4-maverick-int4_s20_u500_c030_seed3",
    ],
)
def test_generated_sets_are_rebuilt_bit_for_bit(name: str) -> None:
    set_name, name = name.split("/")
    folder = ROOT / "instances" / set_name
    rebuilt = generate(read_suite(folder / "suite.toml")[1][name], folder)
    # The zipped bytes depend on the zlib in use, the document does not.
    assert rebuilt.sha256 == best_known(set_name)[name].sha256
    assert layout(rebuilt.document()) == gzip.decompress((folder / f"{name}.json.gz").read_bytes())


@pytest.mark.parametrize("set_name", ["medium", "large"])
def test_generated_sets_are_what_their_suites_say(set_name: str) -> None:
    _, scenarios = read_suite(instances_folder() / set_name / "suite.toml")
    assert set(scenarios) == set(map(instance_name, instance_files(set_name)))


def test_the_suite_of_huge_instances_is_valid() -> None:
    _, scenarios = read_suite(instances_folder() / "large" / "huge.toml")
    assert {(s.stations, s.users) for s in scenarios.values()} == {(20, 1000)}


@needs_scripts
@pytest.mark.usefixtures("builders")
@pytest.mark.parametrize("number", [0, 1, 4])
def test_real_is_rebuilt_bit_for_bit(number: int) -> None:
    if not REALDATA.is_dir():
        pytest.skip(f"no raw data in {REALDATA} (MOEPLACE_REALDATA names another folder)")
    from instance_sets import real

    recipe = real.RECIPES[number]
    rebuilt = real.make(recipe, REALDATA)
    (shipped,) = (path for path in instance_files("real") if instance_name(path) == recipe.name)
    data = shipped.read_bytes()
    assert layout(rebuilt.document()) == (gzip.decompress(data) if shipped.name.endswith(".gz") else data)


@needs_scripts
@pytest.mark.usefixtures("builders")
def test_active_is_rebuilt_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from instance_sets import active

    monkeypatch.setattr(active, "GENERATED", active.GENERATED[:3])
    monkeypatch.setattr(active, "LOADS", (1, 32))
    monkeypatch.setattr(active, "LOSSES", (10_000,))
    rebuilt = {made.name: active_layout(made.document()) for made in active.instances(REALDATA)}
    shipped = {instance_name(path): path.read_bytes() for path in instance_files("active")}
    assert rebuilt == {name: shipped[name] for name in rebuilt}
    assert len(rebuilt) == (6 + 3 + 2 * 3 if REALDATA.is_dir() else 6 + 3)


def test_real_full_holds_every_token_once() -> None:
    path = next(p for p in instance_files("real") if instance_name(p) == "gpt-oss-20b_melbourne_s8_u48_c060")
    document = read_json(path)
    rows = document["activations"]
    assert sum(demand["tokens"] for demand in document["demands"]) == 44_968
    assert sum(rows["count"]) == 44_968 * 24
    distinct = set(zip(rows["demand"], rows["layer"], map(tuple, rows["experts"]), strict=True))
    assert len(distinct) == len(rows["count"])


class TestBestKnown:
    """Records only improve, and contradictions are refused."""

    @pytest.fixture
    def instance(self) -> Instance:
        return load(instance_files("tiny")[0])

    def test_a_proof_improves_a_heuristic(self, instance) -> None:
        first = improved(None, instance, moeplace.solve(instance, "no-cache"))
        assert first.latency_ns == instance.baseline_ns
        assert (first.bound_ns, first.bound_method, first.optimal) == (None, None, False)
        proven = improved(first, instance, moeplace.solve(instance, "milp"))
        assert proven.optimal
        assert improved(proven, instance, moeplace.solve(instance, "no-cache")) is proven

    def test_a_cost_below_a_recorded_bound_is_refused(self, instance) -> None:
        proven = improved(None, instance, moeplace.solve(instance, "milp"))
        wrong = msgspec.structs.replace(proven, bound_ns=proven.latency_ns + 1, latency_ns=proven.latency_ns + 2)
        with pytest.raises(ContradictionError, match="is below the bound"):
            improved(wrong, instance, moeplace.solve(instance, "milp"))

    def test_a_wrong_solution_is_refused(self, instance) -> None:
        solution = moeplace.solve(instance, "popular")
        lie = msgspec.structs.replace(solution.objective, latency_ns=solution.objective.latency_ns - 1)
        with pytest.raises(ContradictionError, match="latency_ns"):
            improved(None, instance, msgspec.structs.replace(solution, objective=lie))
