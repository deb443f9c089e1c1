"""The options of ``python -m openvla_oft.finetune``, in typed groups; ``cli`` makes the command line from them."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from libero_runtime.options import Given, Option, build, options_of
from openvla_oft.data.augment import AugmentConfig
from openvla_oft.data.demonstration import DataOptions
from openvla_oft.data.images import is_cropped
from openvla_oft.data.oft_augment import OftAugmentConfig
from openvla_oft.data.statistics import ACTION_BOUNDS
from transformers_openvla_oft.model.blocks import CHECKPOINTING_POLICIES
from transformers_openvla_oft.model.language import ATTENTION_ROUTES
from transformers_openvla_oft.model.layouts import LAYOUTS
from transformers_openvla_oft.small import DINOV2, SIGLIP, SmallSizes, TowerSizes

TOWERS = {"dinov2": DINOV2, "siglip": SIGLIP}
SAVE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SMALL = "small"
"""Value of --init for fresh weights."""

_OWN, _OFT, _SIZES, _TOWER = AugmentConfig(), OftAugmentConfig(), SmallSizes(), TowerSizes()


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a training starts, where it runs and what it writes."""

    init: Annotated[str, Option("'small' (fresh weights) or a checkpoint folder")] = SMALL
    output: Annotated[Path, Option("folder to write", may_change=True)]
    overwrite: Annotated[bool, Option("replace an existing --output when training is done", may_change=True)] = False
    device: Annotated[str, Option(may_change=True)] = field(
        default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu"
    )
    save_dtype: Annotated[str, Option(choices=sorted(SAVE_DTYPES), may_change=True)] = "float16"
    frames: Annotated[
        str,
        Option(
            "where images are kept: on the device, or in a file that batches are read from (auto: by their size)",
            choices=("auto", "device", "file"),
            may_change=True,
        ),
    ] = "auto"

    def torch_device(self, *, local_rank: int = 0) -> torch.device:
        """--device; of several processes each takes the GPU of its number.

        Raises:
            ValueError: there is no such device here.
        """
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"--device {self.device}: expected cpu, cuda or cuda:<number>")
        device = torch.device(self.device)
        if device.type == "cpu":
            return device
        if not torch.cuda.is_available():
            raise ValueError(f"--device {self.device}, but torch sees no CUDA device; use --device cpu")
        index = local_rank if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise ValueError(f"--device {self.device}: GPU {index} of {torch.cuda.device_count()} that torch sees")
        return torch.device("cuda", index)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop; it ends after its steps or its minutes, whichever comes first."""

    num_steps: Annotated[
        int | None, Option("optimizer steps; with --minutes whichever comes first", name="steps", above=0)
    ] = None
    minutes: Annotated[float | None, Option("wall-clock limit; the cosine then follows the time", above=0)] = None
    """Compilation included."""
    batch_size: Annotated[int, Option("of one optimizer step, over all processes", above=0)] = 512
    micro_batch_size: Annotated[
        int | None, Option("of one pass of one process (default: its whole share)", may_change=True, above=0)
    ] = None
    learning_rate: Annotated[float, Option("peak learning rate", name="lr", above=0)] = 5e-4
    num_warmup_steps: Annotated[int, Option(name="warmup-steps", least=0)] = 200
    weight_decay: Annotated[float, Option(least=0)] = 0.05
    max_grad_norm: Annotated[float, Option(above=0)] = 1.0
    label_sigma: Annotated[float, Option("label smoothing width in bins", least=0)] = 0.0
    """Standard deviation; 0: hard labels."""
    ema_decay: Annotated[float, Option("decay of the weight average; 0: none", name="ema", least=0, below=1)] = 0.999
    seed: Annotated[int, Option(least=0)] = 0
    bf16: Annotated[bool, Option("bfloat16 autocast (default: on a GPU)", has_negation=True)] = False
    use_compile: Annotated[
        bool,
        Option(
            "torch.compile (default: on a GPU); goes on without if it fails",
            name="compile",
            has_negation=True,
            may_change=True,
        ),
    ] = False
    log_every: Annotated[int, Option(may_change=True, above=0)] = 50
    validate_every: Annotated[int, Option(may_change=True, above=0)] = 1000
    save_every: Annotated[
        int,
        Option("steps between states to go on from after an interruption; 0: none", may_change=True, least=0),
    ] = 1000
    num_validation_frames: Annotated[int, Option(name="validation-frames", may_change=True, above=0)] = 8192
    augment: AugmentConfig | OftAugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.num_steps is None and self.minutes is None:
            raise ValueError("give --steps, --minutes, or both")

    def micro_batch(self, world_size: int) -> int:
        """Samples of one pass of one process."""
        micro = self.micro_batch_size or -(-self.batch_size // world_size)
        if self.batch_size % (micro * world_size):
            raise ValueError(
                f"--batch-size {self.batch_size} must be a multiple of --micro-batch-size x processes = "
                f"{micro} x {world_size}"
            )
        return micro


@dataclass(frozen=True)
class ModelOptions:
    """How the policy computes, and what is held out."""

    attention: Annotated[
        str | None,
        Option(
            "default: flash_attention_2 where flash-attn is installed, bfloat16 is computed in, and the step is not "
            "compiled as a whole (one GPU); else sdpa",
            choices=ATTENTION_ROUTES,
            may_change=True,
        ),
    ] = None
    gradient_checkpointing: Annotated[
        str | None,
        Option(
            "compute activations twice to save memory: all of a block's (full), all but attention, or all but that "
            "and large matrix products (matmuls)",
            choices=CHECKPOINTING_POLICIES,
            bare="full",
        ),
    ] = None
    validation_fraction: Annotated[float, Option("share of each task's demonstrations", least=0, below=1)] = 0.02


@dataclass(frozen=True)
class TargetOptions:
    """What the policy learns to predict."""

    objective: Annotated[str, Option("cross-entropy of action tokens, or L1 regression", choices=("tokens", "l1"))] = (
        "tokens"
    )
    layout: Annotated[
        str,
        Option(
            "the sequence: as reinforcement learning decodes, or as the OpenVLA-OFT repository, with an end token",
            choices=LAYOUTS,
        ),
    ] = "rl"
    after_end: Annotated[
        str, Option("targets after a demonstration's end: stay, or none", choices=("hold", "mask"))
    ] = "hold"
    action_bounds: Annotated[str, Option("what q01 and q99 of the statistics are", choices=ACTION_BOUNDS)] = "symmetric"
    unnorm_key: Annotated[
        str | None,
        Option("statistics of the checkpoint to use (default: the suite's, computed from the data where it has none)"),
    ] = None
    actions_per_chunk: Annotated[
        int,
        Option(
            "decoded at once, of a small policy and of a checkpoint that does not say; 1: autoregressive, token by "
            "token as OpenVLA",
            least=1,
        ),
    ] = _SIZES.num_actions_chunk


@dataclass(frozen=True)
class LoraOptions:
    """A low-rank adapter; without a rank all weights are trained."""

    rank: Annotated[int | None, Option(name="lora-rank", least=1)] = None
    given_alpha: Annotated[int | None, Option("default: the rank", name="lora-alpha", least=1)] = None
    dropout: Annotated[float, Option(name="lora-dropout", least=0, below=1)] = 0.0
    path: Annotated[Path | None, Option("go on from this adapter", name="lora-path")] = None
    """It then gives rank, alpha and targets."""
    merge: Annotated[bool, Option("write a whole checkpoint, the adapter added to its base", may_change=True)] = False
    shard_frozen: Annotated[
        bool,
        Option("several processes: shard the frozen base too, as every GPU would not hold it; slower", may_change=True),
    ] = False

    @property
    def alpha(self) -> int:
        """Scale of the adapter times its rank."""
        return (self.rank or 0) if self.given_alpha is None else self.given_alpha


@dataclass(frozen=True)
class AugmentationOptions:
    """Strengths; None: those of the augmentation that --pictures means."""

    no_augment: Annotated[bool, Option("train on images as they are; random crops of --pictures stay")] = False
    shift: Annotated[int | None, Option(f"pixels (default: {_OWN.shift}; random crops: none)", least=0)] = None
    brightness: Annotated[
        float | None,
        Option(f"factor (default: {_OWN.brightness}); random crops: added ({_OFT.brightness})", least=0, most=1),
    ] = None
    contrast: Annotated[
        float | None, Option(f"default: {_OWN.contrast}; random crops: {_OFT.contrast}", least=0, most=1)
    ] = None
    colour: Annotated[float | None, Option(f"default: {_OWN.colour}; random crops: none", least=0, most=1)] = None
    noise: Annotated[float | None, Option(f"default: {_OWN.noise}; random crops: none", least=0)] = None
    saturation: Annotated[float | None, Option(f"with random crops (default: {_OFT.saturation})", least=0, most=1)] = (
        None
    )
    hue: Annotated[
        float | None, Option(f"with random crops, part of the circle (default: {_OFT.hue})", least=0, most=0.5)
    ] = None

    def config(self, pictures: str) -> AugmentConfig | OftAugmentConfig:
        """The augmentation of --pictures, with the strengths that were given."""
        cropped = is_cropped(pictures)
        if self.no_augment:
            return OftAugmentConfig.crops_only() if cropped else AugmentConfig.off()
        strengths: dict[str, Any] = {
            name: value for name, value in vars(self).items() if name != "no_augment" and value is not None
        }
        return OftAugmentConfig(**strengths) if cropped else AugmentConfig(**strengths)


@dataclass(frozen=True)
class SizeOptions:
    """Sizes of a policy from fresh weights."""

    image_size: Annotated[int, Option(least=1)] = _SIZES.image_size
    patch_size: Annotated[int, Option(least=1)] = _SIZES.patch_size
    towers: Annotated[tuple[str, ...], Option("siglip, dinov2, or dinov2,siglip (fused)")] = tuple(
        name for tower in _SIZES.towers for name, timm_id in TOWERS.items() if timm_id == tower.timm_id
    )
    vit_dim: Annotated[int, Option("width of each vision tower", least=1)] = _TOWER.embed_dim
    vit_depth: Annotated[int, Option(least=1)] = _TOWER.depth
    vit_heads: Annotated[int, Option(least=1)] = _TOWER.num_heads
    llm_hidden: Annotated[int, Option(least=1)] = _SIZES.hidden_size
    llm_layers: Annotated[int, Option(least=1)] = _SIZES.num_layers
    llm_heads: Annotated[int, Option(least=1)] = _SIZES.num_heads
    llm_intermediate: Annotated[int, Option(least=1)] = _SIZES.intermediate_size
    max_prompt_length: Annotated[int, Option(least=1)] = _SIZES.max_prompt_length

    def __post_init__(self) -> None:
        if self.vit_dim % self.vit_heads:
            raise ValueError(f"--vit-dim {self.vit_dim} does not divide into --vit-heads {self.vit_heads} heads")
        if self.llm_hidden % (2 * self.llm_heads):
            raise ValueError(
                f"--llm-hidden {self.llm_hidden} does not divide into --llm-heads {self.llm_heads} heads of an even "
                f"size"
            )
        unknown = sorted(set(self.towers) - set(TOWERS))
        if unknown:
            raise ValueError(f"--towers {','.join(self.towers)}: unknown {unknown}; expected dinov2, siglip or both")

    def small(self, *, num_images: int, num_actions_chunk: int) -> SmallSizes:
        """As ``create_small_checkpoint`` takes them."""
        tower = replace(_TOWER, embed_dim=self.vit_dim, depth=self.vit_depth, num_heads=self.vit_heads)
        return SmallSizes(
            image_size=self.image_size,
            patch_size=self.patch_size,
            towers=tuple(replace(tower, timm_id=TOWERS[name]) for name in self.towers),
            hidden_size=self.llm_hidden,
            num_layers=self.llm_layers,
            num_heads=self.llm_heads,
            intermediate_size=self.llm_intermediate,
            max_prompt_length=self.max_prompt_length,
            num_images=num_images,
            num_actions_chunk=num_actions_chunk,
        )


GROUPS: dict[type, str | None] = {
    DataOptions: "demonstrations",
    RunOptions: None,
    TrainConfig: "training",
    ModelOptions: "computation and validation",
    TargetOptions: "targets",
    LoraOptions: "low-rank adapter (default: all weights are trained)",
    AugmentationOptions: "augmentation (half-widths; with --pictures oft_random_crop the OFT repository's)",
    SizeOptions: "sizes of --init small",
}
"""Titles of the groups of options, in the order of --help."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """One training. ``given``: names of the options that stand in the command line."""

    data: DataOptions
    run: RunOptions
    training: TrainConfig
    model: ModelOptions
    targets: TargetOptions
    lora: LoraOptions
    augmentation: AugmentationOptions
    sizes: SizeOptions
    given: frozenset[str]
    command: Sequence[str]

    @classmethod
    def of(cls, given: Given, command: Sequence[str]) -> "FinetuneOptions":
        """The options of a command line.

        Raises:
            ValueError: one is out of its range, does not fit another, or would have no effect.
        """
        on_gpu = build(RunOptions, given).device.startswith("cuda")
        values = {"bf16": on_gpu, "compile": on_gpu, **given}
        options = cls(
            data=build(DataOptions, values),
            run=build(RunOptions, values),
            training=build(TrainConfig, values),
            model=build(ModelOptions, values),
            targets=build(TargetOptions, values),
            lora=build(LoraOptions, values),
            augmentation=build(AugmentationOptions, values),
            sizes=build(SizeOptions, values),
            given=frozenset(given),
            command=command,
        )
        options._refuse_ignored()
        if options.lora.rank is not None and options.run.init == SMALL:
            raise ValueError("--lora-rank needs a base that is stored: give --init CHECKPOINT")
        augment = options.augmentation.config(options.data.pictures)
        return replace(options, training=replace(options.training, augment=augment))

    def settings(self) -> dict[str, object]:
        """What must be the same when an interrupted training goes on, by the names of the options."""
        groups = [value for value in vars(self).values() if type(value) in GROUPS]
        values = {
            f"--{name}": getattr(group, option.name)
            for group in groups
            for name, (description, option) in options_of(type(group)).items()
            if not description.may_change
        }
        values |= {f"--{name}": value for name, value in asdict(self.training.augment).items()}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def _refuse_ignored(self) -> None:
        """An option that was given and would change nothing is a mistake of somebody who expects otherwise."""
        adapter, cropped = self.lora.rank is not None, is_cropped(self.data.pictures)
        strengths = [name for name in options_of(AugmentationOptions) if name != "no-augment"]
        adapter_options = [name for name in options_of(LoraOptions) if name != "lora-rank"]
        unused: list[tuple[bool, Sequence[str], str]] = [
            (self.run.init != SMALL, list(options_of(SizeOptions)), "the sizes are those of the --init checkpoint"),
            (not adapter, adapter_options, "there is no --lora-rank"),
            (self.lora.path is not None, ("lora-alpha", "lora-dropout"), "--lora-path has its own"),
            (adapter and not self.lora.merge, ("save-dtype",), "adapters are float32; --merge writes a checkpoint"),
            (self.augmentation.no_augment, strengths, "--no-augment switches it off"),
            (cropped, ("shift", "colour", "noise"), "--pictures oft_random_crop has the OFT repository's augmentation"),
            (not cropped, ("saturation", "hue"), "it is part of the augmentation of --pictures oft_random_crop"),
            (self.targets.objective == "l1", ("label-sigma",), "--objective l1 has no labels to smooth"),
            (self.targets.unnorm_key is not None, ("action-bounds",), "--unnorm-key takes the checkpoint's statistics"),
        ]
        for applies, names, reason in unused:
            given = [f"--{name}" for name in names if applies and name in self.given]
            if given:
                raise ValueError(f"{', '.join(given)} would have no effect: {reason}; leave it out")
