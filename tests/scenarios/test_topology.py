"""Places and links: against numbers computed by hand, and what must hold of any of them."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from cases import REALDATA, looped

import moeplace
from moeplace import InputError
from moeplace.base.documents import UNREACHABLE
from moeplace.library import instance_files
from moeplace.scenarios.geometry import Fibre, distance_squared, great_circle_m, k_median, users_around
from moeplace.scenarios.networks import read_network
from moeplace.scenarios.places import read_positions
from moeplace.scenarios.topology import Links, from_network, from_positions, generated

ROOT = Path(__file__).resolve().parents[2]
BITS = 2048 * 16
EXPERT = 30_000_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


class TestRadio:
    def test_path_loss_by_hand(self) -> None:
        # hypot(100, 8.5) = 100.3606; 32.4 + 20 log10(3.5) + 31.9 log10(100.3606) = 32.4 + 10.8814 + 63.8499
        assert Links().path_loss_db(100) == pytest.approx(107.1313, abs=1e-4)

    def test_ten_times_the_distance_costs_a_decade(self) -> None:
        flat = Links(station_height_m=1.5)  # no height between the antennas: the slant is the distance
        assert flat.path_loss_db(1000) - flat.path_loss_db(100) == pytest.approx(31.9)

    def test_rate_by_hand(self) -> None:
        # up, 200 m: loss 32.4 + 10.8814 + 31.9 log10(200.1805) = 116.697; noise -174 + 73.0103 + 5 = -95.9897;
        # SNR = 23 - 116.697 + 95.9897 = 2.2927 dB = 1.6954; 20 log2(2.6954) = 28.610 Mbit/s
        assert Links().rate_bit_per_us(200, "up") == pytest.approx(28.610, abs=2e-3)

    def test_rate_is_at_most_that_of_the_best_modulation(self) -> None:
        assert Links().rate_bit_per_us(1, "down") == 20 * 7.4063

    def test_access_by_hand(self) -> None:
        # 1000 us + 32768 bit up at 28.610 (1145.3 us) + down: 10 dB more power, 4 dB more noise: 8.2927 dB = 6.7495,
        # 20 log2(7.7495) = 59.081 (554.6 us) = 2699.9 us
        assert Links().access_ns(200, BITS) == 2_700_000

    def test_access_never_gets_quicker_with_distance(self) -> None:
        times = [Links().access_ns(d, BITS) for d in range(0, 1500, 7)]
        assert times == sorted(times)
        assert times[0] < times[-1]

    @pytest.mark.parametrize("key", ["bandwidth_mhz", "device_power_dbm", "station_power_dbm", "most_bit_per_s_hz"])
    def test_more_of_it_is_never_slower(self, key: str) -> None:
        better = msgspec.structs.replace(Links(), **{key: 1.3 * getattr(Links(), key)})
        assert all(better.access_ns(d, BITS) <= Links().access_ns(d, BITS) for d in range(10, 900, 50))
        assert any(better.access_ns(d, BITS) < Links().access_ns(d, BITS) for d in range(10, 900, 50))

    def test_out_of_reach_is_refused(self) -> None:
        with pytest.raises(InputError, match="the radio carries nothing over 50000 m"):
            Links().access_ns(50_000, BITS)

    def test_everything_is_on_the_grid(self) -> None:
        links = Links(grid_us=30)
        topology = generated(6, 20, rng(), links=links)
        assert all((times % 30_000 == 0).all() for times in topology.latencies(BITS, EXPERT))


class TestCompute:
    def test_an_expert_is_read_once(self) -> None:
        assert Links().server_compute_ns(30_000_000) == 100_000  # 30 MB at 300 GB/s
        assert Links().device_compute_ns(13_000_000) == 1_000_000

    def test_the_cloud_by_hand(self) -> None:
        # 12000 + 2 x 32768 bit / 1000 (65.5) + 335 MB at 3350 GB/s (100) = 12165.5 us
        assert Links().cloud_ns(BITS, 335_000_000) == 12_150_000


GRAPHML = """<?xml version="1.0" encoding="utf-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
  <key attr.name="Latitude" attr.type="double" for="node" id="lat"/>
  <key attr.name="Longitude" attr.type="double" for="node" id="lon"/>
  <key attr.name="label" attr.type="string" for="node" id="label"/>
  <key attr.name="LinkSpeedRaw" attr.type="double" for="edge" id="speed"/>
  <graph edgedefault="undirected">
{nodes}
{edges}
  </graph>
</graphml>
"""


def network(
    path: Path,
    nodes: dict[str, tuple[object, object]],
    edges: list[tuple[str, str, object]],
) -> Path:
    """Write a GraphML file; None leaves a value out."""

    def data(key: str, value: object) -> str:
        return "" if value is None else f'<data key="{key}">{value}</data>'

    n = "\n".join(
        f'    <node id="{name}">{data("lat", lat)}{data("lon", lon)}{data("label", name.upper())}</node>'
        for name, (lat, lon) in nodes.items()
    )
    e = "\n".join(f'    <edge source="{a}" target="{b}">{data("speed", speed)}</edge>' for a, b, speed in edges)
    path.write_text(GRAPHML.format(nodes=n, edges=e))
    return path


# On the equator 0.01 degree is 1112 m: half of the circumference 2 pi 6371 km over 36,000.
LINE = {"a": (0, 0), "b": (0, 0.01), "c": (0, 0.02)}


class TestNetwork:
    def test_two_quick_links_beat_a_slow_one(self, tmp_path: Path) -> None:
        path = network(tmp_path / "n.graphml", LINE, [("a", "b", 1e9), ("b", "c", 1e9), ("a", "c", 1e7)])
        topology = from_network(path, n_users=3, rng=rng())
        assert topology.stations == ("A", "B", "C")
        # a link: 2 (1112 m x 1.5 / 200 + 32768 bit / 1000 + 100) = 2 (8.34 + 32.77 + 100) = 282.2 us, twice: 564.4;
        # the direct one 2 (16.68 + 3276.8 + 100) = 6787 us
        assert topology.backhaul_ns(BITS).tolist() == [
            [0, 300_000, 550_000],
            [300_000, 0, 300_000],
            [550_000, 300_000, 0],
        ]

    def test_one_link_beats_two_hops(self, tmp_path: Path) -> None:
        path = network(tmp_path / "n.graphml", LINE, [("a", "b", 1e9), ("b", "c", 1e9), ("a", "c", 1e9)])
        # 2 (16.68 + 32.77 + 100) = 298.9 us
        assert from_network(path, n_users=3, rng=rng()).backhaul_ns(BITS)[0, 2] == 300_000

    def test_the_quicker_of_parallel_links_counts(self, tmp_path: Path) -> None:
        for edges in ([1e6, None], [None, 1e6]):
            path = network(tmp_path / "n.graphml", LINE, [("a", "b", s) for s in edges] + [("b", "c", None)])
            assert from_network(path, n_users=1, rng=rng()).backhaul_ns(BITS)[0, 1] == 300_000

    def test_a_node_without_station_still_forwards(self, tmp_path: Path) -> None:
        ends = {"a": (0, 0), "b": (0, 0.5), "c": (0, 1.0), "d": (0, 1.001)}
        path = network(tmp_path / "n.graphml", ends, [("a", "b", None), ("b", "c", None), ("c", "d", None)])
        topology = from_network(path, n_users=4, n_stations=2, rng=rng())
        assert len(topology.stations) == 2
        assert "B" not in topology.stations or "A" not in topology.stations
        assert (topology.backhaul_ns(BITS)[~np.eye(2, dtype=bool)] > 0).all()

    def test_users_are_dealt_evenly_and_stay_near(self, tmp_path: Path) -> None:
        path = network(tmp_path / "n.graphml", LINE, [("a", "b", None), ("b", "c", None)])
        topology = from_network(path, n_users=11, rng=rng(3), cell_radius_m=120)
        assert sorted(np.bincount(topology.home).tolist()) == [3, 4, 4]
        apart = distance_squared(topology.user_m, topology.station_m)[np.arange(11), topology.home]
        assert apart.max() <= 120**2

    def test_labels_that_repeat_get_the_id(self, tmp_path: Path) -> None:
        path = network(tmp_path / "n.graphml", LINE, [("a", "b", None), ("b", "c", None)])
        path.write_text(path.read_text().replace(">B<", ">A<"))
        assert read_network(path).names == ["A (a)", "A (b)", "C"]

    def test_great_circle(self) -> None:
        assert great_circle_m((0, 0), (0, 180)) == round(math.pi * 6_371_000)
        assert great_circle_m((0, 0), (90, 0)) == round(math.pi * 6_371_000 / 2)
        assert great_circle_m((51.5, -0.12), (48.85, 2.35)) == pytest.approx(342_000, rel=0.01)  # London to Paris

    @pytest.mark.parametrize("name", ["Abilene", "KentmanJul2005", "Arnes", "Surfnet"])
    def test_topology_zoo(self, name: str) -> None:
        path = REALDATA / "internet-topology-zoo" / f"{name}.graphml"
        if not path.exists():
            pytest.skip(f"no file {path} (MOEPLACE_REALDATA names another folder)")
        topology = from_network(path, n_users=20, rng=rng())
        backhaul = topology.backhaul_ns(BITS)
        assert (backhaul == backhaul.T).all()
        assert (np.diag(backhaul) == 0).all()
        grid = 1000 * topology.links.grid_us
        for i, j, k in itertools.product(range(len(backhaul)), repeat=3):
            assert backhaul[i, j] <= backhaul[i, k] + backhaul[k, j] + 2 * grid  # each is rounded by itself


def speeds(path: Path, *data: dict[str, str]) -> Path:
    """Write a line of nodes whose links have these data, in any keys."""
    keys = sorted({key for own in data for key in own})
    head = "".join(f'<key attr.name="{key}" attr.type="string" for="edge" id="{key}"/>' for key in keys)
    network(path, {f"n{i}": (0, 0.01 * i) for i in range(len(data) + 1)}, [])
    edges = "".join(
        f'<edge source="n{i}" target="n{i + 1}">{"".join(f"<data key={k!r}>{v}</data>" for k, v in own.items())}</edge>'
        for i, own in enumerate(data)
    )
    text = path.read_text().replace("<graph ", f"{head}<graph ").replace("</graph>", f"{edges}</graph>")
    path.write_text(text)
    return path


class TestSpeeds:
    def test_a_unit_in_another_attribute(self, tmp_path: Path) -> None:
        given = [("10", "G"), ("155", "M"), ("64", "k"), ("2.5", "Gbps"), ("622", "Mbit/s"), ("1e9", "bit/s")]
        path = speeds(tmp_path / "n.graphml", *({"LinkSpeed": a, "LinkSpeedUnits": b} for a, b in given))
        found = read_network(path)
        assert [fibre.bit_per_us for fibre in found.fibres] == [10_000, 155, 0.064, 2500, 622, 1000]
        assert found.notes == ()

    def test_the_one_speed_of_a_label(self, tmp_path: Path) -> None:
        labels = ["45 Mbps DS-3", "Lit Fibre (10 Gbps)", "2.5Gb/s", "155 Mbit/s radio"]
        path = speeds(tmp_path / "n.graphml", *({"LinkLabel": label} for label in labels))
        found = read_network(path)
        assert [fibre.bit_per_us for fibre in found.fibres] == [45, 10_000, 2500, 155]
        assert found.notes == (f"{path}: 4 links with the speed that the label says (LinkLabel)",)

    @looped(
        "data",
        [
            *({"LinkLabel": label} for label in ("< 10 Gbps", "100-155 Mbit/s", "34/45 Mbit/s", "4*2 Mbps", "10 GB/s")),
            *(
                {"LinkLabel": label}
                for label in ("OC-192c", "2 x 10 Gbps", "n x 10 Gbps", "10 Gbps or 1 Gbps", ".5 Gbps")
            ),
            *({"LinkLabel": label} for label in ("10 Gbps x 2", "0 Mbps", "1,5 Gbps", "10 G")),
            {"LinkSpeed": "10"},
            {"LinkSpeed": "34/45", "LinkSpeedUnits": "M"},
            {"LinkSpeed": "10", "LinkSpeedUnits": "GB/s"},
        ],
    )
    def test_what_is_not_certain_is_not_read_and_said(self, data: dict[str, str], tmp_path: Path) -> None:
        path = speeds(tmp_path / "n.graphml", {k: v.replace("<", "&lt;") for k, v in data.items()})
        topology = from_network(path, n_users=1, rng=rng(), links=Links(link_mbit_per_s=200))
        assert [fibre.bit_per_us for fibre in topology.fibres] == [None]
        first, second = topology.notes
        assert "1 link whose label says no speed for certain (" in first
        assert second == f"{path}: 1 of 1 link without a known speed: 200 Mbit/s assumed (--link-mbit-per-s)"

    def test_links_that_say_nothing_are_counted(self, tmp_path: Path) -> None:
        path = network(tmp_path / "n.graphml", LINE, [("a", "b", None), ("b", "c", 1e9)])
        topology = from_network(path, n_users=1, rng=rng())
        assert topology.notes == (
            f"{path}: 1 of 2 links without a known speed: 1000 Mbit/s assumed (--link-mbit-per-s)",
        )

    def test_an_impossible_speed(self, tmp_path: Path) -> None:
        path = speeds(tmp_path / "n.graphml", {"LinkSpeed": "0", "LinkSpeedUnits": "M"})
        with pytest.raises(InputError, match='link "N0" to "N1": expected a speed of at least 1 bit/s, found "0 M"'):
            read_network(path)


class TestUnplaced:
    NODES: ClassVar = {"a": (0, 0), "b": (None, None), "c": (0, 2), "d": (None, None), "e": (None, None)}
    EDGES: ClassVar = [("a", "b", None), ("b", "c", None), ("c", "d", None), ("d", "e", None)]

    def test_refused_unless_something_is_said(self, tmp_path: Path) -> None:
        path = network(tmp_path / "n.graphml", self.NODES, self.EDGES)
        with pytest.raises(InputError, match=r'node "B": the latitude is missing \(--unplaced between or leave-out\)$'):
            read_network(path)

    def test_between_their_neighbours_without_a_station(self, tmp_path: Path) -> None:
        path = network(tmp_path / "n.graphml", self.NODES, self.EDGES)
        found = read_network(path, "between")
        assert found.degrees == [(0, 0), (0, 1), (0, 2), (0, 2), (0, 2)]
        assert found.notes[0] == f"{path}: 3 nodes without coordinates placed between their neighbours, " + (
            "without a station (B, D, E)"
        )
        topology = from_network(path, n_users=4, rng=rng(), unplaced="between")
        assert topology.stations == ("A", "C")
        assert topology.backhaul_ns(BITS)[0, 1] > 0
        with pytest.raises(InputError, match="3 stations asked for, there are 2"):
            from_network(path, n_stations=3, n_users=4, rng=rng(), unplaced="between")

    def test_between_two_sides_of_the_date_line(self, tmp_path: Path) -> None:
        nodes = {"a": (0, 179), "b": (None, None), "c": (0, -179)}
        path = network(tmp_path / "n.graphml", nodes, self.EDGES[:2])
        assert abs(read_network(path, "between").degrees[1][1]) == 180

    def test_left_out(self, tmp_path: Path) -> None:
        path = network(tmp_path / "n.graphml", self.NODES, [*self.EDGES, ("a", "c", None)])
        found = read_network(path, "leave-out")
        assert found.names == ["A", "C"]
        assert len(found.fibres) == 1
        assert found.notes[0] == f"{path}: 3 nodes without coordinates left out (B, D, E), with 4 links"
        network(path, self.NODES, self.EDGES)
        with pytest.raises(InputError, match='the network is in 2 parts: no path from "A" to "C"'):
            read_network(path, "leave-out")

    def test_nowhere_at_all(self, tmp_path: Path) -> None:
        nodes = {"a": (None, None), "b": (None, None)}
        path = network(tmp_path / "n.graphml", nodes, self.EDGES[:1])
        with pytest.raises(InputError, match="no path to a node with coordinates from A, B"):
            read_network(path, "between")
        with pytest.raises(InputError, match="no node has coordinates"):
            read_network(path, "leave-out")
        network(path, {"a": (0, None), "b": (0, 0)}, self.EDGES[:1])  # half a place is a mistake
        with pytest.raises(InputError, match=r'node "A": the longitude is missing$'):
            read_network(path, "between")


SNDLIB = {
    "directed": False,
    "nodes": [
        {"id": 0, "name": "A", "pos": [11.6, 48.1]},
        {"id": 1, "pos": [13.4, 52.5]},
        {"id": "x", "pos": [8.7, 50]},
    ],
    "edges": [{"source": 0, "target": 1, "dist": 700.5}, {"source": 1, "target": "x"}, {"source": 1, "target": 1}],
}


class TestJson:
    def test_nodes_and_links(self, tmp_path: Path) -> None:
        path = tmp_path / "n.json"
        path.write_text(json.dumps(SNDLIB))
        found = read_network(path)
        assert found.names == ["A", "1", "x"]
        assert found.degrees[0] == (48.1, 11.6)
        assert found.fibres == [
            Fibre(0, 1, 700_500, None), Fibre(1, 2, great_circle_m((52.5, 13.4), (50, 8.7)), None)
        ]  # fmt: skip
        topology = from_network(path, n_users=3, rng=rng())
        assert "2 of 2 links without a known speed" in topology.notes[0]

    @looped(
        "case",
        [
            ({"nodes": 3}, "not a network: expected lists nodes and edges (SNDlib as JSON)"),
            ({"nodes": [], "edges": []}, "the network has no nodes"),
            ({"nodes": [{"pos": [0, 0]}]}, "nodes[0]: expected an object with an id"),
            ({"nodes": [{"id": 0}, {"id": 0}]}, "nodes[1]: the id 0 stands there twice"),
            ({"nodes": [{"id": 0, "pos": [1]}]}, "nodes[0]: expected pos [longitude, latitude], found [1]"),
            ({"nodes": [{"id": 0, "pos": ["a", 1]}]}, "nodes[0]: expected pos [longitude, latitude]"),
            ({"edges": [{"source": 0, "target": 9}]}, "edges[0]: expected the id of a node, found 9"),
            ({"edges": [{"source": [0], "target": 1}]}, "edges[0]: expected the id of a node, found [0]"),
            ({"edges": [{"source": 0, "target": 1, "dist": -1}]}, "edges[0]: expected dist in km, found -1"),
            ({"edges": [3]}, "edges[0]: expected the id of a node"),
            ({"edges": []}, 'the network is in 3 parts: no path from "A" to "1"'),
            (
                {"nodes": [{"id": 0, "pos": [283, 248]}], "edges": []},
                'node "0": expected a latitude from -90 to 90, found 248; pos is [longitude, latitude] in degrees',
            ),
        ],
    )
    def test_broken_ones_are_one_line(self, case: tuple[dict[str, object], str], tmp_path: Path) -> None:
        path = tmp_path / "n.json"
        path.write_text(json.dumps(SNDLIB | case[0]))
        with pytest.raises(InputError) as caught:
            read_network(path)
        assert str(caught.value).startswith(f"{path}: {case[1]}"), str(caught.value)

    def test_no_json_after_a_brace(self, tmp_path: Path) -> None:
        (tmp_path / "n.json").write_text("{ graph")
        with pytest.raises(InputError, match="not JSON"):
            read_network(tmp_path / "n.json")


BROKEN_NETWORKS = {
    "empty": ("", r"not a GraphML network: no element found"),
    "not-xml": ("graph { a -- b }", r"not a GraphML network: "),
    "no-graph": ('<graphml xmlns="http://graphml.graphdrawing.org/xmlns"/>', r"not a GraphML network: "),
    "no-nodes": (GRAPHML.format(nodes="", edges=""), r"the network has no nodes"),
    "no-latitude": ({"a": (None, 0), "b": (0, 1)}, r'node "A": the latitude is missing'),
    "no-longitude": ({"a": (0, 0), "b": (0, None)}, r'node "B": the longitude is missing'),
    "nan": ({"a": (0, 0), "b": ("NaN", 1)}, r'node "B": expected a latitude from -90 to 90, found nan'),
    "far-north": ({"a": (0, 0), "b": (91, 1)}, r'node "B": expected a latitude from -90 to 90, found 91.0'),
    "words": ({"a": (0, "west"), "b": (0, 1)}, r"not a GraphML network: could not convert string to float: 'west'"),
    "disconnected": (
        {"a": (0, 0), "b": (0, 1), "c": (0, 2)},
        r'the network is in 2 parts: no path from "A" to "C"',
    ),
}


@pytest.mark.parametrize("case", BROKEN_NETWORKS)
def test_broken_networks_are_one_line(tmp_path: Path, case: str) -> None:
    content, message = BROKEN_NETWORKS[case]
    path = tmp_path / "n.graphml"
    if isinstance(content, str):
        path.write_text(content)
    else:
        network(path, content, [("a", "b", None)])
    with pytest.raises(InputError, match="^" + str(path) + ": " + message) as caught:
        from_network(path, n_users=2, rng=rng())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("speed", ["0", "-1e9", "NaN"])
def test_impossible_link_rates_are_one_line(tmp_path: Path, speed: str) -> None:
    path = network(tmp_path / "n.graphml", LINE, [("a", "b", None), ("b", "c", speed)])
    with pytest.raises(InputError, match=r'n\.graphml: link "B" to "C": expected LinkSpeedRaw in bit/s'):
        from_network(path, n_users=2, rng=rng())


def test_more_stations_than_nodes(tmp_path: Path) -> None:
    path = network(tmp_path / "n.graphml", LINE, [("a", "b", None), ("b", "c", None)])
    with pytest.raises(InputError, match=r"n\.graphml: 4 stations asked for, there are 3"):
        from_network(path, n_stations=4, n_users=2, rng=rng())
    with pytest.raises(InputError, match=r"nowhere: cannot be read: No such file"):
        from_network(tmp_path / "nowhere", n_users=2, rng=rng())


def positions(path: Path, points: list[tuple[float, float]], heading: str = "ID,LATITUDE,LONGITUDE") -> Path:
    path.write_text(heading + "\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(points)))
    return path


class TestPositions:
    def test_too_many_sites_to_choose_from(self, tmp_path: Path) -> None:
        sites = positions(tmp_path / "s.csv", [(0.001 * i, 0) for i in range(6000)])
        with pytest.raises(
            InputError, match=r"s\.csv: 6000 sites to choose from, at most 5000 are; a box makes them fewer"
        ):
            from_positions(sites, None, n_stations=3, n_users=4, rng=rng())
        assert len(from_positions(sites, None, n_stations=3, n_users=4, rng=rng(), box=(0, 0, 0.1, 0)).stations) == 3

    def test_a_user_beyond_every_radio_is_named(self, tmp_path: Path) -> None:
        sites = positions(tmp_path / "s.csv", [(0, 0), (0, 0.01)])
        users = positions(tmp_path / "u.csv", [(0, 0), (0, 1)])
        with pytest.raises(InputError, match=r"^user-01: the radio carries nothing over 110083 m"):
            from_positions(sites, users).latencies(BITS, EXPERT)

    def test_on_the_plane(self, tmp_path: Path) -> None:
        sites = positions(tmp_path / "s.csv", [(0, 0), (0, 0.01), (0.01, 0)])
        users = positions(tmp_path / "u.csv", [(0, 0), (0.001, 0.009)], "id,Latitude,longitude")
        topology = from_positions(sites, users)
        assert topology.station_m.tolist() == [[0, 0], [1112, 0], [0, 1112]]
        assert topology.user_m.tolist() == [[0, 0], [1001, 111]]
        assert topology.home.tolist() == [0, 1]
        assert topology.users == ("user-00", "user-01")

    def test_fibres_are_the_shortest_tree(self, tmp_path: Path) -> None:
        sites = positions(tmp_path / "s.csv", [(0, 0), (0, 0.03), (0, 0.01)])
        topology = from_positions(sites, None, n_users=3, rng=rng())
        assert sorted(topology.fibres) == [Fibre(0, 2, 1112.0), Fibre(1, 2, 2224.0)]

    def test_fewer_of_both(self, tmp_path: Path) -> None:
        points = [(0.001 * i, 0.001 * j) for i in range(5) for j in range(5)]
        sites, users = positions(tmp_path / "s.csv", points), positions(tmp_path / "u.csv", points)
        topology = from_positions(sites, users, n_stations=1, n_users=5)
        assert topology.users == tuple(f"user-0{u}" for u in range(5))
        assert topology.user_m[:, 0].tolist() == [0] * 5  # every fifth row: the western column
        assert topology.station_m.tolist() == [[0, 222]]  # the middle of it

    def test_a_box_selects(self, tmp_path: Path) -> None:
        sites = positions(tmp_path / "s.csv", [(0, 0), (0, 5), (1, 1), (1, 2)])
        topology = from_positions(sites, None, n_users=4, rng=rng(), box=(0.5, 0, 2, 3))
        assert len(topology.stations) == 2
        with pytest.raises(InputError, match=r"s\.csv: none of 4 positions is within the box 10, 10, 11, 11"):
            from_positions(sites, None, n_users=4, rng=rng(), box=(10, 10, 11, 11))

    def test_too_few_rows(self, tmp_path: Path) -> None:
        sites = positions(tmp_path / "s.csv", [(0, 0), (0, 0.01)])
        users = positions(tmp_path / "u.csv", [(0, 0)])
        with pytest.raises(InputError, match=r"s\.csv: 3 stations asked for, there are 2"):
            from_positions(sites, users, n_stations=3)
        with pytest.raises(InputError, match=r"u\.csv: 2 users asked for, there are 1"):
            from_positions(sites, users, n_users=2)

    @looped(
        "text",
        [
            "NAME;LATITUDE;LONGITUDE\na;0;0\nb;0;0,01\n",
            "name\tlat\tlon\na\t0\t0\n\nb\t0\t0.01\n",
            "\ufeffa,0,0\r\nb,0,0.01\r\n",
            "x,y,Station,Y2\n0,0,a,\n1112,0.4,b,\n",
        ],
    )
    def test_tables_that_people_write(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "s.csv"
        path.write_text(text)
        topology = from_positions(path, None, n_users=1, rng=rng())
        assert topology.stations == ("a", "b")
        assert topology.station_m.tolist() == [[0, 0], [1112, 0]]

    def test_what_is_guessed_or_not_read_is_said(self, tmp_path: Path) -> None:
        path = tmp_path / "s.csv"
        path.write_text("48.1,11.5\n48.2,11.5\n")
        assert read_positions(path).notes == (f"{path}: has no heading; the columns are taken as latitude, longitude",)
        path.write_text("lat;lon;gpu_gb;\n48,1;11,5;24;\n")
        assert read_positions(path).notes == (
            f"{path}: columns that are not read: gpu_gb, (without a name)",
            f"{path}: numbers such as 1,5 are read with a decimal comma",
        )

    def test_names_that_repeat(self, tmp_path: Path) -> None:
        path = tmp_path / "s.csv"
        path.write_text("name,x,y\nacme,0,0\nacme,9,0\n")
        topology = from_positions(path, None, n_users=1, rng=rng())
        assert topology.stations == ("station-0", "station-1")
        assert topology.notes == (f'{path}: line 3: the name "acme" stands in line 2 already; stations are numbered',)
        with pytest.raises(InputError, match=r'line 3: the name "acme" stands in line 2 already$'):
            read_positions(path, of_users=True)

    def test_degrees_and_metres_do_not_mix(self, tmp_path: Path) -> None:
        sites, users = positions(tmp_path / "s.csv", [(0, 0)]), tmp_path / "u.csv"
        users.write_text("x,y\n3,4\n")
        with pytest.raises(InputError, match=r"u\.csv: is in metres, .*s\.csv in degrees; both must be in the same"):
            from_positions(sites, users)
        with pytest.raises(InputError, match=r"u\.csv: has x and y in metres; a box is of latitudes and longitudes"):
            from_positions(users, None, n_users=1, rng=rng(), box=(0, 0, 1, 1))

    def test_users_who_are_far(self, tmp_path: Path) -> None:
        sites, users = tmp_path / "s.csv", tmp_path / "u.csv"
        sites.write_text("x,y\n0,0\n")
        users.write_text("user,x,y\nnear,30,0\nweak,560,0\nfar,900,0\nlost,0,200000\n")
        topology = from_positions(sites, users)
        far, what = topology.far(BITS, EXPERT)
        assert far.tolist() == [False, True, True, True]
        assert what.endswith("up to 200,000 m (lost)")
        # 560 m is within 600 m, but the radio takes longer than the 12 ms to the cloud.
        assert Links().access_ns(560, BITS) > Links().cloud_ns(BITS, EXPERT)
        with pytest.raises(InputError, match=r"^lost: the radio carries nothing over .* \(--far-users leave-out\)$"):
            topology.latencies(BITS, EXPERT)
        kept = topology.only([0])
        assert (kept.users, kept.user_m.tolist(), kept.home.tolist()) == (("near",), [[30, 0]], [0])
        sites.write_text("x,y\n0,0\n600,0\n")
        two = from_positions(sites, users).only([2, 0])
        assert (two.users, two.home.tolist()) == (("far", "near"), [1, 0])
        assert (kept.latencies(BITS, EXPERT)[0] == topology.only([0, 1]).latencies(BITS, EXPERT)[0][:1]).all()

    def test_melbourne_is_that_of_the_shipped_instance(self) -> None:
        folder = REALDATA / "eua-melbourne"
        if not folder.is_dir():
            pytest.skip(f"no folder {folder} (MOEPLACE_REALDATA names another one)")
        topology = from_positions(
            folder / "site-optus-melbCBD.csv", folder / "users-melbcbd-generated.csv", n_stations=8, n_users=48
        )
        (path,) = (p for p in instance_files("real") if p.name == "gpt-oss-20b_melbourne_s8_u48_c060.json.gz")
        instance = moeplace.load(path)
        server_ns, cloud_ns, _ = topology.latencies(2880 * 16, int(instance.item_bytes[0]))
        assert (server_ns == instance.server_ns).all()
        assert (cloud_ns == instance.cloud_ns).all()


BROKEN_POSITIONS = {
    "empty": ("", r"is empty; a heading with LATITUDE and LONGITUDE was expected"),
    "heading-only": ("LATITUDE,LONGITUDE\n", r"has a heading but no positions"),
    "wrong-columns": (
        "A,B\n1,2\n",
        r'line 1: expected columns LATITUDE and LONGITUDE, or X and Y .*, found \["A", "B"\]',
    ),
    "one-column": ("LATITUDE\n1\n", r"line 1: expected columns LATITUDE and LONGITUDE"),
    "nan": ("LAT,LON\n1,2\nnan,3\n", r'line 3: expected a latitude in degrees, found "nan"'),
    "infinite": ("LAT,LON\n1,inf\n", r'line 2: expected a longitude in degrees, found "inf"'),
    "range": ("LAT,LON\n1,2\n\n-91,3\n", r"line 4: expected a latitude from -90 to 90, found -91.0"),
    "word": ("LAT,LON\n1,east\n", r'line 2: expected a longitude in degrees, found "east"'),
    "short-row": ("LAT,LON\n1\n", r"line 2: the longitude is missing"),
    "mixed-decimals": ("LAT;LON\n1,5;2\n1.5;3\n", r'line 3: expected a latitude in degrees, found "1.5"'),
    "underscore": ("LAT,LON\n1_0,2\n", r'line 2: expected a latitude in degrees, found "1_0"'),
    "too-many-cells": ("LAT,LON\n1,2,3\n", r"line 2: 3 cells, the heading has 2"),
    "no-heading-and-more": ("1,2,3\n", r"line 1: no heading: expected latitude,longitude or name,latitude,longitude"),
    "two-latitudes": ("LAT,LAT,LON\n1,2,3\n", r"heading: the column lat stands there twice"),
    "half-a-plane": ("X,LON\n1,2\n", r"line 1: expected columns LATITUDE and LONGITUDE, or X and Y"),
    "far-away": ("X,Y\n1,1e12\n", r"line 2: expected y in metres, found"),
    "empty-cell": ("LAT,LON\n,2\n", r"line 2: the latitude is missing"),
    "quote": ('LAT,LON\n"1,2\n', r"not a CSV file in UTF-8: "),
}


@pytest.mark.parametrize("case", BROKEN_POSITIONS)
def test_broken_positions_are_one_line(tmp_path: Path, case: str) -> None:
    content, message = BROKEN_POSITIONS[case]
    path = tmp_path / "p.csv"
    path.write_text(content)
    with pytest.raises(InputError, match="^" + str(path) + ": " + message) as caught:
        read_positions(path)
    assert "\n" not in str(caught.value)


def test_positions_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: cannot be read: No such file"):
        read_positions(tmp_path / "nowhere")
    (tmp_path / "latin").write_bytes(b"LAT,LON,NAME\n1,2,\xe9\n")
    with pytest.raises(InputError, match="latin: not a CSV file in UTF-8"):
        read_positions(tmp_path / "latin")


def test_a_byte_order_mark_is_no_column(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("LATITUDE", "LONGITUDE"), (1, 2)])
    assert read_positions(path).points.tolist() == [[1.0, 2.0]]


class TestGenerated:
    @pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 20])
    def test_stations_keep_apart(self, n: int) -> None:
        for seed in range(5):
            topology = generated(n, 30, rng(seed), site_distance_m=400)
            square = distance_squared(topology.station_m, topology.station_m)
            assert (square[~np.eye(n, dtype=bool)] >= 200**2).all()
            assert topology.station_m.min() >= 0
            assert topology.user_m.min() >= 0

    def test_home_is_the_nearest_and_the_quickest(self) -> None:
        topology = generated(8, 60, rng(1))
        square = distance_squared(topology.user_m, topology.station_m)
        assert (square[np.arange(60), topology.home] == square.min(axis=1)).all()
        server_ns, cloud_ns, device_ns = topology.latencies(BITS, EXPERT)
        assert (server_ns[np.arange(60), topology.home] == server_ns.min(axis=1)).all()
        assert (cloud_ns > server_ns.min(axis=1)).all()
        assert len(set(device_ns.tolist())) == 1

    def test_users_of_one_station_see_the_same_differences(self) -> None:
        topology = generated(6, 80, rng(2))
        server_ns, _, _ = topology.latencies(BITS, EXPERT)
        for n in range(6):
            own = server_ns[topology.home == n]
            if len(own):
                assert (own - own[:, [n]] == own[0] - own[0, n]).all()

    def test_direct_access_depends_on_the_distance_alone(self) -> None:
        topology = generated(6, 80, rng(2), access="direct", links=Links(range_m=500))
        server_ns, cloud_ns, _ = topology.latencies(BITS, EXPERT)
        distance = np.sqrt(distance_squared(topology.user_m, topology.station_m))
        assert ((server_ns == UNREACHABLE) == (distance > 500)).all()
        assert (server_ns == UNREACHABLE).any()
        near = np.argsort(distance, axis=1)[:, :2]
        first, second = (np.take_along_axis(server_ns, near[:, [i]], axis=1) for i in (0, 1))
        assert (first <= second).all()
        at_home, in_cloud, _ = generated(6, 80, rng(2)).latencies(BITS, EXPERT)
        assert (cloud_ns == in_cloud).all()
        home = topology.home
        reached = distance[np.arange(80), home] <= 500
        assert (server_ns[np.arange(80), home] == at_home[np.arange(80), home])[reached].all()

    def test_the_seed_decides(self) -> None:
        one, same, other = (generated(6, 20, rng(seed)) for seed in (1, 1, 2))
        assert (one.user_m == same.user_m).all()
        assert (one.station_m == same.station_m).all()
        assert (one.user_m != other.user_m).any()


class TestKMedian:
    @looped("seed", range(20))
    def test_no_swap_helps(self, seed: int) -> None:
        draw = rng(seed)
        distance = draw.integers(0, 50, (12, 9))
        chosen = k_median(distance, 3)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == 3
        total = distance[:, chosen].min(axis=1).sum()
        for i, site in itertools.product(range(3), range(9)):
            swapped = [*chosen[:i], site, *chosen[i + 1 :]]
            assert distance[:, swapped].min(axis=1).sum() >= total

    def test_all_and_one(self) -> None:
        distance = rng().integers(1, 50, (6, 6))
        assert k_median(distance, 6) == list(range(6))
        assert k_median(distance, 1) == [int(distance.sum(axis=0).argmin())]

    def test_points_at_one_place_are_all_chosen_in_the_end(self) -> None:
        assert k_median(np.zeros((4, 3), dtype=np.int64), 3) == [0, 1, 2]


def test_drawn_users_fill_the_disc() -> None:
    stations = np.array([[0, 0]])
    user_m, _ = users_around(stations, 4000, 100, rng())
    square = (user_m**2).sum(axis=1)
    assert square.max() <= 100**2
    inner = (square <= 50**2).mean()
    assert 0.2 < inner < 0.3  # a quarter of the area
