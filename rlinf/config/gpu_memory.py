"""Settings of the learner that a configuration leaves open, chosen by the memory of a GPU."""

from dataclasses import dataclass

from rlinf.config.schema import BY_MEMORY, Config, with_settings


@dataclass(frozen=True)
class Fit:
    """What fits into a GPU of this much memory (GiB) beside a second copy of the weights, for inference."""

    gib: float
    micro_batch: int
    checkpointing: bool
    shard_frozen: bool


# The 7B in bf16 with an adapter of rank 32 and one image: 15 GB of weights for each of learner and inference, and 2 GB
# of activations per sample, or 0.3 GB where blocks are computed again (docs/benchmarks.md). The first three are for
# cards of 141, 80 and 48 GB.
FITS = (
    Fit(120, 32, checkpointing=False, shard_frozen=False),
    Fit(75, 16, checkpointing=False, shard_frozen=False),
    Fit(44, 16, checkpointing=True, shard_frozen=False),
    Fit(0, 8, checkpointing=True, shard_frozen=True),
)
WITHOUT_GPU = Fit(0, 8, checkpointing=True, shard_frozen=False)


def settle(config: Config, *, gpu_gib: float | None, num_ranks: int) -> tuple[Config, list[str]]:
    """The configuration without open settings, and a line about each that was open.

    gpu_gib: memory of a GPU; None without any.
    """
    actor, model = config.actor, config.actor.model
    fit = WITHOUT_GPU if gpu_gib is None else next(fit for fit in FITS if gpu_gib >= fit.gib)
    found = {
        "actor.model.compile_blocks": (model.compile_blocks, gpu_gib is not None),
        "actor.model.gradient_checkpointing": (model.gradient_checkpointing, fit.checkpointing),
        "actor.fsdp.shard_frozen": (actor.fsdp.shard_frozen, fit.shard_frozen),
        "actor.micro_batch_size": (
            None if actor.micro_batch_size == BY_MEMORY else actor.micro_batch_size,
            _micro_batch(fit.micro_batch // len(config.env.cameras), actor.global_batch_size, num_ranks),
        ),
    }
    values = {key: chosen if given is None else given for key, (given, chosen) in found.items()}
    place = "without a GPU" if gpu_gib is None else f"for a GPU of {gpu_gib:.0f} GiB"
    lines = [f"{key}={str(values[key]).lower()}, chosen {place}" for key, (given, _) in found.items() if given is None]
    return with_settings(config, values), lines


def _micro_batch(most: int, global_batch: int, num_ranks: int) -> int:
    """The largest size up to ``most`` that divides every rank's part of an optimizer step."""
    fitting = [size for size in range(1, max(most, 1) + 1) if global_batch % (size * num_ranks) == 0]
    return max(fitting, default=1)
