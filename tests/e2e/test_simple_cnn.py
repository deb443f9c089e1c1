"""The convolutional policy through its launcher, and random actions through an evaluation: real scenes and workers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rlinf.envs.vector_env import VIDEO_STRIDE
from rlinf.reporting import ledger
from tests.simple_cnn import write_cnn

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHERS = REPOSITORY / "examples" / "crl_experiment"
EVALUATE = REPOSITORY / "examples" / "embodiment" / "eval_embodied_agent.py"
TRAIN = REPOSITORY / "examples" / "embodiment" / "train_embodied_agent.py"
SMALL = (
    "env.num_envs_per_worker=2", "env.eval.max_episode_steps=16", "env.eval.episodes_per_task=1",
    "env.eval_task_ids=[0]", "env.video_episodes=0", "cluster.num_env_workers=1",
)  # fmt: skip


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=REPOSITORY)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-5000:]
    return text


@pytest.mark.slow
def test_random_actions_are_evaluated_and_recorded_as_such(tmp_path):
    name = "crl_experiment/libero_spatial_random_action_eval"
    films = ("env.eval_task_ids=[0,1]", "env.video_episodes=2")  # of episodes that one simulator plays side by side
    _run(sys.executable, str(EVALUATE), "--config-name", name, f"runner.logger.log_root={tmp_path}", *SMALL, *films)
    (record,) = ledger.read(tmp_path / "random_action" / "evaluations.jsonl")
    assert (record.method, record.row, record.checkpoint) == ("random_action", "base", "random actions")
    assert record.episodes == {0: 1, 1: 1}
    assert record.mean_episode_len == 16
    videos = sorted(tmp_path.rglob("*.webp"))
    assert [video.name for video in videos] == ["evaluation_task_0_init_0.webp", "evaluation_task_1_init_0.webp"]
    for video in videos:
        with Image.open(video) as film:
            assert film.n_frames == 16 // VIDEO_STRIDE


def test_random_actions_are_not_trained(tmp_path):
    name = "crl_experiment/libero_spatial_random_action_eval"
    done = subprocess.run(
        [sys.executable, str(TRAIN), "--config-name", name, f"runner.logger.log_root={tmp_path}"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "learns nothing" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_launcher_trains_a_cnn_and_its_checkpoint_is_evaluated(tmp_path):
    model = write_cnn(tmp_path / "cnn")
    config = "crl_experiment/libero_spatial_grpo_simple_cnn"
    own = (*SMALL, f"actor.checkpoint_load_path={model}", f"rollout.model_dir={model}")
    _run(
        "bash", str(LAUNCHERS / "run_embodiment_simple_cnn.sh"), "0", "", "1", config, "7", *own,
        f"runner.logger.log_root={tmp_path}", "algorithm.num_group_envs=1", "algorithm.group_size=2",
        "algorithm.rollout_epoch=1", "algorithm.filter_rewards=false", "env.train.max_episode_steps=16",
        "actor.global_batch_size=8", "actor.micro_batch_size=4",
    )  # fmt: skip
    folder = tmp_path / "simple_cnn" / "task_0_seed7"
    actor = folder / "checkpoints" / "global_step_1" / "actor"
    assert {path.name for path in actor.iterdir()} >= {"model.pt", "config.json", "training_state.pt", "lineage.json"}
    records = ledger.read(tmp_path / "simple_cnn" / "evaluations.jsonl")
    assert [(record.method, record.row) for record in records] == [("simple_cnn", "base"), ("simple_cnn", "task_0")]
    run = json.loads((folder / "run.json").read_text())
    assert run["config_name"] == config

    _run("bash", str(LAUNCHERS / "eval_embodiment.sh"), str(folder), "1", f"{config}_eval", *own)
