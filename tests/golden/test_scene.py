"""A real scene of LIBERO, and policies in it, as before (``test_policies`` says how to compare to the bit)."""

import numpy as np
import pytest
import torch

from tests.golden import golden, subjects


@pytest.fixture(scope="module")
def env():
    env = subjects.open_scene()
    yield env
    env.close()


def test_fixed_actions(env):
    """Physics to many digits; what is drawn differs between OpenGL's makers by a little at edges."""
    played = subjects.play_fixed(env)
    golden.check_exact("scene", played)
    images = played.pop("images").astype(np.float64)
    golden.check_values("scene", {key: np.asarray(array, np.float64).tolist() for key, array in played.items()})
    means = images.reshape(*images.shape[:2], -1, 3).mean(2)  # of colours, by time and environment
    halves = np.stack([images[..., :128, :, :], images[..., :, :128, :].swapaxes(-2, -3)]).mean((2, 3, 4, 5, 6))
    golden.check_values("scene images", {"colours": means.tolist(), "top and left": halves.tolist()}, absolute=0.3)


@pytest.mark.parametrize("name", subjects.POLICIES)
def test_rollout(env, tmp_path, name):
    torch.set_num_threads(1)
    policy = subjects.load(name, subjects.write_checkpoint(name, tmp_path))
    played = subjects.play_policy(policy, env)
    golden.check_exact(f"rollout/{name}", played)
    # A bit of an image may move an action to the next bin, so here is what no bit changes.
    golden.check_values(
        f"rollout/{name}",
        {key: played[key].astype(int).tolist() for key in ("executed", "rewards")},
    )
    golden.check_values(
        f"rollout/{name} about",
        {"image": float(played["images"].mean()), "log-probability": float(played["logprobs"].mean())},
        rel=0.01,
    )
