"""Traffic that drifts: policies that decide for a window by the windows before it, and what they pay on it.

A window is an instance; all have the same servers and models. Before a window begins a policy may change the placement
in force, ``x[t-1]``, to ``x[t]``, and pays for window `t` what :mod:`moeplace.caching.evaluation` says it costs with
``x[t-1]`` as what the servers hold::

    cost[t] = C[t](x[t]) + loading(x[t-1], x[t])                                                           (R1)

``stay`` never changes it. ``always`` takes the best placement for the last window, loading ignored. ``gate`` takes the
same one, but only where it would have paid on the last window (DanceMoE, arXiv 2508.12851)::

    C[t-1](new) + loading(x[t-1], new)  <  C[t-1](x[t-1])                                                  (R2)

``loading`` minimises the left side of (R2). ``hindsight`` minimises (R1) itself, knowing the window: no policy, but a
yardstick, and a greedy one, since it does not look beyond the window.

What is certified: a bound on `C[t]` alone, loading left out, is below what *any* policy pays on window `t`, whatever
was in force, since loading costs nothing less than zero::

    cost[t] >= C[t](x[t]) >= bound[t]       and so      sum over t of cost[t] >= sum over t of bound[t]     (R3)

In the first window that is paid the same placement is in force for all, so there the bound of ``hindsight``, which
counts loading, holds for all, too. In later windows ``hindsight`` starts from its own placement and its bound speaks
of nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from msgspec import UNSET

from moeplace.base.errors import InputError
from moeplace.caching.coverage import Coverage
from moeplace.caching.document import lowest_version
from moeplace.caching.evaluation import Evaluation, latency_ns, loading_ns
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.solution import assignments

POLICIES: Final[Mapping[str, str]] = {
    "stay": "the first placement for ever",
    "always": "the best placement for the last window, loading ignored",
    "gate": "the same, taken only where latency and loading together would have fallen on the last window",
    "loading": "the least of latency and loading together on the last window",
    "hindsight": "the least of both on the window itself: the yardstick",
}
"""Every policy and what it decides, in the order of tables."""

FREE: Final = "free"
"""The decision that ignores loading: what ``always`` and ``gate`` take, and whose bound holds for everybody."""

START: Final = "start"
"""What the placement goes by that all policies begin with, where it was given."""


@dataclass(frozen=True)
class Order:
    """A decision that a method is to make.

    Attributes
    ----------
    kind : str
        :data:`FREE`, ``loading`` or ``hindsight``.
    window : int
        From 1: the window that it is made for; of :data:`FREE` the one whose rows are optimised on.
    instance : callable
        Makes what is to be solved.
    start : Placement or None
        What to begin with.
    """

    kind: str
    window: int
    instance: Callable[[], Instance]
    start: Placement | None

    @property
    def key(self) -> str:
        """What it goes by: the same in every run over the same windows."""
        return f"{self.kind}-{self.window:03}"


@dataclass(frozen=True)
class Payment:
    """What a policy pays on one window, exact.

    Attributes
    ----------
    latency_ns, loading_ns : int
        Of (R1), token-ns.
    moved_experts, moved_bytes : int
        What is new on its server.
    requests, requests_away, rows, rows_away : int
        Tokens' requests for experts, and tokens' rows, in all and away from home
        (:class:`~moeplace.caching.evaluation.Hits`).
    """

    latency_ns: int
    loading_ns: int
    moved_experts: int
    moved_bytes: int
    requests: int
    requests_away: int
    rows: int
    rows_away: int

    @property
    def cost_ns(self) -> int:
        """Latency and loading together, token-ns."""
        return self.latency_ns + self.loading_ns


@dataclass(frozen=True)
class Step:
    """A policy in one window.

    Attributes
    ----------
    policy : str
    window : int
        From 1.
    placement : Placement
        What is in force in the window.
    source : str
        The key of the decision that it comes from, or :data:`START`.
    payment : Payment
    """

    policy: str
    window: int
    placement: Placement
    source: str
    payment: Payment


def check_windows(windows: Sequence[Instance], files: Sequence[str]) -> None:
    """Refuse windows that are not of the same servers and models, or whose users must reach other things.

    Raises
    ------
    InputError
        Which file, and in what it differs from the first one.
    """
    for window, file in zip(windows, files, strict=True):
        if window.active is not None:
            raise InputError("how many experts each layer uses is open, which replay does not decide", file=file)
    first = windows[0]
    for window, file in zip(windows[1:], files[1:], strict=True):
        if (said := _difference(first, window)) is not None:
            raise InputError(f"{said} (replay needs the same servers and models in all windows)", file=file)


def _difference(first: Instance, other: Instance) -> str | None:
    if first.latency_model != other.latency_model:
        return f"the latency model is {other.latency_model}, that of the first window {first.latency_model}"
    for what, ours, theirs in (("models", other.models, first.models), ("servers", other.servers, first.servers)):
        if len(ours) != len(theirs):
            return f"{len(ours)} {what}, the first window has {len(theirs)}"
    for i, (model, known) in enumerate(zip(other.models, first.models, strict=True)):
        if model != known:
            return f"models[{i}] is {model.name!r}, and not what the first window has ({known.name!r})"
    for i, (server, before) in enumerate(zip(other.servers, first.servers, strict=True)):
        for key in ("name", "capacity_bytes", "load_bytes_per_s", "layer_slots"):
            if getattr(server, key) != getattr(before, key):
                found, expected = (_said(getattr(each, key)) for each in (server, before))
                return f"servers[{i}].{key} is {found}, in the first window {expected}"
    if first.loading != other.loading:
        return "another weight of loading than the first window has"
    if not _alike(first.coverage, other.coverage):
        return "demands without a cloud need experts on other servers than those of the first window"
    return None


def _said(value: Any) -> str:
    return "not said" if value is UNSET else repr(value)


def _alike(one: Coverage | None, other: Coverage | None) -> bool:
    def requirements(coverage: Coverage) -> set[tuple[bytes, int]]:
        reach = [own.tobytes() for own in coverage.reach]
        return {(reach[q], item) for q, item in zip(coverage.reach_of.tolist(), coverage.item.tolist(), strict=True)}

    if one is None or other is None:
        return one is other
    return requirements(one) == requirements(other)


def without_loading(window: Instance) -> Instance:
    """Return a window in which loading is free and nothing is held: what it says of latency alone."""
    document = window.document()
    document.pop("loading", None)
    for server in document["servers"]:
        for key in ("holds", "load_bytes_per_s"):
            server.pop(key, None)
    return _made(document)


def with_held(window: Instance, held: Placement) -> Instance:
    """Return a window whose servers hold a placement."""
    document = window.document()
    loaded: dict[str, list[dict[str, Any]]] = {}
    for own in assignments(window, held):
        loaded.setdefault(own.server, []).append({"model": own.model, "experts": [list(pair) for pair in own.experts]})
    for server in document["servers"]:
        server.pop("holds", None)
        if server["name"] in loaded:
            server["holds"] = loaded[server["name"]]
    return _made(document)


def _made(document: dict[str, Any]) -> Instance:
    return Instance.from_document(document | {"version": lowest_version(document)})


def pay(window: Instance, before: Placement, now: Placement) -> Payment:
    """Return what changing from one placement to another, and serving a window with it, costs: (R1)."""
    evaluation = Evaluation(window, now)
    new = now.cached & ~before.cached
    requests, requests_away = evaluation.requests
    rows, rows_away = evaluation.row_tokens
    sizes = window.item_bytes.tolist()
    return Payment(
        latency_ns=evaluation.latency_ns,
        loading_ns=loading_ns(window, now, before.cached),
        moved_experts=int(new.sum()),
        moved_bytes=sum(count * size for count, size in zip(new.sum(axis=0).tolist(), sizes, strict=True)),
        requests=requests,
        requests_away=requests_away,
        rows=rows,
        rows_away=rows_away,
    )


def pays_off(window: Instance, before: Placement, new: Placement) -> bool:
    """Tell whether a new placement would have paid on a window: (R2)."""
    moved = loading_ns(window, new, before.cached)
    return latency_ns(window, new) + moved < latency_ns(window, before)


def paid_windows(windows: int, *, started: bool) -> range:
    """Return the windows, from 1, that policies pay on: the first one only where a placement is given to begin with.

    Without one, the first placement is made on the first window, and nobody pays on what it was made on.
    """
    return range(1 if started else 2, windows + 1)


def replay(
    windows: Sequence[Instance],
    policies: Sequence[str],
    decide: Callable[[Order], Placement],
    start: Placement | None = None,
) -> Iterator[Step]:
    """Go through windows.

    Parameters
    ----------
    windows : sequence of Instance
        As :func:`check_windows` takes them.
    policies : sequence of str
        Of :data:`POLICIES`.
    decide : callable
        Has a method make a decision. Each is asked for once, in a fixed order; those of :data:`FREE` also where only
        their bound is needed.
    start : Placement, optional
        What is in force before the first window. Without it the first window is what the first placement is made on.

    Yields
    ------
    Step
        Window by window, and in each the policies in their order.
    """
    paid = paid_windows(len(windows), started=start is not None)
    ignoring: dict[int, Placement] = {}

    def free(t: int) -> Placement:
        if t not in ignoring:
            begin = ignoring.get(t - 1, start)
            ignoring[t] = decide(Order(FREE, t, partial(without_loading, windows[t - 1]), begin))
        return ignoring[t]

    first, source = (free(1), f"{FREE}-001") if start is None else (start, START)
    in_force = dict.fromkeys(policies, first)
    sources = dict.fromkeys(policies, source)
    for t in paid:
        last, window = windows[t - 2] if t > 1 else None, windows[t - 1]
        for policy in policies:
            before = in_force[policy]
            if policy == "hindsight":
                order = Order(policy, t, partial(with_held, window, before), before)
                in_force[policy], sources[policy] = decide(order), order.key
            elif last is None or policy == "stay":
                pass
            elif policy == "loading":
                order = Order(policy, t, partial(with_held, last, before), before)
                in_force[policy], sources[policy] = decide(order), order.key
            else:
                new = free(t - 1)
                if policy == "always" or pays_off(last, before, new):
                    in_force[policy], sources[policy] = new, f"{FREE}-{t - 1:03}"
            yield Step(policy, t, in_force[policy], sources[policy], pay(window, before, in_force[policy]))
        if "hindsight" in policies:
            free(t)  # whose bound holds for all
