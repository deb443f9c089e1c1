"""How much of Ray's shared memory a run fills."""

import logging

from rlinf.config.schema import Config
from rlinf.config.validate import episodes_per_epoch
from rlinf.envs.vector_env import VIDEO_STRIDE
from rlinf.models import PolicySource, policy_kind

log = logging.getLogger(__name__)

FILLED = 0.75
"""Largest share of the store that a run fills: from 80 % on Ray writes to disk, and not only what is beyond them."""
OTHER_BYTES = 2**29
"""Observations on their way, of some two hundred simulator processes, and what Ray itself keeps."""
NUM_WEIGHT_COPIES = 2  # those of the epoch before, for an inference worker that takes another's place, and new ones
GIB = 2**30


def object_store_gb(config: Config, source: PolicySource, *, learn: bool) -> float:
    """GiB of object store to start Ray with: as configured, else as much as stays in memory.

    learn: samples are collected and weights synchronised, too.
    """
    parts = {"videos": _video_bytes(config), "other": OTHER_BYTES}
    if learn:
        weights = NUM_WEIGHT_COPIES * trained_bytes(config, source)
        parts = {"samples": _sample_bytes(config, source), "weights": weights, **parts}
    needed = sum(parts.values()) / FILLED / GIB
    given = config.cluster.object_store_gb
    size = needed if given is None else given
    shown = ", ".join(f"{name} {count / GIB:.3g}" for name, count in parts.items() if count)
    log.info("Ray's object store: %.2f GiB, filled by at most (GiB): %s", size, shown)
    if size < needed:
        log.warning(
            "cluster.object_store_gb=%g: Ray writes to disk what does not fit; %.2f keep everything in memory",
            size,
            needed,
        )
    return size


def _sample_bytes(config: Config, source: PolicySource) -> int:
    """Samples of one epoch; those of the epoch before are gone when they are collected, or with
    ``algorithm.max_policy_lag`` still there."""
    num_actions, action_dim = config.actor.model.num_action_chunks, 7
    chunks = -(-config.env.train.max_episode_steps // num_actions)
    beside = num_actions * (12 * action_dim + 5) + 20  # bins, log-probabilities; mask, rewards; indices, value
    stated = policy_kind(config.actor.model).stated
    num_images, size = len(config.env.cameras), config.env.image_size
    if stated is not None:
        found = stated(source.checkpoint)
        num_images, size = found.num_images, found.image_size
    epochs = 1 + config.algorithm.max_policy_lag
    return epochs * episodes_per_epoch(config) * chunks * (3 * num_images * size**2 + beside)


def stored_bytes(source: PolicySource) -> int:
    """Size of the files of weights of the checkpoint."""
    files = [path for end in ("safetensors", "pt", "bin") for path in source.checkpoint.glob(f"*.{end}")]
    return sum(path.stat().st_size for path in files)


def trained_bytes(config: Config, source: PolicySource) -> int:
    """Trained weights in float32, estimated from the files of the checkpoint, which may hold 16-bit numbers.

    A rank-r adapter of an n x n matrix takes 4 r / n of those; n is mostly 4096 in the 7B, 2048 is assumed.
    """
    stored, model = stored_bytes(source), config.actor.model
    return min(2 * stored, stored * model.lora_rank // 512) if model.is_lora else 2 * stored


def _video_bytes(config: Config) -> int:
    """Frames of an evaluation's videos."""
    env = config.env
    return env.video_episodes * (env.eval.max_episode_steps // VIDEO_STRIDE + 1) * 3 * env.image_size**2
