"""Low-rank adapters (LoRA, arXiv:2106.09685) in PEFT's own format: make, read, save, merge, scale. Needs `peft`.

A LoRA adapter changes a weight by `alpha / r * B A`. With `o` outputs, `i` inputs, rank `r` and a kernel of `k x l`
pixels, B is `(o, r)` and A `(r, i)`; of a convolution `(o, r, 1, 1)` and `(r, i, k, l)`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .loading import CheckpointError, check_finite, check_fit, listed, read_object, shapes
from .model import same_rounding

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
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


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
        CheckpointError: it is missing, broken, of another kind of adapter, or has parts beside B A.
    """
    fields = read_object(path / CONFIG_FILE, expected="the configuration of a PEFT adapter")
    if fields.get("peft_type") != "LORA":
        raise CheckpointError(f"the adapter in {path} is of type {fields.get('peft_type')}; expected LORA")
    if more := _beside_plain(fields):
        raise CheckpointError(
            f"the adapter in {path} is not supported because of {listed(more)}: expected plain LoRA, which changes "
            "weights by B A alone. Train it without these, or merge it into its base with PEFT (merge_and_unload) and "
            "give the merged checkpoint"
        )
    config = PeftConfig.from_pretrained(str(path))
    assert isinstance(config, LoraConfig)
    return config


def _beside_plain(fields: Mapping[str, Any]) -> list[str]:
    """What a stored configuration asks for beside plain LoRA; PEFT would drop what its version does not know."""
    usual = vars(LoraConfig())
    more = {name: value for name, value in fields.items() if name not in SUPPORTED_FIELDS and value}
    start = fields.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        more["init_lora_weights"] = start
    return [f"{name}={value!r:.40}" for name, value in more.items() if value != usual.get(name)]


def attach_adapter(model: nn.Module, config: LoraConfig, *, path: Path | None, seed: int) -> PeftModel:
    """Wrap `model` with a float32 adapter, and freeze all else: the one in folder `path`, else a fresh one.

    The fresh adapter depends on `seed` alone. config: from `read_config(path)` or `fresh_config`.

    Raises:
        CheckpointError: the stored adapter is broken or does not fit the model.
    """
    config.inference_mode = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = _wrap(model, config, path=path)
    if path is not None:
        names = _stored_names(wrapped)
        weights = _open_weights(path, expected=names)
        set_peft_model_state_dict(wrapped, {name: weights.get_tensor(name) for name in names})
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(_is_adapter_weight(name))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def read_weights(wrapped: nn.Module, path: Path) -> dict[str, Tensor]:
    """The tensors of the adapter in folder `path`, by their names in `wrapped`, whose adapter is of the same shape.

    Raises:
        CheckpointError: the stored adapter is broken or does not fit the model.
    """
    names = {name.replace(".default.", "."): name for name, _ in wrapped.named_parameters() if _is_adapter_weight(name)}
    weights = _open_weights(path, expected={stored: wrapped.get_parameter(name) for stored, name in names.items()})
    return {name: weights.get_tensor(stored) for stored, name in names.items()}


def save_adapter(wrapped: PeftModel, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write whole adapter tensors, by their names in `wrapped`, so that plain PEFT loads them."""
    wrapped.peft_config["default"].save_pretrained(str(folder))
    adapter = {name.replace(".default.", "."): tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(adapter, folder / WEIGHTS_FILE, metadata={"format": "pt"})


@torch.no_grad()
def merge_adapters(model: nn.Module, paths: Sequence[Path], *, coeff: float) -> None:
    """Add `coeff` times the sum of the adapters' changes to the weights of `model`, which has no adapter yet.

    The sum is made in float32 and rounded to the weight's own precision once. `model` is whole, not sharded. Every
    adapter is checked before the first weight changes.

    Raises:
        CheckpointError: an adapter is incomplete, does not fit the model, holds NaN, or is of a kind that is more than
            `B A`.
    """
    if any(isinstance(module, LoraLayer) for module in model.modules()):
        raise ValueError(
            "the model that adapters are to be merged into has an adapter already: merge first, then attach a fresh one"
        )
    opened = [_open_for_merge(model, path) for path in paths]
    for name in sorted({name for factors, _ in opened for name in factors}):
        weight = model.get_parameter(name + ".weight")
        change = torch.zeros(weight.shape, dtype=torch.float32)
        for factors, file in opened:
            if name in factors:
                a, b = (file.get_tensor(_PREFIX + name + part).float() for part in (_A, _B))
                change += factors[name] * low_rank_product(a, b)
        weight.copy_(weight.float() + coeff * change.to(weight.device))


def low_rank_product(a: Tensor, b: Tensor) -> Tensor:
    """`B A` in the shape of the weight that it is added to: (o, i), of a convolution (o, i, k, l)."""
    if a.dim() == 2:
        return b @ a
    return torch.einsum("or,rikl->oikl", b.flatten(1), a)


def scale_adapter(model: nn.Module, scale: float) -> None:
    """Let the adapter count `scale` times: 1 as trained, 0 not at all. The model's weights are not touched.

    Raises:
        ValueError: there is no adapter to scale, or the scale is not in [0, 1].
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"an adapter's scale must be between 0 (off) and 1 (as trained), given {scale}")
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers and scale != 1:
        raise ValueError(f"the model has no adapter that could be scaled by {scale}")
    for layer in layers:
        for name in layer.scaling:
            layer.set_scale(name, scale)


def _open_for_merge(model: nn.Module, path: Path) -> tuple[dict[str, float], Any]:
    """The factor of `B A` for each module that an adapter changes, and its file, where tensors stay until asked for."""
    config = read_config(path)
    config.init_lora_weights = False  # some ways to start an adapter compute with the weights
    config.base_model_name_or_path = None  # that it is another path than the model's says nothing
    # PEFT itself says what it would make, on a copy without memory.
    tensors = [*model.parameters(), *model.buffers()]
    skeleton = copy.deepcopy(model, {id(tensor): _without_memory(tensor) for tensor in tensors})
    with torch.device("meta"):
        wrapped = _wrap(skeleton, config, path=path)
    factors = {
        name.removeprefix(_PREFIX): layer.scaling["default"]
        for name, layer in wrapped.named_modules()
        if isinstance(layer, LoraLayer)
    }
    return factors, _open_weights(path, expected=_stored_names(wrapped))


def _wrap(model: nn.Module, config: LoraConfig, *, path: Path | None) -> PeftModel:
    """Give `model` the layers of an adapter, with fresh weights. path: the adapter's folder, for messages."""
    with warnings.catch_warnings():
        # peft asks transformers for an attribute under its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        try:
            wrapped = get_peft_model(model, config)
        except ValueError as error:
            raise CheckpointError(f"the adapter in {path} is another model's: {error}") from error
    assert isinstance(wrapped, PeftModel)
    same_rounding.use_in_adapters(layer.lora_A for layer in wrapped.modules() if isinstance(layer, LoraLayer))
    return wrapped


def _open_weights(path: Path, *, expected: Mapping[str, Tensor]) -> Any:
    """The file of an adapter that has all tensors of `expected` and no others of its own.

    Frozen weights beneath an adapter, which PEFT may store with it (`lm_head`), are not looked at.
    """
    try:
        file: Any = safe_open(path / WEIGHTS_FILE, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path / WEIGHTS_FILE} is truncated or corrupt ({error}); copy it again") from error
    names = [name for name in file.keys() if ".base_layer." not in name or _is_adapter_weight(name)]  # noqa: SIM118
    if others := [name for name in names if not _is_adapter_weight(name)]:
        raise CheckpointError(
            f"{path / WEIGHTS_FILE} holds weights beside those of a LoRA adapter, which would be lost: {listed(others)}"
            ". Merge it into its base with PEFT (merge_and_unload) and give the merged checkpoint"
        )
    what = f"the adapter in {path}"
    check_fit(what, stored={name: file.get_slice(name).get_shape() for name in names}, expected=shapes(expected))
    check_finite(what, {name: file.get_tensor(name) for name in names})
    return file


def _is_adapter_weight(name: str) -> bool:
    return "lora_" in name


def _stored_names(wrapped: PeftModel) -> dict[str, Tensor]:
    """The adapter's tensors by the names that they are stored under."""
    return dict(get_peft_model_state_dict(wrapped, save_embedding_layers=False))


def _without_memory(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
