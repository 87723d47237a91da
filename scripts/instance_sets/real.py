"""The real set: gpt-oss-20b routing traces, asked for around base stations in Melbourne's centre.

Read from a folder with the raw data (see ``instances/real/README.md``); the instances hold counts only.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from instance_sets import radio

Int64 = npt.NDArray[np.int64]

MODEL: Final = "gpt-oss-20b"
LAYERS: Final = 24
EXPERTS: Final = 32
TOP_K: Final = 4
HIDDEN: Final = 2880
# MXFP4 stores 32 weights of 4 bits with one scale of 8 bits: 4.25 bits a weight. Biases stay bf16.
WEIGHTS: Final = 3 * HIDDEN * HIDDEN
BIASES: Final = 3 * HIDDEN
EXPERT_BYTES: Final = WEIGHTS * 17 // 32 + 2 * BIASES
HIDDEN_BITS: Final = HIDDEN * 16
"""One hidden state in bf16."""

TRACE: Final = Path("gpt-oss-20b_expertfingerprinting") / "topk_experts.npz"
STATIONS: Final = Path("eua-melbourne") / "site-optus-melbCBD.csv"
USERS: Final = Path("eua-melbourne") / "users-melbcbd-generated.csv"

# Eight fields of interest; every category of the 88 prompts stands in one of them.
PROFILES: Final = {
    "mathematics": "abstract_algebra, college_mathematics, econometrics, elementary_mathematics, formal_logic, "
    "high_school_mathematics, high_school_statistics, math",
    "physics": "astronomy, college_physics, conceptual_physics, high_school_physics, physics, Astrophysics, "
    "Condensed Matter Physics, Electromagnetism and Photonics, High-energy particle physics, Optics and Acoustics, "
    "Physics (general), Quantum Mechanics, Relativistic Mechanics, Statistical Mechanics",
    "chemistry": "chemistry, college_chemistry, high_school_chemistry, Chemistry (general), Inorganic Chemistry, "
    "Organic Chemistry, Physical Chemistry",
    "biology and medicine": "anatomy, biology, clinical_knowledge, college_biology, college_medicine, health, "
    "high_school_biology, human_aging, human_sexuality, medical_genetics, nutrition, professional_medicine, virology, "
    "Genetics, Molecular Biology",
    "computing and engineering": "college_computer_science, computer science, computer_security, "
    "electrical_engineering, engineering, high_school_computer_science, instruction-following, machine_learning",
    "law and politics": "high_school_government_and_politics, international_law, jurisprudence, law, "
    "professional_law, public_relations, security_studies, us_foreign_policy",
    "business and society": "business, business_ethics, economics, global_facts, high_school_geography, "
    "high_school_macroeconomics, high_school_microeconomics, high_school_psychology, management, marketing, "
    "professional_accounting, professional_psychology, psychology, sociology",
    "humanities": "fact_checking, high_school_european_history, high_school_us_history, high_school_world_history, "
    "history, logical_fallacies, miscellaneous, moral_disputes, moral_scenarios, other, philosophy, prehistory, "
    "world_religions",
}


@dataclass(frozen=True)
class Recipe:
    """What one instance is made of.

    Attributes
    ----------
    name : str
        Name without the shape.
    layers : int
        The first so many layers are kept.
    stations, users : int
    every : int
        Prompts 0, every, 2 * every, ... of the trace are asked.
    capacity : int
        Storage of all stations *together*, percent of the kept experts' bytes; equal shares.
    notes : str
    """

    name: str
    layers: int
    stations: int
    users: int
    every: int
    capacity: int
    notes: str

    @property
    def full_name(self) -> str:
        """Name of the instance."""
        return f"{self.name}_s{self.stations}_u{self.users}_c{self.capacity:03}"


# Sets of four experts make tight storage very hard to prove; with most of a layer on every station it takes seconds.
CUT: Final = Recipe(
    name=f"{MODEL}_melbourne_cut_l04",
    layers=4,
    stations=3,
    users=12,
    every=4,
    capacity=264,
    notes="Small cut: the first four layers, every fourth prompt; exact methods prove it in seconds.",
)
FULL: Final = Recipe(
    name=f"{MODEL}_melbourne",
    layers=LAYERS,
    stations=8,
    users=48,
    every=1,
    capacity=60,
    notes="All 24 layers and all 44,968 tokens of the trace.",
)


def documents(realdata: Path) -> Iterator[dict[str, Any]]:
    """Yield the instance documents of the set, made from the folder of raw data."""
    yield make(CUT, realdata)
    yield make(FULL, realdata)


@dataclass(frozen=True)
class Trace:
    """Routing of ``P`` prompts, ``T`` tokens.

    Attributes
    ----------
    experts : uint8 array [T, layers, top_k]
        Experts each token used.
    start : int64 array [P + 1]
        Tokens of prompt ``p`` are ``start[p]:start[p + 1]``.
    profile : list of int [P]
        Index of the prompt's profile in :data:`PROFILES`.
    """

    experts: npt.NDArray[np.uint8]
    start: Int64
    profile: list[int]


def make(recipe: Recipe, realdata: Path) -> dict[str, Any]:
    """Return the instance document of a recipe."""
    trace = read_trace(realdata / TRACE)
    sites, people = read_positions(realdata / STATIONS, realdata / USERS)
    users_m = people[:: len(people) // recipe.users][: recipe.users]
    stations_m = sites[choose_stations(sites, users_m, recipe.stations)]
    home = radio.distance_squared(users_m, stations_m).argmin(axis=1)
    prompts = list(range(0, len(trace.profile), recipe.every))
    prompts_of = deal_prompts(prompts, trace.profile, home.tolist())

    backhaul = radio.backhaul_ns(stations_m, HIDDEN_BITS)
    demands = []
    for u, position in enumerate(users_m.tolist()):
        distance_m = math.dist(position, stations_m[home[u]].tolist())
        access = radio.access_ns(distance_m, HIDDEN_BITS)
        demands.append(
            {
                "user": f"user-{u:02}",
                "model": MODEL,
                "tokens": sum(int(trace.start[p + 1] - trace.start[p]) for p in prompts_of[u]),
                "device_ns": radio.grid(radio.DEVICE_US),
                "server_ns": [
                    access + between + radio.grid(radio.EDGE_COMPUTE_US) for between in backhaul[home[u]].tolist()
                ],
                "cloud_ns": access + radio.cloud_ns(HIDDEN_BITS),
                "position_m": position,
            }
        )
    kept_bytes = recipe.layers * EXPERTS * EXPERT_BYTES
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": recipe.full_name,
        "notes": recipe.notes,
        "source": SOURCE,
        "latency_model": "max",
        "models": [
            {"name": MODEL, "layers": recipe.layers, "experts": EXPERTS, "top_k": TOP_K, "expert_bytes": EXPERT_BYTES}
        ],
        "servers": [
            {
                "name": f"station-{n}",
                "capacity_bytes": recipe.capacity * kept_bytes // (100 * recipe.stations),
                "position_m": position,
            }
            for n, position in enumerate(stations_m.tolist())
        ],
        "demands": demands,
        "activations": count_sets(trace, prompts_of, recipe.layers),
    }


SOURCE: Final[dict[str, str | int]] = {
    "routing": "github AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting",
    "routing_commit": "72b368f60045221f21eeb65debb27d58de92e565",
    "routing_licence": "Apache-2.0",
    "topology": "github PhuLai/eua-dataset, Melbourne CBD (Lai et al., ICSOC 2018)",
    "topology_commit": "61238e00a6f01019c8a6ba1619675337a879a3d4",
    "topology_licence": "MIT; station sites from the ACMA register",
    "expert_size": "MXFP4 weights (4.25 bit), bf16 biases",
    "carrier_mhz": round(1000 * radio.CARRIER_GHZ),
    "bandwidth_hz": radio.BANDWIDTH_HZ,
    "device_power_dbm": round(radio.DEVICE_POWER_DBM),
    "station_power_dbm": round(radio.STATION_POWER_DBM),
    "access_us_per_direction": radio.ACCESS_US,
    "backhaul_bit_per_s": round(1e6 * radio.LINK_BIT_PER_US),
    "backhaul_hop_us_per_direction": radio.HOP_US,
    "wan_round_trip_us": radio.WAN_ROUND_TRIP_US,
    "time_grid_us": radio.GRID_US,
}


def read_trace(path: Path) -> Trace:
    """Read the routing trace and put each prompt's category into its profile."""
    profile_of = {c: i for i, categories in enumerate(PROFILES.values()) for c in categories.split(", ")}
    with np.load(path) as data:
        start = np.concatenate(([0], np.cumsum(data["example_lengths"]))).astype(np.int64)
        return Trace(data["experts"], start, [profile_of[str(category)] for category in data["category"]])


def read_positions(stations: Path, users: Path) -> tuple[Int64, Int64]:
    """Return the positions of stations and users, whole metres east and north of the users' south-west corner.

    Latitude and longitude are projected on a plane at the users' middle latitude (equirectangular): over the 2 km of
    the city centre this is right within a metre.
    """

    def degrees(path: Path, latitude: str, longitude: str) -> npt.NDArray[np.float64]:
        with path.open(newline="", encoding="utf-8") as file:
            return np.array([(float(row[longitude]), float(row[latitude])) for row in csv.DictReader(file)])

    people = degrees(users, "Latitude", "Longitude")
    sites = degrees(stations, "LATITUDE", "LONGITUDE")
    corner, middle = people.min(axis=0), (people.min(axis=0)[1] + people.max(axis=0)[1]) / 2
    metres_per_degree = np.array([math.cos(math.radians(middle)), 1.0]) * EARTH_RADIUS_M * math.pi / 180

    def metres(points: npt.NDArray[np.float64]) -> Int64:
        return np.rint((points - corner) * metres_per_degree).astype(np.int64)

    return metres(sites), metres(people)


EARTH_RADIUS_M: Final = 6_371_000


def choose_stations(sites: Int64, users: Int64, number: int) -> list[int]:
    """Choose the sites that are near to the users: k-median by greedy choice, then swaps while they help.

    Distances count in whole metres, so that ties and results are the same everywhere; ties go to the site that
    comes first.
    """
    square = radio.distance_squared(users, sites)
    distance = np.array([[math.isqrt(s) for s in row] for row in square.tolist()], dtype=np.int64)

    def total(chosen: list[int]) -> int:
        return int(distance[:, chosen].min(axis=1).sum())

    chosen: list[int] = []
    for _ in range(number):
        chosen.append(min(range(len(sites)), key=lambda site: (total([*chosen, site]), site)))
    while True:
        swaps = [[*chosen[:i], site, *chosen[i + 1 :]] for i in range(number) for site in range(len(sites))]
        best = min(swaps, key=total)
        if total(best) >= total(chosen):
            return sorted(chosen)
        chosen = best


def deal_prompts(prompts: list[int], profile: list[int], home: list[int]) -> list[list[int]]:
    """Give every user prompts of one profile; every prompt goes to one user.

    Users are lined up by their station and take the profiles in blocks, as large as the profiles' shares of the
    prompts (largest remainder, at least one user each): neighbours share interests, as around a campus, a court
    or a hospital. Within a profile the prompts are dealt in turn.
    """
    line = sorted(range(len(home)), key=lambda u: (home[u], u))
    of_profile = {p: [x for x in prompts if profile[x] == p] for p in sorted({profile[x] for x in prompts})}
    seats = {p: max(1, len(home) * len(own) // len(prompts)) for p, own in of_profile.items()}
    while sum(seats.values()) < len(home):
        seats[max(seats, key=lambda p: (len(of_profile[p]) * len(home) - seats[p] * len(prompts), -p))] += 1
    dealt: list[list[int]] = [[] for _ in home]
    for p, own in of_profile.items():
        users, line = line[: seats[p]], line[seats[p] :]
        for i, prompt in enumerate(own):
            dealt[users[i % len(users)]].append(prompt)
    return dealt


def count_sets(trace: Trace, prompts_of: list[list[int]], layers: int) -> dict[str, list[Any]]:
    """Count how many tokens of each user used which expert set at each layer; sets ascending, equal ones merged."""
    columns: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for u, prompts in enumerate(prompts_of):
        tokens = np.concatenate([np.arange(trace.start[p], trace.start[p + 1]) for p in prompts])
        sets = np.sort(trace.experts[tokens, :layers], axis=2)
        for layer in range(layers):
            distinct, count = np.unique(sets[:, layer], axis=0, return_counts=True)
            columns["demand"] += [u] * len(count)
            columns["layer"] += [layer] * len(count)
            columns["experts"] += distinct.tolist()
            columns["count"] += count.tolist()
    return columns
