"""What OpenVLA and OpenVLA-OFT policies share: a frozen checkpoint, an adapter on it, a processor, action tokens."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
from rlinf.data import Observation
from rlinf.models.decoding import describe_origin, evaluate_chunk
from rlinf.models.identity import checkpoint_hash
from rlinf.models.lora import adapter_off, attach_lora, find_merged, trainable_parameters
from rlinf.models.policy import PolicyEval, PolicyInputs, PolicyOutput, PolicySource, Stated
from rlinf.models.transfer import sent
from rlinf.models.value_head import attach_value_head, in_value_head, save_value_head
from rlinf.run_layout import ADAPTER_FILES
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
from transformers_openvla_oft.loading import weight_files
from transformers_openvla_oft.model.configuration import DATASET_STATISTICS_FILE, with_dataset_statistics

PIPELINES = {  # what `picture_path` stands for, in stored data that must fit
    "rl": "bicubic with antialiasing",
    "oft": "JPEG and Lanczos",
    "oft_center_crop": "JPEG, Lanczos and a centre crop",
}


class VLAPolicy(ABC):
    """Joins model, processor and action tokens; see the ``Policy`` protocol for shapes. Subclasses decode.

    statistics: of actions, which came with its adapters: what its tokens mean, whatever the checkpoint says.
    """

    def __init__(self, model: OpenVLAForActionPrediction, config: ModelConfig, source: PolicySource) -> None:
        """Give a base model its adapter, its value head where there is a critic, processor and action tokens.

        Raises:
            ConfigError: the configuration asks for what these policies do not have.
            CheckpointError: adapter, earlier adapters or value head cannot be read or do not fit.
        """
        if not config.is_lora:
            raise ConfigError(
                f"actor.model.is_lora=false: this version trains {config.model_name} through an adapter only"
            )
        path = resolve_adapter(config.lora_path, files=ADAPTER_FILES) if config.lora_path else None
        previous = find_merged(config)
        self.statistics = own_statistics([*previous, *([] if path is None else [path])])
        model.config.norm_stats = {**(model.config.norm_stats or {}), **self.statistics}
        if previous:
            coeff = config.previous_lora_coeff
            merge_adapters(model, previous, coeff=1.0 if coeff is None else coeff)
        targets = lora_target_modules(model)
        self.module: nn.Module = attach_lora(
            model, target_modules=targets, rank=config.lora_rank, alpha=config.lora_alpha, path=path, seed=source.seed
        )
        if not source.trains:
            dtype = model.dtype
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
        self.num_images = self.processor.num_images
        self.actions = ActionTokenMap.from_config(model.config, source.unnorm_key)
        self.chunk_shape = (self.actions.num_actions_chunk, self.actions.action_dim)
        self.checkpoint = source.checkpoint
        self.origin = describe_origin(source.checkpoint, path)
        self.device = torch.device("cpu")
        model.value_head = (  # after the adapter, which freezes everything else
            attach_value_head(model, path=path, seed=source.seed)
            if source.critic
            else None  # a checkpoint may hold the one of its own training
        )
        self.value_head: nn.Module | None = model.value_head

    @abstractmethod
    def act(self, inputs: PolicyInputs, *, temperature: float, uniforms_BCA: NDArray[np.float64]) -> PolicyOutput:
        """Sample a chunk by inverting the cumulative distribution; temperature 0: arg max."""

    def prepare(self, observation: Observation) -> PolicyInputs:
        """Resize to the model's resolution, on the policy's device."""
        images = sent(torch.from_numpy(observation.images_BNHWC), self.device)
        return PolicyInputs(self.processor.resize(images), observation.languages)

    def evaluate_actions(self, inputs: PolicyInputs, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
        """Log-probabilities of ``bins_BCA`` and entropies at ``temperature``, differentiable."""
        output = self.score(inputs, bins_BCA.flatten(1))
        return evaluate_chunk(output.logits_BTV, bins_BCA, temperature=temperature, values_B=single_value(output))

    def action_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """Logits of the 256 bins, before any temperature, differentiable."""
        return self.score(inputs, bins_BT).logits_BTV

    @torch.no_grad()
    def base_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """The same of the base checkpoint, with every adapter switched off."""
        with adapter_off(self.module):
            return self.score(inputs, bins_BT).logits_BTV

    def encode_actions(self, actions_BCA: Tensor, *, nearest: bool) -> Tensor:
        """Bins (B, T) of the environment's actions."""
        return self.actions.encode_env_actions(actions_BCA, nearest=nearest)

    def base_identity(self, language: str, bins_FT: Tensor) -> dict[str, str]:
        """Checkpoint, prompt and image pipeline, as texts to compare."""
        ids = ",".join(map(str, self.processor.prompt_ids(language)))
        images = self.processor.images
        return {
            "model": checkpoint_hash(self.checkpoint, tuple(weight_files(self.checkpoint))),
            "prompt": f"{language} (tokens {blake2b(ids.encode(), digest_size=6).hexdigest()})",
            "image pipeline": f"{self.num_images} picture(s), {PIPELINES[self.processor.picture_path]} to "
            f"{images.image_size} px, rounded to uint8, means {images.means}, standard deviations {images.stds}",
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
        """Write a PEFT adapter, loadable by PEFT alone; beside it the value head, and statistics that it came with."""
        assert isinstance(self.module, PeftModel)
        adapter = {name: torch.from_numpy(value) for name, value in tensors.items() if not in_value_head(name)}
        save_adapter(self.module, folder, adapter)
        save_value_head(folder, tensors)
        if self.statistics:
            text = json.dumps(self.statistics, indent=1) + "\n"
            (folder / DATASET_STATISTICS_FILE).write_text(text, encoding="utf-8")

    def score(self, inputs: PolicyInputs, bins_BT: Tensor | None) -> ActionOutput:
        """One forward pass that gives the logits of each token of ``bins_BT``, differentiable.

        A model that decodes all tokens at once needs none.
        """
        return self.decode(self.batch(inputs), bins_BT)

    def decode(self, batch: PolicyBatch, bins_BT: Tensor | None = None) -> ActionOutput:
        """One forward pass; see ``score``."""
        output: ActionOutput = self.module(
            input_ids_BL=batch.input_ids_BL,
            attention_mask_BL=batch.attention_mask_BL,
            pixel_values=batch.pixel_values,
            padded=batch.padded,
            bins_BT=bins_BT,
        )
        return output

    def batch(self, inputs: PolicyInputs) -> PolicyBatch:
        """Prompts and normalised images, on the policy's device."""
        return self.processor(inputs.images_BNHWC, inputs.languages, resized=True)


def single_value(output: ActionOutput) -> Tensor | None:
    """The value head's one output (B,), None without a head."""
    return None if output.values_BO is None else output.values_BO[:, 0]


def stated(checkpoint: Path, *, num_actions: int = OpenVLAConfig.num_actions_chunk) -> Stated:
    """What a checkpoint states. num_actions: decoded at a time by one that does not say, as published ones."""
    fields = OpenVLAConfig.get_config_dict(checkpoint)[0]
    config = OpenVLAConfig.from_dict({"num_actions_chunk": num_actions, **fields})
    assert config.image_sizes  # filled in when read
    return Stated(
        config.num_images_in_input, config.image_sizes[0], config.num_actions_chunk, frozenset(config.norm_stats or {})
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
