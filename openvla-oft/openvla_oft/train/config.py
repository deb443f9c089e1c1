"""Settings of a training."""

from dataclasses import dataclass, field

from openvla_oft.data.augment import AugmentConfig
from openvla_oft.data.oft_augment import OftAugmentConfig


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; it ends at ``num_steps`` or after ``minutes``, whichever comes first."""

    num_steps: int | None = None
    minutes: float | None = None
    """Wall-clock limit of the loop, compilation included; the cosine then follows the time."""
    batch_size: int = 512
    """Samples of one optimizer step, over all processes."""
    micro_batch_size: int | None = None
    """Samples of one forward and backward pass of one process; None: its whole share."""
    learning_rate: float = 5e-4
    num_warmup_steps: int = 200
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    label_sigma: float = 0.0
    """Standard deviation of smoothed labels in bins; 0 = hard labels."""
    ema_decay: float = 0.999
    """0 keeps the last weights."""
    seed: int = 0
    bf16: bool = False
    use_compile: bool = False
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 1000
    """Steps between states to resume from; 0: none."""
    num_validation_frames: int = 8192
    augment: AugmentConfig | OftAugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.num_steps is None and self.minutes is None:
            raise ValueError("give num_steps (--steps), minutes (--minutes), or both")
        positive = {
            "num_steps": self.num_steps,
            "minutes": self.minutes,
            "batch_size": self.batch_size,
            "micro_batch_size": self.micro_batch_size,
            "learning_rate": self.learning_rate,
            "max_grad_norm": self.max_grad_norm,
            "log_every": self.log_every,
            "validate_every": self.validate_every,
            "num_validation_frames": self.num_validation_frames,
        }
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive")
        if min(self.num_warmup_steps, self.weight_decay, self.save_every) < 0:
            raise ValueError("num_warmup_steps, weight_decay and save_every must not be negative")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} must not be negative")

    def micro_batch(self, world_size: int) -> int:
        """Samples of one pass of one process."""
        micro = self.micro_batch_size or -(-self.batch_size // world_size)
        if self.batch_size % (micro * world_size):
            raise ValueError(
                f"--batch-size {self.batch_size} must be a multiple of --micro-batch-size x processes = "
                f"{micro} x {world_size}"
            )
        return micro
