"""Write and read what a checkpoint holds: the weights as the policy writes them (a PEFT adapter, or ``model.pt``), the
optimizer's state and, where the method keeps any, its own. Where checkpoints lie: ``rlinf.run_layout``.
"""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from libero_runtime.commands import naming
from rlinf.config import ConfigError
from rlinf.custom.methods.parts.state import gather_state, read_state, write_state
from rlinf.engines.fsdp import gather_trainable
from rlinf.engines.learner import PolicyLearner
from rlinf.models.lora import trainable_parameters
from rlinf.run_layout import TRAINING_STATE


def save_actor(learner: PolicyLearner, folder: Path, *, epoch: int) -> None:
    """Write the weights and the training state. Collective; rank 0 writes."""
    module = learner.policy.module
    tensors = gather_trainable(module, keep=learner.rank == 0)
    memory = gather_state(learner.method.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    optimizer = get_optimizer_state_dict(module, learner.optimizer, options=options)
    if learner.rank != 0:
        return
    state = {"epoch": epoch, "optimizer": optimizer, "num_updates": learner.num_updates}
    with naming(folder):
        learner.policy.save(folder, tensors)
        write_state(folder, memory)
        with (folder / TRAINING_STATE).open("wb") as file:  # given a path, torch does not say that a disk is full
            torch.save(state, file)


def load_training_state(learner: PolicyLearner, folder: Path) -> int:
    """Take back optimizer and method state for weights loaded from the same folder; returns the epoch. Collective.

    Raises:
        ConfigError: the folder holds weights without training state.
    """
    path = folder / TRAINING_STATE
    if not path.is_file():
        raise ConfigError(
            f"cannot resume from {folder}: it holds no {TRAINING_STATE}. Move it away to resume from an earlier one, "
            "or evaluate it as it is with eval_embodiment.sh"
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # Not strict: parameters that never got a gradient (blocks the model does not run) have no optimizer state.
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
    set_optimizer_state_dict(learner.policy.module, learner.optimizer, state["optimizer"], options=options)
    for name, parameter in trainable_parameters(learner.policy.module).items():
        if name not in state["optimizer"]["state"]:  # torch made one up that counts a step which never was
            learner.optimizer.state.pop(parameter, None)
    learner.method.load_state_dict(read_state(folder))
    learner.num_updates = int(state.get("num_updates", 0))  # checkpoints from before PPO have none and need none
    return int(state["epoch"])
