"""The mathematics of PPO: numbers worked out by hand, and the published code's outputs."""

import numpy as np
import pytest
import torch

from rlinf.algorithms.advantages import generalized_advantages, standardize
from rlinf.algorithms.policy_losses import clipped_policy_loss, masked_entropy_sum
from rlinf.algorithms.value_losses import clipped_value_loss, huber
from tests.published import published_case


def test_advantages_of_two_episodes_by_hand():
    # Episode 0: steps 0 and 2 of the batch, reward 1 at its end; episode 1: one step, reward 0.
    rewards_S = torch.tensor([0.0, 0.0, 1.0])
    values_S = torch.tensor([0.5, 0.25, 0.8])
    advantages_S, returns_S = generalized_advantages(
        rewards_S, values_S, torch.tensor([0, 1, 0]), gamma=0.9, gae_lambda=0.5
    )
    last = 1.0 - 0.8
    first = 0.9 * 0.8 - 0.5 + 0.9 * 0.5 * last
    torch.testing.assert_close(advantages_S, torch.tensor([first, -0.25, last]))
    torch.testing.assert_close(returns_S, torch.tensor([first + 0.5, 0.0, 1.0]))


def test_lambda_one_gives_the_discounted_return():
    generator = torch.Generator().manual_seed(0)
    rewards_S, values_S = torch.randn(5, generator=generator), torch.randn(5, generator=generator)
    _, returns_S = generalized_advantages(
        rewards_S, values_S, torch.zeros(5, dtype=torch.long), gamma=0.9, gae_lambda=1.0
    )
    expected = sum(0.9**step * float(reward) for step, reward in enumerate(rewards_S))
    assert returns_S[0].item() == pytest.approx(expected, abs=1e-5)


def test_what_follows_the_last_step_counts_when_it_is_given():
    advantages_S, _ = generalized_advantages(
        torch.tensor([1.0, 1.0]),
        torch.tensor([0.0, 0.0]),
        torch.tensor([0, 1]),
        gamma=0.5,
        gae_lambda=0.9,
        final_values_E=torch.tensor([4.0, 0.0]),
    )
    assert advantages_S.tolist() == [3.0, 1.0]


def test_advantages_refuse_unequal_vectors():
    with pytest.raises(ValueError, match="must be equal vectors"):
        generalized_advantages(
            torch.zeros(3), torch.zeros(2), torch.zeros(3, dtype=torch.long), gamma=1.0, gae_lambda=1.0
        )


def test_standardizing_looks_at_kept_samples_only():
    values_S = standardize(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([0, 1]), eps=0.0)
    assert values_S.tolist() == [-1.0, 1.0, 98.0]


def test_value_loss_by_hand():
    # Value 1 when it was recorded as 0, return 2, clip 0.2: the clipped error 1.8 is the larger one; beyond delta 1
    # the loss is linear. The second sample moved within the bounds; the third does not count.
    values_S = torch.tensor([1.0, 0.1, 7.0], requires_grad=True)
    result = clipped_value_loss(
        values_S,
        torch.zeros(3),
        torch.tensor([2.0, 0.5, 0.0]),
        torch.tensor([0.5, 0.5, 0.0]),
        value_clip=0.2,
        huber_delta=1.0,
    )
    result.loss.backward()
    assert result.loss.item() == pytest.approx(0.5 * (1.8 - 0.5) + 0.5 * 0.5 * 0.4**2)
    assert (result.clipped_samples.item(), result.num_samples.item()) == (1, 2)
    assert values_S.grad is not None
    assert values_S.grad.tolist() == [0.0, pytest.approx(-0.2), 0.0]


def _ragged(rewards_TB: np.ndarray, values_TB: np.ndarray, dones_TB: np.ndarray) -> tuple[torch.Tensor, ...]:
    """The reference's padded columns as episodes: a column is cut after each step that its ``dones`` end.

    What goes on at the end of a column is worth the value recorded there (``values`` has one row more).
    """
    num_steps, num_columns = rewards_TB.shape
    ends_TB = dones_TB[1:]
    starts_TB = np.concatenate([np.ones((1, num_columns), bool), ends_TB[:-1]])
    episode_TB = (np.cumsum(starts_TB.T.reshape(-1)) - 1).reshape(num_columns, num_steps).T
    final_E = np.zeros(episode_TB.max() + 1)
    final_E[episode_TB[-1]] = np.where(ends_TB[-1], 0, values_TB[-1])
    arrays = (rewards_TB.reshape(-1), values_TB[:-1].reshape(-1), episode_TB.reshape(-1), final_E)
    numbers = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in numbers)


def _rounding(rewards_TB: np.ndarray, *others: torch.Tensor, gamma: float, gae_lambda: float) -> torch.Tensor:
    """How far float32 may take a published advantage or return from ours, which are computed in float64.

    Each is a sum of rewards and values that may cancel each other, so the bound knows no more of the result than what
    it was summed from: n roundings lose at most n / 2 ulp of the sum of the absolute terms (Higham 2002, section 4.2).
    A step has at most five: reward and value, two products, the running sum; a chunk's rewards add theirs.
    """
    values_S, episode_S, final_E = others
    sizes_S = torch.from_numpy(np.abs(rewards_TB.astype(np.float64)).sum(-1).reshape(-1))
    none_S = torch.zeros_like(values_S)
    after_S = generalized_advantages(none_S, values_S, episode_S, gamma=gamma, gae_lambda=0, final_values_E=final_E)[1]
    terms_S = sizes_S + values_S.abs() + after_S.abs()
    summed_S, _ = generalized_advantages(terms_S, none_S, episode_S, gamma=gamma, gae_lambda=gae_lambda)
    roundings = 5 * len(rewards_TB) + rewards_TB.shape[-1]
    return roundings * np.finfo(np.float32).eps / 2 * (summed_S + values_S.abs())


def _standardized(numbers_S: torch.Tensor, rounding_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardized numbers, and how far these may be off where the numbers are: mean and spread move by no more than
    the farthest number does, and are sums of as many numbers as there are, which add log2 n roundings."""
    ours_S = standardize(numbers_S, torch.arange(len(numbers_S)))
    eps = np.finfo(np.float32).eps * np.log2(len(numbers_S))
    moved = (rounding_S.max() + eps * numbers_S.abs().max()) / numbers_S.std(correction=0)
    return ours_S, (2 + ours_S.abs()) * moved


@pytest.mark.parametrize("name", [
    "gae_chunk_level", "gae_gamma99_nonsticky", "gae_gamma99_sticky", "gae_nonorm_nonsticky", "gae_nonorm_sticky",
    "gae_norm_nonsticky", "gae_norm_sticky", "gae_normret_nonsticky", "gae_normret_sticky",
])  # fmt: skip
def test_advantages_and_returns_equal_the_published_ones(name):
    case = published_case(name)
    if name == "gae_chunk_level":  # a chunk's rewards add up; it is over where its last action is
        parts = case["in/rewards"].astype(np.float64)
        rewards, dones, values = parts.sum(-1), case["in/dones"][..., -1], case["in/values"][..., 0]
        np.testing.assert_allclose(
            rewards,
            case["out/reduced_rewards"][..., 0],
            atol=parts.shape[-1] * np.finfo(np.float32).eps * abs(parts).sum(-1).max(),
        )
        np.testing.assert_array_equal(dones, case["out/reduced_dones"][..., 0])
    else:  # every action is a step: (T, B, C) becomes (T * C, B)
        steps, columns, chunk = case["in/rewards"].shape
        flat = {
            key: case[f"in/{key}"].transpose(0, 2, 1).reshape(-1, columns) for key in ("rewards", "values", "dones")
        }
        rewards, values, dones = flat["rewards"], flat["values"][: steps * chunk + 1], flat["dones"][chunk - 1 :]
        parts = rewards[..., None]
    rewards_S, values_S, episode_S, final_E = _ragged(rewards, values, dones)
    discounts = {"gamma": float(case["cfg/gamma"]), "gae_lambda": float(case["cfg/gae_lambda"])}
    advantages_S, returns_S = generalized_advantages(
        rewards_S, values_S, episode_S, final_values_E=final_E, **discounts
    )
    rounding_S = _rounding(parts, values_S, episode_S, final_E, **discounts)
    for key, exact_S in (("advantages", advantages_S), ("returns", returns_S)):
        ours_S, tolerance_S = exact_S, rounding_S
        if case.get(f"cfg/normalize_{key}", False):
            ours_S, tolerance_S = _standardized(exact_S, rounding_S)
        expected = case[f"out/{key}"]
        expected_S = expected[..., 0] if name == "gae_chunk_level" else expected.transpose(0, 2, 1)
        error_S = (ours_S - torch.from_numpy(expected_S.reshape(-1).copy()).double()).abs()
        assert (error_S <= tolerance_S).all(), (key, error_S.max(), tolerance_S.max())


def test_huber_equals_the_published_one():
    case = published_case("huber")
    ours = huber(torch.tensor(case["in/error"]), delta=float(case["cfg/delta"]))
    np.testing.assert_allclose(ours.numpy(), case["out/loss"], rtol=1e-6)


@pytest.mark.parametrize("level", ["token_level", "action_level", "chunk_level", "chunk_reward_token_logprob"])
def test_loss_and_gradients_equal_the_published_ppo(level):
    case = published_case(f"ppo_loss_{level}")
    inputs = {key: torch.tensor(case[f"in/{key}"]) for key in ("logprobs", "entropy", "values")}
    for tensor in inputs.values():
        tensor.requires_grad_()
    old = torch.tensor(case["in/old_logprobs"])
    # What the published code calls a token, an action or a chunk is a token of ours: (samples, 1, tokens).
    shape = {
        "token_level": (48, 1, 7),
        "action_level": (48, 1, 7),
        "chunk_level": (6, 1, 56),
        "chunk_reward_token_logprob": (6, 8, 7),
    }[level]
    logprobs_SCA, old_SCA, entropy_SCA = (x.view(shape) for x in (inputs["logprobs"], old, inputs["entropy"]))
    if level in ("action_level", "chunk_level"):
        logprobs_SCA, old_SCA, entropy_SCA = (x.sum(-1, keepdim=True) for x in (logprobs_SCA, old_SCA, entropy_SCA))
    weights_SC = torch.full(logprobs_SCA.shape[:2], 1 / logprobs_SCA.numel())
    policy = clipped_policy_loss(
        logprobs_SCA,
        old_SCA,
        torch.tensor(case["in/advantages"]).view(-1),
        weights_SC,
        clip_low=float(case["cfg/clip_ratio_low"]),
        clip_high=float(case["cfg/clip_ratio_high"]),
    )
    values_S = inputs["values"].view(-1)
    value = clipped_value_loss(
        values_S,
        torch.tensor(case["in/prev_values"]).view(-1),
        torch.tensor(case["in/returns"]).view(-1),
        torch.full_like(values_S, 1 / len(values_S)),
        value_clip=float(case["cfg/value_clip"]),
        huber_delta=float(case["cfg/huber_delta"]),
    )
    loss = policy.loss + value.loss - float(case["cfg/entropy_bonus"]) * masked_entropy_sum(entropy_SCA, weights_SC)
    loss.backward()
    assert policy.loss.item() == pytest.approx(float(case["metric/actor/policy_loss"]), rel=1e-4)
    assert value.loss.item() == pytest.approx(float(case["metric/critic/value_loss"]), rel=1e-5)
    assert loss.item() == pytest.approx(float(case["out/loss"]), rel=1e-5)
    for name, tensor in inputs.items():
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), case[f"grad/{name}"], rtol=1e-4, atol=1e-8, err_msg=name)
