"""The checker: recomputes a deployment from the document's own numbers, and names each limit that it breaks.

It shares the instance with what it checks, and nothing else: every formula stands here a second time, in the words of
the document instead of the methods'.
"""

from __future__ import annotations

from collections import Counter

from moeplace.serverless.document import Choices, Deployment, LayerChoice
from moeplace.serverless.instance import Instance


def recompute(instance: Instance, decision: Deployment) -> tuple[list[str], int | None]:
    """Return what is wrong with a deployment, a line each, and its cost (None where it has none).

    Parameters
    ----------
    instance : Instance
    decision : Deployment

    Returns
    -------
    list of str
        Beginning with the place or with the limit's name, then by how much it is exceeded.
    int or None
        Price units.
    """
    said = decision.deployment
    wrong = _misfits(instance, said)
    if wrong:
        return wrong, None
    first, every, remote_ns = 0, 0, dict.fromkeys(range(instance.model.layers), 0)
    for layer in range(instance.model.layers):
        first += _first(instance, said, layer, remote_ns)
        every += _every(instance, said, layer, remote_ns)
    platform, unit = instance.platform, instance.platform.cpu_price
    value = (first + every) * platform.gpu_price * platform.gpu_mb
    value += (first + every) * unit * instance.specs[said.main_spec].mb
    for layer, own in enumerate(said.layers):
        if own.spec is not None:
            value += unit * instance.specs[own.spec].mb * remote_ns[layer]
    limits, out = instance.limits, instance.request.tokens_out
    _over("limits.ttft_ns", platform.cold_ns + first, limits.ttft_ns, "ns to the first token", wrong)
    _over("limits.tpot_ns", every, limits.tpot_ns * out, f"ns for {out} output tokens", wrong)
    _memory(instance, said, wrong)
    return wrong, value


def recompute_numbers(instance: Instance, decision: Deployment) -> dict[str, int]:
    """Return both times of a deployment that is one, ns; the second rounded up."""
    said, layers = decision.deployment, range(instance.model.layers)
    unused = dict.fromkeys(layers, 0)
    first = sum(_first(instance, said, layer, unused) for layer in layers)
    every = sum(_every(instance, said, layer, unused) for layer in layers)
    whole, rest = divmod(every, instance.request.tokens_out)
    return {"ttft_ns": instance.platform.cold_ns + first, "tpot_ns": whole + (rest > 0)}


def recompute_reference(instance: Instance) -> int | None:
    """Return the cost of the cheapest deployment without remote experts, or None where none is within the limits."""
    costs = []
    for main in instance.main_specs:
        local = Deployment(Choices(main, [LayerChoice(None, [])] * instance.model.layers))
        wrong, value = recompute(instance, local)
        if not wrong and value is not None:
            costs.append(value)
    return min(costs, default=None)


def _misfits(instance: Instance, said: Choices) -> list[str]:
    wrong = []
    if said.main_spec not in instance.main_specs:
        wrong.append(f"deployment.main_spec: {said.main_spec} is none of main_specs")
    if len(said.layers) != instance.model.layers:
        wrong.append(f"deployment.layers: {len(said.layers)} of them, the model has {instance.model.layers}")
    for i, own in enumerate(said.layers):
        place = f"deployment.layers[{i}]"
        if own.spec is None:
            if own.replicas:
                wrong.append(f"{place}.spec: null, though there are remote experts")
        elif not own.replicas:
            wrong.append(f"{place}.replicas: none, though there is a specification")
        elif own.spec not in instance.remote_specs:
            wrong.append(f"{place}.spec: {own.spec} is none of remote_specs")
        times = Counter(expert for replica in own.replicas for expert in replica)
        for expert, n in sorted(times.items()):
            if not 0 <= expert < instance.model.experts:
                wrong.append(f"{place}.replicas: no expert {expert}, the model has {instance.model.experts}")
            elif n > 1:
                wrong.append(f"{place}.replicas: the expert {expert} stands there {n} times")
        wrong += [f"{place}.replicas[{j}]: it is empty" for j, replica in enumerate(own.replicas) if not replica]
    return wrong


def _transfer(instance: Instance, tokens: int) -> int:
    """Return the time of some tokens there and back."""
    whole, rest = divmod(tokens * instance.model.token_bytes * 1_000_000_000, instance.platform.link_bytes_per_s)
    return 2 * (whole + (rest > 0))


def _first(instance: Instance, said: Choices, layer: int, remote_ns: dict[int, int]) -> int:
    """Return a layer's part of the time to the first token; add what its replicas run to ``remote_ns``."""
    platform, tokens, own = instance.platform, instance.request.prefill[layer], said.layers[layer]

    def run(spec: int, n: int) -> int:
        fast = instance.specs[spec]
        return 0 if n == 0 else fast.prefill_ns + fast.prefill_ns_per_token * n

    away = set().union(*own.replicas)
    ends = [sum(run(said.main_spec, n) for e, n in enumerate(tokens) if e not in away)]
    for replica in own.replicas:
        assert own.spec is not None
        runs = platform.invoke_ns
        for e in replica:
            runs += run(own.spec, tokens[e]) + _transfer(instance, tokens[e])
        remote_ns[layer] += runs
        ends.append(runs)
    return platform.other_prefill_ns[layer] + platform.switch_prefill_ns + max(ends)


def _every(instance: Instance, said: Choices, layer: int, remote_ns: dict[int, int]) -> int:
    """Return a layer's time over all output tokens; add what its remote experts run to ``remote_ns``."""
    platform, own, decode = instance.platform, said.layers[layer], instance.request.decode
    away = set().union(*own.replicas)
    here_ns = instance.specs[said.main_spec].decode_ns
    there_ns = 0
    if own.spec is not None:
        there_ns = instance.specs[own.spec].decode_ns + platform.invoke_ns + _transfer(instance, 1)
    total = 0
    for at, experts, count in zip(decode.layer, decode.experts, decode.count, strict=True):
        if at != layer:
            continue
        there = sum(e in away for e in experts)
        slower = max((len(experts) - there) * here_ns, there * there_ns)
        total += count * (platform.other_decode_ns[layer] + platform.switch_decode_ns + slower)
        remote_ns[layer] += count * there * there_ns
    return total


def _memory(instance: Instance, said: Choices, wrong: list[str]) -> None:
    model, platform, request = instance.model, instance.platform, instance.request
    held = sum(model.experts - sum(map(len, own.replicas)) for own in said.layers)
    need = platform.main_mb * 10**6 + held * model.expert_bytes + request.tokens_out * model.token_bytes
    room = instance.specs[said.main_spec].mb * 10**6
    _over(f"specs[{said.main_spec}].mb", need, room, "bytes of the main function", wrong)
    for i, own in enumerate(said.layers):
        if own.spec is None:
            continue
        count, tokens = 0, 0
        for j, replica in enumerate(own.replicas):
            passed = sum(request.prefill[i][e] for e in replica)
            what = f"bytes that replica {j} of layer {i} is passed"
            _over("platform.payload_bytes", passed * model.token_bytes, platform.payload_bytes, what, wrong)
            count, tokens = count + len(replica), tokens + passed
        need = count * model.expert_bytes + tokens * model.token_bytes
        room = instance.specs[own.spec].mb * 10**6
        _over(f"specs[{own.spec}].mb", need, room, f"bytes of the remote function of layer {i}", wrong)
        _over("platform.most_replicas", len(own.replicas), platform.most_replicas, f"replicas of layer {i}", wrong)


def _over(limit: str, found: int, most: int, what: str, wrong: list[str]) -> None:
    if found > most:
        wrong.append(f"{limit}: {found:,} {what}, {found - most:,} above {most:,}")
