"""Low-rank adapters (LoRA, arXiv:2106.09685) in PEFT's own format: make, read, save. Needs `peft`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import same_rounding
from .loading import differences, listed, non_finite, shortened

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# Fields that say how large an adapter is, where it sits, how it was made, or nothing about it. Any other one, set,
# makes it more than B A beside a weight, and would be lost or counted wrongly when it is scaled, merged or trained.
SUPPORTED_FIELDS = {
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "lora_dropout", "init_lora_weights",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
    "peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode", "runtime_config",
    "base_model_name_or_path", "revision", "megatron_config", "megatron_core", "qalora_group_size",
}  # fmt: skip
# Others start with another base than the stored one, to which their B A belongs.
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")


class AdapterError(ValueError):
    """A stored adapter that is broken, of another kind, or another model's."""


def fresh_config(
    *, target_modules: Sequence[str], rank: int, alpha: int, dropout: float = 0.0, base: str | None = None
) -> LoraConfig:
    """Configuration of an adapter that changes nothing yet (A Gaussian, B zero). base: names the base checkpoint."""
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(target_modules),
        init_lora_weights="gaussian",
        base_model_name_or_path=base,
    )


def read_config(path: Path) -> LoraConfig:
    """`adapter_config.json` of a plain LoRA adapter.

    Raises:
        AdapterError: it is missing, broken, of another kind of adapter, or has parts beside B A.
    """
    if not (path / CONFIG_FILE).is_file():
        raise AdapterError(f"there is no {CONFIG_FILE} in {path}; expected the folder of a PEFT adapter")
    try:
        fields = dict(json.loads((path / CONFIG_FILE).read_text(encoding="utf-8")))
        more = _beside_plain(fields) if fields.get("peft_type") == "LORA" else []
        stored = None if more else PeftConfig.from_pretrained(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{path / CONFIG_FILE} is no adapter's configuration: {error}") from error
    if more:
        raise AdapterError(
            f"the adapter in {path} is not supported because of {listed(more)}: expected plain LoRA, which changes "
            "weights by B A alone. Train it without these, or merge it into its base with PEFT (merge_and_unload) and "
            "give the merged checkpoint"
        )
    if not isinstance(stored, LoraConfig):
        raise AdapterError(f"the adapter in {path} is of type {fields.get('peft_type')}; expected LORA")
    return stored


def _beside_plain(fields: Mapping[str, Any]) -> list[str]:
    """What a stored configuration asks for beside plain LoRA; PEFT would drop what its version does not know."""
    usual = vars(LoraConfig())
    more = {name: value for name, value in fields.items() if name not in SUPPORTED_FIELDS and value}
    start = fields.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        more["init_lora_weights"] = start
    return [f"{name}={shortened(value)}" for name, value in more.items() if value != usual.get(name)]


def attach_adapter(model: nn.Module, config: LoraConfig, *, path: Path | None, seed: int) -> PeftModel:
    """Wrap `model` with a float32 adapter, and freeze all else: the one in folder `path`, else a fresh one.

    The fresh adapter depends on `seed` alone. config: from `read_config(path)` or `fresh_config`.

    Raises:
        AdapterError: the stored adapter is broken or does not fit the model.
    """
    config.inference_mode = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = wrap(model, config, path=path)
    if path is not None:
        _load(wrapped, path)
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(is_adapter_weight(name))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def wrap(model: nn.Module, config: LoraConfig, *, path: Path | None) -> PeftModel:
    """Give `model` the layers of an adapter, with fresh weights. path: the adapter's folder, for messages.

    Raises:
        AdapterError: the model has none of the adapter's target modules.
    """
    with warnings.catch_warnings():
        # peft asks transformers for an attribute under its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        try:
            wrapped = get_peft_model(model, config)
        except ValueError as error:
            raise AdapterError(f"the adapter in {path} is another model's: {error}") from error
    assert isinstance(wrapped, PeftModel)
    same_rounding.use_in_adapters(layer.lora_A for layer in wrapped.modules() if isinstance(layer, LoraLayer))
    return wrapped


def is_adapter_weight(name: str) -> bool:
    """Whether a parameter belongs to the adapter."""
    return "lora_" in name


def adapter_weights(path: Path, names: Iterable[str]) -> list[str]:
    """The adapter's own weights among those of its file; PEFT stores frozen ones beneath it, too (`lm_head`).

    Raises:
        AdapterError: there are others, which were trained beside the adapter.
    """
    own, others = [], []
    for name in names:
        if is_adapter_weight(name):
            own.append(name)
        elif ".base_layer." not in name:
            others.append(name)
    if others:
        raise AdapterError(
            f"{path / WEIGHTS_FILE} holds weights beside those of a LoRA adapter, which would be lost: {listed(others)}"
            ". Merge it into its base with PEFT (merge_and_unload) and give the merged checkpoint"
        )
    return own


@contextmanager
def reading_adapter(path: Path) -> Iterator[None]:
    """Turn errors of the file format into one that names the file.

    Raises:
        AdapterError: the weights are missing, truncated or corrupt.
    """
    if not (path / WEIGHTS_FILE).is_file():
        raise AdapterError(f"there is no {WEIGHTS_FILE} in {path}; expected the folder of a PEFT adapter")
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path / WEIGHTS_FILE} is truncated or corrupt ({error}); copy it again") from error


def _load(wrapped: PeftModel, path: Path) -> None:
    """Load every tensor of the adapter and nothing else."""
    with reading_adapter(path):
        tensors = load_file(path / WEIGHTS_FILE)
    stored = {name: tensors[name] for name in adapter_weights(path, tensors)}
    check_fit(path, stored=_shapes(stored), expected=_shapes(adapter_state(wrapped)))
    check_finite(path, stored)
    set_peft_model_state_dict(wrapped, stored)


def adapter_state(wrapped: PeftModel) -> dict[str, Tensor]:
    """The adapter's tensors by the names that they are stored under."""
    return dict(get_peft_model_state_dict(wrapped, save_embedding_layers=False))


def check_fit(path: Path, *, stored: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]) -> None:
    """Compare the shapes of an adapter's tensors by name with those that its configuration makes for the model.

    Raises:
        AdapterError: lists what is missing, unexpected or of another shape.
    """
    found = differences(
        missing=expected.keys() - stored.keys(),
        unexpected=stored.keys() - expected.keys(),
        mismatched={
            name: (stored[name], expected[name])
            for name in stored.keys() & expected.keys()
            if tuple(stored[name]) != tuple(expected[name])
        },
    )
    if found:
        raise AdapterError(
            f"the adapter in {path} does not fit the model: {found}. Check that {CONFIG_FILE} and {WEIGHTS_FILE} "
            "belong together, and to this model."
        )


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an adapter that would make every output NaN.

    Raises:
        AdapterError: names the tensors that hold NaN or infinity.
    """
    if bad := non_finite(tensors):
        raise AdapterError(
            f"the adapter in {path} is not usable: {len(bad)} of its tensors hold NaN or infinity: {listed(bad)}. The "
            "training that wrote it diverged; take an earlier one."
        )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def save_adapter(wrapped: PeftModel, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write whole adapter tensors, by their names in `wrapped`, so that plain PEFT loads them."""
    wrapped.peft_config["default"].save_pretrained(str(folder))
    adapter = {name.replace(".default.", "."): tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(adapter, folder / WEIGHTS_FILE, metadata={"format": "pt"})
