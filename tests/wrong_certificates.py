"""Wrong certificates made from right ones: what their document's types allow, and no more."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType, structs

from moeplace.caching.certificates import (
    ActiveCut,
    ActiveCuts,
    ActiveOdds,
    CachingCertificate,
    Layers,
    LayerWorth,
    MergeStep,
    Point,
)


def number(rng: np.random.Generator, value: int) -> int:
    """Another number in its place."""
    kind = int(rng.integers(8))
    shift = int(rng.integers(0, 63))
    return [value + 1, value - 1, 0, -value, value // 2, 2 * value + 1, value ^ (1 << shift), 1 << shift][kind]


def not_negative(rng: np.random.Generator, value: int) -> int:
    return abs(number(rng, value))


def scrambled(rng: np.random.Generator, text: str) -> str:
    """Base64 of which some bytes are others."""
    data = bytearray(base64.b64decode(text))
    for _ in range(4 if data else 0):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return base64.b64encode(bytes(data)).decode()


def raised(rng: np.random.Generator, certificate: CachingCertificate) -> CachingCertificate:
    bound = certificate.bound_ns
    return structs.replace(certificate, bound_ns=bound + int(rng.integers(1, 1 + max(10, bound // 8))))


def corrupted_layers(rng: np.random.Generator, certificate: CachingCertificate) -> CachingCertificate:
    """A certificate of kind ``layers`` of which something is not what it was."""
    proof: Any = certificate.proof
    assert isinstance(proof, Layers)
    joint = any(layer.active is not UNSET for layer in proof.layers)
    for _ in range(int(rng.integers(1, 4))):
        layers, merge = list(proof.layers), list(proof.merge or [])
        if not layers:
            break
        at = int(rng.integers(len(layers)))
        layer = layers[at]
        kind = int(rng.integers(19 if joint else 14))
        # Odds are a layer's own, or those of one of its numbers of active experts.
        which = int(rng.integers(len(layer.active))) if joint and layer.active else None
        said: LayerWorth | ActiveOdds = layer if which is None else layer.active[which]

        def with_said(layer: LayerWorth = layer, which: int | None = which, **change: Any) -> LayerWorth:
            if which is None:
                return structs.replace(layer, **change)
            active = list(layer.active or [])
            active[which] = structs.replace(active[which], **change)
            return structs.replace(layer, active=active)

        if kind == 0:
            certificate = raised(rng, certificate)
        elif kind == 1 and proof.prices:
            prices = list(proof.prices)
            n = int(rng.integers(len(prices)))
            prices[n] = not_negative(rng, prices[n])
            proof = structs.replace(proof, prices=prices)
        elif kind == 2:
            proof = structs.replace(
                proof, prices=[proof.prices[::-1], proof.prices[1:], [0] * len(proof.prices)][at % 3]
            )
        elif kind == 3:
            layers[at] = structs.replace(layer, most=number(rng, layer.most))
            proof = structs.replace(proof, layers=layers)
        elif kind == 4:
            layers[at] = with_said(odds=scrambled(rng, said.odds))
            proof = structs.replace(proof, layers=layers)
        elif kind == 5:
            layers[at] = with_said(odds=[said.odds[:-4], said.odds[1:], "", "?" + said.odds][at % 4])
            proof = structs.replace(proof, layers=layers)
        elif kind == 6:
            proof = structs.replace(proof, layers=[layers[:at], layers[::-1], [*layers, layer]][int(rng.integers(3))])
        elif kind == 7:
            name = str(rng.choice(["unit", "scale", "size_unit"]))
            proof = structs.replace(proof, **{name: max(1, not_negative(rng, getattr(proof, name)))})
        elif kind == 8:
            some: list[int] | UnsetType = [int(n) for n in rng.integers(0, 1 << 40, len(proof.prices) - joint)]
            layers[at] = with_said(slot_prices=some)
            proof = structs.replace(proof, layers=layers)
        elif kind == 9:
            proof = structs.replace(proof, merge=UNSET if merge else [MergeStep(at, [proof.prices])])
        elif kind == 10 and merge:
            i = int(rng.integers(len(merge)))
            merge[i] = MergeStep(int(rng.integers(len(layers) + 1)), merge[i].prices)
            proof = structs.replace(proof, merge=merge)
        elif kind == 11 and merge:
            proof = structs.replace(proof, merge=[merge[1:], merge[::-1], merge + merge[:1]][int(rng.integers(3))])
        elif kind == 12 and merge:
            i = int(rng.integers(len(merge)))
            table = [[not_negative(rng, p) for p in line] for line in merge[i].prices]
            merge[i] = MergeStep(merge[i].layer, table)
            proof = structs.replace(proof, merge=merge)
        elif kind == 13:
            layers[at] = structs.replace(layer, most=layer.most - int(rng.integers(1, 1 + max(1, abs(layer.most)))))
            proof = structs.replace(proof, layers=layers)
        elif kind == 14 and which is not None:
            layers[at] = with_said(experts=max(1, not_negative(rng, int(getattr(said, "experts", 1)))))
            proof = structs.replace(proof, layers=layers)
        elif kind == 15 and which is not None:
            own = list(layer.active or [])
            cut = [own[:which], own[::-1], own + own[:1]][int(rng.integers(3))]
            layers[at] = structs.replace(layer, active=cut)
            proof = structs.replace(proof, layers=layers)
        elif kind == 16 and which is not None:
            layers[at] = LayerWorth(layer.most, said.odds, said.slot_prices)
            proof = structs.replace(proof, layers=layers)
        elif kind == 17:  # without a price of loss: of the fewest experts alone
            plain = [LayerWorth(own.most, own.active[0].odds) if own.active else own for own in layers]
            steps = [MergeStep(step.layer, [line[:-1] for line in step.prices]) for step in merge]
            proof = structs.replace(proof, prices=proof.prices[:-1], layers=plain, merge=steps or UNSET)
        elif kind == 18:
            proof = structs.replace(proof, prices=[*proof.prices[:-1], not_negative(rng, proof.prices[-1])])
        certificate = structs.replace(certificate, proof=proof)
        joint = any(layer.active is not UNSET for layer in proof.layers)
    return certificate


def corrupted_cuts(rng: np.random.Generator, certificate: CachingCertificate) -> CachingCertificate:
    """A certificate of kind ``cuts`` of which something is not what it was."""
    proof: Any = certificate.proof
    assert isinstance(proof, ActiveCuts)
    for _ in range(int(rng.integers(1, 4))):
        cuts = list(proof.cuts)
        if not cuts:
            break
        at = int(rng.integers(len(cuts)))
        cut = cuts[at]
        points, i = list(cut.points), int(rng.integers(max(1, len(cut.points))))
        kind = int(rng.integers(14))
        if kind == 0:
            certificate = raised(rng, certificate)
        elif kind == 1:
            prices = list(proof.prices)
            n = int(rng.integers(len(prices)))
            prices[n] = not_negative(rng, prices[n])
            proof = structs.replace(proof, prices=prices)
        elif kind == 2:
            proof = structs.replace(proof, loss_price=not_negative(rng, proof.loss_price))
        elif kind == 3:
            # Another unit makes weights that no longer add up; of the same sum they may be anything.
            name = str(rng.choice(["price_unit", "weight_unit", "unit"]))
            most = 1 << 62 if name == "price_unit" else 65535
            value = min(most, max(1, not_negative(rng, getattr(proof, name))))
            proof = structs.replace(proof, **{name: value})
        elif kind == 4:
            proof = structs.replace(proof, cuts=[cuts[:at] + cuts[at + 1 :], cuts[::-1], cuts + cuts[:1]][i % 3])
        elif kind == 5:
            cuts[at] = ActiveCut(max(1, not_negative(rng, cut.experts)), points, cut.coverage)
        elif kind == 6 and len(cuts) > 1:  # a cut of another number in its place
            cuts[at] = ActiveCut(cut.experts, cuts[at - 1].points, cuts[at - 1].coverage)
        elif kind == 7 and points:
            points[i] = Point(points[i].smoothing, points[i].weights, scrambled(rng, points[i].placement))
        elif kind == 8 and points:
            points[i] = Point(int(rng.integers(65536)), points[i].weights, points[i].placement)
        elif kind == 9 and points:
            weights = list(points[i].weights)
            weights[int(rng.integers(len(weights)))] = int(rng.integers(2 * proof.weight_unit))
            points[i] = Point(points[i].smoothing, weights, points[i].placement)
        elif kind == 10 and points:
            points = [points[:i] + points[i + 1 :], points + points[:1], points[::-1]][int(rng.integers(3))]
        elif kind == 11 and len(points) > 1:  # weights that still add up
            points[i], points[i - 1] = (
                Point(points[i].smoothing, points[i - 1].weights, points[i].placement),
                Point(points[i - 1].smoothing, points[i].weights, points[i - 1].placement),
            )
        elif kind == 12 and cut.coverage:
            coverage = list(cut.coverage)
            some = coverage[int(rng.integers(len(coverage)))]
            more = [not_negative(rng, price) if rng.random() < 0.3 else price for price in some.prices]
            coverage.append(structs.replace(some, prices=more))
            cuts[at] = structs.replace(cut, coverage=coverage)
        elif kind == 13:
            proof = structs.replace(
                proof, prices=[proof.prices[::-1], proof.prices[1:], [0] * len(proof.prices)][i % 3]
            )
        if kind in (7, 8, 9, 10, 11):
            cuts[at] = structs.replace(cut, points=points)
        if kind in (5, 6, 7, 8, 9, 10, 11, 12):
            proof = structs.replace(proof, cuts=cuts)
        certificate = structs.replace(certificate, proof=proof)
    return certificate
