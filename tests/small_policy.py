"""A random policy small enough for tests, and rollouts to train it on."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rlinf.config.schema import AlgorithmConfig, ModelConfig, OptimConfig
from rlinf.custom.methods import ContinualMethod
from rlinf.data import EpisodePlan, EpisodeResult, RolloutBatch
from rlinf.engines.checkpoint import save_actor
from rlinf.engines.fsdp import gather_trainable
from rlinf.engines.learner import PolicyLearner
from rlinf.models import Policy, PolicyInputs, PolicySource, load_policy
from rlinf.models.lora import trainable_parameters
from rlinf.run_layout import publish, start_writing
from transformers_openvla_oft import OpenVLAConfig, SmallSizes, TowerSizes, create_small_checkpoint
from transformers_openvla_oft.small import DINOV2, SIGLIP

PPO = AlgorithmConfig(adv_type="gae", loss_type="ppo", filter_rewards=False, loss_aggregation="token")
LANGUAGE = "pick up the black bowl next to the plate and place it on the plate"


def write_policy(path: Path, *, num_actions: int = 8) -> Path:
    """Write a checkpoint with about 0.2 million random weights; with one action per chunk it is autoregressive."""
    towers = tuple(TowerSizes(timm_id=name, embed_dim=32, depth=1, num_heads=2) for name in (DINOV2, SIGLIP))
    sizes = SmallSizes(
        image_size=32, patch_size=16, towers=towers, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64,
        num_actions_chunk=num_actions,
    )  # fmt: skip
    bounds = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
    create_small_checkpoint(path, sizes=sizes, norm_stats={"libero_spatial_no_noops": {"action": bounds}})
    return path


def write_autoregressive_policy(path: Path) -> Path:
    """The same, token by token."""
    return write_policy(path, num_actions=1)


def model_config(path: Path) -> ModelConfig:
    """How the checkpoint in ``path`` is read."""
    num_actions = OpenVLAConfig.from_pretrained(path).num_actions_chunk
    name = "openvla" if num_actions == 1 else "openvla_oft"
    return ModelConfig(model_name=name, num_action_chunks=num_actions, lora_rank=4)


def read_policy(
    path: Path,
    *,
    lora_path: Path | None = None,
    rank: int = 4,
    critic: bool = False,
    trains: bool = True,
    dtype: torch.dtype = torch.float32,
    **settings: object,
) -> Policy:
    """Load it with a LoRA adapter, or to be trained whole, and a value head for a ``critic``; other settings of the
    model are as in its configuration."""
    source = PolicySource(path, unnorm_key="libero_spatial", seed=3, critic=critic, trains=trains)
    weights = str(lora_path) if lora_path else None
    model = replace(model_config(path), lora_rank=rank, lora_path=weights, **settings)
    return load_policy(model, source, base_dtype=dtype)


def disturb(policy: Policy, scale: float) -> Policy:
    """Give its adapter an effect, which a fresh one has not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable_parameters(policy.module).values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return policy


def write_adapter(policy: Path, folder: Path, *, seed: int, **settings: object) -> Path:
    """An adapter of random weights for the checkpoint in ``policy``."""
    adapted, generator = read_policy(policy, **settings), torch.Generator().manual_seed(seed)
    parameters = trainable_parameters(adapted.module)
    tensors = {name: 0.1 * torch.randn(one.shape, generator=generator).numpy() for name, one in parameters.items()}
    adapted.save(folder, tensors)
    return folder


def make_learner(
    policy: Policy,
    method: ContinualMethod | None = None,
    *,
    algorithm: AlgorithmConfig | None = None,
    global_batch: int = 12,
    micro_batch: int = 3,
    **optim: float,
) -> PolicyLearner:
    """A learner on the CPU, for one rank or many; sequential GRPO at a rate of 1e-3 unless told otherwise."""
    return PolicyLearner(
        policy,
        method or ContinualMethod(),
        algorithm=algorithm or AlgorithmConfig(),
        optim=OptimConfig(**{"lr": 1e-3, **optim}),
        global_batch=global_batch,
        micro_batch=micro_batch,
        device=torch.device("cpu"),
    )


def make_rollouts(
    *,
    num_groups: int = 2,
    group_size: int = 4,
    chunks: int = 3,
    num_actions: int = 8,
    seed: int = 0,
    critic: bool = False,
) -> RolloutBatch:
    """Random pictures and bins; every second episode of a group succeeds one action before its last chunk ends
    (where it has several).

    critic: with the values that a fresh value head gives, which are zero.
    """
    rng = np.random.default_rng(seed)
    num_episodes = num_groups * group_size
    episodes = tuple(
        EpisodeResult(
            EpisodePlan(e, e // group_size, "libero_spatial", 0, 0, 0), bool(e % 2), bool(e % 2), 5.0 * (e % 2), 24
        )
        for e in range(num_episodes)
    )
    count = num_episodes * chunks
    executed = np.ones((count, num_actions), np.bool_)
    executed[chunks - 1 :: 2 * chunks, -1] = num_actions == 1
    rewards = np.zeros((count, num_actions), np.float32)
    rewards[2 * chunks - 1 :: 2 * chunks, -1] = 5.0
    return RolloutBatch(
        frames_SNHWC=rng.integers(0, 256, (count, 1, 32, 32, 3), dtype=np.uint8),
        languages=(LANGUAGE,),
        language_S=np.zeros(count, np.int64),
        bins_SCA=rng.integers(0, 256, (count, num_actions, 7)),
        logprobs_SCA=np.full((count, num_actions, 7), -np.log(256), np.float32),
        executed_SC=executed,
        rewards_SC=rewards,
        episode_S=np.repeat(np.arange(num_episodes), chunks),
        episodes=episodes,
        values_S=np.zeros(count, np.float32) if critic else None,
    )


def inputs_of(rollouts: RolloutBatch) -> PolicyInputs:
    """What the policy was shown."""
    return PolicyInputs(torch.from_numpy(rollouts.frames_SNHWC), (LANGUAGE,) * rollouts.num_samples)


def weights_of(learner: PolicyLearner) -> dict[str, np.ndarray]:
    """A copy of what is trained, as it is now, on one process."""
    return copy.deepcopy(gather_trainable(learner.policy.module))


def save(learner: PolicyLearner, run: Path, *, epoch: int = 1) -> Path:
    """Write a checkpoint of a run; returns its actor folder."""
    save_actor(learner, start_writing(run, epoch) / "actor", epoch=epoch)
    return publish(run, epoch).actor


def success_margin(policy: Policy, rollouts: RolloutBatch) -> float:
    """How much more likely, in log-probability, the policy does what succeeded than what did not."""
    with torch.no_grad():
        scored = policy.evaluate_actions(inputs_of(rollouts), torch.from_numpy(rollouts.bins_SCA), temperature=1.6)
    logprobs_S = scored.logprobs_BCA.mean((1, 2))
    won_S = torch.tensor([rollouts.episodes[episode].success_once for episode in rollouts.episode_S])
    return float(logprobs_S[won_S].mean() - logprobs_S[~won_S].mean())
