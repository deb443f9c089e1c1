"""Runs as training leaves them behind, of the small random policy."""

from pathlib import Path

from rlinf.config import config_yaml, load_config
from rlinf.custom.sequence.lineage import Lineage
from rlinf.run_layout import CONFIG_FILE, Checkpoint
from tests.small_policy import write_adapter


def write_run(policy: Path, folder: Path, *, adapter_seed: int, merged: tuple[Path, ...] = ()) -> Checkpoint:
    """A run after one task, as training leaves it behind: a checkpoint, where it comes from, and its settings. merged:
    adapters beneath it."""
    given = [f"actor.checkpoint_load_path={policy}", "actor.model.lora_rank=4", "env.fixed_task_ids=[2]"]
    given.append(f"actor.tokenizer.tokenizer_model={policy}")
    given.append(f"actor.model.previous_lora_paths=[{','.join(map(str, merged))}]")
    config = load_config("crl_experiment/libero_spatial_grpo_tiny", given)
    checkpoint = Checkpoint.at(folder / "task_2_seed7", 3)
    write_adapter(policy, checkpoint.actor, seed=adapter_seed)
    Lineage("sequential", "libero_spatial", 7, (2,), (2,), str(policy), merged=tuple(map(str, merged))).save(
        checkpoint.actor
    )
    (checkpoint.run_folder / CONFIG_FILE).write_text(config_yaml(config))
    return checkpoint
