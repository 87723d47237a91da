"""Where stations and users stand, and how long it takes to have one expert run somewhere else.

One token at one layer sends its hidden state up, the expert runs, a result of the same size comes down. A time is a
sum of parts, each rounded to whole ``grid_us`` by itself, so that two users at one station see the same differences
between servers:

    server n   radio(user, home) + backhaul(home, n) + expert on n
    cloud      radio(user, home) + wide area and expert there
    device     expert on the device

With ``access="direct"`` the user's radio reaches every station within ``range_m`` and there is no backhaul in the way.
The parts are computed in doubles; the rounding makes them the same on every machine (a platform's logarithm would have
to differ at the very edge between two multiples of ``grid_us``). ``docs/scenarios.md`` has the formulas.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from moeplace.base.documents import UNREACHABLE
from moeplace.base.errors import InputError
from moeplace.base.text import number
from moeplace.scenarios.geometry import (
    MOST_SITES,
    Fibre,
    Int64,
    _spanning_tree,
    distance_squared,
    great_circle_m,
    k_median,
    on_plane,
    users_around,
    whole_metres,
)
from moeplace.scenarios.networks import Network, Unplaced, read_network
from moeplace.scenarios.places import Positions, read_positions, within_box

Access = Literal["home", "direct"]


_MOST = 1e15  # beyond any sensible parameter; keeps infinity out


def _positive(text: str) -> Any:
    return Meta(gt=0, le=_MOST, description=text)


def _not_negative(text: str) -> Any:
    return Meta(ge=0, le=_MOST, description=text)


def _any(text: str) -> Any:
    return Meta(ge=-_MOST, le=_MOST, description=text)


_MOST_US = 1e15  # of one part of a time: thirty years


class Links(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of radio, backhaul, wide area and computing, with their units in their names.

    The description of each field gives its source; "assumed" is said where there is none. 3GPP values are cited from
    memory of the documents named.
    """

    carrier_ghz: Annotated[float, _positive("Carrier frequency, GHz (band n78: 3GPP TS 38.104)")] = 3.5
    path_loss_1m_db: Annotated[
        float, _any("Path loss at 1 m and 1 GHz, dB (TR 38.901 table 7.4.1-1, UMi street canyon, NLOS, optional form)")
    ] = 32.4
    path_loss_db_per_decade: Annotated[
        float, _positive("Path loss for ten times the distance, dB: 10 times the exponent (the same table)")
    ] = 31.9
    station_height_m: Annotated[float, _not_negative("Antenna height of a station, m (TR 38.901 table 7.2-1)")] = 10.0
    device_height_m: Annotated[float, _not_negative("Antenna height of a device, m (TR 38.901 table 7.2-1)")] = 1.5
    device_power_dbm: Annotated[float, _any("Transmit power of a device, dBm (TS 38.101-1, power class 3)")] = 23.0
    station_power_dbm: Annotated[float, _any("Transmit power of a station, dBm (TR 38.802, micro station)")] = 33.0
    noise_dbm_per_hz: Annotated[float, _any("Thermal noise, dBm/Hz (290 K)")] = -174.0
    station_noise_figure_db: Annotated[float, _not_negative("Noise figure of a station, dB (TR 38.802)")] = 5.0
    device_noise_figure_db: Annotated[float, _not_negative("Noise figure of a device, dB (TR 38.802)")] = 9.0
    bandwidth_mhz: Annotated[float, _positive("Bandwidth of one user's share, MHz (assumed)")] = 20.0
    most_bit_per_s_hz: Annotated[
        float, _positive("Spectral efficiency at most, bit/s/Hz (256-QAM: TS 38.214 table 5.1.3.1-2)")
    ] = 7.4063
    access_us: Annotated[
        float, _not_negative("Delay of the radio access, us a direction (URLLC target: TR 38.913, 7.5)")
    ] = 500.0
    range_m: Annotated[float, _positive("Reach of a station's radio with direct access, m (assumed)")] = 600.0
    fibre_m_per_us: Annotated[float, _positive("Speed of light in fibre, m/us (two thirds of c)")] = 200.0
    fibre_detour: Annotated[float, _positive("Length of a fibre over the straight line (assumed)")] = 1.5
    link_mbit_per_s: Annotated[float, _positive("Rate of a link whose rate is not known, Mbit/s (assumed)")] = 1000.0
    hop_us: Annotated[float, _not_negative("Switching and forwarding, us a hop and direction (assumed)")] = 100.0
    wan_round_trip_us: Annotated[
        float, _not_negative("From a station to the cloud and back, us (Melbourne to Sydney; assumed)")
    ] = 12_000.0
    server_gb_per_s: Annotated[
        float, _positive("Memory bandwidth of a server: an expert's weights are read once, GB/s (small GPU; assumed)")
    ] = 300.0
    cloud_gb_per_s: Annotated[float, _positive("Memory bandwidth in the cloud, GB/s (data-centre GPU; assumed)")] = (
        3350.0
    )
    device_gb_per_s: Annotated[
        float, _positive("Memory bandwidth of a device, GB/s (what a phone's processor gets of its memory; assumed)")
    ] = 13.0
    grid_us: Annotated[int, Meta(ge=1, le=10**6, description="Every part of a time is a multiple of this, us")] = 50

    def grid_ns(self, us: float) -> int:
        """Round microseconds to the grid and return nanoseconds.

        Raises
        ------
        InputError
            Extreme parameters: the time is no number, or so long that a sum of a few would leave 63 bits.
        """
        if not us <= _MOST_US:
            raise InputError(f"the links' parameters give a time of {us:g} us; at most {_MOST_US:g} can be handled")
        return 1000 * self.grid_us * math.floor(us / self.grid_us + 0.5)

    def path_loss_db(self, distance_m: float) -> float:
        """Return the path loss over a distance on the ground, dB: ``a + 20 log10(GHz) + b log10(slant m)``."""
        slant_m = max(1.0, math.hypot(distance_m, self.station_height_m - self.device_height_m))
        carrier = 20 * math.log10(self.carrier_ghz)
        return self.path_loss_1m_db + carrier + self.path_loss_db_per_decade * math.log10(slant_m)

    def rate_bit_per_us(self, distance_m: float, direction: Literal["up", "down"]) -> float:
        """Return the Shannon rate ``B log2(1 + SNR)`` of the radio, at most that of the best modulation, bit/us."""
        power, figure = self.device_power_dbm, self.station_noise_figure_db
        if direction == "down":
            power, figure = self.station_power_dbm, self.device_noise_figure_db
        noise_dbm = self.noise_dbm_per_hz + 10 * math.log10(1e6 * self.bandwidth_mhz) + figure
        # A signal that strong is beyond every modulation; the power itself would leave the doubles.
        snr = 10 ** min((power - self.path_loss_db(distance_m) - noise_dbm) / 10, 300.0)
        return self.bandwidth_mhz * min(math.log2(1 + snr), self.most_bit_per_s_hz)

    def access_ns(self, distance_m: float, message_bits: int) -> int:
        """Return the time of a message up to a station and one down again, ns.

        Raises
        ------
        InputError
            The station is so far away that the radio carries nothing.
        """
        us = 2 * self.access_us
        for direction in ("up", "down"):
            rate = self.rate_bit_per_us(distance_m, direction)
            if rate * 1e9 < message_bits:  # a quarter of an hour a token and layer
                raise InputError(
                    f"the radio carries nothing over {distance_m:.0f} m; stations have to be nearer to users"
                )
            us += message_bits / rate
        return self.grid_ns(us)

    def cloud_ns(self, message_bits: int, expert_bytes: int) -> int:
        """Return the time from any station to the cloud and back, the expert included, ns."""
        compute = expert_bytes / (1000 * self.cloud_gb_per_s)
        return self.grid_ns(self.wan_round_trip_us + 2 * message_bits / self.link_mbit_per_s + compute)

    def server_compute_ns(self, expert_bytes: int) -> int:
        """Return the time of one expert on a server, ns: its weights are read once."""
        return self.grid_ns(expert_bytes / (1000 * self.server_gb_per_s))

    def device_compute_ns(self, expert_bytes: int) -> int:
        """Return the time of one expert on a device, ns: its weights are read once."""
        return self.grid_ns(expert_bytes / (1000 * self.device_gb_per_s))

    def said(self) -> dict[str, str | int]:
        """Return every parameter for an instance's ``source``; what is no integer as text."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {
            name: int(value) if value == int(value) and abs(value) < 2**63 else repr(value)
            for name, value in values.items()
        }


@dataclass(frozen=True, eq=False)
class Topology:
    """Stations (servers), users and the links between them.

    Attributes
    ----------
    stations, users : tuple of str
        Names.
    station_m, user_m : int64 array [N, 2], [U, 2]
        Positions, whole metres east and north of a corner.
    home : int64 array [U]
        The station of each user.
    node : int64 array [N]
        The node of the backhaul that each station is.
    fibres : tuple of Fibre
        Links between nodes. They connect all nodes.
    links : Links
    access : {"home", "direct"}
        Whether a user reaches servers through the home station and the backhaul, or each by radio.
    source : dict
        Where the places are from.
    users_named : bool
        The users' names are those of a table, by which a trace may name them.
    notes : tuple of str
        What a person should know of how the places were read, a line each.
    """

    stations: tuple[str, ...]
    station_m: Int64
    users: tuple[str, ...]
    user_m: Int64
    home: Int64
    node: Int64
    fibres: tuple[Fibre, ...]
    links: Links
    access: Access
    source: dict[str, str | int]
    users_named: bool = False
    notes: tuple[str, ...] = ()

    def parameters(self) -> dict[str, str | int]:
        """Return every parameter that the times depend on, for an instance's ``source``."""
        return self.links.said()

    def only(self, users: Sequence[int]) -> Topology:
        """Return the same with some of the users."""
        chosen = np.array(users, dtype=np.int64)
        names = tuple(self.users[u] for u in users)
        return replace(self, users=names, user_m=self.user_m[chosen], home=self.home[chosen])

    def far(self, message_bits: int, expert_bytes: int, *, cloud: bool = True) -> tuple[npt.NDArray[np.bool_], str]:
        """Tell which users are too far from their station for its server to be worth much.

        Parameters
        ----------
        message_bits, expert_bytes : int
        cloud : bool
            Whether there is a cloud to compare with.

        Returns
        -------
        bool array [U]
            The home station is beyond ``range_m``, or its radio alone takes longer than the way from there to the
            cloud.
        str
            What they are, for people.
        """
        links = self.links
        distance = np.sqrt(((self.user_m - self.station_m[self.home]) ** 2).sum(axis=1))
        cloud_ns = links.cloud_ns(message_bits, expert_bytes)
        far = distance > links.range_m
        for u, metres in enumerate(distance.tolist()):
            try:
                far[u] |= links.access_ns(metres, message_bits) > cloud_ns and cloud
            except InputError:  # the radio carries nothing
                far[u] = True
        what = f"more than {links.range_m:g} m from their station"
        what += ", or by a radio slower than the way to the cloud" if cloud else ""
        if far.any():
            u = int(np.where(far, distance, -1).argmax())
            what += f", up to {distance[u]:,.0f} m ({self.users[u]})"
        return far, what

    def backhaul_ns(self, message_bits: int) -> Int64:
        """Return the time of a message between stations and back along the quickest path, ns, int64 [N, N].

        A link takes ``2 (metres x detour / speed of light + bits / rate + hop)``.
        """
        import networkx as nx

        links = self.links
        graph: Any = nx.Graph()
        graph.add_nodes_from(self.node.tolist())
        for fibre in self.fibres:
            rate = links.link_mbit_per_s if fibre.bit_per_us is None else fibre.bit_per_us
            us = 2 * (fibre.metres * links.fibre_detour / links.fibre_m_per_us + message_bits / rate + links.hop_us)
            if not graph.has_edge(fibre.a, fibre.b) or us < graph[fibre.a][fibre.b]["us"]:
                graph.add_edge(fibre.a, fibre.b, us=us)
        result = np.zeros((len(self.node), len(self.node)), dtype=np.int64)
        for i, node in enumerate(self.node.tolist()):
            us_to = nx.single_source_dijkstra_path_length(graph, node, weight="us")
            for j in range(i):  # computed once for each pair: sums in the other order could round differently
                result[i, j] = result[j, i] = links.grid_ns(us_to[int(self.node[j])])
        return result

    def latencies(self, message_bits: int, expert_bytes: int) -> tuple[Int64, Int64, Int64]:
        """Return the times of one expert of one token for every user.

        Parameters
        ----------
        message_bits : int
            Size of a hidden state, bits; the result has the same.
        expert_bytes : int
            Size of the expert, bytes.

        Returns
        -------
        server_ns : int64 array [U, N]
            :data:`~moeplace.base.documents.UNREACHABLE` beyond the radio's range (direct access only).
        cloud_ns, device_ns : int64 array [U]

        Raises
        ------
        InputError
            A user's radio carries nothing, even at home.
        """
        links, n_users = self.links, len(self.users)
        distance = np.sqrt(distance_squared(self.user_m, self.station_m))
        at_home = np.empty(n_users, dtype=np.int64)
        for u, metres in enumerate(distance[np.arange(n_users), self.home].tolist()):
            try:
                at_home[u] = links.access_ns(metres, message_bits)
            except InputError as error:
                raise InputError(f"{error.message} (--far-users leave-out)", place=self.users[u]) from None
        compute = links.server_compute_ns(expert_bytes)
        if self.access == "home":
            server = at_home[:, None] + self.backhaul_ns(message_bits)[self.home] + compute
        else:
            server = np.full(distance.shape, UNREACHABLE, dtype=np.int64)
            for u, n in np.argwhere(distance <= links.range_m).tolist():
                server[u, n] = links.access_ns(float(distance[u, n]), message_bits) + compute
        cloud = at_home + links.cloud_ns(message_bits, expert_bytes)
        return server, cloud, np.full(n_users, links.device_compute_ns(expert_bytes), dtype=np.int64)


def generated(
    n_stations: int,
    n_users: int,
    rng: np.random.Generator,
    *,
    site_distance_m: int = 500,
    links: Links | None = None,
    access: Access = "home",
) -> Topology:
    """Draw stations on a jittered grid and users uniformly over its area.

    The grid is as square as the number allows, with cells of ``site_distance_m``; stations take cells at random and
    stand within the middle half of theirs, so that no two are on top of each other. Fibres are the minimum spanning
    tree.

    Parameters
    ----------
    n_stations, n_users : int
    rng : numpy.random.Generator
    site_distance_m : int
        Side of a cell, whole metres (500 m: 3GPP TR 38.901, urban macro).
    links : Links, optional
    access : {"home", "direct"}

    Returns
    -------
    Topology
    """
    across = math.isqrt(n_stations - 1) + 1
    down = -(-n_stations // across)
    cell = rng.permutation(across * down)[:n_stations]
    jitter = rng.integers(site_distance_m // 4, 3 * site_distance_m // 4 + 1, (n_stations, 2))
    station_m = np.stack((cell % across, cell // across), axis=1) * site_distance_m + jitter
    size = np.array([across, down]) * site_distance_m
    user_m = np.stack([rng.integers(0, side + 1, n_users) for side in size.tolist()], axis=1)
    return _on_the_ground(station_m, user_m, links, access, {"places": "generated", "site_distance_m": site_distance_m})


def from_positions(
    station_file: str | os.PathLike[str] | Positions,
    user_file: str | os.PathLike[str] | Positions | None,
    *,
    n_stations: int | None = None,
    n_users: int | None = None,
    rng: np.random.Generator | None = None,
    box: Sequence[float] | None = None,
    cell_radius_m: int = 300,
    links: Links | None = None,
    access: Access = "home",
) -> Topology:
    """Take stations and users from CSV files of positions, see :func:`~moeplace.scenarios.places.read_positions`.

    Users are evenly spaced rows of their file; without a file they are drawn around the stations. Stations are the
    k-median of the users (of all stations, without a user file) by greedy choice, then swaps while they help: the
    choice is deterministic. Fibres are the minimum spanning tree. Degrees go on a plane (equirectangular at the
    middle latitude). Names are those of the files, numbers where they have none.

    Parameters
    ----------
    station_file, user_file : path-like or Positions
        The EUA data set's ``site-*.csv`` and ``users-*.csv`` are such files.
    n_stations, n_users : int, optional
        How many to take; all rows where left out. Without a user file, ``n_users`` is needed.
    rng : numpy.random.Generator, optional
        Needed where users are drawn.
    box : four floats, optional
        South, west, north, east, degrees: only rows within count.
    cell_radius_m : int
        Drawn users stand within this distance of their station, uniformly.
    links : Links, optional
    access : {"home", "direct"}

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        With the file and the line: missing columns, no number, NaN, degrees out of range, an empty file, fewer rows
        than asked; one file in degrees and one in metres.
    """
    sites = station_file if isinstance(station_file, Positions) else read_positions(station_file)
    sites, people, notes = within_box(sites, box), None, list(sites.notes)
    if user_file is not None:
        people = user_file if isinstance(user_file, Positions) else read_positions(user_file, of_users=True)
        notes += people.notes
        people = within_box(people, box)
        if people.degrees != sites.degrees:
            raise InputError(
                f"is in {_unit(people)}, {sites.file} in {_unit(sites)}; both must be in the same", file=people.file
            )
        n_users = len(people.points) if n_users is None else n_users
        _enough(n_users, len(people.points), "users", people.file)
    reference = sites if people is None else people
    sites_m = _in_metres(sites, reference)
    n_stations = len(sites_m) if n_stations is None else n_stations
    _enough(n_stations, len(sites_m), "stations", sites.file)
    source: dict[str, str | int] = {"places": Path(sites.file).name}
    if people is not None and n_users is not None:
        n_rows = len(people.points)
        people = people.only(range(n_rows)[:: n_rows // n_users][:n_users])
        near = people_m = _in_metres(people, reference)
        source["users"] = Path(people.file).name
    else:
        near = sites_m
    chosen = k_median(whole_metres(near, sites_m), n_stations)
    station_m = sites_m[chosen]
    if people is None:
        if n_users is None or rng is None:
            raise InputError("without a file of users their number is needed, and a seed")
        people_m, _ = users_around(station_m, n_users, cell_radius_m, rng)
        source["cell_radius_m"] = cell_radius_m
    topology = _on_the_ground(station_m, people_m, links, access, source)
    if names := sites.only(chosen).names:
        topology = replace(topology, stations=names)
    if people is not None and people.names:
        topology = replace(topology, users=people.names, users_named=True)
    return replace(topology, notes=tuple(notes))


def _unit(places: Positions) -> str:
    return "degrees" if places.degrees else "metres"


def _in_metres(places: Positions, reference: Positions) -> Int64:
    if places.degrees:
        return on_plane(places.points, reference.points)
    metres: Int64 = np.rint(places.points).astype(np.int64)
    return metres


def from_network(
    path: str | os.PathLike[str] | Network,
    *,
    n_stations: int | None = None,
    n_users: int,
    rng: np.random.Generator,
    cell_radius_m: int = 300,
    links: Links | None = None,
    unplaced: Unplaced | None = None,
) -> Topology:
    """Take the backhaul from a network, with stations at its nodes.

    How it is read says :func:`~moeplace.scenarios.networks.read_network`.
    A link is as long as the reader says, times ``fibre_detour``. With fewer stations than nodes, stations are the
    k-median of all nodes; the others still forward. Nothing is known of the population, so every station has as many
    users as any other (one more or less), uniformly within ``cell_radius_m``.

    Parameters
    ----------
    path : path-like or Network
        GraphML as the Internet Topology Zoo has it, or SNDlib's JSON; or what was read of it.
    n_stations : int, optional
        All nodes where left out.
    n_users : int
    rng : numpy.random.Generator
    cell_radius_m : int
    links : Links, optional
    unplaced : {"between", "leave-out"}, optional
        What becomes of nodes without coordinates while a file is read; refused where it is left out.

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        With the file and the node: no such network, missing or impossible coordinates, an impossible rate, a network in
        several parts, fewer nodes than stations asked.
    """
    network = path if isinstance(path, Network) else read_network(path, unplaced)
    links = Links() if links is None else links
    sites = [i for i in range(len(network.names)) if i not in network.forwarding]
    n_stations = len(sites) if n_stations is None else n_stations
    _enough(n_stations, len(sites), "stations", network.file)
    degrees = [network.degrees[i] for i in sites]
    apart = np.array([[great_circle_m(a, b) for b in degrees] for a in degrees], dtype=np.int64)
    chosen = k_median(apart, n_stations)
    points = np.array(degrees)
    station_m = on_plane(points[chosen], points)
    user_m, home = users_around(station_m, n_users, cell_radius_m, rng)
    return Topology(
        stations=tuple(network.names[sites[i]] for i in chosen),
        station_m=station_m,
        users=_numbered("user", n_users, 2),
        user_m=user_m,
        home=home,
        node=np.array([sites[i] for i in chosen], dtype=np.int64),
        fibres=tuple(network.fibres),
        links=links,
        access="home",
        source={"places": Path(network.file).name, "cell_radius_m": cell_radius_m, "access": "home"},
        notes=(*network.notes, *_assumed(network.fibres, links, network.file)),
    )


def _assumed(fibres: Sequence[Fibre], links: Links, file: str) -> list[str]:
    """Say how many links have the rate that is assumed."""
    unknown = sum(fibre.bit_per_us is None for fibre in fibres)
    if not unknown:
        return []
    rate = f"{links.link_mbit_per_s:g} Mbit/s assumed (--link-mbit-per-s)"
    return [f"{file}: {unknown} of {number(len(fibres), 'link')} without a known speed: {rate}"]


def _on_the_ground(
    station_m: Int64, user_m: Int64, links: Links | None, access: Access, source: dict[str, str | int]
) -> Topology:
    """Put names on points, give users the nearest station as home, join stations by a minimum spanning tree."""
    return Topology(
        stations=_numbered("station", len(station_m), 1),
        station_m=station_m.astype(np.int64),
        users=_numbered("user", len(user_m), 2),
        user_m=user_m.astype(np.int64),
        home=distance_squared(user_m, station_m).argmin(axis=1).astype(np.int64),
        node=np.arange(len(station_m), dtype=np.int64),
        fibres=tuple(_spanning_tree(station_m)),
        links=Links() if links is None else links,
        access=access,
        source=source | {"access": access},
    )


def _numbered(what: str, number: int, digits: int) -> tuple[str, ...]:
    digits = max(digits, len(str(number - 1)))
    return tuple(f"{what}-{i:0{digits}}" for i in range(number))


def _enough(asked: int, there: int, what: str, file: object) -> None:
    if asked < 1:
        raise InputError(f"{asked} {what} asked for, at least 1 is needed", file=str(file))
    if asked > there:
        raise InputError(f"{asked} {what} asked for, there are {there}", file=str(file))
    if what == "stations" and there > MOST_SITES:
        raise InputError(
            f"{there} sites to choose from, at most {MOST_SITES} are; a box makes them fewer", file=str(file)
        )
