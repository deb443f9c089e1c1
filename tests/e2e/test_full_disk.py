"""A disk that is full while a run writes: one message, and the same command goes on when there is room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlinf.config import REPOSITORY
from rlinf.reporting.jsonlines import read_lines
from tests.small_policy import write_policy

SMALL = [
    "actor.model.lora_rank=4",
    "algorithm.num_group_envs=1",
    "algorithm.group_size=2",
    "algorithm.filter_rewards=false",
    "env.num_envs_per_worker=2",
    "env.train.max_episode_steps=16",
    "env.eval.max_episode_steps=16",
    "env.eval.episodes_per_task=1",
    "env.eval_task_ids=[0]",
    "cluster.num_env_workers=1",
    "actor.global_batch_size=8",
    "actor.micro_batch_size=4",
    "env.video_episodes=0",
    "runner.eval_before=false",
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device of a full disk")
def test_a_run_goes_on_where_a_full_disk_stopped_it(tmp_path: Path) -> None:
    policy, logs = tmp_path / "policy", tmp_path / "logs"
    write_policy(policy)
    paths = ("actor.checkpoint_load_path", "rollout.model_dir", "actor.tokenizer.tokenizer_model")
    launcher = REPOSITORY / "examples" / "crl_experiment" / "run_embodiment_sequential.sh"
    words = ["0", "", "1", "crl_experiment/libero_spatial_grpo_tiny", "7", f"runner.logger.log_root={logs}"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", launcher, *words, *SMALL, *(f"{path}={policy}" for path in paths)],
            cwd=REPOSITORY,
            env={**os.environ, "VIRTUAL_ENV": sys.prefix, "RLINF_PROGRESS": "off"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    metrics = logs / "sequential" / "task_0_seed7" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.symlink_to("/dev/full")
    done = run()
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {metrics}: No space left on device; free some space there")
    assert "Traceback" not in done.stderr
    metrics.unlink()
    done = run()
    assert done.returncode == 0, done.stderr
    assert {entry["step"] for _, entry in read_lines(metrics)} == {1}
    assert (metrics.parent / "checkpoints" / "global_step_1" / "actor" / "adapter_model.safetensors").is_file()
