"""DWE: an adapter per task, and the choice among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlinf.config import resolve_adapter
from rlinf.config.errors import ConfigError
from rlinf.config.schema import Config
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.sequence.lineage import Lineage


class AdapterPerTask(ContinualMethod):
    """Every task learns a fresh adapter on the plain base model (DWE of arXiv:2603.11653): nothing is forgotten, and
    nothing is learnt from one task for another. Evaluations are told which task they play: each task that was learnt is
    played by its own adapter, any other one by the base model alone.

    Training is that of one task; the rest is done where sequences are planned and evaluated (``players``).
    """

    def check(self, task: TaskContext) -> None:
        """Nothing was trained on other tasks before."""
        if task.previous is not None:
            raise ConfigError(
                f"method dwe learns a fresh adapter on the base model for every task, but actor.model.lora_path names "
                f"{task.previous}: leave it out"
            )


@dataclass(frozen=True)
class Player:
    """What plays a task: the adapter in a folder, None for the one that the policy has, and the factor on it."""

    adapter: Path | None
    scale: float


def players(config: Config, task_ids: Sequence[int]) -> dict[int, Player]:
    """What plays each of these tasks in an evaluation: the adapter that the policy has, or with an adapter per task
    (``actor.model.task_lora_paths`` is not null) the one that has learnt it, and the policy's switched off where none
    has."""
    model = config.actor.model
    scale = 1.0 if model.lora_scale is None else model.lora_scale
    own = Player(None, scale)
    if model.task_lora_paths is None:
        return dict.fromkeys(task_ids, own)
    chosen = dict.fromkeys(task_ids, Player(None, 0.0))
    for folder in map(resolve_adapter, model.task_lora_paths):
        lineage = Lineage.load(folder)
        assert lineage is not None, "as check_lineage has seen"
        chosen |= dict.fromkeys(lineage.stage, Player(folder, scale))
    trained = Lineage.load(resolve_adapter(model.lora_path)) if model.lora_path else None
    return chosen | dict.fromkeys(trained.stage if trained else config.env.fixed_task_ids or task_ids, own)
