"""The mathematics of GRPO: numbers worked out by hand, and the published code's outputs."""

import numpy as np
import pytest
import torch

from rlinf.algorithms.advantages import group_advantages, informative_groups, leave_one_out_advantages
from rlinf.algorithms.policy_losses import (
    behaviour_weights,
    clipped_policy_loss,
    imitation_loss,
    masked_entropy_sum,
    token_weights,
)
from tests.published import published_case


def test_advantages_are_centred_and_scaled_within_each_group():
    returns_E = torch.tensor([1.0, 3.0, 5.0, 0.0, 0.0])
    group_E = torch.tensor([7, 7, 7, 2, 2])
    # Group 7: mean 3, unbiased spread 2. Group 2: no spread, no signal.
    advantages_E = group_advantages(returns_E, group_E)
    assert torch.allclose(advantages_E, torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0]), atol=1e-6)


def test_a_group_of_one_has_nothing_to_learn():
    assert group_advantages(torch.tensor([5.0]), torch.tensor([0])).item() == 0.0


def test_leave_one_out_compares_with_the_others_of_the_group():
    returns_E = torch.tensor([1.0, 3.0, 5.0, 0.0, 4.0, 2.0])
    group_E = torch.tensor([7, 7, 7, 2, 2, 1])
    # 1 - (3 + 5) / 2, 3 - (1 + 5) / 2, 5 - (1 + 3) / 2; 0 - 4, 4 - 0; alone.
    assert leave_one_out_advantages(returns_E, group_E).tolist() == [-3.0, 0.0, 3.0, -4.0, 4.0, 0.0]


@pytest.mark.parametrize("advantages", [group_advantages, leave_one_out_advantages])
def test_advantages_refuse_unequal_vectors(advantages):
    with pytest.raises(ValueError, match="must be equal vectors"):
        advantages(torch.zeros(3), torch.zeros(2))


def test_reward_filter_keeps_groups_between_the_bounds():
    returns_E = torch.tensor([5.0, 5.0, 0.0, 0.0, 5.0, 0.0])
    group_E = torch.tensor([0, 0, 1, 1, 2, 2])
    kept_E = informative_groups(returns_E, group_E, lower=0.1, upper=4.9)
    assert kept_E.tolist() == [False, False, False, False, True, True]


def test_clipped_loss_by_hand():
    # One sample, one action, four tokens with ratios 2, 0.5, 1.1 and 1; advantage +1, bounds 0.8 and 1.28.
    ratios = torch.tensor([[[2.0, 0.5, 1.1, 1.0]]])
    result = clipped_policy_loss(
        ratios.log(),
        torch.zeros(1, 1, 4),
        torch.tensor([1.0]),
        torch.tensor([[0.25]]),
        clip_low=0.2,
        clip_high=0.28,
    )
    # Losses: -1.28 (clipped), -0.5 (the pessimistic side is not clipped), -1.1, -1.
    assert result.loss.item() == pytest.approx(-(1.28 + 0.5 + 1.1 + 1.0) / 4)
    assert result.clipped_tokens.item() == 1
    assert result.num_tokens.item() == 4
    expected_kl = sum(r - 1 - np.log(r) for r in (2.0, 0.5, 1.1, 1.0))
    assert result.approx_kl_sum.item() == pytest.approx(expected_kl, rel=1e-5)


def test_decoupled_loss_by_hand():
    """Probabilities of three tokens: under the policy that sampled, where the update starts, and now."""
    sampled, proximal, now = (torch.tensor([[[*p]]]) for p in ((0.1, 0.2, 0.1), (0.2, 0.1, 0.9), (0.3, 0.11, 0.9)))
    weights_SCA = behaviour_weights(proximal.log(), sampled.log(), cap=4.0)
    torch.testing.assert_close(weights_SCA, torch.tensor([[[2.0, 0.5, 4.0]]]))
    bounds = {"clip_low": 0.2, "clip_high": 0.28}
    given = (now.log(), proximal.log(), torch.tensor([1.0]), torch.tensor([[1.0]]))
    result = clipped_policy_loss(*given, **bounds, behaviour_SCA=weights_SCA)
    # Ratios to the proximal policy 1.5 (clipped to 1.28), 1.1 and 1, each times its token's weight.
    assert result.loss.item() == pytest.approx(-(2 * 1.28 + 0.5 * 1.1 + 4 * 1))
    assert result.clipped_tokens.item() == 1
    masked = (now.log(), proximal.log(), torch.tensor([1.0]), torch.tensor([[0.0]]))
    assert clipped_policy_loss(*masked, **bounds, behaviour_SCA=torch.full((1, 1, 3), torch.nan)).loss.item() == 0


def test_dual_clip_bounds_what_a_bad_action_can_weigh():
    # Ratios 5 and 2 at advantage -1 and +1; bounds 0.8, 1.28 and 3.
    logprobs = torch.tensor([[[5.0, 2.0]], [[5.0, 2.0]]]).log().requires_grad_()
    result = clipped_policy_loss(
        logprobs,
        torch.zeros(2, 1, 2),
        torch.tensor([-1.0, 1.0]),
        torch.full((2, 1), 0.5),
        clip_low=0.2,
        clip_high=0.28,
        dual_clip=3.0,
    )
    assert result.loss.item() == pytest.approx((3.0 + 2.0 - 1.28 - 1.28) / 2)
    assert result.clipped_tokens.item() == 3
    result.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.flatten().tolist() == pytest.approx([0.0, 1.0, 0.0, 0.0])


def test_a_sequence_has_the_geometric_mean_of_its_executed_tokens_ratios():
    # Chunk 0: ratios 4 and 1, mean 2, clipped to 1.28; the second action was not executed. Chunk 1: mean 1/2.
    ratios = torch.tensor([[[4.0, 1.0], [99.0, 99.0]], [[0.5, 0.5], [1.0, 0.25]]])
    logprobs = ratios.log().requires_grad_()
    weights_SC = torch.tensor([[0.5, 0.0], [0.25, 0.25]])
    result = clipped_policy_loss(
        logprobs,
        torch.zeros(2, 2, 2),
        torch.tensor([1.0, 1.0]),
        weights_SC,
        clip_low=0.2,
        clip_high=0.28,
        ratio="sequence",
    )
    assert result.loss.item() == pytest.approx(-(1.28 + 0.5))
    assert result.clipped_tokens.item() == 2
    result.loss.backward()
    # d(-1/2)/d(log r) of each of four tokens is -1/2 times its quarter; a clipped chunk has none.
    assert logprobs.grad is not None
    assert logprobs.grad.flatten().tolist() == pytest.approx([0, 0, 0, 0, -0.125, -0.125, -0.125, -0.125])
    with pytest.raises(ValueError, match="'token' or 'sequence'"):
        clipped_policy_loss(logprobs, logprobs, torch.ones(2), weights_SC, clip_low=0, clip_high=0, ratio="chunk")


def test_imitation_is_the_mean_negative_log_probability_of_what_counts():
    logprobs = torch.tensor([[[-1.0, -3.0], [-torch.inf, -torch.inf]], [[-2.0, -2.0], [-4.0, -4.0]]])
    result = imitation_loss(logprobs, torch.tensor([[1 / 6, 0.0], [1 / 6, 1 / 6]]))
    assert result.loss.item() == pytest.approx((1 + 3 + 2 + 2 + 4 + 4) / 6)
    assert result.num_tokens.item() == 6


def test_masked_tokens_take_no_part_even_when_their_ratio_overflows():
    logprobs = torch.tensor([[[0.0], [1000.0]]], requires_grad=True)
    result = clipped_policy_loss(
        logprobs, torch.zeros(1, 2, 1), torch.tensor([-1.0]), torch.tensor([[1.0, 0.0]]), clip_low=0.2, clip_high=0.28
    )
    result.loss.backward()
    assert result.loss.item() == pytest.approx(1.0)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[[1.0], [0.0]]]


def test_episode_weights_count_every_episode_the_same():
    # Episode 0 executed three actions in two chunks, episode 1 one action; two tokens per action.
    executed_SC = torch.tensor([[True, True], [True, False], [True, False]])
    weights_SC = token_weights(executed_SC, torch.tensor([0, 0, 1]), num_action_dims=2, num_episodes=2)
    assert weights_SC.tolist() == [[pytest.approx(1 / 12)] * 2, [pytest.approx(1 / 12), 0], [pytest.approx(1 / 4), 0]]
    assert (weights_SC.sum() * 2).item() == pytest.approx(1.0)


def test_token_weights_count_every_token_the_same():
    executed_SC = torch.tensor([[True, True], [True, False]])
    weights_SC = token_weights(executed_SC, torch.tensor([0, 1]), num_action_dims=7, num_episodes=2, by="token")
    assert torch.allclose(weights_SC, executed_SC / 21)
    with pytest.raises(ValueError, match="'episode' or 'token'"):
        token_weights(executed_SC, torch.tensor([0, 1]), num_action_dims=7, num_episodes=2, by="chunk")


def test_entropy_sum_uses_the_weights():
    entropy_SCA = torch.tensor([[[1.0, 2.0], [5.0, 5.0]]])
    assert masked_entropy_sum(entropy_SCA, torch.tensor([[0.5, 0.0]])).item() == pytest.approx(1.5)


@pytest.mark.parametrize("masked", [True, False])
def test_loss_and_gradient_equal_the_published_token_level_loss(masked):
    case = published_case("grpo_loss_token_mask" if masked else "grpo_loss_token_nomask")
    logprobs = torch.tensor(case["in/logprobs"]).view(6, 8, 7).requires_grad_()
    # The reference gives every action an advantage of its own: treat an action as a sample of a chunk of one.
    if masked:
        mask_SC = torch.tensor(case["in/loss_mask"]).view(48, 1)
        length_S1 = torch.tensor(case["in/loss_mask_sum"]).view(48, 1)
        weights_SC = mask_SC * int(case["cfg/max_episode_steps"]) / length_S1 / (48 * 7)
    else:
        weights_SC = torch.full((48, 1), 1 / (48 * 7))
    result = clipped_policy_loss(
        logprobs.view(48, 1, 7),
        torch.tensor(case["in/old_logprobs"]).view(48, 1, 7),
        torch.tensor(case["in/advantages"]).view(48),
        weights_SC,
        clip_low=float(case["cfg/clip_ratio_low"]),
        clip_high=float(case["cfg/clip_ratio_high"]),
    )
    result.loss.backward()
    assert result.loss.item() == pytest.approx(float(case["out/loss"]), rel=1e-5)
    assert logprobs.grad is not None
    np.testing.assert_allclose(logprobs.grad.view(6, 56).numpy(), case["grad/logprobs"], rtol=1e-4, atol=1e-8)


def test_advantages_equal_the_published_ones():
    case = published_case("grpo_adv_sticky_norm1_mask1_sparse")
    rewards_TBC = case["in/rewards"] * case["in/loss_mask"]  # an episode's own rewards, none from after its end
    group_size = int(case["cfg/group_size"])
    returns_E = torch.tensor(rewards_TBC.sum(axis=(0, 2)))
    advantages_E = group_advantages(returns_E, torch.arange(len(returns_E)) // group_size)
    np.testing.assert_allclose(advantages_E.numpy(), case["out/advantages"][0, :, 0], rtol=1e-5)
