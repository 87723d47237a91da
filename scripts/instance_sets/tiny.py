"""The tiny set: instances that one can solve by hand, each making one point.

Times are written in milliseconds and sizes in megabytes, so that the arithmetic of ``instances/tiny/README.md``
can be followed; the files hold nanoseconds and bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MS = 1_000_000  # ns
MB = 1_000_000  # bytes

Row = tuple[str, int, list[int], int]
"""(user, layer, experts, tokens)"""


def documents() -> Iterator[dict[str, Any]]:
    """Yield the instance documents of the set, in the order of its README."""
    yield _tiny(
        "tiny_top1_greedy_works",
        "One expert a token: taking the most used expert first is optimal.",
        models=[_model(experts=4, top_k=1)],
        servers=[("cabinet", 2)],
        demands=[("ada", [2], 10, [])],
        rows=[("ada", 0, [0], 50), ("ada", 0, [1], 30), ("ada", 0, [2], 15), ("ada", 0, [3], 5)],
    )
    yield _tiny(
        "tiny_pair_greedy_misses",
        "Two experts a token: no single expert gains anything, and the most used one is in no good pair.",
        models=[_model(experts=6, top_k=2)],
        servers=[("cabinet", 2)],
        demands=[("ada", [2], 10, [])],
        rows=[("ada", 0, [0, 1], 20), ("ada", 0, [0, 2], 20), ("ada", 0, [0, 3], 20), ("ada", 0, [4, 5], 35)],
    )
    yield _tiny(
        "tiny_two_models_two_sizes",
        "Experts of two sizes: the best gain per byte first wastes storage (a knapsack).",
        models=[
            _model("large", experts=2, top_k=1, expert_bytes=3 * MB),
            _model("compact", experts=3, top_k=1, expert_bytes=2 * MB),
        ],
        servers=[("cabinet", 4)],
        demands=[("ada", [2], 10, []), ("ben", [2], 10, [])],
        rows=[
            ("ada", 0, [0], 50),
            ("ada", 0, [1], 10),
            ("ben", 0, [0], 30),
            ("ben", 0, [1], 30),
            ("ben", 0, [2], 5),
        ],
        asks={"ada": "large", "ben": "compact"},
    )
    yield _tiny(
        "tiny_unreachable_server",
        "One user reaches one of two servers only: the other user's expert has to make room.",
        models=[_model(experts=2, top_k=1)],
        servers=[("north", 1), ("south", 1)],
        demands=[("ada", [2, None], 10, []), ("ben", [2, 4], 10, [])],
        rows=[("ada", 0, [0], 10), ("ben", 0, [1], 30)],
    )
    yield _tiny(
        "tiny_device_experts",
        "An expert on the device completes a pair that needs one cached expert only.",
        models=[_model(experts=4, top_k=2)],
        servers=[("cabinet", 1)],
        demands=[("ada", [2], 10, [[0, 0]])],
        rows=[("ada", 0, [0, 1], 20), ("ada", 0, [2, 3], 50)],
    )
    yield _tiny(
        "tiny_sum_adds_up",
        "Experts one after the other (sum): every expert gains by itself, the best two are not the best pair.",
        models=[_model(experts=4, top_k=2)],
        servers=[("cabinet", 2)],
        demands=[("ada", [2], 10, [])],
        rows=[("ada", 0, [0, 1], 60), ("ada", 0, [2, 3], 40), ("ada", 0, [0, 2], 30)],
        latency_model="sum",
    )
    yield _tiny(
        "tiny_two_servers_share",
        "Two servers near each other hold different experts rather than both the most used one.",
        models=[_model(experts=2, top_k=1)],
        servers=[("north", 1), ("south", 1)],
        demands=[("ada", [2, 4], 10, []), ("ben", [4, 2], 10, [])],
        rows=[("ada", 0, [0], 60), ("ada", 0, [1], 40), ("ben", 0, [0], 60), ("ben", 0, [1], 40)],
    )
    yield _tiny(
        "tiny_pair_across_servers",
        "A pair fits on two servers only together: filling one server after the other never finds it.",
        models=[_model(experts=3, top_k=2)],
        servers=[("north", 1), ("south", 1)],
        demands=[("ada", [2, 2], 10, [])],
        rows=[("ada", 0, [0, 1], 90), ("ada", 0, [2], 1)],
    )


def _model(name: str = "moe", *, experts: int, top_k: int, expert_bytes: int = MB) -> dict[str, Any]:
    return {"name": name, "layers": 1, "experts": experts, "top_k": top_k, "expert_bytes": expert_bytes}


def _tiny(
    name: str,
    notes: str,
    *,
    models: list[dict[str, Any]],
    servers: list[tuple[str, int]],
    demands: list[tuple[str, list[int | None], int, list[list[int]]]],
    rows: list[Row],
    latency_model: str = "max",
    asks: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return a document.

    ``servers`` are (name, MB), ``demands`` (user, ms of each server, ms of the cloud, device experts). Experts on a
    device take 1 ms. ``asks`` gives the user's model where there are several.
    """
    users = [demand[0] for demand in demands]
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": name,
        "notes": notes,
        "latency_model": latency_model,
        "models": models,
        "servers": [{"name": server, "capacity_bytes": size * MB} for server, size in servers],
        "demands": [
            {
                "user": user,
                "model": asks[user] if asks else models[0]["name"],
                "tokens": sum(count for who, _, _, count in rows if who == user),
                "device_ns": MS,
                "server_ns": [None if time is None else time * MS for time in near],
                "cloud_ns": cloud * MS,
                **({"device_experts": device} if device else {}),
            }
            for user, near, cloud, device in demands
        ],
        "activations": {
            "demand": [users.index(user) for user, _, _, _ in rows],
            "layer": [layer for _, layer, _, _ in rows],
            "experts": [experts for _, _, experts, _ in rows],
            "count": [count for _, _, _, count in rows],
        },
    }
