"""A perturbed suite beside the suite itself, end to end: a line of the ledger each, metrics by their names."""

import subprocess
from pathlib import Path

import pytest

from rlinf.reporting import ledger
from tests.small_policy import write_policy

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = REPOSITORY / "examples" / "crl_experiment" / "eval_embodiment.sh"


@pytest.mark.slow
def test_the_base_model_is_evaluated_on_other_goals_too(tmp_path):
    model, logs = write_policy(tmp_path / "small"), tmp_path / "logs"
    command = [
        "bash", str(LAUNCHER), "base", "", "crl_experiment/libero_spatial_grpo_tiny",
        f"actor.checkpoint_load_path={model}", f"rollout.model_dir={model}", f"runner.logger.log_root={logs}",
        "env.eval_suites=[libero_spatial_task]", "env.eval_task_ids=[0]", "env.eval.episodes_per_task=1",
        "env.num_envs_per_worker=2", "env.eval.max_episode_steps=8", "env.video_episodes=0",
        "cluster.num_env_workers=1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("eval/env_info/task_0_success", "eval/libero_spatial_task/task_0_success_total"):
        assert f"'{name}'" in done.stdout
    own, other = ledger.read(logs / "sequential" / ledger.LEDGER_NAME)
    assert (own.suite, own.learnt_suite, own.is_further) == ("libero_spatial", "", False)
    assert (other.suite, other.learnt_suite, other.row) == ("libero_spatial_task", "libero_spatial", "base")
    assert other.episodes == {0: 1}
