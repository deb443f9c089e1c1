"""The options of ``python -m openvla_oft.finetune`` and what they mean to the code."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import torch

from openvla_oft import cli
from openvla_oft.data import batches
from openvla_oft.data.augment import AugmentConfig
from openvla_oft.data.images import is_cropped
from openvla_oft.data.oft_augment import OftAugmentConfig
from openvla_oft.data.statistics import ACTION_BOUNDS
from openvla_oft.model import checkpoints
from openvla_oft.model.lora import LoraSettings
from openvla_oft.train.config import TrainConfig
from openvla_oft.train.objectives import OBJECTIVES
from transformers_openvla_oft.model.blocks import CHECKPOINTING_POLICIES
from transformers_openvla_oft.model.language import ATTENTION_ROUTES
from transformers_openvla_oft.model.layouts import LAYOUTS
from transformers_openvla_oft.small import DINOV2, SIGLIP, SmallSizes, TowerSizes

TOWERS = {"dinov2": DINOV2, "siglip": SIGLIP}
FRAMES = ("auto", "device", "file")
MAY_CHANGE = {
    *(
        "command",
        "given",
        "demonstrations",
        "output",
        "overwrite",
        "device",
        "num_workers",
        "frames",
        "compile",
        "attention",
    ),
    *("log_every", "save_every", "validate_every", "validation_frames", "micro_batch_size", "save_dtype", "merge"),
    "shard_frozen",
}
"""Options that an interrupted training may be continued with other values of."""
SIZE_OPTIONS = (
    *("image_size", "patch_size", "towers", "vit_dim", "vit_depth", "vit_heads"),
    *("llm_hidden", "llm_layers", "llm_heads", "llm_intermediate", "max_prompt_length"),
)
"""Options that describe --init small."""
OWN_AUGMENTATION = ("shift", "colour", "noise")
OFT_AUGMENTATION = ("saturation", "hue")
AUGMENTATION_OPTIONS = (*OWN_AUGMENTATION, "brightness", "contrast", *OFT_AUGMENTATION)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Every option of the command; ``description`` heads its --help."""
    arguments = argparse.ArgumentParser(
        prog="python -m openvla_oft.finetune",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_data_arguments(arguments)
    arguments.add_argument("--init", default="small", help="'small' (fresh weights) or a checkpoint folder")
    arguments.add_argument("--output", type=Path, required=True, help="folder to write")
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace an existing --output when training is done"
    )
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--save-dtype", choices=sorted(checkpoints.SAVE_DTYPES), default="float16")
    arguments.add_argument(
        "--frames",
        choices=FRAMES,
        default="auto",
        help="where pictures are kept: on the device, or in a file that batches are read from (auto: by their size)",
    )
    _add_training_arguments(arguments)
    _add_target_arguments(arguments)
    _add_lora_arguments(arguments)
    _add_augmentation_arguments(arguments)
    _add_size_arguments(arguments)
    return arguments


def train_config(options: argparse.Namespace) -> TrainConfig:
    """The settings of the training loop."""
    on_gpu = options.device.startswith("cuda")
    return TrainConfig(
        num_steps=options.steps,
        minutes=options.minutes,
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        learning_rate=options.lr,
        num_warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        label_sigma=options.label_sigma,
        ema_decay=options.ema,
        seed=options.seed,
        bf16=on_gpu if options.bf16 is None else options.bf16,
        use_compile=on_gpu if options.compile is None else options.compile,
        log_every=options.log_every,
        validate_every=options.validate_every,
        save_every=options.save_every,
        num_validation_frames=options.validation_frames,
        augment=augmentation(options),
    )


def augmentation(options: argparse.Namespace) -> AugmentConfig | OftAugmentConfig:
    """That of --pictures, with the strengths that were given."""
    cropped = is_cropped(options.pictures)
    if options.no_augment:
        return OftAugmentConfig.crops_only() if cropped else AugmentConfig.off()
    given = {name: getattr(options, name) for name in AUGMENTATION_OPTIONS if name in options.given}
    return replace(OftAugmentConfig(), **given) if cropped else replace(AugmentConfig(), **given)


def lora_settings(options: argparse.Namespace) -> LoraSettings | None:
    """None: all weights are trained."""
    if options.lora_rank is None:
        return None
    if options.init == "small":
        raise ValueError("--lora-rank needs a base that is stored: give --init CHECKPOINT")
    return LoraSettings(
        rank=options.lora_rank,
        alpha=options.lora_rank if options.lora_alpha is None else options.lora_alpha,
        dropout=options.lora_dropout,
        path=options.lora_path,
    )


def settings(options: argparse.Namespace, config: TrainConfig) -> dict[str, object]:
    """What must be the same when an interrupted training goes on, by the names of the options."""
    names = {flag(name): value for name, value in vars(options).items() if name not in MAY_CHANGE}
    strengths = {flag(name): value for name, value in asdict(config.augment).items()}
    resolved = {**names, **strengths, "--bf16": config.bf16}
    return {name: str(value) if isinstance(value, Path) else value for name, value in resolved.items()}


def device_of(options: argparse.Namespace, *, local_rank: int = 0) -> torch.device:
    """--device; of several processes each takes the GPU of its number.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise ValueError(f"--device {options.device}: expected cpu, cuda or cuda:<number>") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {options.device}: expected cpu, cuda or cuda:<number>")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}, but torch sees no CUDA device; use --device cpu")
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"--device {options.device}: GPU {index} of {torch.cuda.device_count()} that torch sees")
    return torch.device("cuda", index)


def refuse_ignored(options: argparse.Namespace) -> None:
    """An option that was given and would change nothing is a mistake of somebody who expects otherwise.

    Raises:
        ValueError: names one, and why it has no effect.
    """
    _check_positive("actions_per_chunk", options.actions_per_chunk)
    adapter = options.lora_rank is not None
    cropped = is_cropped(options.pictures)
    unused = (
        (options.init != "small", SIZE_OPTIONS, "the sizes are those of the --init checkpoint"),
        (not adapter, ("lora_alpha", "lora_dropout", "lora_path", "merge", "shard_frozen"), "there is no --lora-rank"),
        (options.lora_path is not None, ("lora_alpha", "lora_dropout"), "--lora-path has its own"),
        (adapter and not options.merge, ("save_dtype",), "adapters are stored in float32; --merge writes a checkpoint"),
        (options.no_augment, AUGMENTATION_OPTIONS, "--no-augment switches it off"),
        (cropped, OWN_AUGMENTATION, "--pictures oft_random_crop has the OFT repository's augmentation"),
        (not cropped, OFT_AUGMENTATION, "it is part of the augmentation of --pictures oft_random_crop"),
        (options.objective == "l1", ("label_sigma",), "--objective l1 has no labels to smooth"),
        (options.unnorm_key is not None, ("action_bounds",), "--unnorm-key takes the checkpoint's statistics"),
    )
    for applies, names, reason in unused:
        given = [flag(name) for name in names if applies and name in options.given]
        if given:
            raise ValueError(f"{', '.join(given)} would have no effect: {reason}; leave it out")


def small_sizes(options: argparse.Namespace) -> SmallSizes:
    """The sizes of --init small."""
    _check_sizes(options)
    unknown = sorted(set(options.towers) - set(TOWERS))
    if unknown:
        raise ValueError(f"--towers {','.join(options.towers)}: unknown {unknown}; expected dinov2, siglip or both")
    towers = tuple(
        replace(
            TowerSizes(timm_id=TOWERS[name]),
            embed_dim=options.vit_dim,
            depth=options.vit_depth,
            num_heads=options.vit_heads,
        )
        for name in options.towers
    )
    return SmallSizes(
        image_size=options.image_size,
        patch_size=options.patch_size,
        towers=towers,
        hidden_size=options.llm_hidden,
        num_layers=options.llm_layers,
        num_heads=options.llm_heads,
        intermediate_size=options.llm_intermediate,
        max_prompt_length=options.max_prompt_length,
        num_images=len(options.cameras),
        num_actions_chunk=options.actions_per_chunk,
    )


def _check_sizes(options: argparse.Namespace) -> None:
    for name in SIZE_OPTIONS:
        value = getattr(options, name)
        if isinstance(value, int):
            _check_positive(name, value)
    for width, heads, multiple in (("vit_dim", "vit_heads", 1), ("llm_hidden", "llm_heads", 2)):
        size, count = getattr(options, width), getattr(options, heads)
        if size % (count * multiple):
            even = " of an even size" if multiple == 2 else ""
            raise ValueError(f"{flag(width)} {size} does not divide into {flag(heads)} {count} heads{even}")


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{flag(name)} {value} must be at least 1")


def flag(name: str) -> str:
    """An option's name as it is given."""
    return f"--{name.replace('_', '-')}"


def _add_training_arguments(arguments: argparse.ArgumentParser) -> None:
    default = TrainConfig(num_steps=1)
    group = arguments.add_argument_group("training")
    group.add_argument("--steps", type=int, default=None, help="optimizer steps; with --minutes whichever comes first")
    group.add_argument("--minutes", type=float, default=None, help="wall-clock limit; the cosine then follows the time")
    group.add_argument(
        "--batch-size", type=int, default=default.batch_size, help="of one optimizer step, over all processes"
    )
    group.add_argument(
        "--micro-batch-size", type=int, default=None, help="of one pass of one process (default: its whole share)"
    )
    group.add_argument("--lr", type=float, default=default.learning_rate, help="peak learning rate")
    group.add_argument("--warmup-steps", type=int, default=default.num_warmup_steps)
    group.add_argument("--weight-decay", type=float, default=default.weight_decay)
    group.add_argument("--max-grad-norm", type=float, default=default.max_grad_norm)
    group.add_argument("--label-sigma", type=float, default=default.label_sigma, help="label smoothing width in bins")
    group.add_argument("--ema", type=float, default=default.ema_decay, help="decay of the weight average; 0: none")
    group.add_argument("--seed", type=int, default=default.seed)
    switch = argparse.BooleanOptionalAction
    group.add_argument("--bf16", action=switch, default=None, help="bfloat16 autocast (default: on a GPU)")
    group.add_argument(
        "--compile",
        action=switch,
        default=None,
        help="torch.compile (default: on a GPU); goes on without if it fails",
    )
    group.add_argument(
        "--attention",
        choices=ATTENTION_ROUTES,
        default=None,
        help="default: flash_attention_2 where flash-attn is installed, bfloat16 is computed in, and the step is not "
        "compiled as a whole (one GPU); else sdpa",
    )
    group.add_argument("--log-every", type=int, default=default.log_every)
    group.add_argument("--validate-every", type=int, default=default.validate_every)
    group.add_argument(
        "--save-every",
        type=int,
        default=default.save_every,
        help="steps between states that the same command goes on from after an interruption; 0: none",
    )
    group.add_argument(
        "--gradient-checkpointing",
        nargs="?",
        const="full",
        choices=CHECKPOINTING_POLICIES,
        help="compute activations twice to save memory: all of a block's (full), all but attention, or all but that "
        "and large matrix products (matmuls)",
    )
    group.add_argument("--validation-frames", type=int, default=default.num_validation_frames)
    group.add_argument("--validation-fraction", type=float, default=0.02, help="share of each task's demonstrations")


def _add_target_arguments(arguments: argparse.ArgumentParser) -> None:
    group = arguments.add_argument_group("targets")
    group.add_argument(
        "--objective", choices=OBJECTIVES, default="tokens", help="cross-entropy of action tokens, or L1 regression"
    )
    group.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="rl",
        help="the sequence: as reinforcement learning decodes, or as the OpenVLA-OFT repository, with an end token",
    )
    group.add_argument(
        "--after-end",
        choices=batches.AFTER_END,
        default="hold",
        help="targets after a demonstration's end: stay, or none",
    )
    group.add_argument(
        "--action-bounds", choices=ACTION_BOUNDS, default="symmetric", help="what q01 and q99 of the statistics are"
    )
    group.add_argument(
        "--unnorm-key",
        default=None,
        help="statistics of the checkpoint to use (default: the suite's, computed from the data where it has none)",
    )

    group.add_argument(
        "--actions-per-chunk",
        type=int,
        default=SmallSizes().num_actions_chunk,
        help="decoded at once, of a small policy and of a checkpoint that does not say; 1: autoregressive, token by "
        "token as OpenVLA",
    )


def _add_lora_arguments(arguments: argparse.ArgumentParser) -> None:
    group = arguments.add_argument_group("low-rank adapter (default: all weights are trained)")
    group.add_argument("--lora-rank", type=int, default=None)
    group.add_argument("--lora-alpha", type=int, default=None, help="default: the rank")
    group.add_argument("--lora-dropout", type=float, default=0.0)
    group.add_argument("--lora-path", type=Path, default=None, help="go on from this adapter")
    group.add_argument("--merge", action="store_true", help="write a whole checkpoint, the adapter added to its base")
    group.add_argument(
        "--shard-frozen",
        action="store_true",
        help="several processes: shard the frozen base too, as every GPU would not hold it; slower",
    )


def _add_augmentation_arguments(arguments: argparse.ArgumentParser) -> None:
    own, oft = AugmentConfig(), OftAugmentConfig()
    group = arguments.add_argument_group(
        "augmentation (strengths are half-widths; with --pictures oft_random_crop the OFT repository's)"
    )
    group.add_argument(
        "--no-augment", action="store_true", help="train on pictures as they are; random crops of --pictures stay"
    )
    group.add_argument("--shift", type=int, help=f"pixels (default: {own.shift}; random crops: none)")
    group.add_argument(
        "--brightness", type=float, help=f"factor (default: {own.brightness}); random crops: added ({oft.brightness})"
    )
    group.add_argument("--contrast", type=float, help=f"default: {own.contrast}; random crops: {oft.contrast}")
    group.add_argument("--colour", type=float, help=f"default: {own.colour}; random crops: none")
    group.add_argument("--noise", type=float, help=f"default: {own.noise}; random crops: none")
    group.add_argument("--saturation", type=float, help=f"with random crops (default: {oft.saturation})")
    group.add_argument("--hue", type=float, help=f"with random crops, part of the circle (default: {oft.hue})")


def _add_size_arguments(arguments: argparse.ArgumentParser) -> None:
    sizes, tower = SmallSizes(), TowerSizes()
    names = {timm_id: name for name, timm_id in TOWERS.items()}
    group = arguments.add_argument_group("sizes of --init small")
    group.add_argument("--image-size", type=int, default=sizes.image_size)
    group.add_argument("--patch-size", type=int, default=sizes.patch_size)
    group.add_argument(
        "--towers",
        type=lambda text: tuple(text.split(",")),
        default=tuple(names[tower.timm_id] for tower in sizes.towers),
        help="siglip, dinov2, or dinov2,siglip (fused)",
    )
    group.add_argument("--vit-dim", type=int, default=tower.embed_dim, help="width of each vision tower")
    group.add_argument("--vit-depth", type=int, default=tower.depth)
    group.add_argument("--vit-heads", type=int, default=tower.num_heads)
    group.add_argument("--llm-hidden", type=int, default=sizes.hidden_size)
    group.add_argument("--llm-layers", type=int, default=sizes.num_layers)
    group.add_argument("--llm-heads", type=int, default=sizes.num_heads)
    group.add_argument("--llm-intermediate", type=int, default=sizes.intermediate_size)
    group.add_argument("--max-prompt-length", type=int, default=sizes.max_prompt_length)
