"""Configuration of OpenVLA and OpenVLA-OFT checkpoints.

The field names are those of the published `config.json` files. Four fields are ours, with the values of the published
OFT policies as defaults: `num_actions_chunk`, `action_dim`, `num_images_in_input` and `max_prompt_length`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig, PretrainedConfig

from transformers_openvla_oft.loading import CheckpointError, broken, read_object

CONFIG_FILE = "config.json"
DATASET_STATISTICS_FILE = "dataset_statistics.json"
NO_NOOPS_SUFFIX = "_no_noops"
RESIZE_STRATEGY = "resize-naive"
EXPECTED = "the configuration of an OpenVLA model"


class OpenVLAConfig(PretrainedConfig):
    """Vision towers by timm id, a LLaMA backbone, action bins and normalisation statistics."""

    model_type = "openvla"
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {"text_config": LlamaConfig}

    vision_backbone_id: str = "siglip-vit-so400m"
    use_fused_vision_backbone: bool | None = None
    timm_model_ids: list[str] | None = None
    timm_override_act_layers: list[str | None] | None = None
    timm_model_kwargs: list[dict[str, Any]] | None = None
    image_sizes: list[int] | None = None
    image_resize_strategy: str = RESIZE_STRATEGY

    hf_llm_id: str = "meta-llama/Llama-2-7b-hf"
    llm_backbone_id: str = "llama2-7b-pure"
    llm_max_length: int = 2048
    arch_specifier: str = "no-align+gelu-mlp"
    text_config: dict[str, Any] | PretrainedConfig | None = None
    output_projector_states: bool = False
    pad_token_id: int | None = 32000
    pad_to_multiple_of: int = 64

    n_action_bins: int = 256
    norm_stats: dict[str, Any] | None = None

    num_actions_chunk: int = 8
    action_dim: int = 7
    num_images_in_input: int = 1
    max_prompt_length: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        if self.timm_model_ids is None:
            self.timm_model_ids = ["vit_so400m_patch14_siglip_224"]
        num_towers = len(self.timm_model_ids)
        if self.image_sizes is None:
            self.image_sizes = [224] * num_towers
        if self.timm_override_act_layers is None:
            self.timm_override_act_layers = [None] * num_towers
        if self.timm_model_kwargs is None:
            self.timm_model_kwargs = [{} for _ in range(num_towers)]
        if self.use_fused_vision_backbone is None:
            self.use_fused_vision_backbone = num_towers == 2
        if self.norm_stats is None:
            self.norm_stats = {}
        if self.text_config is None:
            self.text_config = LlamaConfig(vocab_size=32064, pad_token_id=32000)
        elif isinstance(self.text_config, dict):
            self.text_config = LlamaConfig(**{k: v for k, v in self.text_config.items() if k != "model_type"})
        if self.image_resize_strategy != RESIZE_STRATEGY:
            raise ValueError(
                f"image_resize_strategy must be {RESIZE_STRATEGY!r} as in the published models, given "
                f"{self.image_resize_strategy!r}"
            )
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @classmethod
    def get_config_dict(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `config.json` of a folder.

        Raises:
            CheckpointError: a folder has no `config.json`, or it is broken or another model's; defaults do not stand in
                for it.
        """
        folder = Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or "")
        if folder.is_dir():
            found = read_object(folder / CONFIG_FILE, expected=EXPECTED).get("model_type")
            if found != cls.model_type:
                raise CheckpointError(
                    f"{folder / CONFIG_FILE} is of model_type {found!r}; expected {cls.model_type!r}, {EXPECTED}. Give "
                    "the folder of such a checkpoint."
                )
        config_dict, unused_kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return {**config_dict, "name_or_path": str(folder)}, unused_kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, with `dataset_statistics.json` of the same folder merged over `norm_stats`.

        Raises:
            CheckpointError: the folder's files hold no configuration of a model that this package has.
        """
        # `AutoConfig` reads `config.json` itself and names its folder here.
        folder = Path(kwargs.get("name_or_path") or config_dict.get("name_or_path") or "")
        config_dict = with_dataset_statistics(config_dict, folder)
        try:
            return super().from_dict(config_dict, **kwargs)
        except (ValueError, StrictDataclassError) as error:
            raise broken(folder / CONFIG_FILE, " ".join(str(error).split()), expected=EXPECTED) from error

    @property
    def llama(self) -> LlamaConfig:
        """`text_config` with its type known."""
        assert isinstance(self.text_config, LlamaConfig)  # made when the configuration is
        return self.text_config

    @property
    def image_size(self) -> int:
        """Side of the square images, which all towers share."""
        assert self.image_sizes  # filled in when the configuration is made
        return self.image_sizes[0]

    @property
    def num_towers(self) -> int:
        """Vision towers (1, or 2 when fused); each reads three channels of every image."""
        return len(self.timm_model_ids or ())

    @property
    def num_action_tokens(self) -> int:
        """Tokens decoded in parallel: chunk steps x action dimensions (56 in the published policies)."""
        return self.num_actions_chunk * self.action_dim

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the tokenizer before `<PAD>` (32000 for Llama-2); the embedding has padding rows above them."""
        return int(self.llama.vocab_size) - self.pad_to_multiple_of

    @property
    def action_token_begin(self) -> int:
        """First of the `n_action_bins` token ids that stand for actions: the last ones of the vocabulary."""
        return self.vocabulary_size - self.n_action_bins

    @property
    def action_token_end(self) -> int:
        """One past the last action token."""
        return self.vocabulary_size

    def dataset_norm_stats(self, unnorm_key: str) -> dict[str, Any]:
        """Statistics of a data set; `<suite>` falls back to `<suite>_no_noops`, as LIBERO checkpoints are named.

        Raises:
            CheckpointError: there are none.
        """
        stats = self.norm_stats or {}
        for key in (unnorm_key, unnorm_key + NO_NOOPS_SUFFIX):
            if key in stats:
                return dict(stats[key])
        raise CheckpointError(
            f"no normalisation statistics for unnorm_key={unnorm_key!r} (nor {unnorm_key + NO_NOOPS_SUFFIX!r}); the "
            f"checkpoint has {sorted(stats)}. Choose one of them, or add {DATASET_STATISTICS_FILE} to the checkpoint."
        )


def with_dataset_statistics(config_dict: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration with the statistics in `folder` merged over its own, where there are some.

    Fine-tuning writes the statistics of its own data set beside the configuration, so they win.

    Raises:
        CheckpointError: the file is broken.
    """
    file = folder / DATASET_STATISTICS_FILE
    if not file.exists():
        return config_dict
    statistics = read_object(file, expected="the statistics of each data set by its name")
    return {**config_dict, "norm_stats": {**(config_dict.get("norm_stats") or {}), **statistics}}
