"""Reading places: position files and networks."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import numpy.typing as npt

from moeplace.base.documents import show
from moeplace.base.errors import InputError
from moeplace.base.files import read_bytes
from moeplace.scenarios.geometry import Fibre, great_circle_m

_LATITUDE, _LONGITUDE = ("latitude", "lat"), ("longitude", "lon", "lng")


def read_positions(path: str | os.PathLike[str]) -> npt.NDArray[np.float64]:
    """Read (latitude, longitude) in degrees from a CSV file with a heading, float64 [P, 2].

    The columns are called ``latitude`` (or ``lat``) and ``longitude`` (``lon``, ``lng``), in any case; others are
    passed over.

    Raises
    ------
    InputError
        With the file and the line.
    """
    file = str(path)
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            heading = next(reader, None)
            if heading is None:
                raise InputError("is empty; a heading with LATITUDE and LONGITUDE was expected", file=file)
            names = [name.strip().lower() for name in heading]
            columns = [next((i for i, name in enumerate(names) if name in w), None) for w in (_LATITUDE, _LONGITUDE)]
            if None in columns:
                raise InputError(
                    f"expected columns LATITUDE and LONGITUDE, found {show(heading)}", place="line 1", file=file
                )
            points = []
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                place = f"line {reader.line_num}"
                cells = [row[i] if i is not None and i < len(row) else None for i in columns]
                points.append(_degrees(cells[0], cells[1], place, file))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV file in UTF-8: {error}", file=file) from None
    if not points:
        raise InputError("has a heading but no positions", file=file)
    return np.array(points, dtype=np.float64)


def _degrees(latitude: object, longitude: object, place: str, file: str) -> tuple[float, float]:
    """Check a latitude and a longitude, numbers or text."""
    result = []
    for value, name, most in ((latitude, "latitude", 90), (longitude, "longitude", 180)):
        if value is None or value == "":
            raise InputError(f"the {name} is missing", place=place, file=file)
        try:
            number = float(value)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            raise InputError(
                f"expected a {name} in degrees, found {show(str(value))}", place=place, file=file
            ) from None
        if not -most <= number <= most:  # not a number, too
            raise InputError(f"expected a {name} from -{most} to {most}, found {number}", place=place, file=file)
        result.append(number)
    return result[0], result[1]


def within_box(points: npt.NDArray[np.float64], box: Sequence[float] | None, file: object) -> npt.NDArray[np.float64]:
    """Return the points within a box of latitudes and longitudes; all of them without one."""
    if box is None:
        return points
    south, west, north, east = box
    inside = points[((points >= (south, west)) & (points <= (north, east))).all(axis=1)]
    if not len(inside):
        raise InputError(
            f"none of {len(points)} positions is within the box {south}, {west}, {north}, {east}", file=str(file)
        )
    return inside


def read_graphml(path: str | os.PathLike[str]) -> tuple[list[str], list[tuple[float, float]], list[Fibre]]:
    """Read a connected network with positions.

    Returns
    -------
    names : list of str
        The nodes' labels; where several nodes share one, their ids are added.
    degrees : list of (float, float)
        Latitude and longitude of each node.
    fibres : list of Fibre
        Links with their great-circle length, whole metres; loops left out.

    Raises
    ------
    InputError
        With the file and the node or edge.
    """
    import networkx as nx

    file = str(path)
    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the library doubts is said below, in one line, or does not matter
            graph = nx.read_graphml(io.BytesIO(data))
    except (ParseError, nx.NetworkXError, ValueError, KeyError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"not a GraphML network: {str(error) or type(error).__name__}", file=file) from None
    if not len(graph):
        raise InputError("the network has no nodes", file=file)
    index = {node: i for i, node in enumerate(graph)}
    labels = [str(data.get("label", node)) for node, data in graph.nodes(data=True)]
    names = [
        label if labels.count(label) == 1 else f"{label} ({node})" for label, node in zip(labels, graph, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [f"{node}" for node in graph]
    degrees = [
        _degrees(data.get("Latitude"), data.get("Longitude"), f"node {show(name)}", file)
        for name, (_, data) in zip(names, graph.nodes(data=True), strict=True)
    ]
    fibres = []
    for node_a, node_b, data in graph.edges(data=True):
        a, b = index[node_a], index[node_b]
        speed = data.get("LinkSpeedRaw")
        if speed is not None and not (isinstance(speed, int | float) and 1 <= speed <= 1e18):
            place = f"link {show(names[a])} to {show(names[b])}"
            raise InputError(
                f"expected LinkSpeedRaw in bit/s, at least 1, found {show(str(speed))}", place=place, file=file
            )
        if a != b:
            fibres.append(Fibre(a, b, great_circle_m(degrees[a], degrees[b]), None if speed is None else speed / 1e6))
    undirected: Any = nx.Graph()
    undirected.add_nodes_from(range(len(names)))
    undirected.add_edges_from((fibre.a, fibre.b) for fibre in fibres)
    parts = list(nx.connected_components(undirected))
    if len(parts) > 1:
        one, other = (names[min(part)] for part in parts[:2])
        raise InputError(f"the network is in {len(parts)} parts: no path from {show(one)} to {show(other)}", file=file)
    return names, degrees, fibres
