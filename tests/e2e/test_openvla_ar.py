"""Autoregressive OpenVLA with random weights in real scenes: an epoch in one process; as a run: test_runs.py."""

from dataclasses import asdict, replace

import numpy as np
import torch

from rlinf.config import load_config
from rlinf.custom.methods import make_method
from rlinf.data import EpisodePlan, EpisodeResult, RolloutBatch
from rlinf.engines.fsdp import gather_trainable
from rlinf.envs.episodes import EpisodeRecorder
from rlinf.envs.libero.adapter import LiberoEnv
from rlinf.models import Policy, PolicySource, load_policy
from tests.launchers import SMALL, TINY
from tests.small_policy import make_learner, write_autoregressive_policy

CONFIG = f"{TINY}_openvla"
STEPS = 10
LIMITS = (f"env.train.max_episode_steps={STEPS}", f"env.eval.max_episode_steps={STEPS}")


def _play(policy: Policy, env: LiberoEnv, *, temperature: float) -> RolloutBatch:
    """One group of two episodes, played to their ends."""
    recorder, ids = EpisodeRecorder(), [0, 1]
    plans = [EpisodePlan(episode, 0, "libero_spatial", 0, 0, 0) for episode in ids]
    for plan in plans:
        recorder.start(plan)
    observation, rng = env.reset(plans, ids), np.random.default_rng(0)
    while recorder.num_done < len(ids):
        inputs = policy.prepare(observation)
        output = policy.act(inputs, temperature=temperature, uniforms_BCA=rng.random((len(ids), *policy.chunk_shape)))
        step = env.step_chunk(output.env_actions_BCA, ids, video_ids=())
        recorder.act(
            ids,
            images_BNHWC=inputs.images_BNHWC.numpy(),
            bins_BCA=output.bins_BCA.numpy(),
            logprobs_BCA=output.logprobs_BCA.numpy(),
        )
        recorder.step(ids, step)
        observation = step.observation
    return RolloutBatch.cat(recorder.batches())


def _won(result: EpisodeResult) -> EpisodeResult:
    return replace(result, success_once=True, success_at_end=True, total_reward=5.0)


def test_an_epoch_of_real_episodes(tmp_path):
    """The simulator takes one action per step; the first update starts at ratio 1 and changes every part."""
    checkpoint = write_autoregressive_policy(tmp_path / "small")
    config = load_config(CONFIG, [*SMALL, *LIMITS])
    source = PolicySource(checkpoint, unnorm_key="libero_spatial", seed=3)
    policy = load_policy(config.actor.model, source, base_dtype=torch.float32)
    env = LiberoEnv(config.env)
    try:
        rollouts = _play(policy, env, temperature=config.algorithm.sampling_params.temperature_train)
    finally:
        env.close()
    assert rollouts.bins_SCA.shape == (2 * STEPS, 1, 7)
    assert [episode.num_steps for episode in rollouts.episodes] == [STEPS, STEPS]
    assert rollouts.executed_SC.all()

    # Random weights win nothing: call one episode a success, so that the group has something to tell.
    rewards_SC = rollouts.rewards_SC.copy()
    rewards_SC[STEPS - 1] = 5.0
    rollouts = replace(rollouts, rewards_SC=rewards_SC, episodes=(_won(rollouts.episodes[0]), rollouts.episodes[1]))
    learner = make_learner(
        policy,
        make_method(config.method),
        algorithm=config.algorithm,
        global_batch=2 * STEPS,
        micro_batch=4,
        **asdict(config.actor.optim),
    )
    before = {name: value.copy() for name, value in gather_trainable(policy.module).items()}
    metrics = learner.update(rollouts, seed=0)
    assert metrics["train/num_samples"] == 2 * STEPS
    assert abs(metrics["train/approx_kl"]) < 1e-6, "rollout and update agree on log-probabilities"
    assert metrics["train/clip_fraction"] == 0
    changed = [
        name for name, value in gather_trainable(policy.module).items() if not np.array_equal(value, before[name])
    ]
    for part in ("vision_backbone", "projector", "language_model.model", "lm_head"):
        assert any(part in name for name in changed), part
