"""Random actions: evaluated in real scenes, and not trained."""

import sys

import pytest
from PIL import Image

from rlinf.envs.vector_env import VIDEO_STRIDE
from rlinf.reporting import ledger
from tests.launchers import REPOSITORY, SMALL, run

EMBODIMENT = REPOSITORY / "examples" / "embodiment"
RANDOM = "crl_experiment/libero_spatial_random_action_eval"


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
