"""Orthogonal low-rank adapters."""

import torch
from safetensors import safe_open
from torch import Tensor

from openvla_oft.torch_utils.tensors import whole
from rlinf.config.errors import ConfigError
from rlinf.config.schema import OLoRAConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.gradients import add_to_gradients
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters
from rlinf.models.shards import shard_like
from rlinf.run_layout import ADAPTER_FILES

_A = ".lora_A.default.weight"


class OLoRA(ContinualMethod):
    """A fresh adapter per task on top of the earlier ones, which are merged into the base model and whose row spaces
    it keeps out of: ``coeff * sum(|A_i A^T|^2)`` over earlier tasks ``i`` and layers (O-LoRA, arXiv:2310.14152)."""

    def __init__(self, config: OLoRAConfig) -> None:
        self.coeff = config.coeff
        self.earlier: dict[str, Tensor] = {}

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """Rows of all earlier tasks' A, by parameter, one below the other."""
        rows: dict[str, list[Tensor]] = {}
        for folder in task.merged:
            found = 0
            with safe_open(folder / ADAPTER_FILES[1], framework="pt") as stored:
                for name in trainable_parameters(policy.module):
                    key = name.replace(".default.", ".")
                    if name.endswith(_A) and key in stored.keys():  # noqa: SIM118 - no mapping
                        rows.setdefault(name, []).append(stored.get_tensor(key).flatten(1).float())
                        found += 1
            if not found:
                raise ConfigError(f"the adapter in {folder} shares no layer with the one that method olora trains")
        self.earlier = {name: torch.cat(parts).to(task.device) for name, parts in rows.items()}

    @torch.no_grad()
    def on_backward(self, policy: Policy) -> None:
        """Add the penalty's gradient, ``2 coeff (A E^T) E`` with the earlier rows E. Collective where A is sharded."""
        parameters = trainable_parameters(policy.module)
        pulls = {}
        for name, earlier_RI in self.earlier.items():
            a = whole(parameters[name]).float()
            pull_rI = 2 * self.coeff * (a.flatten(1) @ earlier_RI.T) @ earlier_RI
            pulls[name] = shard_like(pull_rI.view_as(a), parameters[name])
        add_to_gradients(policy, pulls)
