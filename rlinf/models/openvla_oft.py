"""OpenVLA-OFT as a ``Policy``: discrete actions, a whole chunk decoded in parallel (arXiv:2502.19645)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from rlinf.config import ADAPTER_FILES, ConfigError, resolve_adapter
from rlinf.config.schema import ModelConfig
from rlinf.data import Observation
from rlinf.models.decoding import evaluate_chunk, sample_chunk
from rlinf.models.identity import checkpoint_hash
from rlinf.models.lora import adapter_off, attach_lora, save_adapter, trainable_parameters
from rlinf.models.merge import merge_adapters
from rlinf.models.policy import PolicyEval, PolicyInputs, PolicyOutput, PolicySource
from rlinf.models.value_head import attach_value_head, in_value_head, save_value_head
from transformers_openvla_oft import (
    ActionOutput,
    ActionTokenMap,
    OpenVLAForActionPrediction,
    PrismaticProcessor,
    ValueHead,
    fsdp_units,
    lora_target_modules,
)


class OpenVLAOFTPolicy:
    """Joins model, processor and action tokens; see the ``Policy`` protocol for shapes."""

    def __init__(
        self,
        module: nn.Module,
        processor: PrismaticProcessor,
        actions: ActionTokenMap,
        *,
        checkpoint: Path,
        value_head: ValueHead | None = None,
    ) -> None:
        self.module = module
        self.value_head: nn.Module | None = value_head
        self.processor = processor
        self.actions = actions
        self.chunk_shape = (actions.num_actions_chunk, actions.action_dim)
        self.num_images = processor.num_images
        self.checkpoint = checkpoint
        self.device = torch.device("cpu")

    def prepare(self, observation: Observation) -> PolicyInputs:
        """Resize to the model's resolution, on the policy's device."""
        images = torch.from_numpy(observation.images_BNHWC).to(self.device)
        return PolicyInputs(self.processor.resize(images), observation.languages)

    @torch.no_grad()
    def act(self, inputs: PolicyInputs, *, temperature: float, uniforms_BCA: NDArray[np.float64]) -> PolicyOutput:
        """Sample a chunk; see ``sample_chunk``."""
        output = self._forward(inputs)
        sampled = sample_chunk(output.logits_BTV, self.actions, temperature=temperature, uniforms_BCA=uniforms_BCA)
        return replace(sampled, values_B=_single(output.values_BO))

    def evaluate_actions(self, inputs: PolicyInputs, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
        """Log-probabilities of ``bins_BCA`` and entropies at ``temperature``, differentiable."""
        output = self._forward(inputs)
        evaluated = evaluate_chunk(output.logits_BTV, bins_BCA, temperature=temperature)
        return replace(evaluated, values_B=_single(output.values_BO))

    def action_logits(self, inputs: PolicyInputs) -> Tensor:
        """Logits of the 256 bins, before any temperature, differentiable."""
        return self._forward(inputs).logits_BTV

    @torch.no_grad()
    def base_logits(self, inputs: PolicyInputs) -> Tensor:
        """The same of the base checkpoint, with every adapter switched off."""
        with adapter_off(self.module):
            return self._forward(inputs).logits_BTV

    def encode_actions(self, actions_BCA: Tensor, *, nearest: bool) -> Tensor:
        """Bins (B, T) of the environment's actions."""
        return self.actions.encode_env_actions(actions_BCA, nearest=nearest)

    def base_identity(self, language: str) -> dict[str, str]:
        """Checkpoint, prompt and image pipeline, as texts to compare."""
        ids = ",".join(map(str, self.processor.prompt_ids(language)))
        images = self.processor.images
        return {
            "model": checkpoint_hash(self.checkpoint),
            "prompt": f"{language} (tokens {blake2b(ids.encode(), digest_size=6).hexdigest()})",
            "image pipeline": f"{self.num_images} picture(s), bicubic with antialiasing to {images.image_size} px, "
            f"rounded to uint8, means {images.means}, standard deviations {images.stds}",
        }

    def units(self) -> Sequence[nn.Module]:
        """Transformer blocks of the towers and of the language model."""
        return fsdp_units(self.module)

    def trainable_modules(self) -> dict[str, list[nn.Parameter]]:
        """``vision`` (towers and projector), ``llm`` and ``head`` (the language model's output layer)."""
        modules: dict[str, list[nn.Parameter]] = {"vision": [], "llm": [], "head": []}
        for name, parameter in trainable_parameters(self.module).items():
            if in_value_head(name):
                continue
            part = "head" if ".lm_head." in name else "llm" if ".language_model." in name else "vision"
            modules[part].append(parameter)
        return modules

    def to(self, device: torch.device) -> None:
        """Move the policy."""
        self.module.to(device)
        self.device = device

    def save(self, folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Write a PEFT adapter, loadable by PEFT alone, and the value head beside it."""
        assert isinstance(self.module, PeftModel)
        save_adapter(self.module, folder, {name: t for name, t in tensors.items() if not in_value_head(name)})
        save_value_head(folder, tensors)

    def _forward(self, inputs: PolicyInputs) -> ActionOutput:
        batch = self.processor(inputs.frames_BNHWC, inputs.languages)
        output: ActionOutput = self.module(
            input_ids_BL=batch.input_ids_BL, attention_mask_BL=batch.attention_mask_BL, pixel_values=batch.pixel_values
        )
        return output


def _single(values_BO: Tensor | None) -> Tensor | None:
    return None if values_BO is None else values_BO[:, 0]


def load_openvla_oft(config: ModelConfig, source: PolicySource, base_dtype: torch.dtype) -> OpenVLAOFTPolicy:
    """Load checkpoint and adapter; see ``load_policy``.

    Raises:
        ConfigError: the checkpoint does not fit the configuration.
    """
    disable_progress_bar()  # transformers' own; in a worker it is noise
    model = OpenVLAForActionPrediction.from_pretrained(source.checkpoint, dtype=base_dtype)
    if model.config.num_actions_chunk != config.num_action_chunks:
        raise ConfigError(
            f"actor.model.num_action_chunks={config.num_action_chunks}, but the checkpoint in {source.checkpoint} "
            f"decodes {model.config.num_actions_chunk} actions at a time"
        )
    if not config.is_lora:
        raise ConfigError("actor.model.is_lora=false: this version trains openvla_oft through an adapter only")
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]
    path = resolve_adapter(config.lora_path, files=ADAPTER_FILES) if config.lora_path else None
    previous = [
        resolve_adapter(earlier, key="actor.model.previous_lora_paths", files=ADAPTER_FILES)
        for earlier in config.previous_lora_paths
    ]
    if previous:
        coeff = config.previous_lora_coeff
        merge_adapters(model, previous, coeff=1.0 if coeff is None else coeff)
    targets = lora_target_modules(model)
    module: PeftModel = attach_lora(
        model, target_modules=targets, rank=config.lora_rank, alpha=config.lora_alpha, path=path, seed=source.seed
    )
    module.train()  # there is no dropout: training mode only lets gradient checkpointing work
    processor = PrismaticProcessor.from_pretrained(
        source.checkpoint, max_prompt_length=config.max_prompt_length, tokenizer=source.tokenizer
    )
    actions = ActionTokenMap.from_config(model.config, source.unnorm_key)
    # After the adapter, which freezes everything else.
    head = attach_value_head(model, path=path, seed=source.seed) if source.critic else None
    return OpenVLAOFTPolicy(module, processor, actions, checkpoint=source.checkpoint, value_head=head)
