"""The convolutional policy through its launcher, and random actions through an evaluation: real scenes and workers."""

import json
import sys

import pytest
from PIL import Image

from rlinf.envs.vector_env import VIDEO_STRIDE
from rlinf.reporting import ledger
from tests.launchers import REPOSITORY, SMALL, launch, run
from tests.simple_cnn import write_cnn

EMBODIMENT = REPOSITORY / "examples" / "embodiment"
RANDOM = "crl_experiment/libero_spatial_random_action_eval"


@pytest.mark.slow
def test_random_actions_are_evaluated_and_recorded_as_such(tmp_path):
    own = (*SMALL, f"runner.logger.log_root={tmp_path}")
    videos = ("env.eval_task_ids=[0,1]", "env.video_episodes=2")  # of episodes that one simulator plays side by side
    run([sys.executable, str(EMBODIMENT / "eval_embodied_agent.py"), "--config-name", RANDOM, *own, *videos])
    (record,) = ledger.read(tmp_path / "random_action" / "evaluations.jsonl")
    assert (record.method, record.row, record.checkpoint) == ("random_action", "base", "random actions")
    assert record.episodes == {0: 1, 1: 1}
    assert record.mean_episode_len == 16
    found = sorted(tmp_path.rglob("*.webp"))
    assert [video.name for video in found] == ["evaluation_task_0_init_0.webp", "evaluation_task_1_init_0.webp"]
    for path in found:
        with Image.open(path) as video:
            assert video.n_frames == 16 // VIDEO_STRIDE


def test_random_actions_are_not_trained(tmp_path):
    train = (str(EMBODIMENT / "train_embodied_agent.py"), "--config-name", RANDOM)
    assert "learns nothing" in run([sys.executable, *train, f"runner.logger.log_root={tmp_path}"], code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_launcher_trains_a_cnn_and_its_checkpoint_is_evaluated(tmp_path):
    model, config = write_cnn(tmp_path / "cnn"), "crl_experiment/libero_spatial_grpo_simple_cnn"
    own = ("algorithm.rollout_epoch=1",)
    launch("run_embodiment_simple_cnn.sh", "0", "", "1", config, "7", *own, model=model, logs=tmp_path)
    folder = tmp_path / "simple_cnn" / "task_0_seed7"
    actor = folder / "checkpoints" / "global_step_1" / "actor"
    assert {path.name for path in actor.iterdir()} >= {"model.pt", "config.json", "training_state.pt", "lineage.json"}
    records = ledger.read(tmp_path / "simple_cnn" / "evaluations.jsonl")
    assert [(record.method, record.row) for record in records] == [("simple_cnn", "base"), ("simple_cnn", "task_0")]
    assert json.loads((folder / "run.json").read_text())["config_name"] == config
    launch("eval_embodiment.sh", str(folder), "1", f"{config}_eval", model=model, logs=tmp_path)
