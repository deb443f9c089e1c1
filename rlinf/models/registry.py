"""The table of policies, and the one place that reads a model's name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from rlinf.config import DOWNLOAD, ConfigError, resolve_adapter
from rlinf.config.schema import ModelConfig
from rlinf.models.lora import stored_config
from rlinf.models.openvla import NUM_ACTIONS, load_openvla
from rlinf.models.openvla_oft import load_openvla_oft
from rlinf.models.policy import Policy, PolicySource, Stated
from rlinf.models.simple_cnn import load_simple_cnn, stated_by_cnn
from rlinf.models.vla import stated
from rlinf.run_layout import ADAPTER_FILES, WHOLE_FILES
from transformers_openvla_oft.loading import read_object

Loader = Callable[[ModelConfig, PolicySource, torch.dtype], Policy]


@dataclass(frozen=True)
class PolicyKind:
    """A row of the table.

    model_type: what the ``config.json`` of its checkpoints says.
    weight_files: what its ``save`` writes, with an adapter if it can have one.
    obtain: how a user gets a base checkpoint; ``{name}`` stands for its folder's name.
    num_actions: actions per chunk; None: as many as the checkpoint was trained on.
    stated: what a checkpoint says of itself; None: nothing, and images are kept as the simulator draws them.
    """

    load: Loader
    model_type: str
    weight_files: tuple[str, ...]
    obtain: str = DOWNLOAD
    num_actions: int | None = None
    stated: Callable[[Path], Stated] | None = None


POLICIES: dict[str, PolicyKind] = {
    "openvla_oft": PolicyKind(load_openvla_oft, "openvla", ADAPTER_FILES, stated=stated),
    "openvla": PolicyKind(
        load_openvla,
        "openvla",
        ADAPTER_FILES,
        "Download it:      hf download openvla/{name} --local-dir ./model/{name}",
        num_actions=NUM_ACTIONS,
        stated=partial(stated, num_actions=NUM_ACTIONS),
    ),
    "simple_cnn": PolicyKind(
        load_simple_cnn,
        "simple_cnn",
        WHOLE_FILES,
        "Make it:          python -m rlinf.cli.pretrain_simple_cnn --demonstrations FOLDER --suite SUITE "
        "--output model/{name}",
        stated=stated_by_cnn,
    ),
}


def load_policy(model: ModelConfig, source: PolicySource, *, base_dtype: torch.dtype) -> Policy:
    """Load the base checkpoint and its adapter, on the CPU.

    base_dtype: precision of the frozen weights; trainable weights are float32.

    Raises:
        ConfigError: there is no such policy, or checkpoint and configuration do not fit.
    """
    check_chunk(model, source.checkpoint)
    return policy_kind(model).load(model, source, base_dtype)


def check_chunk(model: ModelConfig, checkpoint: Path) -> None:
    """Raise ``ConfigError`` where a checkpoint decodes another number of actions at a time than is configured."""
    kind = policy_kind(model)
    if kind.stated is None or (decoded := kind.stated(checkpoint).num_actions) == model.num_action_chunks:
        return
    alike = [(other.num_actions, name) for name, other in POLICIES.items() if other.model_type == kind.model_type]
    fitting = next((name for count, name in alike if count == decoded), dict(alike).get(None))
    raise ConfigError(
        f"actor.model.num_action_chunks={model.num_action_chunks}, but the checkpoint in {checkpoint} was trained on "
        f"chunks of {decoded}: give actor.model.model_name={fitting} and actor.model.num_action_chunks={decoded}, or "
        "another actor.checkpoint_load_path"
    )


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
    check_chunk(model, checkpoint)
    files = kind.weight_files if model.is_lora else WHOLE_FILES
    folder = resolve_adapter(model.lora_path, files=files) if model.lora_path else None
    if folder is not None and files == ADAPTER_FILES:
        stored_config(folder, rank=model.lora_rank, alpha=model.lora_alpha)
    return folder
