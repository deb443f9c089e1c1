"""What OpenVLA and OpenVLA-OFT policies share: a checkpoint, frozen under an adapter or trained whole, a processor,
action tokens."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from rlinf.config import ConfigError, resolve_adapter
from rlinf.config.schema import ModelConfig
from rlinf.models.decoding import BinnedPolicy
from rlinf.models.identity import checkpoint_hash
from rlinf.models.lora import adapter_off, attach_lora, find_merged, trainable_parameters
from rlinf.models.policy import PolicyInputs, PolicySource, Stated
from rlinf.models.value_head import attach_value_head, in_value_head, save_value_head
from rlinf.models.whole_weights import read_whole, write_whole
from rlinf.run_layout import ADAPTER_FILES, WHOLE_FILES
from transformers_openvla_oft import (
    ActionOutput,
    ActionTokenMap,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    PolicyBatch,
    PrismaticProcessor,
    checkpoint_blocks,
    choose_attention,
    compile_blocks,
    fsdp_units,
    lora_target_modules,
)
from transformers_openvla_oft.adapters import merge_adapters, save_adapter
from transformers_openvla_oft.loading import check_finite, check_fit, shapes, weight_files
from transformers_openvla_oft.model.configuration import DATASET_STATISTICS_FILE, with_dataset_statistics

PIPELINES = {  # what `picture_path` stands for, in stored data that must fit
    "rl": "bicubic with antialiasing",
    "oft": "JPEG and Lanczos",
    "oft_center_crop": "JPEG, Lanczos and a centre crop",
}


class VLAPolicy(BinnedPolicy):
    """Joins model, processor and action tokens; see the ``Policy`` protocol for shapes. Subclasses decode.

    statistics: of actions, which came with its adapters: what its tokens mean, whatever the checkpoint says.
    """

    def __init__(self, model: OpenVLAForActionPrediction, config: ModelConfig, source: PolicySource) -> None:
        """Give a base model its adapter, its value head where there is a critic, processor and action tokens.

        Raises:
            ConfigError: the configuration asks for what these policies do not have.
            CheckpointError: adapter, earlier adapters or value head cannot be read or do not fit.
        """
        files = ADAPTER_FILES if config.is_lora else WHOLE_FILES
        path = resolve_adapter(config.lora_path, files=files) if config.lora_path else None
        previous = find_merged(config)
        self.statistics = own_statistics([*previous, *([] if path is None else [path])])
        model.config.norm_stats = {**(model.config.norm_stats or {}), **self.statistics}
        if previous:
            coeff = config.previous_lora_coeff
            merge_adapters(model, previous, coeff=1.0 if coeff is None else coeff)
        module: nn.Module
        dtype = model.dtype
        if config.is_lora:
            targets, rank = lora_target_modules(model), config.lora_rank
            module = attach_lora(
                model, target_modules=targets, rank=rank, alpha=config.lora_alpha, path=path, seed=source.seed
            )
        else:
            module = _whole(model, path)
        actions = ActionTokenMap.from_config(model.config, source.unnorm_key)
        super().__init__(module, actions, checkpoint=source.checkpoint, adapter=path)
        if not source.trains:
            for parameter in trainable_parameters(self.module).values():
                parameter.data = parameter.data.to(dtype)
        # What acts and what is scored must be one distribution, so no dropout, whatever adapter or checkpoint brings.
        self.module.eval()
        if config.gradient_checkpointing and source.trains:
            policy, every = config.gradient_checkpointing_policy, config.gradient_checkpointing_every
            checkpoint_blocks(model, policy=policy, every=every)
        if config.compile_blocks:
            compile_blocks(self.module)
        self.processor = PrismaticProcessor.from_pretrained(
            source.checkpoint,
            max_prompt_length=config.max_prompt_length,
            tokenizer=source.tokenizer,
            picture_path=config.picture_path or "rl",
            # What is prepared for one shape of its inputs should meet few: batches of several tasks come in few
            # lengths. Those of one task have no pads, whose attention is slower, and round as their updates do.
            prompt_multiple=8 if config.compile_blocks or source.cuda_graphs else 1,
        )
        if config.max_prompt_length is None:  # slots follow the prompts; small policies have enough for their suite
            self.processor.max_prompt_length = max(self.processor.max_prompt_length, OpenVLAConfig.max_prompt_length)
        model.value_head = (  # after the adapter, which freezes everything else
            attach_value_head(model, path=path, seed=source.seed)
            if source.critic
            else None  # a checkpoint may hold the one of its own training
        )
        self.value_head = model.value_head
        fields = {"num_actions_chunk": model.config.num_actions_chunk}
        self._load_base = partial(load_base, config, source, dtype, **fields)  # for a policy without an adapter
        self._base: nn.Module | None = None

    def resize(self, images_BNHWC: Tensor) -> Tensor:
        """Along the configured image path."""
        return self.processor.resize(images_BNHWC)

    def score(self, inputs: PolicyInputs, bins_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One forward pass."""
        output = self.decode(self.batch(inputs), bins_BT)
        return output.logits_BTV, single_value(output)

    @torch.no_grad()
    def base_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """The same of the base checkpoint: with every adapter switched off, or of a copy that is kept from the first
        call on where all weights are trained."""
        if isinstance(self.module, PeftModel):
            with adapter_off(self.module):
                return self.action_logits(inputs, bins_BT)
        if self._base is None:
            base: nn.Module = self._load_base()
            self._base = base.eval().to(self.device)
        trained, self.module = self.module, self._base
        try:
            return self.action_logits(inputs, bins_BT)
        finally:
            self.module = trained

    def base_identity(self, language: str, bins_FT: Tensor) -> dict[str, str]:
        """Checkpoint, prompt and image pipeline, as texts to compare."""
        ids = ",".join(map(str, self.processor.prompt_ids(language)))
        images = self.processor.images
        return {
            "model": checkpoint_hash(self.checkpoint, tuple(weight_files(self.checkpoint))),
            "prompt": f"{language} (tokens {blake2b(ids.encode(), digest_size=6).hexdigest()})",
            "image pipeline": f"{self.processor.num_images} picture(s), {PIPELINES[self.processor.picture_path]} to "
            f"{images.image_size} px, rounded to uint8, means {images.means}, standard deviations {images.stds}",
        }

    def units(self) -> Sequence[nn.Module]:
        """Transformer blocks of the towers and of the language model."""
        return fsdp_units(self.module)

    def part_of(self, name: str) -> str | None:
        """``vision`` (towers and projector), ``llm``, or ``head`` (the language model's output layer)."""
        if in_value_head(name):
            return None
        return "head" if "lm_head." in name else "llm" if "language_model." in name else "vision"

    def save(self, folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Write a PEFT adapter, loadable by PEFT alone, or all weights (``model.pt``); beside them the value head, and
        statistics that they came with."""
        own = {name: torch.from_numpy(value) for name, value in tensors.items() if not in_value_head(name)}
        if isinstance(self.module, PeftModel):
            save_adapter(self.module, folder, own)
        else:
            write_whole(folder, own)
        save_value_head(folder, tensors)
        if self.statistics:
            text = json.dumps(self.statistics, indent=1) + "\n"
            (folder / DATASET_STATISTICS_FILE).write_text(text, encoding="utf-8")

    def decode(self, batch: PolicyBatch, bins_BT: Tensor | None = None) -> ActionOutput:
        """One forward pass; a model that decodes all tokens at once looks at no bins."""
        output: ActionOutput = self.module(**vars(batch), bins_BT=bins_BT)
        return output

    def batch(self, inputs: PolicyInputs) -> PolicyBatch:
        """Prompts and normalised images, on the policy's device."""
        return self.processor(inputs.images_BNHWC, inputs.languages, resized=True)


def _whole(model: OpenVLAForActionPrediction, path: Path | None) -> OpenVLAForActionPrediction:
    """A model of which every weight is trained, in float32 as adapters are; ``path``: whose weights it goes on from."""
    if path is not None:
        what, tensors = f"the weights in {path}", read_whole(path)
        expected = {name: value for name, value in model.named_parameters() if not in_value_head(name)}
        check_fit(what, stored=shapes(tensors), expected=shapes(expected))
        check_finite(what, tensors)
        model.load_state_dict(tensors, strict=False)
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return model


def single_value(output: ActionOutput) -> Tensor | None:
    """The value head's one output (B,), None without a head."""
    return None if output.values_BO is None else output.values_BO[:, 0]


def stated(checkpoint: Path, *, num_actions: int = OpenVLAConfig.num_actions_chunk) -> Stated:
    """What a checkpoint states. num_actions: decoded at a time by one that does not say, as published ones."""
    fields = OpenVLAConfig.get_config_dict(checkpoint)[0]
    config = OpenVLAConfig.from_dict({"num_actions_chunk": num_actions, **fields})
    return Stated(
        config.num_images_in_input, config.image_size, config.num_actions_chunk, frozenset(config.norm_stats or {})
    )


def own_statistics(adapters: Sequence[Path]) -> dict[str, Any]:
    """Action statistics that lie beside adapters, by key; the later one's count."""
    found: dict[str, Any] = {}
    for folder in adapters:
        found |= with_dataset_statistics({}, folder).get("norm_stats", {})
    return found


def load_base(
    config: ModelConfig, source: PolicySource, base_dtype: torch.dtype, **fields: Any
) -> OpenVLAForActionPrediction:
    """The base checkpoint, without adapter. fields: of its configuration, which it does not state itself."""
    disable_progress_bar()  # transformers' own; in a worker it is noise
    route = attention_route(config, source, base_dtype)
    model: OpenVLAForActionPrediction = OpenVLAForActionPrediction.from_pretrained(
        source.checkpoint, dtype=base_dtype, attn_implementation=route, **fields
    )
    return model


def attention_route(config: ModelConfig, source: PolicySource, dtype: torch.dtype) -> str:
    """What a model is loaded with, as ``actor.model.attn_implementation`` says.

    Raises:
        ConfigError: that cannot run here.
    """
    wanted = config.attn_implementation
    if source.cuda_graphs:  # flash-attention asks the GPU how long the sequences are, which a graph cannot
        if wanted == "flash_attention_2":
            raise ConfigError(f"actor.model.attn_implementation={wanted} does not go with rollout.cuda_graphs=true")
        wanted = wanted or "sdpa"
    try:
        return choose_attention(wanted, dtype=dtype)
    except ValueError as error:
        raise ConfigError(f"actor.model.attn_implementation={wanted}: {error}") from error
