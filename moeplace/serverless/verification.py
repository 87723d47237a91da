"""Verifies a certificate by alphas, in Python's integers and from the document's own numbers.

It shares the instance and the certificate's document with what it verifies, and no arithmetic: bound (V6), (V7) of the
serverless page is computed here a second time, expert by expert and row by row.
"""

from __future__ import annotations

from moeplace.base.certificates import AnyCertificate
from moeplace.base.errors import InputError
from moeplace.serverless.certificate import ALPHA_BITS, Alphas, Lists
from moeplace.serverless.instance import Instance
from moeplace.serverless.layer_verification import prove_by_lists

ONE = 2**ALPHA_BITS


def verify(instance: Instance, certificate: AnyCertificate) -> list[str]:
    """Return what is wrong with a certificate, a line each; empty where it proves its bound.

    Parameters
    ----------
    instance : Instance
    certificate : Certificate
        Whose proof is not a solver's word.
    """
    proof: object = certificate.proof
    if isinstance(proof, Lists):
        return prove_by_lists(instance, certificate.bound_ns, proof)
    if not isinstance(proof, Alphas):
        return ["it is of another problem"]
    rows = _sorted_rows(instance)
    sets, wrong = [], []
    for i, own in enumerate(proof.alphas):
        place = f"alphas[{i}]"
        try:
            every = own.rows()
        except InputError as error:
            return [f"{place}.{error}"]
        for name, found, expected in (
            ("first", own.first, instance.model.layers),
            ("every", every, sum(map(len, rows))),
        ):
            if len(found) != expected:
                wrong.append(f"{place}.{name}: {len(found)} alphas, the instance has {expected} maxima")
            elif max(found, default=0) > ONE:
                wrong.append(f"{place}.{name}: an alpha of {max(found)}, at most {ONE} is 1")
        sets.append((own.first, every))
    if wrong:
        return wrong
    known = {}
    for i, spec in enumerate(proof.specs):
        if spec.main not in instance.main_specs or spec.main in known or spec.alphas >= len(sets):
            return [f"specs[{i}]: specification {spec.main} with the alphas {spec.alphas} is none, or there twice"]
        known[spec.main] = spec
    for main in instance.main_specs:
        budget = _budgets(instance, main)
        if min(budget) < 0:
            continue  # nothing fits
        if main not in known:
            wrong.append(f"specs: the main specification {main} is missing")
            continue
        given = known[main]
        bound = _bound(instance, main, given.prices, *sets[given.alphas], rows, budget)
        if bound < certificate.bound_ns:
            wrong.append(f"specification {main} costs at least {bound}, not {certificate.bound_ns}")
    return wrong


def _sorted_rows(instance: Instance) -> list[dict[tuple[int, ...], int]]:
    """Return each layer's different sets of experts in lexical order, with their tokens."""
    decode = instance.request.decode
    found: list[dict[tuple[int, ...], int]] = [{} for _ in range(instance.model.layers)]
    for layer, experts, count in zip(decode.layer, decode.experts, decode.count, strict=True):
        key = tuple(sorted(experts))
        found[layer][key] = found[layer].get(key, 0) + count
    return [dict(sorted(own.items())) for own in found]


def _budgets(instance: Instance, main: int) -> tuple[int, int, int]:
    platform, model, request = instance.platform, instance.model, instance.request
    taken = platform.main_mb * 10**6 + request.tokens_out * model.token_bytes
    return (
        instance.limits.ttft_ns - platform.cold_ns,
        instance.limits.tpot_ns * request.tokens_out,
        instance.specs[main].mb * 10**6 - taken,
    )


def _bound(
    instance: Instance,
    main: int,
    prices: list[int],
    first: list[int],
    every: list[int],
    rows: list[dict[tuple[int, ...], int]],
    budget: tuple[int, int, int],
) -> int:
    """Return the bound of one main specification, rounded up."""
    total, at = 0, 0
    for layer, own in enumerate(rows):
        alphas = every[at : at + len(own)]
        at += len(own)
        total += _layer(instance, main, prices, layer, first[layer], own, alphas)
    total -= ONE * sum(price * most for price, most in zip(prices, budget, strict=True))
    return -(-total // ONE)


def _layer(
    instance: Instance,
    main: int,
    prices: list[int],
    layer: int,
    alpha: int,
    rows: dict[tuple[int, ...], int],
    alphas: list[int],
) -> int:
    """Return the least that a layer costs at the prices, in units of ``1 / ONE`` price units."""
    platform, model, fast = instance.platform, instance.model, instance.specs[main]
    tokens = instance.request.prefill[layer]
    hourly = platform.gpu_price * platform.gpu_mb + platform.cpu_price * fast.mb
    w1, w2, byte = hourly + prices[0], hourly + prices[1], prices[2] * model.expert_bytes
    g = fast.decode_ns
    fixed1 = platform.other_prefill_ns[layer] + platform.switch_prefill_ns
    fixed2 = instance.request.tokens_out * (platform.other_decode_ns[layer] + platform.switch_decode_ns)
    here = [fast.prefill_ns + n * fast.prefill_ns_per_token if n else 0 for n in tokens]
    uses = [0] * model.experts
    picks = 0
    for experts, count in rows.items():
        picks += count * len(experts)
        for e in experts:
            uses[e] += count
    best = ONE * (w1 * (fixed1 + sum(here)) + w2 * (fixed2 + g * picks) + byte * model.experts)
    for index in instance.remote_specs:
        spec = instance.specs[index]
        price = platform.cpu_price * spec.mb
        h = spec.decode_ns + 2 * _link(instance, 1) + platform.invoke_ns
        constant, slopes = 0, [0] * model.experts
        for (experts, count), a in zip(rows.items(), alphas, strict=True):
            size = len(experts)
            slope = (ONE - a) * h - a * g
            constant += count * min(ONE * max((size - n) * g, n * h) - n * slope for n in range(size + 1))
            for e in experts:
                slopes[e] += count * slope
        there = [(spec.prefill_ns + n * spec.prefill_ns_per_token if n else 0) + 2 * _link(instance, n) for n in tokens]
        need = [model.expert_bytes + n * model.token_bytes for n in tokens]
        passing = [e for e, n in enumerate(tokens) if n * model.token_bytes <= platform.payload_bytes]
        usable = [e for e in passing if need[e] <= spec.mb * 10**6]
        in_memory = _held(sorted(need[e] for e in usable), spec.mb * 10**6)
        loads = sorted(tokens[e] for e in usable)
        for z in range(1, min(platform.most_replicas, model.experts) + 1):
            hold = min(in_memory, _held(loads, z * (platform.payload_bytes // model.token_bytes)))
            if hold < z:
                continue
            value = w1 * (ONE * fixed1 + alpha * sum(here) + (ONE - alpha) * platform.invoke_ns)
            value += w2 * (ONE * fixed2 + constant) + ONE * (price * z * platform.invoke_ns + byte * model.experts)
            adds = []
            for e in usable:
                own = w2 * slopes[e] - alpha * w1 * here[e] + ONE * price * (there[e] + uses[e] * h) - ONE * byte
                adds.append(own + w1 * (ONE - alpha) * there[e] // z)
            adds.sort()
            best = min(best, value + sum(a for i, a in enumerate(adds[:hold]) if i < z or a < 0))
    return best


def _held(rising: list[int], room: int) -> int:
    """Return how many of some amounts, the smallest first, a room holds together."""
    count = 0
    for amount in rising:
        if amount > room:
            break
        room, count = room - amount, count + 1
    return count


def _link(instance: Instance, tokens: int) -> int:
    return -(-tokens * instance.model.token_bytes * 1_000_000_000 // instance.platform.link_bytes_per_s)
