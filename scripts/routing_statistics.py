"""What is compared between measured and generated routing, and how the two traces are read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from instance_sets import real

Experts = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]

BLOCK: Final = 1000
"""Distinct sets are counted in blocks of so many consecutive tokens of one task."""


@dataclass(frozen=True)
class Trace:
    """A measured trace.

    Attributes
    ----------
    name, origin, licence : str
    experts : int
        Experts of a layer.
    tasks : dict
        By name, the requests of each task, int arrays ``[tokens, layers, top_k]``.
    """

    name: str
    origin: str
    licence: str
    experts: int
    tasks: dict[str, list[Experts]]

    def joined(self) -> list[Experts]:
        """Return all tokens of each task."""
        return [np.concatenate(requests) for requests in self.tasks.values()]

    def half(self, part: int) -> Trace:
        """Return every second request of each task, from the first (0) or the second (1) on."""
        tasks = {name: requests[part::2] for name, requests in self.tasks.items()}
        return Trace(self.name, self.origin, self.licence, self.experts, tasks)


def read_traces(realdata: Path) -> list[Trace]:
    """Read gpt-oss-20b's and DeepSeek-V2-Lite's traces from the folder of raw data."""
    result = []
    for name, experts, read, tasks in (
        ("gpt-oss-20b", 32, real.read_gpt, tuple(real.PROFILES)),
        ("DeepSeek-V2-Lite", 64, real.read_deepseek, real.TASKS),
    ):
        trace, source = read(realdata)
        requests: dict[str, list[Experts]] = {task: [] for task in tasks}
        for request, task in enumerate(trace.profile):
            requests[tasks[task]].append(trace.experts[trace.start[request] : trace.start[request + 1]])
        origin = f"{source['routing']}, commit {source['routing_commit']}"
        result.append(Trace(name, origin, str(source["routing_licence"]), experts, requests))
    return result


@dataclass(frozen=True)
class Statistics:
    """What was seen at each layer.

    Attributes
    ----------
    popularity : float array [L, E]
        Share of tokens that use an expert, from the most popular one.
    lift : float array [L]
        How many times as frequent the most frequent pair is as independence says.
    distinct : float array [L]
        Distinct sets in 1,000 consecutive tokens of one task, mean over all such blocks.
    overlap : float array [L]
        Experts that a token shares with the one before, mean.
    divergence : float array [L]
        Total variation between a task's popularity and that of all tasks together, as a share of the requests; mean.
    """

    popularity: Floats
    lift: Floats
    distinct: Floats
    overlap: Floats
    divergence: Floats


def measure(tasks: list[Experts], experts: int) -> Statistics:
    """Return the statistics of the tokens of each task."""
    tokens = np.concatenate(tasks)
    n, layers, top_k = tokens.shape
    popularity, lift, distinct, overlap, divergence = (np.zeros((layers, experts)), *np.zeros((4, layers)))
    bounds = np.concatenate(([0], np.cumsum([len(task) for task in tasks])))
    base = np.power(experts, np.arange(top_k), dtype=np.float64)
    for layer in range(layers):
        used = np.zeros((n, experts), dtype=np.float32)
        used[np.arange(n)[:, None], tokens[:, layer]] = 1
        share = used.mean(axis=0, dtype=np.float64)
        pairs = (used.T @ used).astype(np.float64) / n
        np.fill_diagonal(pairs, 0)
        a, b = divmod(int(pairs.argmax()), experts)
        popularity[layer] = np.sort(share)[::-1]
        lift[layer] = pairs[a, b] / (share[a] * share[b])
        overlap[layer] = float((used[1:] * used[:-1]).sum() / (n - 1))
        own = [used[i:j].mean(axis=0, dtype=np.float64) for i, j in itertools.pairwise(bounds)]
        divergence[layer] = float(np.mean([abs(profile - share).sum() / (2 * top_k) for profile in own]))
        key = np.sort(tokens[:, layer].astype(np.int64), axis=1) @ base.astype(np.int64)
        blocks = [
            len(np.unique(key[start : start + BLOCK]))
            for i, j in itertools.pairwise(bounds)
            for start in range(int(i), int(j) - BLOCK + 1, BLOCK)
        ]
        distinct[layer] = float(np.mean(blocks))
    return Statistics(popularity, lift, distinct, overlap, divergence)


def mean(statistics: list[Statistics], average: Callable[..., Floats] = np.mean) -> Statistics:
    """Return the average of every number over several statistics."""
    names = ("popularity", "lift", "distinct", "overlap", "divergence")
    return Statistics(*(average([getattr(s, name) for s in statistics], axis=0) for name in names))
