"""The joint set: where the experts are and how many each layer uses are decided together.

The tiny ones make one point each and can be solved by hand, the small ones are drawn, the others are measured routing
with the router's own weights, imported as ``moeplace import`` does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from instance_sets import real, tiny
from moeplace import Instance
from moeplace.caching.scenarios.importing import Selection, import_traces
from moeplace.caching.scenarios.suites import Scenario, default_name, generate

FOLDERS: Final = {real.GPT: "gpt-oss-20b_expertfingerprinting", real.DEEPSEEK: "deepseek-v2-lite_esft"}


@dataclass(frozen=True)
class Recipe:
    """What one instance of measured routing is made of.

    Attributes
    ----------
    model : str
        Name in the catalogue.
    loss_budget : int
        Parts per million of the router's weight in the kept layers.
    stations, users : int
    capacity : int
        Storage of all stations *together*, percent of the kept experts' bytes.
    layers : int, optional
        The first so many layers are kept.
    fraction : Fraction, optional
        Share of the trace's requests; all where left out.
    """

    model: str
    loss_budget: int
    stations: int = 8
    users: int = 48
    capacity: int = 60
    layers: int | None = None
    fraction: Fraction | None = None

    @property
    def name(self) -> str:
        """Name of the instance."""
        cut = "" if self.layers is None else f"_cut_l{self.layers:02}"
        size = f"s{self.stations}_u{self.users}_c{self.capacity:03}"
        return f"joint_{self.model}{cut}_{size}_loss{self.loss_budget}"


QUARTER: Final = Fraction(1, 4)
RECIPES: Final = (
    *(Recipe(real.GPT, budget, 3, 12, 180, 4, QUARTER) for budget in (50_000, 100_000, 200_000)),
    *(Recipe(real.DEEPSEEK, budget, 3, 12, 180, 4, QUARTER) for budget in (20_000, 50_000, 100_000)),
    Recipe(real.GPT, 20_000, layers=8),
    Recipe(real.GPT, 50_000),
    Recipe(real.DEEPSEEK, 50_000, layers=6, fraction=Fraction(1, 2)),
)


def make(recipe: Recipe, realdata: Path) -> Instance:
    """Return the instance of a recipe."""
    folder = realdata / FOLDERS[recipe.model]
    _, source = (real.read_gpt if recipe.model == real.GPT else real.read_deepseek)(realdata)
    scenario = Scenario(
        models=[recipe.model], layers=recipe.layers, stations=recipe.stations, users=recipe.users,
        capacity=recipe.capacity, loss_budget=recipe.loss_budget, name=recipe.name,
    )  # fmt: skip
    instance, _ = import_traces(
        [folder / "topk_experts.npz"], scenario, gates=[folder / "gates.npz"], selection=Selection(recipe.fraction)
    )
    document = instance.document()
    document["source"] |= source
    return Instance.from_document(document)


def documents() -> Iterator[dict[str, Any]]:
    """Yield the documents of the tiny and the small instances."""
    yield from _tiny()
    shape = {"expert_bytes": tiny.MB, "stations": 3, "users": 12}
    for values in (
        {"layers": 3, "experts": 8, "top_k": 3, "tokens": 30, "capacity": 90, "loss_budget": 100_000, "seed": 1},
        {"layers": 4, "experts": 8, "top_k": 2, "tokens": 40, "capacity": 120, "loss_budget": 120_000, "seed": 2},
        {"layers": 3, "experts": 12, "top_k": 4, "tokens": 20, "capacity": 90, "loss_budget": 60_000, "seed": 3,
         "latency_model": "sum"},
        {"layers": 3, "experts": 8, "top_k": 3, "tokens": 30, "capacity": 150, "loss_budget": 100_000, "seed": 4,
         "no_cloud": True},
        {"layers": 4, "experts": 6, "top_k": 3, "tokens": 30, "capacity": 90, "loss_budget": 80_000, "seed": 5,
         "sizes": "mixed"},
        {"models": ["mixtral-8x7b", "phi-3.5-moe"], "layers": 3, "stations": 3, "users": 12, "tokens": 30,
         "capacity": 90, "loss_budget": 100_000, "seed": 6},
    ):  # fmt: skip
        scenario = Scenario(**(values if "models" in values else shape | values))  # type: ignore[arg-type]
        yield generate(scenario).document() | {"name": f"joint_small_{default_name(scenario)}"}


def _tiny() -> Iterator[dict[str, Any]]:
    """Yield the instances that can be solved by hand."""
    yield _by_hand(
        "joint_tiny_one_after_the_other",
        "Placed for all experts, layer 0 has the server; chosen by loss, layer 0 is cut. Both end at 130. With one "
        "expert in layer 1, held, it is 112.",
        {"moe": (2, 3)},
        rooms=[2],
        rows=[("ada", "moe", 0, [0, 1], 10), ("ada", "moe", 1, [0, 1], 6), ("ada", "moe", 1, [0, 2], 6)],
        loss={"moe": [[80, 0], [100, 0]]},
        budget=100,
    )
    yield _by_hand(
        "joint_tiny_two_models",
        "Two models share the budget and the server: with one expert in model a there is room for all that b needs.",
        {"a": (1, 3), "b": (1, 2)},
        rooms=[3],
        rows=[("ada", "a", 0, [0, 1], 10), ("ada", "a", 0, [0, 2], 10), ("ben", "b", 0, [1, 0], 12)],
        loss={"a": [[60, 0]], "b": [[50, 0]]},
        budget=60,
    )
    yield _by_hand(
        "joint_tiny_left_out_and_held",
        "No cloud: with one active expert nobody waits for expert 2, and some server must hold it all the same.",
        {"moe": (1, 3)},
        rooms=[1, 2],
        rows=[("ada", "moe", 0, [0, 1], 10), ("ada", "moe", 0, [0, 2], 5), ("ben", "moe", 0, [1, 0], 8)],
        loss={"moe": [[400, 0]]},
        budget=500,
        cloud=False,
    )


def _by_hand(
    name: str,
    notes: str,
    models: dict[str, tuple[int, int]],
    *,
    rooms: Sequence[int],
    rows: Sequence[tuple[str, str, int, list[int], int]],
    loss: dict[str, list[list[int]]],
    budget: int,
    cloud: bool = True,
) -> dict[str, Any]:
    """Return an instance of experts of 1 MB, top-2: a user is 1 ms from the own server, 3 from others, 10 from a cloud.

    Models have layers and experts; users are at servers in turn.
    """
    who = list(dict.fromkeys((user, model) for user, model, *_ in rows))
    users = list(dict.fromkeys(user for user, _ in who))
    counted: dict[tuple[str, str, int], int] = {}
    for user, model, layer, _, count in rows:
        counted[user, model, layer] = counted.get((user, model, layer), 0) + count
    return {
        "format": "moeplace/instance",
        "version": 2,
        "name": name,
        "notes": notes,
        "latency_model": "max",
        "models": [
            {"name": model, "layers": layers, "experts": experts, "top_k": 2, "expert_bytes": tiny.MB}
            for model, (layers, experts) in models.items()
        ],
        "servers": [{"name": f"s{n}", "capacity_bytes": room * tiny.MB} for n, room in enumerate(rooms)],
        "demands": [
            {
                "user": user,
                "model": model,
                "tokens": max(count for (*own, _), count in counted.items() if own == [user, model]),
                "device_ns": 0,
                "server_ns": [tiny.MS * (1 if n == users.index(user) % len(rooms) else 3) for n in range(len(rooms))],
                "cloud_ns": 10 * tiny.MS if cloud else None,
            }
            for user, model in who
        ],
        "activations": {
            "demand": [who.index((user, model)) for user, model, *_ in rows],
            "layer": [layer for _, _, layer, _, _ in rows],
            "experts": [chosen for *_, chosen, _ in rows],
            "count": [count for *_, count in rows],
            "ranked": True,
        },
        "active": {"loss": loss, "budget": budget},
    }
