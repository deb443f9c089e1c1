"""Action tokens: arithmetic that can be worked out by hand, and round trips."""

import math

import numpy as np
import pytest
import torch

from transformers_openvla_oft import (
    ActionTokenMap,
    NonFiniteLogitsError,
    OpenVLAConfig,
    action_entropy,
    action_log_probs,
    finite_rows,
    sample_bins,
)
from transformers_openvla_oft.model.action_tokens import gripper_from_env, gripper_to_env

BEGIN = 31744  # 32064 rows - 64 rows of padding - 256 bins
LOW, HIGH = (-0.5, -1.0, -0.2, -0.1, -0.3, -0.4), (0.5, 0.8, 0.6, 0.1, 0.3, 0.2)
STATS = {"action": {"q01": [*LOW, 0.0], "q99": [*HIGH, 1.0], "mask": [True] * 6 + [False]}}


@pytest.fixture
def token_map():
    config = OpenVLAConfig(norm_stats={"libero_spatial_no_noops": STATS})
    return ActionTokenMap.from_config(config, "libero_spatial")


def test_bins_run_against_the_actions(token_map):
    actions = torch.tensor([-1.0, -0.9999, 0.0, 0.9999, 1.0, 7.0, -7.0])
    assert token_map.actions_to_bins(actions).tolist() == [255, 255, 128, 1, 0, 0, 255]
    assert token_map.actions_to_nearest_bins(actions).tolist() == [255, 255, 128, 1, 1, 1, 255]
    centres = token_map.bins_to_actions(torch.tensor([255, 254, 1, 0]))
    np.testing.assert_allclose(centres.numpy(), [-254 / 255, -252 / 255, 254 / 255, 254 / 255], atol=1e-15)


def test_every_bin_with_a_centre_of_its_own_survives_a_round_trip(token_map):
    bins = torch.arange(1, 256)
    assert torch.equal(token_map.actions_to_bins(token_map.bins_to_actions(bins)), bins)


def test_encoding_is_numpy_digitize(token_map):
    actions = torch.linspace(-1, 1, 9973, dtype=torch.float64)
    digits = np.digitize(actions.numpy(), np.linspace(-1.0, 1.0, 256))
    tokens = token_map.bins_to_tokens(token_map.actions_to_bins(actions))
    assert np.array_equal(tokens.numpy(), 32000 - digits)


def test_tokens_and_bins(token_map):
    bins = torch.tensor([[0, 255]])
    assert token_map.bins_to_tokens(bins).tolist() == [[BEGIN, BEGIN + 255]]
    assert torch.equal(token_map.tokens_to_bins(token_map.bins_to_tokens(bins)), bins)
    with pytest.raises(ValueError, match=r"\[31744, 32000\)"):
        token_map.tokens_to_bins(torch.tensor([2]))


def test_env_actions_and_back(token_map):
    """Deltas come back within half a bin of their range, the gripper exactly."""
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    deltas = low + (high - low) * torch.rand(5, 8, 6, generator=generator)
    gripper = torch.randint(0, 2, (5, 8, 1), generator=generator) * 2.0 - 1.0
    actions = torch.cat([deltas, gripper], dim=-1)

    bins_BT = token_map.encode_env_actions(actions)
    assert bins_BT.shape == (5, 56)
    assert bins_BT.dtype == torch.int64
    decoded = token_map.env_actions(bins_BT)
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded[..., 6], actions[..., 6])
    half_bin = (high - low) / 255 / 2
    assert ((decoded - actions)[..., :6].abs() <= half_bin + 1e-6).all()


def test_gripper_sign_and_range(token_map):
    """Data sets count 1 as open; LIBERO takes -1 as open. Deltas beyond the controller's range are clipped."""
    open_and_shut = torch.tensor([[[*LOW, -1.0]] * 8, [[*HIGH, 1.0]] * 8])
    bins_BT = token_map.encode_env_actions(open_and_shut)
    dataset_BCA = token_map.dataset_actions(bins_BT)
    assert (dataset_BCA[0, :, 6] > 0.99).all()
    assert (dataset_BCA[1, :, 6].abs() < 0.01).all()
    assert token_map.env_actions(bins_BT)[:, 0, 6].tolist() == [-1.0, 1.0]

    wide = OpenVLAConfig(norm_stats={"wide": {"action": {"q01": [-3.0] * 7, "q99": [3.0] * 7}}})
    wide_map = ActionTokenMap.from_config(wide, "wide")
    assert wide_map.mask_A == (True,) * 7
    assert wide_map.env_actions(torch.full((1, 56), 255)).min() == -1.0


def test_grippers_by_hand():
    dataset, env = torch.tensor([[0.0, 0.5, 0.51, 1.0]]), torch.tensor([[-1.0, 0.0, 0.5, 1.0, 3.0]])
    assert gripper_to_env(dataset).tolist() == [[1.0, 1.0, -1.0, -1.0]]
    assert gripper_from_env(env).tolist() == [[1.0, 0.5, 0.25, 0.0, 0.0]]
    assert gripper_from_env(env.double()).dtype == torch.float64


def test_statistics_are_looked_up_by_suite():
    config = OpenVLAConfig(norm_stats={"libero_goal": STATS, "libero_goal_no_noops": {}})
    assert ActionTokenMap.from_config(config, "libero_goal").low_A == (*LOW, 0.0)
    with pytest.raises(ValueError, match=r"libero_10.*has \['libero_goal'"):
        ActionTokenMap.from_config(config, "libero_10")
    with pytest.raises(ValueError, match="7 dimensions"):
        ActionTokenMap.from_config(OpenVLAConfig(norm_stats={"a": STATS}, action_dim=6), "a")


def test_log_probabilities_and_entropy_by_hand():
    logits_BTV = torch.tensor([[[0.0, 2.0 * math.log(3.0)]]])  # at temperature 2: probabilities 1/4 and 3/4
    log_probs = action_log_probs(logits_BTV, torch.tensor([[1]]), temperature=2.0)
    assert log_probs.item() == pytest.approx(math.log(0.75))
    entropy = action_entropy(logits_BTV, temperature=2.0)
    assert entropy.item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


@pytest.mark.parametrize("temperature", [0.0, 1.6])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_numbers_have_no_bins(temperature, value):
    """They would be bin 255, or the first NaN's, and an action like any other."""
    logits_BTV = torch.zeros(3, 56, 256)
    uniforms_BT = torch.full((3, 56), 0.5)
    assert sample_bins(logits_BTV, uniforms_BT, temperature=temperature).shape == (3, 56)
    logits_BTV[1, 55, 7] = value
    assert finite_rows(logits_BTV).tolist() == [True, False, True]
    with pytest.raises(NonFiniteLogitsError, match=r"1 of 3 observations \(the first is number 1\)"):
        sample_bins(logits_BTV, uniforms_BT, temperature=temperature)
    unchecked = sample_bins(logits_BTV, uniforms_BT, temperature=temperature, check_finite=False)
    assert unchecked.shape == (3, 56), "for who checks when the results have come from the device"
