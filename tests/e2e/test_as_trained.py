"""A policy that was fine-tuned on two cameras and random crops, through its launcher: it sees them all the way."""

import json
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlinf.reporting import ledger
from tests.small_policy import write_policy
from tests.unit.replay_demos import write_hdf5
from tests.unit.sft_runs import run

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHERS = REPOSITORY / "examples" / "crl_experiment"
CONFIG = "crl_experiment/libero_spatial_grpo_tiny"
TAKEN_OVER = "actor.model.picture_path=oft_center_crop, as "
SMALL = (
    "env.num_envs_per_worker=2", "env.train.max_episode_steps=16", "env.eval.max_episode_steps=16",
    "env.eval.episodes_per_task=1", "env.eval_task_ids=[0]", "env.video_episodes=0", "cluster.num_env_workers=1",
    "algorithm.num_group_envs=1", "algorithm.group_size=2", "algorithm.filter_rewards=false",
    "actor.model.lora_rank=4", "actor.global_batch_size=8", "actor.micro_batch_size=4",
)  # fmt: skip


def _launch(script: str, *words: str) -> str:
    command = ("bash", str(LAUNCHERS / script), *words)
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=REPOSITORY)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-5000:]
    return text


@pytest.mark.slow
def test_rollouts_replay_and_evaluations_see_what_it_was_trained_on(tmp_path):
    demos = write_hdf5(tmp_path / "demos", task_ids=[0, 1])
    model, logs = tmp_path / "policy", tmp_path / "logs"
    base = write_policy(tmp_path / "base")
    as_oft = ("--cameras", "agentview,eye_in_hand", "--pictures", "oft_random_crop")
    assert run(demos, model, "--init", str(base), "--steps", "1", *as_oft) == 0
    own = (
        *SMALL, f"actor.checkpoint_load_path={model}", f"rollout.model_dir={model}",
        f"actor.tokenizer.tokenizer_model={model}", f"runner.logger.log_root={logs}",
        f"method.replay.demonstrations={demos}", "method.replay.tasks=seen", "env.cameras=[agentview,eye_in_hand]",
    )  # fmt: skip
    train = ("run_embodiment_er.sh", "0,1", "0.03", "", "1", CONFIG, "7", *own)
    text = _launch(*train)
    assert TAKEN_OVER in text
    for task in (0, 1):
        folder = logs / "er" / f"task_{task}_seed7"
        assert OmegaConf.load(folder / "config.yaml").actor.model.picture_path == "oft_center_crop"
        lineage = json.loads((folder / "checkpoints" / "global_step_1" / "actor" / "lineage.json").read_text())
        assert (lineage["picture_path"], lineage["cameras"]) == ("oft_center_crop", ["agentview", "eye_in_hand"])
    assert _launch(*train).count("done before, skipped") >= 2, "the launcher, which reads no record, knows its own runs"
    text = _launch("eval_embodiment.sh", str(logs / "er" / "task_1_seed7"), "1", f"{CONFIG}_eval", *own)
    assert f"{TAKEN_OVER}{logs / 'er' / 'task_1_seed7'}" in text
    assert {record.row for record in ledger.read(logs / "er" / "evaluations.jsonl")} == {"base", "task_0", "task_1"}
