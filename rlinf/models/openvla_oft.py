"""OpenVLA-OFT as a ``Policy``: discrete actions, a whole chunk decoded in parallel (arXiv:2502.19645)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from rlinf.config import ConfigError, resolve_adapter
from rlinf.config.schema import ModelConfig
from rlinf.data import Observation
from rlinf.models.lora import attach_lora, trainable_parameters
from rlinf.models.policy import PolicyEval, PolicyInputs, PolicyOutput, PolicySource
from transformers_openvla_oft import (
    ActionTokenMap,
    OpenVLAForActionPrediction,
    PrismaticProcessor,
    action_entropy,
    action_log_probs,
    fsdp_units,
    lora_target_modules,
)


class OpenVLAOFTPolicy:
    """Joins model, processor and action tokens; see the ``Policy`` protocol for shapes."""

    def __init__(self, module: nn.Module, processor: PrismaticProcessor, actions: ActionTokenMap) -> None:
        self.module = module
        self.processor = processor
        self.actions = actions
        self.chunk_shape = (actions.num_actions_chunk, actions.action_dim)
        self.device = torch.device("cpu")

    def prepare(self, observation: Observation) -> PolicyInputs:
        """Resize to the model's resolution, on the policy's device."""
        images = torch.from_numpy(observation.images_BNHWC).to(self.device)
        return PolicyInputs(self.processor.resize(images), observation.languages)

    @torch.no_grad()
    def act(self, inputs: PolicyInputs, *, temperature: float, uniforms_BCA: NDArray[np.float64]) -> PolicyOutput:
        """Sample a chunk by inverting the cumulative distribution; temperature 0 takes the arg max.

        Log-probabilities are those at ``temperature`` (at 1 for the arg max).
        """
        logits_BTV = self._logits(inputs)
        log_probs_BTV = torch.log_softmax(logits_BTV / (temperature or 1.0), dim=-1)
        if temperature == 0:
            bins_BT = logits_BTV.argmax(-1)
        else:
            uniforms_BT1 = torch.from_numpy(uniforms_BCA).to(self.device).flatten(1)[..., None]
            cumulative_BTV = log_probs_BTV.double().exp().cumsum(-1)
            # The sum of probabilities is 1 up to rounding; scaling by it keeps the last bin within reach and in range.
            bins_BT = torch.searchsorted(cumulative_BTV, uniforms_BT1 * cumulative_BTV[..., -1:], right=True)[..., 0]
            bins_BT = bins_BT.clamp(max=logits_BTV.shape[-1] - 1)
        logprobs_BT = log_probs_BTV.gather(-1, bins_BT[..., None])[..., 0]
        shape = (len(inputs), -1, self.actions.action_dim)
        return PolicyOutput(
            env_actions_BCA=self.actions.env_actions(bins_BT).cpu().numpy(),
            bins_BCA=bins_BT.view(shape),
            logprobs_BCA=logprobs_BT.view(shape),
        )

    def evaluate_actions(self, inputs: PolicyInputs, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
        """Log-probabilities of ``bins_BCA`` and entropies at ``temperature``, differentiable."""
        logits_BTV = self._logits(inputs)
        logprobs_BT = action_log_probs(logits_BTV, bins_BCA.flatten(1), temperature=temperature)
        entropy_BT = action_entropy(logits_BTV, temperature=temperature)
        return PolicyEval(logprobs_BT.view(bins_BCA.shape), entropy_BT.view(bins_BCA.shape))

    def units(self) -> Sequence[nn.Module]:
        """Transformer blocks of the towers and of the language model."""
        return fsdp_units(self.module)

    def trainable_modules(self) -> dict[str, list[nn.Parameter]]:
        """``vision`` (towers and projector), ``llm`` and ``head`` (the language model's output layer)."""
        modules: dict[str, list[nn.Parameter]] = {"vision": [], "llm": [], "head": []}
        for name, parameter in trainable_parameters(self.module).items():
            part = "head" if ".lm_head." in name else "llm" if ".language_model." in name else "vision"
            modules[part].append(parameter)
        return modules

    def to(self, device: torch.device) -> None:
        """Move the policy."""
        self.module.to(device)
        self.device = device

    def _logits(self, inputs: PolicyInputs) -> Tensor:
        batch = self.processor(inputs.frames_BNHWC, inputs.languages)
        output = self.module(
            input_ids_BL=batch.input_ids_BL, attention_mask_BL=batch.attention_mask_BL, pixel_values=batch.pixel_values
        )
        logits_BTV: Tensor = output.logits_BTV
        return logits_BTV


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
    path = resolve_adapter(config.lora_path) if config.lora_path else None
    targets = lora_target_modules(model)
    module: PeftModel = attach_lora(
        model, target_modules=targets, rank=config.lora_rank, alpha=config.lora_alpha, path=path, seed=source.seed
    )
    module.train()  # there is no dropout: training mode only lets gradient checkpointing work
    processor = PrismaticProcessor.from_pretrained(
        source.checkpoint, max_prompt_length=config.max_prompt_length, tokenizer=source.tokenizer
    )
    return OpenVLAOFTPolicy(module, processor, ActionTokenMap.from_config(model.config, source.unnorm_key))
