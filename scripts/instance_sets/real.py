"""The real set: measured routing, asked for around real base stations and at the nodes of real networks.

Read from a folder with the raw data (see ``instances/real/README.md``); the instances hold counts only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace import Instance
from moeplace.caching.scenarios.assembly import Part, assemble, catalogue_model, storage
from moeplace.scenarios.catalogue import find_architecture
from moeplace.scenarios.counting import SetCounts
from moeplace.scenarios.topology import Links, Topology, from_network, from_positions

Int64 = npt.NDArray[np.int64]

GPT: Final = "gpt-oss-20b"
DEEPSEEK: Final = "deepseek-v2-lite"

STATIONS: Final = Path("eua-melbourne") / "site-optus-melbCBD.csv"
USERS: Final = Path("eua-melbourne") / "users-melbcbd-generated.csv"
NETWORKS: Final = Path("internet-topology-zoo")

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
    model : str
        Name in the catalogue.
    place : str
        ``melbourne`` or the name of a network.
    stations, users : int
    capacity : int
        Storage of all stations *together*, percent of the kept experts' bytes; equal shares.
    notes : str
    layers : int, optional
        The first so many layers are kept; all where left out.
    every : int
        Prompts 0, every, 2 * every, ... of the trace are asked.
    """

    model: str
    place: str
    stations: int
    users: int
    capacity: int
    notes: str
    layers: int | None = None
    every: int = 1

    @property
    def name(self) -> str:
        """Name of the instance."""
        cut = "" if self.layers is None else f"_cut_l{self.layers:02}"
        return f"{self.model}_{self.place.lower()}{cut}_s{self.stations}_u{self.users}_c{self.capacity:03}"


# Sets of four experts make tight storage very hard to prove; with most of a layer on every station it takes seconds.
CUT: Final = Recipe(
    model=GPT,
    place="melbourne",
    layers=4,
    stations=3,
    users=12,
    every=4,
    capacity=264,
    notes="Small cut: the first four layers, every fourth prompt; exact methods prove it in seconds.",
)
FULL: Final = Recipe(
    model=GPT,
    place="melbourne",
    stations=8,
    users=48,
    capacity=60,
    notes="All 24 layers and all 44,968 tokens of the trace.",
)
DEEPSEEK_FULL: Final = Recipe(
    model=DEEPSEEK,
    place="melbourne",
    stations=8,
    users=48,
    capacity=60,
    notes="All 26 MoE layers and all 33,279 tokens of the trace.",
)
RECIPES: Final = (
    CUT,
    FULL,
    DEEPSEEK_FULL,
    Recipe(GPT, "KentmanJul2005", 16, 64, 120, "A county's school network, slow links; the whole trace."),
    Recipe(GPT, "Arnes", 10, 40, 50, "A country's research network; the whole trace."),
    Recipe(GPT, "Surfnet", 12, 48, 150, "A country's research network, link rates not known; the whole trace."),
    Recipe(DEEPSEEK, "KentmanJul2005", 16, 64, 80, "A county's school network, slow links; eight layers.", layers=8),
    Recipe(DEEPSEEK, "Arnes", 10, 40, 100, "A country's research network; eight layers.", layers=8),
    Recipe(
        DEEPSEEK, "Surfnet", 12, 48, 150, "A country's research network, link rates not known; eight layers.", layers=8
    ),
)


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
        What the prompt is about: its index in :data:`PROFILES`, or in :data:`TASKS`.
    """

    experts: npt.NDArray[np.uint8]
    start: Int64
    profile: list[int]


def make(recipe: Recipe, realdata: Path) -> Instance:
    """Return the instance of a recipe."""
    architecture = find_architecture(recipe.model)
    trace, source = (read_gpt if recipe.model == GPT else read_deepseek)(realdata)
    topology = place(recipe, realdata)
    prompts_of = deal_prompts(list(range(0, len(trace.profile), recipe.every)), trace.profile, topology.home.tolist())
    model = catalogue_model(architecture, architecture.published, recipe.layers)
    counts = SetCounts(model.layers, model.experts, model.top_k)
    for u, prompts in enumerate(prompts_of):
        for p in prompts:
            counts.add(u, trace.experts[trace.start[p] : trace.start[p + 1], : model.layers])
    links = topology.links
    return assemble(
        recipe.name,
        [Part(model, architecture.message_bits(), counts, range(recipe.users))],
        topology,
        storage([model], recipe.capacity, [1] * recipe.stations),
        source={
            **source,
            **(MELBOURNE if recipe.place == "melbourne" else ZOO | {"network": recipe.place}),
            "expert_size": EXPERT_SIZE[architecture.published],
            "carrier_mhz": round(1000 * links.carrier_ghz),
            "bandwidth_hz": round(1e6 * links.bandwidth_mhz),
            "device_power_dbm": round(links.device_power_dbm),
            "station_power_dbm": round(links.station_power_dbm),
            "access_us_per_direction": round(links.access_us),
            "backhaul_bit_per_s": round(1e6 * links.link_mbit_per_s),
            "backhaul_hop_us_per_direction": round(links.hop_us),
            "wan_round_trip_us": round(links.wan_round_trip_us),
            "time_grid_us": links.grid_us,
        },
        notes=recipe.notes,
    )


def place(recipe: Recipe, realdata: Path) -> Topology:
    """Return the stations and users of a recipe; stations of Melbourne have numbers, not the operator's long names."""
    if recipe.place == "melbourne":
        topology = from_positions(
            realdata / STATIONS, realdata / USERS, n_stations=recipe.stations, n_users=recipe.users, links=Links()
        )
        return replace(topology, stations=tuple(f"station-{n}" for n in range(recipe.stations)))
    rng = np.random.Generator(np.random.PCG64(0))
    path = realdata / NETWORKS / f"{recipe.place}.graphml"
    return from_network(path, n_stations=recipe.stations, n_users=recipe.users, rng=rng)


EXPERT_SIZE: Final = {"mxfp4": "MXFP4 weights (4.25 bit), bf16 biases", "bf16": "bf16"}

MELBOURNE: Final[dict[str, str | int]] = {
    "topology": "github PhuLai/eua-dataset, Melbourne CBD (Lai et al., ICSOC 2018)",
    "topology_commit": "61238e00a6f01019c8a6ba1619675337a879a3d4",
    "topology_licence": "MIT; station sites from the ACMA register",
}
ZOO: Final[dict[str, str | int]] = {
    "topology": "github mroughan/InternetTopologyZoo (Knight et al., IEEE JSAC 29(9), 2011)",
    "topology_commit": "a725bbc4763bf1d0eaea64089ba00c2fe9427fe3",
    "topology_licence": "CC BY 4.0",
}


def read_gpt(realdata: Path) -> tuple[Trace, dict[str, str | int]]:
    """Read the trace of gpt-oss-20b, each prompt's category put into its profile, and say where it is from."""
    profile_of = {c: i for i, categories in enumerate(PROFILES.values()) for c in categories.split(", ")}
    with np.load(realdata / "gpt-oss-20b_expertfingerprinting" / "topk_experts.npz") as data:
        start = np.concatenate(([0], np.cumsum(data["example_lengths"]))).astype(np.int64)
        trace = Trace(data["experts"], start, [profile_of[str(category)] for category in data["category"]])
    return trace, {
        "routing": "github AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting",
        "routing_commit": "72b368f60045221f21eeb65debb27d58de92e565",
        "routing_licence": "Apache-2.0",
    }


TASKS: Final = ("intent", "law", "summary", "translation")


def read_deepseek(realdata: Path) -> tuple[Trace, dict[str, str | int]]:
    """Read the trace of DeepSeek-V2-Lite, each sample's task as its profile, and say where it is from."""
    with np.load(realdata / "deepseek-v2-lite_esft" / "topk_experts.npz") as data:
        lengths = [data[f"{task}_sample_lengths"] for task in TASKS]
        experts = np.concatenate([data[f"{task}_experts"] for task in TASKS])
    start = np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int64)
    trace = Trace(experts, start, [task for task, own in enumerate(lengths) for _ in own])
    return trace, {
        "routing": "github deepseek-ai/ESFT, results/expert_scores",
        "routing_commit": "579a7711e4b332b4c57b47e378a0cf240d85caa6",
        "routing_licence": "MIT",
    }


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
