"""A published model by its ``config.json``, as repositories in the form of Hugging Face have it.

One fact has many names there. What is read: which layers have experts, how many experts and how many of them a token
uses, their widths, whether they are gated and biased, and how their weights are kept. What contradicts itself is
refused; what is taken for granted, and what looks like it concerns experts but is not read, is said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from moeplace.base.documents import show
from moeplace.base.errors import InputError, naming
from moeplace.base.files import read_json
from moeplace.scenarios.catalogue import PRECISIONS, Architecture, Precision

PARTS: Final = ("text_config", "language_config", "llm_config", "thinker_config.text_config", "thinker_config")
"""Where a model that also sees or hears keeps its language model."""

LAYERS: Final = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
EXPERTS: Final = (
    "n_routed_experts", "num_routed_experts", "num_local_experts", "num_experts", "moe_num_experts",
)  # fmt: skip
TOP_K: Final = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts", "moe_topk", "moe_top_k",
    "moe_k", "num_selected_experts",
)  # fmt: skip
HIDDEN: Final = ("hidden_size", "d_model", "n_embd")
EXPERT_WIDTH: Final = (
    "moe_intermediate_size",
    "expert_intermediate_size",
    "expert_ffn_hidden_size",
    "moe_ffn_hidden_size",
)
WIDTH: Final = ("intermediate_size", "ffn_hidden_size", "d_ff")
"""Of an expert, where no key speaks of experts: of every feed-forward layer then."""
SHARED: Final = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
ENABLED: Final = ("enable_moe_block", "use_moe")
ACTIVATION: Final = ("mlp_hidden_act", "hidden_act", "hidden_activation")

MOST_LAYERS: Final = 10_000
MOST_EXPERTS: Final = 32_767
MOST_WIDTH: Final = 10**7

UNGATED: Final = ("relu", "relu2", "relu_squared", "squared_relu")
"""Activations between two matrices; all others are of a gate, beside a third one."""

UNGATED_TYPES: Final = ("nemotron_h",)
BIASED_TYPES: Final = ("gpt_oss",)

MUST_SAY: Final = {
    "jamba": "expert_layer_period",
    "nemotron_h": "hybrid_override_pattern",
    "deepseek_v3": "first_k_dense_replace",
    "kimi_k2": "first_k_dense_replace",
    "glm4_moe": "first_k_dense_replace",
}
"""Models of which not all layers have experts: their file must say which, by this key or another one."""

NOT_HERE: Final = {
    "num_decoder_layers": "a model with an encoder and a decoder, which number their layers apart",
    "is_encoder_decoder": "a model with an encoder and a decoder, which number their layers apart",
    "moe_latent_size": "experts that work on a width of their own",
    "block_configs": "layers with different experts",
}
"""Keys of models that an instance cannot be made of by this file alone."""

HARMLESS: Final = re.compile(
    r"shared?_expert|router|routing|aux|loss|jitter|drop|bias|norm|gat(e|ing)|scal|capacity|parallel|ep_size|dispatch|kernel|"
    r"grouped|renorm|correction|balanc|temperature|init|dtype|precision|dense_intermediate|intermediate_size_mlp|recomput|"
    r"num_experts_per_group|n_group|cache|offload|attention|attn|logit|act\b"
)
"""What concerns experts and changes neither their number, their layers nor their size."""


@dataclass(frozen=True)
class Published:
    """A model as its ``config.json`` describes it.

    Attributes
    ----------
    architecture : Architecture
        Its shape. Its name is that of the file or, where that says nothing, of the model's type.
    layer_index : list of int
        The model's own number of each layer with experts.
    precision : str
        How weights are kept, for people.
    expert_bytes : list of int
        Size of an expert, by layer with experts.
    notes : list of str
        What was taken for granted, and what was not read.
    """

    architecture: Architecture
    layer_index: list[int]
    precision: str
    expert_bytes: list[int]
    notes: list[str]


def read_model_config(path: str | os.PathLike[str], expert_bytes: int | None = None) -> Published:
    """Read a ``config.json``.

    Parameters
    ----------
    path : path-like
    expert_bytes : int, optional
        Size of an expert, where the file's own precision is not to be asked.

    Returns
    -------
    Published

    Raises
    ------
    InputError
        With the file and the key: no such file, a model without experts, a key that is missing, out of range or
        contradicts another one, a way of keeping weights that is not known.
    """
    document = read_json(path)
    with naming(path):
        if not isinstance(document, dict):
            raise InputError(f"expected an object, found {show(document)}")
        return _read(document, Path(path), expert_bytes)


class _Keys:
    """The keys of one part of a configuration, with a record of those that were looked at."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self.values, self.prefix, self.read = values, f"{place}." if place else "", set[str]()

    def get(self, key: str) -> Any:
        self.read.add(key)
        return self.values.get(key)

    def place(self, key: str) -> str:
        return f"{self.prefix}{key}"

    def first(self, names: Sequence[str]) -> tuple[str, Any]:
        """Return the first of these keys that has a value; others with another value contradict it."""
        found = [(name, value) for name in names if (value := self.get(name)) is not None]
        for name, value in found[1:]:
            if value != found[0][1]:
                raise InputError(f"{show(value)}, but {found[0][0]} is {show(found[0][1])}", place=self.place(name))
        return found[0] if found else ("", None)

    def integer(self, key: str, value: Any, least: int, most: int) -> int:
        if type(value) is list and value and value.count(value[0]) == len(value):
            value = value[0]  # by layer, and all the same
        if type(value) is not int or not least <= value <= most:
            raise InputError(f"expected an integer from {least} to {most}, found {show(value)}", place=self.place(key))
        return value

    def needed(self, names: Sequence[str], most: int, what: str) -> int:
        key, value = self.first(names)
        if not key:
            raise InputError(f"does not say {what}: expected {' or '.join(names)}", place=self.prefix.rstrip("."))
        return self.integer(key, value, 1, most)


def _read(document: dict[str, Any], path: Path, expert_bytes: int | None) -> Published:
    keys = _language_model(document)
    for key, what in NOT_HERE.items():
        if keys.get(key):
            raise InputError(f"{what}: give a shape by --layers, --experts, ...", place=keys.place(key))
    layers = keys.needed(LAYERS, MOST_LAYERS, "how many layers there are")
    experts = keys.needed(EXPERTS, MOST_EXPERTS, "how many experts there are")
    top_k = keys.needed(TOP_K, experts, "how many experts a token uses")
    layer_index = _layers_with_experts(keys, layers)
    hidden = keys.needed(HIDDEN, MOST_WIDTH, "how wide the hidden state is")
    own = keys.first(EXPERT_WIDTH)[0]
    width = keys.needed(EXPERT_WIDTH if own else WIDTH, MOST_WIDTH, "how wide an expert is")
    for name in WIDTH:
        keys.get(name)
    kind = str(keys.get("model_type") or document.get("model_type") or "")
    activation = keys.first(ACTIVATION)[1]
    shared = keys.first(SHARED)[1]
    architecture = Architecture(
        name=_name(document, path, kind),
        title=kind or path.name,
        moe_layers=len(layer_index),
        layers=layers,
        experts=experts,
        shared_experts=shared if type(shared) is int else None,
        top_k=top_k,
        hidden_size=hidden,
        expert_width=width,
        matrices=2 if activation in UNGATED or kind in UNGATED_TYPES else 3,
        biased=kind in BIASED_TYPES or keys.get("mlp_bias") is True,
        source=path.name,
    )
    notes: list[str] = []
    precision, sizes = "a size that was given", [expert_bytes or 0] * len(layer_index)
    if expert_bytes is None:
        kept = _precisions(document, keys, layer_index, notes)
        precision = " or ".join(dict.fromkeys(_told(architecture, own) for own in kept))
        sizes = [architecture.expert_bytes(own) for own in kept]
    return Published(architecture, layer_index, precision, sizes, notes + _left_over(keys))


def _told(architecture: Architecture, precision: Precision) -> str:
    """Say how weights are kept, with what the scales take."""
    scales = architecture.expert_bytes(precision) - architecture.expert_bytes(replace(precision, block=None))
    return f"{precision} ({scales:,} bytes of scales an expert)" if scales else str(precision)


def _language_model(document: dict[str, Any]) -> _Keys:
    """Return the part that describes the language model: the first one with experts."""
    parts = [("", document)]
    for place in PARTS:
        part: Any = document
        for key in place.split("."):
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict):
            parts.append((place, part))
    for place, part in parts:
        keys = _Keys(part, place)
        ffn = part.get("ffn_config")  # DBRX keeps them there
        if isinstance(ffn, dict) and any(ffn.get(name) for name in EXPERTS):
            keys.values = {**part, **ffn}
        if any(keys.values.get(name) not in (None, 0, 1, []) for name in EXPERTS):
            for name in ENABLED:
                if keys.get(name) is False:
                    raise InputError("false: a dense model, without experts to place", place=keys.place(name))
            return keys
    kind = document.get("model_type")
    said = f" ({kind})" if isinstance(kind, str) else ""
    raise InputError(f"a dense model{said}, without experts to place: none of {', '.join(EXPERTS)} is above 1")


def _name(document: Mapping[str, Any], path: Path, kind: str) -> str:
    """Return a name for the model: the file's, unless that is ``config``; else the one it says itself."""
    own = document.get("_name_or_path")
    stem = path.name.partition(".")[0]
    last = own.rstrip("/").rpartition("/")[2] if isinstance(own, str) else ""
    for name in (stem if stem != "config" else "", last, kind, "moe"):
        if cleaned := re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-._+"):
            return cleaned
    raise AssertionError("a constant is left")


# --- which layers have experts -----------------------------------------------------------------------------------


def _layers_with_experts(keys: _Keys, layers: int) -> list[int]:
    """Return the numbers of the layers with experts: those that every rule allows; a list must agree with the rules."""
    rules, said = _rules(keys, layers), _lists(keys, layers)
    if rules:
        said = {" and ".join(rules): set.intersection(*rules.values()), **said}
    kind = keys.get("model_type")
    if not said and isinstance(kind, str) and kind in MUST_SAY:
        raise InputError(f"is missing: not all layers of {kind} have experts", place=keys.place(MUST_SAY[kind]))
    (first, chosen), *others = said.items() or [("", set(range(layers)))]
    for key, listed in others:
        if listed != chosen:
            layer = min(listed ^ chosen)
            here, there = ("experts", "none") if layer in listed else ("no experts", "some")
            raise InputError(f"layer {layer} has {here}, by {first} it has {there}", place=keys.place(key))
    if not chosen:
        raise InputError(f"no layer has experts, by {first}", place=keys.prefix.rstrip("."))
    return sorted(chosen)


def _rules(keys: _Keys, layers: int) -> dict[str, set[int]]:
    """Return the layers that may have experts by each key that speaks of all layers at once."""
    rules: dict[str, set[int]] = {}

    def number(key: str, least: int = 0) -> int | None:
        value = keys.get(key)
        return None if value is None else keys.integer(key, value, least, MOST_LAYERS)

    def every(step: int, first: int) -> set[int]:
        return set(range(first % step, layers, step))

    for key in ("first_k_dense_replace", "num_dense_layers", "moe_layer_num_skipped", "moe_layer_start_index"):
        if (dense := number(key)) is not None:
            rules[key] = set(range(dense, layers))
    for key in ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_frequency", "moe_layer_interval"):
        if (step := number(key, 1)) is not None:
            rules[key] = every(step, step - 1)
    if not isinstance(keys.get("moe_layer_freq"), list) and (step := number("moe_layer_freq", 1)) is not None:
        rules["moe_layer_freq"] = every(step, 0)
    period, offset = number("expert_layer_period", 1), number("expert_layer_offset")
    if period is not None and offset is not None:
        rules["expert_layer_period"] = every(period, offset)
    elif period is not None or offset is not None:
        key = "expert_layer_offset" if offset is None else "expert_layer_period"
        raise InputError("is missing: period and offset belong together", place=keys.place(key))
    if keys.get("moe_layer_end_index") != -1 and (last := number("moe_layer_end_index")) is not None:
        rules["moe_layer_end_index"] = set(range(min(last + 1, layers)))
    if dense_layers := keys.get("mlp_only_layers"):
        rules["mlp_only_layers"] = set(range(layers)) - _numbers(keys, "mlp_only_layers", dense_layers, layers)
    return rules


def _lists(keys: _Keys, layers: int) -> dict[str, set[int]]:
    """Return the layers with experts by each key that lists them, or says of each layer what it is."""
    found: dict[str, set[int]] = {}
    words: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
        "mlp_layer_types": (("sparse", "moe"), ("dense", "mlp")),
        "is_moe_layer": ((True, 1), (False, 0)),
        "moe_layer_freq": ((1, True), (0, False)),
        "layers_block_type": (("moe",), ("mamba", "mamba2", "attention", "mlp", "hybrid", "linear_attention", "dense")),
    }
    for key, (sparse, dense) in words.items():
        value = keys.get(key)
        if isinstance(value, list) and (key != "layers_block_type" or "moe" in value):
            found[key] = _marked(keys, key, value, layers, sparse, dense)
    pattern = keys.get("hybrid_override_pattern")
    if pattern is not None:
        if not isinstance(pattern, str):
            raise InputError(f"expected text, found {show(pattern)}", place=keys.place("hybrid_override_pattern"))
        found["hybrid_override_pattern"] = _marked(
            keys, "hybrid_override_pattern", pattern, layers, ("E",), tuple("M*-")
        )
    for key in ("moe_layers", "moe_layers_enum"):
        value = keys.get(key)
        if isinstance(value, str):
            value = [int(part) if part.strip().isdecimal() else part for part in value.split(",")]
        if value is not None:
            found[key] = _numbers(keys, key, value, layers)
    return found


def _marked(
    keys: _Keys, key: str, value: Sequence[object], layers: int, sparse: tuple[object, ...], dense: tuple[object, ...]
) -> set[int]:
    if len(value) != layers:
        raise InputError(f"{len(value)} entries, there are {layers} layers", place=keys.place(key))
    for i, word in enumerate(value):
        if word not in sparse + dense:
            expected = " or ".join(show(word) for word in dict.fromkeys(sparse + dense))
            raise InputError(f"expected {expected}, found {show(word)}", place=f"{keys.place(key)}[{i}]")
    return {i for i, word in enumerate(value) if word in sparse}


def _numbers(keys: _Keys, key: str, value: object, layers: int) -> set[int]:
    if not isinstance(value, list):
        raise InputError(f"expected a list of layers, found {show(value)}", place=keys.place(key))
    for i, layer in enumerate(value):
        if type(layer) is not int or not 0 <= layer < layers:
            place = f"{keys.place(key)}[{i}]"
            raise InputError(f"expected a layer from 0 to {layers - 1}, found {show(layer)}", place=place)
    return set(value)


def _left_over(keys: _Keys) -> list[str]:
    """Return a note of keys that look like they concern experts and were not read."""
    speaks = re.compile(r"moe|expert|sparse_|dense_|mlp_layer")
    left = [
        key
        for key, value in keys.values.items()
        if key not in keys.read and speaks.search(key) and not HARMLESS.search(key) and value not in (None, False, [])
    ]
    notes = []
    if left:
        notes.append(f"not read, make sure that nothing hangs on it: {', '.join(map(keys.place, left))}")
    if extra := keys.values.get("num_nextn_predict_layers"):
        notes.append(f"layers that predict several tokens are not counted (num_nextn_predict_layers {show(extra)})")
    return notes


# --- how weights are kept ----------------------------------------------------------------------------------------

SIXTEEN: Final = ("bfloat16", "float16", "half", "bf16", "fp16")


def _precisions(
    document: Mapping[str, Any], keys: _Keys, layer_index: Sequence[int], notes: list[str]
) -> list[Precision]:
    """Return how the experts of each layer are kept."""
    values, place = keys.get("quantization_config"), keys.place("quantization_config")
    if values is None:
        values, place = document.get("quantization_config"), "quantization_config"
    if values is None:
        return [_plain(document, keys, notes)] * len(layer_index)
    if not isinstance(values, dict):
        raise InputError(f"expected an object, found {show(values)}", place=place)
    quantized = _quantized(_Keys(values, place))
    spared = _spared(values)
    missed = [layer for layer in layer_index if spared(layer)]
    if not missed:
        return [quantized] * len(layer_index)
    plain = _plain(document, keys, notes)
    return [plain if layer in set(missed) else quantized for layer in layer_index]


def _plain(document: Mapping[str, Any], keys: _Keys, notes: list[str]) -> Precision:
    kind = keys.first(("dtype", "torch_dtype"))[1] or document.get("dtype") or document.get("torch_dtype")
    if kind is None:
        notes.append("no dtype: taken as bf16")
    elif kind in ("float32", "float", "fp32"):
        return Precision("fp32", 32)
    elif kind not in SIXTEEN:
        raise InputError(
            f"expected bfloat16, float16 or float32, found {show(kind)}; --expert-bytes gives the size itself",
            place=keys.place("torch_dtype"),
        )
    return PRECISIONS["bf16"]


def _quantized(keys: _Keys) -> Precision:
    method = keys.get("quant_method")
    known: dict[object, Callable[[_Keys], Precision]] = {
        "fp8": _fp8,
        "mxfp4": lambda keys: PRECISIONS["mxfp4"],
        "compressed-tensors": _compressed_tensors,
        "gptq": _int_groups,
        "awq": _int_groups,
        "fbgemm_fp8": lambda keys: Precision("fp8", 8, (1, 0), 32),
        "modelopt": _modelopt,
    }
    if not isinstance(method, str) or method not in known:
        names = ", ".join(map(str, known))
        raise InputError(
            f"{show(method)} is not known ({names} are); --expert-bytes gives the size itself",
            place=keys.place("quant_method"),
        )
    return known[method](keys)


def _fp8(keys: _Keys) -> Precision:
    """Blocks of two sizes, or the whole matrix, share a float32 scale."""
    block = keys.get("weight_block_size")
    if block is None:
        return Precision("fp8", 8, (0, 0), 32)
    if not isinstance(block, list) or len(block) != 2:
        raise InputError(f"expected two sizes, found {show(block)}", place=keys.place("weight_block_size"))
    rows, columns = (keys.integer("weight_block_size", size, 1, MOST_WIDTH) for size in block)
    return Precision("fp8", 8, (rows, columns), 32)


def _int_groups(keys: _Keys) -> Precision:
    """GPTQ and AWQ: so many inputs of an output share a 16-bit scale and a zero point as wide as a weight."""
    key = "bits" if keys.get("bits") is not None else "w_bit"
    bits = keys.integer(key, keys.get(key), 1, 16)
    key = "group_size" if keys.get("group_size") is not None else "q_group_size"
    size = keys.get(key)
    group = 0 if size == -1 else keys.integer(key, size, 1, MOST_WIDTH)
    return Precision(f"int{bits}", bits, (1, group), 16 + bits)


def _modelopt(keys: _Keys) -> Precision:
    algorithm = keys.get("quant_algo")
    known = {"NVFP4": Precision("nvfp4", 4, (1, 16), 8), "FP8": Precision("fp8", 8, (0, 0), 32)}
    if not isinstance(algorithm, str) or algorithm not in known:
        raise InputError(
            f"expected {' or '.join(known)}, found {show(algorithm)}; --expert-bytes gives the size itself",
            place=keys.place("quant_algo"),
        )
    return known[algorithm]


def _compressed_tensors(keys: _Keys) -> Precision:
    groups = keys.get("config_groups")
    place = keys.place("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise InputError(f"expected an object of groups, found {show(groups)}", place=place)
    weights = {
        name: _Keys(own, f"{place}.{name}.weights")
        for name, group in groups.items()
        if isinstance(group, dict) and isinstance(own := group.get("weights"), dict)
    }
    found = {name: _tensor_group(own) for name, own in weights.items()}
    if not found:
        raise InputError("no group says how weights are kept", place=place)
    if len(set(map(str, found.values()))) > 1:
        raise InputError("groups that keep weights differently; --expert-bytes gives the size itself", place=place)
    return next(iter(found.values()))


def _tensor_group(keys: _Keys) -> Precision:
    bits = keys.integer("num_bits", keys.get("num_bits"), 1, 16)
    kind, strategy = keys.get("type") or "int", keys.get("strategy")
    size = keys.get("group_size")
    if strategy in ("group", "tensor_group") or (strategy is None and size is not None):
        block = (1, keys.integer("group_size", size, 1, MOST_WIDTH))
    elif strategy == "block":
        both = keys.get("block_structure")
        if not isinstance(both, list) or len(both) != 2:
            raise InputError(f"expected two sizes, found {show(both)}", place=keys.place("block_structure"))
        rows, columns = (keys.integer("block_structure", part, 1, MOST_WIDTH) for part in both)
        block = (rows, columns)
    elif strategy in ("channel", "tensor"):
        block = (1, 0) if strategy == "channel" else (0, 0)
    else:
        raise InputError(
            f"expected group, channel, tensor or block, found {show(strategy)}", place=keys.place("strategy")
        )
    scale = 8 if kind == "float" and bits == 4 else 16  # NVFP4 and MXFP4 have scales of 8 bits
    zero = bits if keys.get("symmetric") is False else 0
    return Precision(f"{'fp' if kind == 'float' else 'int'}{bits}", bits, block, scale + zero)


def _spared(values: Mapping[str, Any]) -> Callable[[int], bool]:
    """Return whether a layer's experts are among what the quantiser left as it was."""
    patterns: list[Callable[[str], bool]] = []
    for key in ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules"):
        for text in _texts(values.get(key)):
            patterns.append(_pattern(text))
    heads = ("model.layers", "model.language_model.layers", "language_model.model.layers", "backbone.layers")
    blocks = ("mlp", "block_sparse_moe", "feed_forward", "mixer", "moe")

    def spared(layer: int) -> bool:
        names = (
            f"{head}.{layer}.{block}.experts.0.{matrix}"
            for head in heads
            for block in blocks
            for matrix in ("up_proj", "gate_proj", "w1")
        )
        return bool(patterns) and any(hits(name) for name in names for hits in patterns)

    return spared


def _texts(value: object) -> Iterable[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _pattern(text: str) -> Callable[[str], bool]:
    """Return what says whether a pattern of a quantiser means a module of this name, or one that it is part of."""
    if text.startswith("re:"):
        try:
            expression = re.compile(text[3:])
        except re.error:
            return lambda name: False
        return lambda name: expression.match(name) is not None
    glob = re.compile(r"(.*\.)?" + ".*".join(map(re.escape, text.strip(".").split("*"))) + r"(\..*)?")
    return lambda name: glob.fullmatch(name) is not None
