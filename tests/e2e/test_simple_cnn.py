"""The convolutional policy through its launcher, and random actions through an evaluation: real scenes and workers."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from rlinf.envs.vector_env import VIDEO_STRIDE
from rlinf.reporting import ledger
from rlinf.reporting.jsonlines import read_lines
from tests.launchers import REPOSITORY, SMALL, command, launch, run
from tests.simple_cnn import write_cnn

EMBODIMENT = REPOSITORY / "examples" / "embodiment"
RANDOM = "crl_experiment/libero_spatial_random_action_eval"
CNN = "crl_experiment/libero_spatial_grpo_simple_cnn"


@pytest.mark.slow
def test_random_actions_are_evaluated_and_recorded_as_such_on_other_goals_too(tmp_path):
    text = run([
        sys.executable, str(EMBODIMENT / "eval_embodied_agent.py"), "--config-name", RANDOM, *SMALL,
        f"runner.logger.log_root={tmp_path}", "env.eval_suites=[libero_spatial_task]", "env.eval_task_ids=[0,1]",
        "env.video_episodes=2",  # of episodes that one simulator plays side by side
    ])  # fmt: skip
    for name in ("eval/env_info/task_0_success", "eval/libero_spatial_task/task_0_success_total"):
        assert f"'{name}'" in text
    own, other = ledger.read(tmp_path / "random_action" / "evaluations.jsonl")
    assert (own.suite, own.learnt_suite, own.is_further) == ("libero_spatial", "", False)
    assert (other.suite, other.learnt_suite) == ("libero_spatial_task", "libero_spatial")
    for record in (own, other):
        assert (record.method, record.row, record.checkpoint) == ("random_action", "base", "random actions")
        assert record.episodes == {0: 1, 1: 1}
        assert record.mean_episode_len == 16
    names = {path.name for path in tmp_path.rglob("*.webp")}
    assert names >= {"evaluation_task_0_init_0.webp", "evaluation_task_1_init_0.webp"}
    for path in tmp_path.rglob("*.webp"):
        with Image.open(path) as video:
            assert video.n_frames == 16 // VIDEO_STRIDE


def test_random_actions_are_not_trained(tmp_path):
    train = (str(EMBODIMENT / "train_embodied_agent.py"), "--config-name", RANDOM)
    assert "learns nothing" in run([sys.executable, *train, f"runner.logger.log_root={tmp_path}"], code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device of a full disk")
def test_a_cnn_is_trained_where_a_full_disk_had_stopped_it_and_is_evaluated(tmp_path):
    """A disk that is full while a run writes: one message, and the same command goes on when there is room."""
    model = write_cnn(tmp_path / "cnn")
    own = ("algorithm.rollout_epoch=1", "runner.eval_before=false", "runner.max_restarts=0")
    train = command("run_embodiment_simple_cnn.sh", "0", "", "1", CNN, "7", *own, model=model, logs=tmp_path)
    folder = tmp_path / "simple_cnn" / "task_0_seed7"
    metrics = folder / "metrics.jsonl"
    folder.mkdir(parents=True)
    metrics.symlink_to("/dev/full")
    assert f"error: {metrics}: No space left on device; free some space there" in run(train, code=2)
    metrics.unlink()
    run(train)
    assert {1} == {entry["step"] for _, entry in read_lines(metrics)}
    actor = folder / "checkpoints" / "global_step_1" / "actor"
    assert {path.name for path in actor.iterdir()} >= {"model.pt", "config.json", "training_state.pt", "lineage.json"}
    records = ledger.read(tmp_path / "simple_cnn" / "evaluations.jsonl")
    assert [(record.method, record.row) for record in records] == [("simple_cnn", "task_0")]
    assert json.loads((folder / "run.json").read_text())["config_name"] == CNN
    launch("eval_embodiment.sh", str(folder), "1", f"{CNN}_eval", model=model, logs=tmp_path)
