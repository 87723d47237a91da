"""Reading networks: GraphML as the Internet Topology Zoo has it, and SNDlib's networks as JSON."""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from xml.etree.ElementTree import ParseError

from moeplace.base.documents import show
from moeplace.base.errors import InputError
from moeplace.base.files import read_bytes, read_json
from moeplace.base.text import number
from moeplace.scenarios.csvtable import is_number
from moeplace.scenarios.geometry import Fibre, great_circle_m
from moeplace.scenarios.places import LATITUDE, LONGITUDE, in_degrees

Unplaced = Literal["between", "leave-out"]

_UNITS: Final = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNIT = re.compile(r"([kKmMgGtT]?)(bps|bit/s|bits/s|b/s)?")
# The small b says bits; GB/s could be either, and so stays unread.
_SPEED = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT])(?:bps|bit/s|bits/s|b/s)\b")
# What stands around the one speed of a label must not make it a range, a bound or a multiple.
_LABEL = re.compile(
    rf"[^\d<>~≤≥≈*\u00d7+/.,-]*{_SPEED.pattern}(?!\s*[*\u00d7/+-]\s*\d)(?!\s*x\s*\d)(?P<rest>.*)", re.DOTALL
)


@dataclass(frozen=True, eq=False)
class Network:
    """A connected network.

    Attributes
    ----------
    file : str
    names : list of str
        The nodes' labels; where several nodes share one, their ids are added.
    degrees : list of (float, float)
        Latitude and longitude of each node.
    fibres : list of Fibre
        Links with their length, whole metres; loops left out.
    forwarding : frozenset of int
        Nodes whose places are guessed: no station stands there.
    notes : tuple of str
        What a person should know of the reading, a line each.
    """

    file: str
    names: list[str]
    degrees: list[tuple[float, float]]
    fibres: list[Fibre]
    forwarding: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass
class _Node:
    key: object
    name: str
    latitude: float | str | None
    longitude: float | str | None


@dataclass
class _Link:
    ends: tuple[object, object]
    bit_per_us: float | None = None
    metres: float | None = None
    label: bool = False
    unread: str | None = None


def read_network(path: str | os.PathLike[str], unplaced: Unplaced | None = None) -> Network:
    """Read a connected network with positions: GraphML, or SNDlib's JSON as TopoHub publishes it.

    A link is as long as the great circle between its nodes, or as its ``dist`` (JSON, km) says, and as fast as its
    ``LinkSpeedRaw`` (bit/s), else ``LinkSpeed`` with ``LinkSpeedUnits``, else the one speed in its ``LinkLabel``.

    Parameters
    ----------
    path : path-like
        Plain or gzip; JSON begins with a brace.
    unplaced : {"between", "leave-out"}, optional
        Nodes without coordinates: placed between their neighbours (they forward, no station stands there), or left out
        with their links. Refused where it is left out.

    Raises
    ------
    InputError
        With the file and the node or link.
    """
    file = str(path)
    data = read_bytes(path)
    is_json = data.lstrip()[:1] == b"{"
    nodes, links = _json(path) if is_json else _graphml(data, file)
    if not nodes:
        raise InputError("the network has no nodes", file=file)
    named = _distinct([(node.name, str(node.key)) for node in nodes])
    for node, name in zip(nodes, named, strict=True):
        node.name = name
    notes: list[str] = []
    missing = [node for node in nodes if node.latitude in (None, "") and node.longitude in (None, "")]
    if missing and unplaced == "leave-out":
        gone = {id(node) for node in missing}
        keys = {node.key for node in missing}
        nodes = [node for node in nodes if id(node) not in gone]
        cut = [link for link in links if keys.intersection(link.ends)]
        links = [link for link in links if not keys.intersection(link.ends)]
        left = f"{number(len(missing), 'node')} without coordinates left out ({_some(n.name for n in missing)})"
        notes.append(f"{file}: {left}, with {number(len(cut), 'link')}")
        if not nodes:
            raise InputError("no node has coordinates", file=file)
    index = {node.key: i for i, node in enumerate(nodes)}
    forwarding: frozenset[int] = frozenset()
    if missing and unplaced == "between":
        forwarding = frozenset(index[node.key] for node in missing)
        _place_between(nodes, forwarding, [(index[a], index[b]) for a, b in (link.ends for link in links)], file)
        between = "placed between their neighbours, without a station"
        notes.append(
            f"{file}: {number(len(missing), 'node')} without coordinates {between} ({_some(n.name for n in missing)})"
        )
    degrees = []
    for node in nodes:
        try:
            degrees.append(in_degrees(node.latitude, node.longitude, f"node {show(node.name)}", file))
        except InputError as error:
            hint = "; pos is [longitude, latitude] in degrees, not a place in a drawing" if is_json else ""
            hint = " (--unplaced between or leave-out)" if node in missing else hint
            raise InputError(error.message + hint, place=error.place, file=file) from None
    fibres = []
    for link in links:
        a, b = (index[end] for end in link.ends)
        metres = great_circle_m(degrees[a], degrees[b]) if link.metres is None else link.metres
        if a != b:
            fibres.append(Fibre(a, b, metres, link.bit_per_us))
    _check_connected([node.name for node in nodes], fibres, file)
    notes += _speed_notes([link for link in links if link.ends[0] != link.ends[1]], file)
    return Network(file, [node.name for node in nodes], degrees, fibres, forwarding, tuple(notes))


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _distinct(labelled: list[tuple[str, str]]) -> list[str]:
    times = Counter(label for label, _ in labelled)
    names = [label if times[label] == 1 else f"{label} ({key})" for label, key in labelled]
    return names if len(set(names)) == len(names) else [key for _, key in labelled]


def _coordinate(data: Mapping[str, Any], names: tuple[str, ...]) -> float | str | None:
    """Return a coordinate of a node's data by one of its names, in any case."""
    own = {key.lower(): value for key, value in data.items()}
    value = next((own[name] for name in names if own.get(name) is not None), None)
    if isinstance(value, str):
        return float(value) if is_number(value) and "," not in value else value
    return None if value is None else float(value)


def _graphml(data: bytes, file: str) -> tuple[list[_Node], list[_Link]]:
    import networkx as nx

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the library doubts is said below, in one line, or does not matter
            graph = nx.read_graphml(io.BytesIO(data))
    except (ParseError, nx.NetworkXError, ValueError, KeyError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"not a GraphML network: {str(error) or type(error).__name__}", file=file) from None
    nodes = [
        _Node(key, str(own.get("label", key)), _coordinate(own, LATITUDE), _coordinate(own, LONGITUDE))
        for key, own in graph.nodes(data=True)
    ]
    label = {node.key: node.name for node in nodes}
    links = []
    for a, b, own in graph.edges(data=True):
        link = _Link((a, b))
        _read_speed(link, own, f"link {show(label[a])} to {show(label[b])}", file)
        links.append(link)
    return nodes, links


def _read_speed(link: _Link, data: Mapping[str, Any], place: str, file: str) -> None:
    """Read the speed of a GraphML link, from what says it most clearly."""
    raw, speed, label = data.get("LinkSpeedRaw"), data.get("LinkSpeed"), data.get("LinkLabel")
    if raw is not None:
        if not (isinstance(raw, int | float) and 1 <= raw <= 1e18):
            raise InputError(
                f"expected LinkSpeedRaw in bit/s, at least 1, found {show(str(raw))}", place=place, file=file
            )
        link.bit_per_us = raw / 1e6
        return
    if speed is not None:
        unit = _UNIT.fullmatch(str(data.get("LinkSpeedUnits", "")).strip())
        text = f"{speed} {data.get('LinkSpeedUnits', '')}".strip()
        if unit and unit[0] and is_number(str(speed)) and "," not in str(speed):
            rate = float(speed) * _UNITS.get(unit[1].lower(), 1.0)
            if not 1 <= rate <= 1e18:
                raise InputError(f"expected a speed of at least 1 bit/s, found {show(text)}", place=place, file=file)
            link.bit_per_us = rate / 1e6
            return
        label = label if label is not None else text
    if label is None or not str(label).strip():
        return
    link.bit_per_us = _labelled_speed(str(label))
    if link.bit_per_us is None:
        link.unread = str(label)
    else:
        link.label = True


def _labelled_speed(label: str) -> float | None:
    """Return the one speed that a label says, bit/us; None where it says none, a bound, a range or a multiple.

    Examples
    --------
    >>> _labelled_speed("45 Mbps DS-3"), _labelled_speed("Lit Fibre (10 Gbps)")
    (45.0, 10000.0)
    >>> [_labelled_speed(text) for text in ("< 10 Gbps", "100-155 Mbit/s", "n x 2 Mbps", "10 GB/s", "OC-192c")]
    [None, None, None, None, None]
    """
    match = _LABEL.fullmatch(label)
    multiple = match is not None and label[: match.start(1)].rstrip().endswith(("x", "X"))
    if match is None or multiple or _SPEED.search(match["rest"]):
        return None
    rate = float(match[1]) * _UNITS[match[2].lower()]
    return rate / 1e6 if 1 <= rate <= 1e18 else None


def _speed_notes(links: list[_Link], file: str) -> list[str]:
    """Say which speeds are guessed, and which labels say none."""
    said = []
    if labelled := sum(link.label for link in links):
        said.append(f"{file}: {number(labelled, 'link')} with the speed that the label says (LinkLabel)")
    unread = Counter(link.unread for link in links if link.unread is not None)
    if unread:
        such = _some((show(label) for label, _ in unread.most_common()), 3)
        said.append(f"{file}: {number(unread.total(), 'link')} whose label says no speed for certain ({such})")
    return said


def _json(path: str | os.PathLike[str]) -> tuple[list[_Node], list[_Link]]:
    """Read node-link JSON: ``nodes`` (``id``, ``name``, ``pos`` [longitude, latitude]), ``edges`` (``dist``, km)."""
    file, document = str(path), read_json(path)
    edges = document.get("edges", document.get("links"))
    if not isinstance(document.get("nodes"), list) or not isinstance(edges, list):
        raise InputError("not a network: expected lists nodes and edges (SNDlib as JSON)", file=file)
    nodes, seen = [], set()
    for i, own in enumerate(document["nodes"]):
        place = f"nodes[{i}]"
        key = own.get("id") if isinstance(own, dict) else None
        if not isinstance(key, int | str):
            raise InputError("expected an object with an id", place=place, file=file)
        if key in seen:
            raise InputError(f"the id {show(key)} stands there twice", place=place, file=file)
        seen.add(key)
        pos = own.get("pos")
        if pos is not None and not (isinstance(pos, list) and len(pos) == 2 and all(map(_plain, pos))):
            raise InputError(f"expected pos [longitude, latitude], found {show(pos)}", place=place, file=file)
        longitude, latitude = pos or (None, None)
        nodes.append(_Node(key, str(own.get("name", key)), latitude, longitude))
    links = []
    for i, own in enumerate(edges):
        place = f"edges[{i}]"
        ends = (own.get("source"), own.get("target")) if isinstance(own, dict) else (None, None)
        for end in ends:
            if not isinstance(end, int | str) or end not in seen:
                raise InputError(f"expected the id of a node, found {show(end)}", place=place, file=file)
        km = own.get("dist")
        if km is not None and not (_plain(km) and 0 <= km <= 1e6):
            raise InputError(f"expected dist in km, found {show(km)}", place=place, file=file)
        links.append(_Link(ends, metres=None if km is None else round(1000 * km)))
    return nodes, links


def _plain(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _place_between(nodes: list[_Node], forwarding: frozenset[int], links: list[tuple[int, int]], file: str) -> None:
    """Give nodes without coordinates the middle of their neighbours', from those that have any outwards.

    The middle is that of the points on the sphere, so that a line across 180 degrees keeps its side.
    """
    near: dict[int, set[int]] = {i: set() for i in range(len(nodes))}
    for a, b in links:
        near[a].add(b)
        near[b].add(a)
    waiting = set(forwarding)
    while waiting:
        ready = {}
        for i in sorted(waiting):
            placed = sorted(near[i] - waiting - {i})
            if placed:
                ready[i] = _middle([_vector(nodes[j], file) for j in placed])
        if not ready:
            names = _some(nodes[i].name for i in sorted(waiting))
            raise InputError(f"no path to a node with coordinates from {names}", file=file)
        for i, (latitude, longitude) in ready.items():
            nodes[i].latitude, nodes[i].longitude = latitude, longitude
        waiting -= ready.keys()


def _vector(node: _Node, file: str) -> tuple[float, float, float]:
    latitude, longitude = in_degrees(node.latitude, node.longitude, f"node {show(node.name)}", file)
    lat, lon = math.radians(latitude), math.radians(longitude)
    return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)


def _middle(vectors: list[tuple[float, float, float]]) -> tuple[float, float]:
    x, y, z = (math.fsum(values) for values in zip(*vectors, strict=True))
    latitude = math.degrees(math.atan2(z, math.hypot(x, y)))
    return round(latitude, 6), round(math.degrees(math.atan2(y, x)), 6)


def _check_connected(names: list[str], fibres: list[Fibre], file: str) -> None:
    import networkx as nx

    undirected: Any = nx.Graph()
    undirected.add_nodes_from(range(len(names)))
    undirected.add_edges_from((fibre.a, fibre.b) for fibre in fibres)
    parts = list(nx.connected_components(undirected))
    if len(parts) > 1:
        one, other = (names[min(part)] for part in parts[:2])
        raise InputError(f"the network is in {len(parts)} parts: no path from {show(one)} to {show(other)}", file=file)
