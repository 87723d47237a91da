"""Generated instances: reproducible, what the scenario says, refused in one line where that cannot be."""

from __future__ import annotations

import gzip
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

import moeplace
from moeplace import InputError, Instance
from moeplace.base.documents import UNREACHABLE
from moeplace.caching.document import Model
from moeplace.caching.scenarios.assembly import Part, all_bytes, assemble, catalogue_model
from moeplace.caching.scenarios.suites import Scenario, default_name, generate, generate_suite, read_suite
from moeplace.cli import main
from moeplace.cli.generate import SECTIONS
from moeplace.cli.generate import generate as command
from moeplace.scenarios.catalogue import architectures, find_architecture
from moeplace.scenarios.counting import SetCounts
from moeplace.scenarios.topology import Links, generated

SMALL = {"layers": 2, "experts": 6, "top_k": 2, "expert_bytes": 1_000_000, "stations": 4, "users": 6, "tokens": 20}


def small(**values: object) -> Instance:
    return generate(Scenario(**(SMALL | values)))


def rows(instance: Instance) -> tuple[list[int], ...]:
    table = instance.rows
    return tuple(array.tolist() for array in (table.demand, table.count, table.start, table.item))


class TestReproducible:
    def test_same_seed_same_bytes(self, tmp_path: Path) -> None:
        for name in ("one.json.gz", "two.json.gz"):
            small(seed=5).save(tmp_path / name)
        assert (tmp_path / "one.json.gz").read_bytes() == (tmp_path / "two.json.gz").read_bytes()

    def test_another_seed_is_another_instance(self) -> None:
        one, other = small(seed=5), small(seed=6)
        assert rows(one) != rows(other)
        assert (one.server_ns != other.server_ns).any()

    @pytest.mark.parametrize("change", [{"capacity": 90}, {"storage": "mixed"}, {"sizes": "mixed"}])
    def test_storage_and_sizes_leave_the_rest_alone(self, change: dict[str, object]) -> None:
        one, other = small(), small(**change)
        assert one.sha256 != other.sha256
        assert rows(one) == rows(other)
        assert [d.position_m for d in one.demands] == [d.position_m for d in other.demands]

    def test_links_leave_the_routing_alone(self) -> None:
        one, other = small(), small(links=Links(wan_round_trip_us=50_000))
        assert rows(one) == rows(other)
        assert (other.cloud_ns - one.cloud_ns == 38_000_000).all()
        assert (one.server_ns == other.server_ns).all()


class TestWhatTheScenarioSays:
    def test_shape_users_and_counts(self) -> None:
        instance = small(users=30, tokens=50)
        (model,) = instance.models
        assert (model.layers, model.experts, model.top_k) == (2, 6, 2)
        assert len(instance.demands) == 30
        assert (instance.tokens >= 25).all()
        assert (instance.tokens <= 75).all()
        for d in range(30):  # every token is counted once at every layer, with top_k experts
            mine = instance.rows.demand == d
            layer = instance.block_layer[instance.item_block[instance.rows.item[instance.rows.start[:-1]]]]
            for number in (0, 1):
                assert instance.rows.count[mine & (layer == number)].sum() == instance.tokens[d]
        assert (np.diff(instance.rows.start) == 2).all()

    @pytest.mark.parametrize("storage", ["equal", "mixed"])
    @pytest.mark.parametrize("capacity", [0, 7, 60, 250])
    def test_capacity_is_of_all_servers_together(self, storage: str, capacity: int) -> None:
        instance = small(capacity=capacity, storage=storage, stations=7)
        asked = all_bytes(instance.models) * capacity
        assert asked - 100 * 7 < 100 * int(instance.capacity_bytes.sum()) <= asked
        if capacity:
            assert (len(set(instance.capacity_bytes.tolist())) > 1) == (storage == "mixed")

    def test_mixed_sizes(self) -> None:
        instance = small(sizes="mixed", layers=30)
        assert set(instance.models[0].expert_bytes) == {500_000, 750_000, 1_000_000}

    def test_users_ask_for_models_in_turn(self) -> None:
        two = {"models": ["switch-base-8", "moe-llava-phi2:int4", "mixtral-8x7b"], "layers": 1, "tokens": 2, "users": 6}
        one = generate(Scenario(**two))
        assert [len([d for d in one.demands if d.model == m.name]) for m in one.models] == [2, 2, 2]
        assert len({demand.user for demand in one.demands}) == 6
        both = generate(Scenario(**two, models_per_user=2))
        assert len(both.demands) == 12
        assert {d.model for d in both.demands if d.user == "user-02"} == {"mixtral-8x7b", "switch-base-8"}
        assert both.models[1].expert_bytes == 2 * 2560 * 10240 // 2 + 2 * (10240 + 2560)

    def test_device_experts_are_those_used_most(self) -> None:
        instance = small(device_experts=2)
        used = np.zeros((len(instance.demands), instance.n_items), dtype=np.int64)
        size = np.diff(instance.rows.start)
        np.add.at(
            used, (np.repeat(instance.rows.demand, size), instance.rows.item), np.repeat(instance.rows.count, size)
        )
        for d in range(len(instance.demands)):
            held = np.zeros(instance.n_items, dtype=bool)
            held[instance.device_items(d)] = True
            for layer in (0, 1):
                block = slice(6 * layer, 6 * layer + 6)
                assert held[block].sum() == 2
                assert used[d, block][held[block]].min() >= used[d, block][~held[block]].max()

    @pytest.mark.parametrize("name", [a.name for a in architectures()])
    def test_every_model_of_the_catalogue(self, name: str) -> None:
        architecture = find_architecture(name)
        instance = generate(Scenario(models=[name], layers=1, users=2, tokens=4, stations=2))
        (model,) = instance.models
        assert (model.name, model.experts, model.top_k) == (name, architecture.experts, architecture.top_k)
        assert model.expert_bytes == architecture.expert_bytes(architecture.published)
        assert set(np.diff(instance.rows.start).tolist()) == {architecture.top_k}

    def test_direct_access_has_servers_out_of_reach(self) -> None:
        instance = small(access="direct", stations=9, users=30)
        assert (instance.server_ns == UNREACHABLE).any()
        assert (instance.server_ns < instance.cloud_ns[:, None]).any()

    def test_a_main_task_alone_concentrates_the_experts(self) -> None:
        def distinct(**values: object) -> int:
            return len(small(experts=64, top_k=4, users=12, tokens=400, tasks=6, seed=2, **values).rows)

        assert distinct(main_task=100) < distinct(main_task=20)

    def test_independent_routing_is_called_unrealistic(self) -> None:
        instance = small(routing="independent", experts=32, top_k=4, tokens=300)
        assert "unrealistic" in instance.notes
        assert "independent" in instance.name
        assert len(instance.rows) > len(small(experts=32, top_k=4, tokens=300).rows)

    def test_the_source_holds_every_parameter(self) -> None:
        source = small(seed=9, links=Links(hop_us=12.5)).source
        for key in ("seed", "users", "tokens", "tasks", "capacity", "stations", *Links.__struct_fields__):
            assert key in source, key
        assert source["hop_us"] == "12.5"
        assert source["seed"] == 9

    @pytest.mark.parametrize("latency_model", ["max", "sum"])
    def test_methods_take_it(self, latency_model: str) -> None:
        instance = small(latency_model=latency_model, capacity=100)
        solution = moeplace.solve(instance, "local-search")
        assert moeplace.check(instance, solution).ok
        assert solution.objective.latency_ns < instance.baseline_ns


class TestAssembly:
    def test_by_hand(self) -> None:
        first, second = SetCounts(1, 4, 2), SetCounts(2, 3, 1)
        first.add(0, np.array([[[0, 1]], [[1, 0]], [[3, 2]]]))
        first.add(2, np.array([[[2, 0]]]))  # nothing of demand 1
        second.add(0, np.array([[[2], [0]]]))
        models = [
            Model(name=name, layers=layers, experts=experts, top_k=top_k, expert_bytes=1000)
            for name, layers, experts, top_k in (("a", 1, 4, 2), ("b", 2, 3, 1))
        ]
        topology = generated(2, 4, np.random.Generator(np.random.PCG64(0)))
        parts = [
            Part(models[0], 1600, first, [3, 0, 1], {2: [(0, 1)]}),
            Part(models[1], 80_000, second, [0]),
        ]
        instance = assemble("hand", parts, topology, [7, 5], latency_model="sum", source={"who": "me"})
        assert [(d.user, d.model, d.tokens) for d in instance.demands] == [
            ("user-03", "a", 3), ("user-01", "a", 1), ("user-00", "b", 1)
        ]  # fmt: skip
        activations = instance.document()["activations"]
        assert activations["demand"] == [0, 0, 1, 2, 2]
        assert activations["layer"] == [0, 0, 0, 0, 1]
        assert activations["experts"] == [[0, 1], [2, 3], [0, 2], [2], [0]]
        assert activations["count"] == [2, 1, 1, 1, 1]
        assert instance.device_items(1).tolist() == [1]
        assert instance.capacity_bytes.tolist() == [7, 5]
        short, long = (topology.latencies(bits, 1000)[0] for bits in (1600, 80_000))
        assert instance.server_ns.tolist() == [short[3].tolist(), short[1].tolist(), long[0].tolist()]
        assert (instance.latency_model, instance.source) == ("sum", {"who": "me"})

    def test_more_layers_than_the_model_has(self) -> None:
        assert catalogue_model(find_architecture("olmoe-1b-7b"), "int8", 16).layers == 16
        with pytest.raises(InputError, match="17 layers of olmoe-1b-7b asked for, it has 16"):
            catalogue_model(find_architecture("olmoe-1b-7b"), "int8", 17)


NAMES = [
    ({"models": ["qwen3-30b"], "stations": 10, "users": 100, "seed": 3}, "qwen3-30b_s10_u100_c060_seed3"),
    ({"models": ["deepseek-ai/DeepSeek-V3:fp8"], "layers": 4}, "deepseek-v3_l04_s5_u50_c060_seed0"),
    ({"models": ["gpt-oss-20b:mxfp4"], "layers": 4}, "gpt-oss-20b_l04_s5_u50_c060_seed0"),
    ({"models": ["gpt-oss-20b:bf16"], "sizes": "mixed"}, "gpt-oss-20b-bf16_sizes_s5_u50_c060_seed0"),
    ({"models": ["olmoe-1b-7b", "mixtral-8x7b:int4"]}, "olmoe-1b-7b+mixtral-8x7b-int4_s5_u50_c060_seed0"),
    ({"models": ["olmoe-1b-7b"], "network": "zoo/York 2.graphml"}, "olmoe-1b-7b_york-2_s5_u50_c060_seed0"),
    ({**SMALL, "access": "direct", "device_experts": 2}, "l02e006k2_direct_device2_s4_u6_c060_seed0"),
]


@pytest.mark.parametrize(("values", "name"), NAMES)
def test_names_say_what_they_are(values: dict[str, object], name: str) -> None:
    assert default_name(Scenario(**values)) == name


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["generate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


FREE = ("--layers", 2, "--experts", 6, "--top-k", 2, "--expert-bytes", 1000)


class TestCommand:
    def test_an_instance(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "i.json"
        code, out, err = run(capsys, *FREE, "--users", 5, "--stations", 2, "--hop-us", 7, "--seed", 4, "-o", path)
        assert (code, err) == (0, "")
        instance = moeplace.load(path)
        expected = generate(
            Scenario(
                layers=2, experts=6, top_k=2, expert_bytes=1000, users=5, stations=2, seed=4, links=Links(hop_us=7.0)
            )
        )
        assert instance.sha256 == expected.sha256
        assert instance.name in out

    def test_every_key_is_an_option_with_unit_and_default(self) -> None:
        context = click.Context(command)
        links = CliRunner().invoke(command, ["--help-links"]).output
        text = " ".join((command.get_help(context).partition("Models:")[2] + links).split())
        keys = {key for names in SECTIONS.values() for key in names}
        assert keys - {"suite", "output"} == {*Scenario.__struct_fields__, *Links.__struct_fields__} - {"links"}
        for kind in (Scenario, Links):
            for key in kind.__struct_fields__:
                if key in ("links", "models"):
                    continue
                assert f"--{key.replace('_', '-')} " in text
                default = getattr(kind(), key)
                if default is not None and default is not False:
                    shown = f"{default:g}" if isinstance(default, float) else default
                    start = text.index(f"--{key.replace('_', '-')} ")
                    assert f"[default: {shown}]" in text[start : start + 400], key

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "--model: is missing: a model of the catalogue, a config.json, or layers, experts"),
            (("--layers", 2, "--experts", 4), "--top-k: is missing"),
            (("--model", "gpt-5"), "--model: no model 'gpt-5' in the catalogue; there are switch-base-8"),
            (("--model", "mixtral-8x7b:fp4"), "--model: no precision 'fp4' of mixtral-8x7b"),
            (("--model", "some/body"), "--model: no model 'some/body' in the catalogue; there are switch-base-8"),
            (("--model", "mixtral-8x7b", "--layers", 33), "--model: 33 layers of mixtral-8x7b asked for, it has 32"),
            (("--model", "mixtral-8x7b", "--experts", 8), "--experts: is for a shape of its own"),
            (("--model", "mixtral-8x7b", "--model", "Mixtral-8x7B:int4"), "--model: mixtral-8x7b stands there twice"),
            ((*FREE, "--top-k", 7), "--top-k: 7 experts a token, the model has 6"),
            ((*FREE, "--users", 0), "--users: expected an integer >= 1, found 0"),
            ((*FREE, "--main-task", 101), "--main-task: expected an integer <= 100, found 101"),
            ((*FREE, "--capacity", -1), "--capacity: expected an integer >= 0, found -1"),
            ((*FREE, "--seed", -1), "--seed: expected an integer >= 0, found -1"),
            ((*FREE, "--models-per-user", 2), "--models-per-user: 2 models of each user, there are 1"),
            ((*FREE, "--device-experts", 7), "--device-experts: 7 experts of a layer, moe has 6"),
            ((*FREE, "--bandwidth-mhz", "nan"), "--bandwidth-mhz: expected a number > 0.0, found NaN"),
            ((*FREE, "--bandwidth-mhz", "inf"), "--bandwidth-mhz: expected a number <= "),
            ((*FREE, "--grid-us", 0), "--grid-us: expected an integer >= 1, found 0"),
            ((*FREE, "--name", "a/b"), "--name: expected letters, digits"),
            ((*FREE, "--user-file", "x.csv"), "--user-file: is used together with station_file only"),
            ((*FREE, "--station-file", "nowhere.csv"), "nowhere.csv: cannot be read: No such file or directory"),
            ((*FREE, "--network", "nowhere.graphml"), "nowhere.graphml: cannot be read: No such file or directory"),
            ((*FREE, "--network", "n", "--access", "direct"), "--access: stations of a network are too far apart"),
            ((*FREE, "--network", "n", "--station-file", "s"), "--station-file: a network has stations"),
            ((*FREE, "--station-file", "s", "--box", 2, 0, 1, 1), "--box: expected south, west, north, east"),
            ((*FREE, "--site-distance-m", 500_000), "the radio carries nothing over"),
            ((*FREE, "--routing", "random"), "'random' is not one of 'measured', 'independent'"),
        ],
        ids=str,
    )
    def test_bad_usage_is_one_line_and_nothing_written(
        self,
        arguments: tuple[object, ...],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        code, out, err = run(capsys, *arguments, "-o", "i.json")
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_output_is_needed_and_must_be_writable(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = run(capsys, *FREE)
        assert (code, "-o" in err) == (2, True)
        code, _, err = run(capsys, *FREE, "-o", tmp_path / "no" / "i.json")
        assert (code, "does not exist" in err) == (2, True)


SUITE = """
description = "Two families."

[defaults]
layers = 2
experts = 6
top_k = 2
expert_bytes = 1000
stations = 2
users = 4
tokens = 10

[[family]]
grid = { capacity = [50, 100], seed = [1, 2] }

[[family]]
latency_model = "sum"
users = 5
links = { hop_us = 7 }
"""


class TestSuite:
    def test_a_family(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "suite.toml").write_text(SUITE)
        code, out, err = run(capsys, "--suite", tmp_path / "suite.toml", "-o", tmp_path / "made" / "here")
        assert (code, err) == (0, "")
        files = sorted((tmp_path / "made" / "here").iterdir())
        assert [path.name for path in files] == [
            "l02e006k2_s2_u4_c050_seed1.json.gz",
            "l02e006k2_s2_u4_c050_seed2.json.gz",
            "l02e006k2_s2_u4_c100_seed1.json.gz",
            "l02e006k2_s2_u4_c100_seed2.json.gz",
            "l02e006k2_sum_s2_u5_c060_seed0.json.gz",
        ]
        assert len(out.splitlines()) == 5
        assert {moeplace.load(path).name + ".json.gz" for path in files} == {path.name for path in files}
        assert moeplace.load(files[-1]).source["hop_us"] == 7
        assert all(gzip.decompress(path.read_bytes()) for path in files)
        assert all(path.read_bytes()[4:8] == bytes(4) for path in files)  # no time in the gzip header
        again = {instance.name: instance.sha256 for instance in generate_suite(tmp_path / "suite.toml")}
        assert again == {moeplace.load(path).name: moeplace.load(path).sha256 for path in files}

    def test_notes_name_their_instance(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "s.csv").write_text("LAT,LON,OWNER\n0,0,me\n0,0.004,me\n")
        (tmp_path / "suite.toml").write_text(SUITE.replace("stations = 2", 'stations = 2\nstation_file = "s.csv"'))
        code, _, err = run(capsys, "--suite", tmp_path / "suite.toml", "-o", tmp_path / "made")
        assert code == 0
        lines = err.splitlines()
        assert len(lines) == 5
        said = f": {tmp_path / 's.csv'}: columns that are not read: OWNER"
        assert lines[0] == f"note: l02e006k2_s_s2_u4_c050_seed1{said}"
        assert all(line.endswith(said) for line in lines)

    def test_files_are_relative_to_the_suite(self, tmp_path: Path) -> None:
        (tmp_path / "s.csv").write_text("LAT,LON\n0,0\n0,0.004\n")
        (tmp_path / "suite.toml").write_text(SUITE.replace("stations = 2", 'stations = 2\nstation_file = "s.csv"'))
        instance = next(iter(generate_suite(tmp_path / "suite.toml")))
        assert [server.position_m for server in instance.servers] == [[0, 0], [445, 0]]
        assert instance.name == "l02e006k2_s_s2_u4_c050_seed1"

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("tokens = 10", "tokns = 10", 'family[0]: unknown key "tokns"'),
            ("hop_us = 7", "hops = 7", 'family[1].links: unknown key "hops"'),
            ("seed = [1, 2]", "sed = [1]", 'family[0]: unknown key "sed"'),
            ("seed = [1, 2]", "seed = 1", "family[0].grid.seed: expected a list of values"),
            ("seed = [1, 2]", "seed = []", "family[0].grid.seed: expected a list of values"),
            ("seed = [1, 2]", "users = [3, 4]", "family[0].grid.users: stands outside the grid, too"),
            ("seed = [1, 2]", "seed = [1, 1]", "family[0]: a second scenario called l02e006k2_s2_u4_c050_seed1"),
            ("seed = [1, 2]", 'seed = ["one"]', 'family[0].seed: expected an integer, found "one"'),
            ("users = 5", "users = 5.5", "family[1].users: expected an integer, found 5.5"),
            ("[[family]]", "[[families]]", 'unknown key "families"'),
            ("description", "descriptoin", 'unknown key "descriptoin"'),
            ('"sum"', '"mean"', 'family[1].latency_model: expected "max" or "sum", found "mean"'),
            ("users = 5", "models_per_user = 2", "family[1].models_per_user: 2 models of each user, there are 1"),
            ("users = 5", "users = ", "not TOML: Invalid value (at line 18"),
        ],
    )
    def test_a_broken_suite_is_one_line_and_nothing_written(
        self, old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "suite.toml"
        assert old in SUITE
        path.write_text(SUITE.replace(old, new))
        code, out, err = run(capsys, "--suite", path, "-o", tmp_path / "made")
        assert (code, out) == (2, "")
        assert f"{path}: " in err
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('network = "gone.graphml"', "gone.graphml: cannot be read"),
            ('station_file = "one.csv"', "one.csv: 2 stations asked for, there are 1"),
            ("site_distance_m = 1000000", "the radio carries nothing"),
        ],
    )
    def test_a_later_family_without_its_places_leaves_nothing_written(
        self, line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "one.csv").write_text("LAT,LON\n0,0\n")
        (tmp_path / "suite.toml").write_text(SUITE + line + "\n")
        code, out, err = run(capsys, "--suite", tmp_path / "suite.toml", "-o", tmp_path / "made")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
        assert not (tmp_path / "made").exists()

    def test_other_options_contradict_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "suite.toml").write_text(SUITE)
        code, _, err = run(capsys, "--suite", tmp_path / "suite.toml", "--users", 3, "-o", tmp_path / "made")
        assert code == 2
        assert "--users cannot be given, too" in err
        code, _, err = run(capsys, "--suite", tmp_path / "nowhere.toml", "-o", tmp_path / "made")
        assert (code, "nowhere.toml: cannot be read" in err) == (2, True)

    def test_the_example_of_the_documentation(self, tmp_path: Path) -> None:
        page = Path(__file__).resolve().parents[2] / "docs" / "scenarios.md"
        if not page.exists():
            pytest.skip("the documents are in the checkout only")
        (tmp_path / "suite.toml").write_text(page.read_text().partition("```toml\n")[2].partition("```")[0])
        _, scenarios = read_suite(tmp_path / "suite.toml")
        assert "mixtral-8x7b+gpt-oss-20b-int8_s5_u40_c030_seed1" in scenarios
        assert len(scenarios) == 7

    def test_order_of_a_grid(self, tmp_path: Path) -> None:
        (tmp_path / "suite.toml").write_text(SUITE)
        suite, scenarios = read_suite(tmp_path / "suite.toml")
        assert suite.description == "Two families."
        assert [(s.capacity, s.seed) for s in scenarios.values()][:4] == [(50, 1), (50, 2), (100, 1), (100, 2)]


def test_a_scenario_is_refused_before_anything_is_made() -> None:
    with pytest.raises(InputError, match="models_per_user"):
        generate(msgspec.structs.replace(Scenario(**SMALL), models_per_user=3))
