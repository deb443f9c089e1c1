"""The table of policies, and the one place that reads a model's name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rlinf.config import ADAPTER_FILES, DOWNLOAD, WHOLE_FILES, ConfigError, resolve_adapter
from rlinf.config.schema import ModelConfig
from rlinf.models.lora import stored_config
from rlinf.models.openvla import NUM_ACTIONS, load_openvla
from rlinf.models.openvla_oft import load_openvla_oft
from rlinf.models.policy import Policy, PolicySource
from rlinf.models.simple_cnn import cnn_images, load_simple_cnn
from rlinf.models.vla import stated_images
from transformers_openvla_oft.loading import read_object

Loader = Callable[[ModelConfig, PolicySource, torch.dtype], Policy]


@dataclass(frozen=True)
class PolicyKind:
    """A row of the table.

    model_type: what the ``config.json`` of its checkpoints says; weight_files: what its ``save`` writes.
    obtain: how a user gets a base checkpoint; ``{name}`` stands for its folder's name.
    num_actions: actions per chunk; None: as many as the checkpoint was trained on.
    images: what the policy keeps of an observation, as the images and the pixels of their sides that a checkpoint
        states; None: as the simulator draws them.
    """

    load: Loader
    model_type: str
    weight_files: tuple[str, ...]
    obtain: str = DOWNLOAD
    num_actions: int | None = None
    images: Callable[[Path], tuple[int, int]] | None = None

    def num_images(self, checkpoint: Path) -> int | None:
        """Pictures that the policy reads of an observation; None: as many as there are."""
        return None if self.images is None else self.images(checkpoint)[0]


POLICIES: dict[str, PolicyKind] = {
    "openvla_oft": PolicyKind(load_openvla_oft, "openvla", ADAPTER_FILES, images=stated_images),
    "openvla": PolicyKind(
        load_openvla,
        "openvla",
        ADAPTER_FILES,
        "Download it:      hf download openvla/{name} --local-dir ./model/{name}",
        num_actions=NUM_ACTIONS,
        images=stated_images,
    ),
    "simple_cnn": PolicyKind(
        load_simple_cnn,
        "simple_cnn",
        WHOLE_FILES,
        "Make it:          python -m rlinf.cli.pretrain_simple_cnn --demonstrations FOLDER --suite SUITE "
        "--output model/{name}",
        images=cnn_images,
    ),
}


def load_policy(model: ModelConfig, source: PolicySource, *, base_dtype: torch.dtype) -> Policy:
    """Load the base checkpoint and its adapter, on the CPU.

    base_dtype: precision of the frozen weights; trainable weights are float32.

    Raises:
        ConfigError: there is no such policy, or checkpoint and configuration do not fit.
    """
    return policy_kind(model).load(model, source, base_dtype)


def policy_kind(model: ModelConfig) -> PolicyKind:
    """The table's row for ``model``.

    Raises:
        ConfigError: there is none, or its policies decode another number of actions.
    """
    if model.model_name not in POLICIES:
        raise ConfigError(f"actor.model.model_name={model.model_name} is not known; expected: {', '.join(POLICIES)}")
    kind = POLICIES[model.model_name]
    if kind.num_actions is not None and model.num_action_chunks != kind.num_actions:
        raise ConfigError(
            f"actor.model.num_action_chunks={model.num_action_chunks}, but actor.model.model_name={model.model_name} "
            f"decodes {kind.num_actions} at a time: give actor.model.num_action_chunks={kind.num_actions}"
        )
    return kind


def find_weights(model: ModelConfig, checkpoint: Path) -> Path | None:
    """The folder of trained weights to start from; None: the base checkpoint's own.

    Raises:
        CheckpointError: the base checkpoint's configuration cannot be read.
        ConfigError: base checkpoint or weights are another policy's than ``model`` names.
    """
    kind = policy_kind(model)
    expected = f"the configuration of a {model.model_name} policy"
    found = read_object(checkpoint / "config.json", expected=expected).get("model_type")
    if found != kind.model_type:
        raise ConfigError(
            f"actor.model.model_name={model.model_name} reads checkpoints of type {kind.model_type!r}, but the one in "
            f"{checkpoint} is of type {found!r}: give another actor.checkpoint_load_path or another configuration"
        )
    folder = resolve_adapter(model.lora_path, files=kind.weight_files) if model.lora_path else None
    if folder is not None and kind.weight_files == ADAPTER_FILES:
        stored_config(folder, rank=model.lora_rank)
    return folder
