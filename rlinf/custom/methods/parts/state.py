"""What a method keeps of earlier tasks: tensors by name beside the adapter. Shards in memory, full tensors on disk."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from openvla_oft.torch_utils.tensors import whole
from rlinf.config.errors import ConfigError
from rlinf.custom.methods.base import TaskContext
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters
from rlinf.models.shards import shard_like
from rlinf.models.value_head import in_value_head
from rlinf.run_layout import METHOD_STATE


def gather_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors in CPU memory. Collective where tensors are sharded."""
    return {name: whole(tensor).cpu() for name, tensor in state.items()}


def write_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write full tensors into an actor folder; nothing where there is no state. A tensor of several names is written
    under each, which safetensors would refuse."""
    if not state:
        return
    apart: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = (tensor.clone() if storage in storages else tensor).contiguous()
        storages.add(storage)
    save_file(apart, folder / METHOD_STATE)


def read_state(folder: Path) -> dict[str, Tensor]:
    """Whole tensors of an actor folder; empty where the method stored none."""
    path = folder / METHOD_STATE
    return load_file(path) if path.is_file() else {}


def check_tasks(task: TaskContext, *, method: str) -> None:
    """Make sure that the run starts from what ``method`` stored of all tasks learnt before.

    Raises:
        ConfigError: the file is missing or leaves tasks out; names file and tasks.
    """
    if not task.learnt_before:
        return
    if task.previous is None:
        raise ConfigError(
            f"method {method} needs what it stored of the earlier tasks {list(task.learnt_before)}, but their adapters "
            "are merged into the base model (actor.model.previous_lora_paths) and what was stored belongs to them. "
            "Give the last one as CHECKPOINT_PATH instead, or use method=weight_merge"
        )
    path = task.previous / METHOD_STATE
    advice = f"Start from the last checkpoint of a sequence trained with method={method}, or from the base model"
    if not path.is_file():
        raise ConfigError(
            f"method {method} needs what it stored of the earlier tasks {list(task.learnt_before)}, but {path} does "
            f"not exist. {advice}"
        )
    with safe_open(path, framework="pt") as stored:
        covered = stored.get_tensor("tasks").tolist() if "tasks" in stored.keys() else []  # noqa: SIM118 - no mapping
    missing = sorted(set(task.learnt_before) - set(covered))
    if missing:
        raise ConfigError(
            f"{path} holds what method {method} stored of the tasks {covered}; missing: {missing}. What is learnt of a "
            f"task is stored with its last epoch. {advice}"
        )


def read_earlier(task: TaskContext) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """What was stored of earlier tasks, as full tensors, and which tasks these are; empty at the start."""
    stored = read_state(task.previous) if task.previous and task.learnt_before else {}
    return stored, tuple(stored["tasks"].tolist()) if stored else ()


def acting_parameters(policy: Policy) -> dict[str, nn.Parameter]:
    """What is trained of what acts, by name: PPO's value head estimates returns, which no method is to keep."""
    return {name: one for name, one in trainable_parameters(policy.module).items() if not in_value_head(name)}


def present_weights(policy: Policy) -> dict[str, Tensor]:
    """Copies of the weights that act and are trained, as they are now, by name, each rank's shards."""
    return {name: parameter.detach().clone() for name, parameter in acting_parameters(policy).items()}


def named_shards(stored: Mapping[str, Tensor], prefix: str, policy: Policy) -> dict[str, Tensor]:
    """Stored tensors under ``prefix`` by the name of the parameter they belong to, sharded like it.

    Raises:
        ConfigError: the policy has no such parameter, or one of another shape.
    """
    parameters = trainable_parameters(policy.module)
    found = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    for name, value in found.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise ConfigError(
                f"{METHOD_STATE} holds {prefix}{name} of shape {tuple(value.shape)}, which is not a trained parameter "
                "of this policy: the earlier tasks were trained with another model or adapter rank"
            )
    return {name: shard_like(value, parameters[name]) for name, value in found.items()}
