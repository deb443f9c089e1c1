"""``python -m openvla_oft.finetune``: from LIBERO demonstrations to an OpenVLA-OFT checkpoint.

Reads the demonstrations (HDF5, or packed by ``openvla_oft.pack``), starts from a fresh small policy or a checkpoint,
trains all weights on the next eight actions of every frame (or on the next one, token by token), and writes a Hugging
Face folder: safetensors, config, tokenizer, processor, ``dataset_statistics.json``, ``training.json`` (command, data,
seconds, losses) and ``training_log.jsonl``.
"""

import argparse
import json
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers
from torch import nn

from openvla_oft import batches, checkpoints, cli, dataset
from openvla_oft.augment import AugmentConfig
from openvla_oft.dataset import DemonstrationSet
from openvla_oft.statistics import ACTION_BOUNDS, Statistics, action_statistics
from openvla_oft.training import TrainConfig, TrainResult, logits_function, train
from openvla_oft.validation import evaluate
from transformers_openvla_oft.action_tokens import ActionTokenMap
from transformers_openvla_oft.modeling import OpenVLAForActionPrediction
from transformers_openvla_oft.processing import PrismaticProcessor
from transformers_openvla_oft.small import DINOV2, SIGLIP, SmallSizes, TowerSizes, create_small_checkpoint

logger = logging.getLogger(__name__)

TOWERS = {"dinov2": DINOV2, "siglip": SIGLIP}


@dataclass(frozen=True)
class _Seconds:
    """Wall-clock seconds of the parts before and of the training."""

    reading: float
    copying: float
    training: float
    first_step: float


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m openvla_oft.finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_data_arguments(arguments)
    arguments.add_argument("--init", default="small", help="'small' (fresh weights) or a checkpoint folder")
    arguments.add_argument("--output", type=Path, required=True, help="folder to write")
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace an existing --output when training is done"
    )
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--save-dtype", choices=sorted(checkpoints.SAVE_DTYPES), default="float16")
    _add_training_arguments(arguments)
    _add_augmentation_arguments(arguments)
    _add_size_arguments(arguments)
    return arguments


def run(options: argparse.Namespace) -> None:
    config = _train_config(options)
    output: Path = options.output
    if output.exists() and not options.overwrite:
        raise ValueError(f"--output {output} exists; give another folder, or --overwrite to replace it when done")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}, but torch sees no CUDA device; use --device cpu")
    torch.set_float32_matmul_precision("high")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{output.name}.partial-", dir=output.parent))
    partial.chmod(0o755)
    try:
        _run_into(partial, options, config)
        if output.exists():
            checkpoints.remove(output)
        partial.rename(output)
    finally:
        checkpoints.remove(partial)
    logger.info("wrote %s", output)


def _run_into(folder: Path, options: argparse.Namespace, config: TrainConfig) -> None:
    device = torch.device(options.device)
    model, processor = _initial_model(options)
    start = time.perf_counter()
    demos = dataset.load(
        options.demonstrations,
        suite=options.suite,
        cameras=options.cameras,
        image_size=checkpoints.image_size_of(model.config),
        action_key=options.action_key,
        max_demos_per_task=options.max_demos_per_task,
        num_workers=options.num_workers,
    )
    split = dataset.split_demonstrations(demos, validation_fraction=options.validation_fraction, seed=config.seed)
    reading = time.perf_counter() - start
    statistics = _statistics(options, model, demos)
    key = checkpoints.norm_stats_key(options.suite)
    model.config.norm_stats = {**(model.config.norm_stats or {}), key: statistics}
    token_map = ActionTokenMap.from_config(model.config, key)
    logger.info(
        "%d demonstrations of %d tasks, %d frames (%d held out); model with %.2f M parameters on %s",
        len(demos.demo_lengths_D),
        len(demos.languages),
        demos.num_frames,
        len(split.validation_frames),
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        device,
    )
    start = time.perf_counter()
    data = batches.to_device(
        demos, config=model.config, processor=processor, token_map=token_map, after_end=options.after_end, device=device
    )
    copying = time.perf_counter() - start
    nn.Module.to(model, device)
    result = train(
        config, model=model, data=data, split=split, token_map=token_map, log_path=folder / "training_log.jsonl"
    )
    checkpoints.save_checkpoint(
        folder, model=model, processor=processor, statistics={key: statistics}, save_dtype=options.save_dtype
    )
    saved, _ = checkpoints.load_for_training(folder)
    nn.Module.to(saved, device)
    saved.train(mode=False)
    seconds = _Seconds(reading=reading, copying=copying, training=result.seconds, first_step=result.first_step_seconds)
    per_task = _validate_saved(saved, data, demos, split, token_map, config)
    report = _report(options, config, demos, split, result, seconds, per_task)
    (folder / checkpoints.TRAINING_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    logger.info("%d steps in %.0f s; validation %s", result.num_steps, result.seconds, _rounded(result.validation))


def _initial_model(options: argparse.Namespace) -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
    if options.init != "small":
        model, processor = checkpoints.load_for_training(Path(options.init))
    else:
        with tempfile.TemporaryDirectory() as folder:
            create_small_checkpoint(folder, sizes=_small_sizes(options), seed=options.seed)
            model, processor = checkpoints.load_for_training(Path(folder))
    if model.config.num_images_in_input != len(options.cameras):
        raise ValueError(
            f"--cameras {','.join(options.cameras)} gives {len(options.cameras)} pictures, but the checkpoint reads "
            f"{model.config.num_images_in_input}"
        )
    return model, processor


def _small_sizes(options: argparse.Namespace) -> SmallSizes:
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


def _statistics(options: argparse.Namespace, model: OpenVLAForActionPrediction, demos: DemonstrationSet) -> Statistics:
    """The checkpoint's own for this suite where it has them, so that tokens keep their meaning; else the data's."""
    known = (model.config.norm_stats or {}).get(checkpoints.norm_stats_key(options.suite))
    if known is not None:
        logger.info("keeping the checkpoint's action statistics for %s", options.suite)
        statistics: Statistics = known
        return statistics
    return action_statistics(demos.actions_FA, num_trajectories=len(demos.demo_lengths_D), bounds=options.action_bounds)


def _validate_saved(
    model: OpenVLAForActionPrediction,
    data: batches.DeviceData,
    demos: DemonstrationSet,
    split: dataset.Split,
    token_map: ActionTokenMap,
    config: TrainConfig,
) -> dict[str, dict[str, float]]:
    """Numbers of the stored (rounded) weights on every held-out frame of each task."""
    logits_of = logits_function(model, data, bf16=config.bf16)
    tasks_V = demos.frame_tasks()[split.validation_frames]
    results = {}
    for task, language in enumerate(demos.languages):
        frames = torch.from_numpy(split.validation_frames[tasks_V == task]).to(data.device)
        if frames.numel():
            results[language] = evaluate(logits_of, data, frames, token_map=token_map, batch_size=config.batch_size)
    return results


def _report(
    options: argparse.Namespace,
    config: TrainConfig,
    demos: DemonstrationSet,
    split: dataset.Split,
    result: TrainResult,
    seconds: _Seconds,
    per_task: dict[str, dict[str, float]],
) -> dict[str, object]:
    """Contents of training.json."""
    return {
        "command": "python -m openvla_oft.finetune " + shlex.join(options.command),
        "data": {
            "suite": options.suite,
            "demonstrations": len(demos.demo_lengths_D),
            "frames": demos.num_frames,
            "validation_frames": len(split.validation_frames),
            "cameras": list(demos.cameras),
            "tasks": {
                language: int((demos.demo_tasks_D == task).sum()) for task, language in enumerate(demos.languages)
            },
        },
        "config": {**asdict(config), "after_end": options.after_end, "action_bounds": options.action_bounds},
        "steps": result.num_steps,
        "samples": result.num_steps * config.batch_size,
        "passes_over_data": round(result.num_steps * config.batch_size / max(1, len(split.train_frames)), 2),
        "compiled": result.compiled,
        "seconds": {name: round(value, 1) for name, value in asdict(seconds).items()},
        "train_loss": result.train_loss,
        "validation": result.validation,
        "validation_of_saved_weights": per_task,
        "device": torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in metrics.items()}


def _train_config(options: argparse.Namespace) -> TrainConfig:
    on_gpu = options.device.startswith("cuda")
    augmentation = AugmentConfig(
        shift=options.shift,
        brightness=options.brightness,
        contrast=options.contrast,
        colour=options.colour,
        noise=options.noise,
    )
    return TrainConfig(
        num_steps=options.steps,
        minutes=options.minutes,
        batch_size=options.batch_size,
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
        num_validation_frames=options.validation_frames,
        augment=AugmentConfig.off() if options.no_augment else augmentation,
    )


def _add_training_arguments(arguments: argparse.ArgumentParser) -> None:
    default = TrainConfig(num_steps=1)
    group = arguments.add_argument_group("training")
    group.add_argument("--steps", type=int, default=None, help="optimizer steps; with --minutes whichever comes first")
    group.add_argument("--minutes", type=float, default=None, help="wall-clock limit; the cosine then follows the time")
    group.add_argument("--batch-size", type=int, default=default.batch_size)
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
    group.add_argument("--log-every", type=int, default=default.log_every)
    group.add_argument("--validate-every", type=int, default=default.validate_every)
    group.add_argument("--validation-frames", type=int, default=default.num_validation_frames)
    group.add_argument("--validation-fraction", type=float, default=0.02, help="share of each task's demonstrations")
    group.add_argument(
        "--after-end",
        choices=batches.AFTER_END,
        default="hold",
        help="targets after a demonstration's end: stay, or none",
    )
    group.add_argument(
        "--action-bounds", choices=ACTION_BOUNDS, default="symmetric", help="what q01 and q99 of the statistics are"
    )


def _add_augmentation_arguments(arguments: argparse.ArgumentParser) -> None:
    default = AugmentConfig()
    group = arguments.add_argument_group("augmentation")
    group.add_argument("--no-augment", action="store_true")
    group.add_argument("--shift", type=int, default=default.shift, help="pixels")
    group.add_argument("--brightness", type=float, default=default.brightness)
    group.add_argument("--contrast", type=float, default=default.contrast)
    group.add_argument("--colour", type=float, default=default.colour)
    group.add_argument("--noise", type=float, default=default.noise)


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
    group.add_argument(
        "--actions-per-chunk",
        type=int,
        default=sizes.num_actions_chunk,
        help="decoded at once; 1: autoregressive, token by token as OpenVLA",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return cli.run_command(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
