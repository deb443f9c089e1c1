"""Configuration of OpenVLA and OpenVLA-OFT checkpoints.

The field names are those of the published `config.json` files. Four fields are ours, with the values of the published
OFT policies as defaults: `num_actions_chunk`, `action_dim`, `num_images_in_input` and `max_prompt_length`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from transformers import LlamaConfig, PretrainedConfig

from .fields import check_dtype, check_llama, check_objects, check_whole, read_llama
from .loading import CheckpointError, broken, read_object, shortened

CONFIG_FILE = "config.json"
DATASET_STATISTICS_FILE = "dataset_statistics.json"
NO_NOOPS_SUFFIX = "_no_noops"
# Whole numbers and the least that they may be; two bins have one centre, of which an action is made.
LEAST = {
    "num_actions_chunk": 1,
    "action_dim": 1,
    "num_images_in_input": 1,
    "max_prompt_length": 1,
    "n_action_bins": 2,
    "pad_to_multiple_of": 0,
}
# What each tower has an entry of in these lists.
PER_TOWER: dict[str, tuple[type, ...]] = {
    "timm_model_ids": (str,),
    "image_sizes": (int,),
    "timm_override_act_layers": (str, type(None)),
    "timm_model_kwargs": (dict,),
}
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
        self._check_list("timm_model_ids", PER_TOWER["timm_model_ids"])
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
        elif not isinstance(self.text_config, LlamaConfig):
            self.text_config = read_llama(self.text_config)
        self.check()
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def check(self) -> None:
        """Refuse what no model can have: counts below 1, per-tower lists of another length, towers of unequal sizes.

        Raises:
            ValueError: says which field is not so.
        """
        for name, least in LEAST.items():
            check_whole(name, getattr(self, name), at_least=least)
        self._check_towers()
        if self.image_resize_strategy != RESIZE_STRATEGY:
            raise ValueError(
                f"image_resize_strategy must be {RESIZE_STRATEGY!r} as in the published models, given "
                f"{self.image_resize_strategy!r}"
            )
        if not (isinstance(self.norm_stats, dict) and all(isinstance(x, dict) for x in self.norm_stats.values())):
            raise ValueError(
                f"norm_stats must be an object, with the statistics of each data set by its name, given "
                f"{shortened(self.norm_stats)}"
            )
        check_llama(self.llama)
        if self.action_token_begin < 0:
            raise ValueError(
                f"n_action_bins={self.n_action_bins} are more than the {self.vocabulary_size} tokens that "
                f"text_config.vocab_size={self.llama.vocab_size} has beside pad_to_multiple_of="
                f"{self.pad_to_multiple_of} unused ones: the last tokens of the vocabulary are the actions"
            )

    def _check_towers(self) -> None:
        for name, types in PER_TOWER.items():
            self._check_list(name, types)
        num_towers = self.num_towers
        if num_towers not in (1, 2):
            raise ValueError(f"timm_model_ids must name one or two vision towers, given {self.timm_model_ids}")
        if self.use_fused_vision_backbone != (num_towers == 2):
            raise ValueError(
                f"use_fused_vision_backbone={self.use_fused_vision_backbone} does not agree with the "
                f"{num_towers} towers of timm_model_ids={self.timm_model_ids}"
            )
        for name in PER_TOWER:
            if len(getattr(self, name)) != num_towers:
                raise ValueError(f"{name} must have one entry per tower ({num_towers}), given {getattr(self, name)}")
        sizes = set(self.image_sizes or ())
        if len(sizes) != 1 or min(sizes) < 1:
            raise ValueError(
                f"all towers must read the same image size, a number of pixels, given image_sizes={self.image_sizes}"
            )

    def _check_list(self, name: str, types: tuple[type, ...]) -> None:
        value = getattr(self, name)
        if isinstance(value, list | tuple) and all(type(entry) in types for entry in value):
            return
        kinds = {str: "names", int: "whole numbers", type(None): "null", dict: "objects"}
        raise ValueError(
            f"{name} must be a list of {' or '.join(kinds[kind] for kind in types)}, one for each vision tower, given "
            f"{shortened(value)}"
        )

    @classmethod
    def get_config_dict(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `config.json`, then merge `dataset_statistics.json` of the same folder over its `norm_stats`.

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
        cls._check_stored(config_dict, folder)
        return with_dataset_statistics(config_dict, folder), unused_kwargs

    @classmethod
    def _check_stored(cls, config_dict: dict[str, Any], folder: Path) -> None:
        """Refuse a stored configuration by its file's name, before the caller's own settings join it.

        Raises:
            CheckpointError: a field is missing, of a wrong type, or of no possible model.
        """
        try:
            check_dtype(config_dict)
            check_objects(config_dict)
            if config_dict.get("text_config") is None:
                raise ValueError("text_config, the configuration of the language model, is missing")
            cls(**config_dict)
        except ValueError as error:
            raise broken(folder / CONFIG_FILE, str(error), expected=EXPECTED) from error

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; `AutoConfig` reads `config.json` itself and names its folder here.

        Raises:
            CheckpointError: the stored fields are broken.
            ValueError: a field that the caller sets beside the stored ones is not possible; see `check`.
        """
        folder = kwargs.get("name_or_path")
        if folder is not None:
            cls._check_stored(config_dict, Path(folder))
            config_dict = with_dataset_statistics(config_dict, Path(folder))
        made = super().from_dict(config_dict, **kwargs)
        # It sets the caller's fields after construction, so they have not been looked at yet.
        (made[0] if isinstance(made, tuple) else made).check()
        return made

    @property
    def llama(self) -> LlamaConfig:
        """`text_config` with its type known."""
        if not isinstance(self.text_config, LlamaConfig):
            raise TypeError(f"text_config must be a LlamaConfig, found {type(self.text_config).__name__}")
        return self.text_config

    @property
    def num_towers(self) -> int:
        """Vision towers (1, or 2 when fused); each reads three channels of every picture."""
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
    expected = "the statistics of each data set by its name"
    statistics = read_object(file, expected=expected)
    if wrong := [name for name, entry in statistics.items() if not isinstance(entry, dict)]:
        raise broken(file, f"{wrong[0]!r} is no JSON object", expected=expected)
    if nameless := [name for name, entry in statistics.items() if "q01" in entry]:
        raise broken(file, f"{nameless[0]!r} holds bounds, but is not below a data set's name", expected=expected)
    return {**config_dict, "norm_stats": {**(config_dict.get("norm_stats") or {}), **statistics}}
