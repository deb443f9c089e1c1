"""``python -m openvla_oft.finetune``: from LIBERO demonstrations to an OpenVLA or OpenVLA-OFT policy.

Reads the demonstrations (HDF5, RLDS, or packed by ``openvla_oft.pack``), starts from a fresh small policy or a
checkpoint, trains all weights or a low-rank adapter on the next eight actions of every frame (or the next one, token by
token), and writes a Hugging Face folder (or a PEFT adapter): safetensors, config, tokenizer, processor,
``dataset_statistics.json``, ``training.json`` (command, data, seconds, losses), ``training_log.jsonl`` and
``tensorboard/``. Under ``torchrun`` the processes share one model (FSDP2). The same command goes on with an
interrupted training.
"""

import argparse
import hashlib
import json
import logging
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from torch import nn

from openvla_oft import arguments, cli
from openvla_oft.data import batches, dataset, images
from openvla_oft.data.dataset import DemonstrationSet
from openvla_oft.model import building, checkpoints, starting, writing
from openvla_oft.model.training_record import TRAINING_FILE
from openvla_oft.torch_utils.distributed import Ranks, end_process, joined
from openvla_oft.train import resume
from openvla_oft.train.config import TrainConfig
from openvla_oft.train.loop import TrainResult, train
from transformers_openvla_oft.model.action_tokens import ActionTokenMap

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seconds:
    """Wall-clock seconds of the parts before and of the training."""

    reading: float
    copying: float
    training: float
    first_step: float


@dataclass(frozen=True)
class _Read:
    """Demonstrations, which of them are trained on, and how long reading them took."""

    demos: DemonstrationSet
    split: dataset.Split
    seconds: float


def run(options: argparse.Namespace) -> None:
    """Train as the options say, or go on with what was begun; raises ``ValueError`` for a user's mistake."""
    arguments.refuse_ignored(options)
    config = arguments.train_config(options)
    arguments.device_of(options, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    torch.set_float32_matmul_precision("high")
    cli.use_our_cpus()
    with joined(options.device) as ranks:
        if not ranks.is_first:
            logging.getLogger().setLevel(logging.WARNING)
        config.micro_batch(ranks.world_size)
        if not _was_finished(options, config, ranks):
            _run(options, config, ranks)


def _was_finished(options: argparse.Namespace, config: TrainConfig, ranks: Ranks) -> bool:
    """Whether --output is this command's policy, only not tidied up before it stopped; does that. Collective."""
    output: Path = options.output
    finished = resume.is_finished(output)
    if finished:
        resume.refuse_others(output, arguments.settings(options, config))
    elif output.exists() and not (output.is_dir() and output.name):
        raise ValueError(f"--output {output} is not a folder that could be replaced; give another one")
    elif output.exists() and not options.overwrite:
        raise ValueError(f"--output {output} exists; give another folder, or --overwrite to replace it when done")
    ranks.wait()
    if finished and ranks.is_first:
        resume.tidy(output)
        logger.info("%s was trained already", output)
    return finished


def _run(options: argparse.Namespace, config: TrainConfig, ranks: Ranks) -> None:
    output: Path = options.output
    with _workplace(output, ranks) as folder:
        if ranks.is_first:
            resume.refuse_others(folder, arguments.settings(options, config))
        trained = resume.is_finished(folder)
        ranks.wait()
        if not trained:
            _run_into(folder, options, config, ranks)
        if ranks.is_first:
            resume.finish(folder, output, helpers=(building.FRAMES_FOLDER, starting.START_FOLDER))
            logger.info("wrote %s", output)


@contextmanager
def _workplace(output: Path, ranks: Ranks) -> Iterator[Path]:
    """The unfinished folder, which rank 0 makes and holds. Collective."""
    if ranks.is_first:
        with resume.unfinished(output) as folder:
            ranks.wait()
            yield folder
    else:
        ranks.wait()
        yield resume.unfinished_folder(output)


def _run_into(folder: Path, options: argparse.Namespace, config: TrainConfig, ranks: Ranks) -> None:
    device = arguments.device_of(options, local_rank=ranks.local_rank)
    # Sharded weights are gathered between compiled blocks, so these are compiled one by one.
    sharded = ranks.world_size > 1
    attention = starting.attention_route(options, bf16=config.bf16, compiled_whole=config.use_compile and not sharded)
    model, processor = starting.initial_policy(options, folder=folder, device=device, attention=attention, ranks=ranks)
    read = _read(folder, options, config, image_size=checkpoints.image_size_of(model.config), ranks=ranks)
    statistics = building.choose_statistics(options, model, read.demos)
    key = next(iter(statistics))
    model.config.norm_stats = {**(model.config.norm_stats or {}), **statistics}
    token_map = ActionTokenMap.from_config(model.config, key)
    _log_sizes(read, model, f"{ranks.world_size} x {device.type}" if sharded else str(device))
    start = time.perf_counter()
    data = batches.prepare(
        read.demos,
        frames=building.frame_store(read.demos.images_FNHWC, device, kind=options.frames),
        config=model.config,
        processor=processor,
        token_map=token_map,
        after_end=options.after_end,
        proprio=building.normalised_proprio_of(read.demos, statistics[key], key=key),
        center_crop=images.is_cropped(options.pictures),
    )
    copying = time.perf_counter() - start
    learner = building.build_learner(
        options,
        model,
        adapter=arguments.lora_settings(options),
        bf16=config.bf16,
        compile_blocks=config.use_compile and sharded,
        device=device,
        ranks=ranks,
    )
    objective = building.build_objective(options, model, token_map, device)
    result = train(
        config, learner=learner, data=data, split=read.split, objective=objective, folder=folder, ranks=ranks
    )
    writing.write(folder, learner, options=options, processor=processor, statistics=statistics, ranks=ranks)
    seconds = _Seconds(read.seconds, copying, training=result.seconds, first_step=result.first_step_seconds)
    del learner, model  # make room for the stored weights
    if ranks.is_first:
        stored = writing.read_back(folder, options=options, device=device)
        per_task = writing.validate_per_task(
            stored,
            data,
            read.demos,
            read.split,
            objective=objective,
            bf16=config.bf16,
            batch_size=config.micro_batch(ranks.world_size),
        )
        report = _report(
            options,
            config,
            read,
            result,
            seconds,
            per_task,
            ranks,
            num_actions=token_map.num_actions_chunk,
            keys=list(statistics),
        )
        (folder / TRAINING_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    logger.info("%d steps in %.0f s; validation %s", result.num_steps, result.seconds, _rounded(result.validation))


def _read(folder: Path, options: argparse.Namespace, config: TrainConfig, *, image_size: int, ranks: Ranks) -> _Read:
    """The demonstrations, which must be those that an unfinished training in ``folder`` began with. Collective."""
    start = time.perf_counter()
    demos = building.load_demonstrations(options, image_size=image_size, folder=folder, ranks=ranks)
    split = dataset.split_demonstrations(demos, validation_fraction=options.validation_fraction, seed=config.seed)
    seconds = time.perf_counter() - start
    if ranks.is_first:
        settings = {**arguments.settings(options, config), "the demonstrations": _fingerprint(demos)}
        resume.refuse_others(folder, settings)
        resume.note_settings(folder, settings)
    ranks.wait()
    return _Read(demos, split, seconds)


def _log_sizes(read: _Read, model: nn.Module, where: str) -> None:
    logger.info(
        "%d demonstrations of %d tasks, %d frames (%d held out); model with %.2f M parameters on %s",
        len(read.demos.demo_lengths_D),
        len(read.demos.languages),
        read.demos.num_frames,
        len(read.split.validation_frames),
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        where,
    )


def _fingerprint(demos: DemonstrationSet) -> str:
    """Of everything but the pictures, and of some of these."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (demos.actions_FA, demos.demo_lengths_D, demos.demo_tasks_D):
        digest.update(array.tobytes())
    for frame in range(0, demos.num_frames, max(1, demos.num_frames // 16)):
        digest.update(demos.images_FNHWC[frame].tobytes())
    digest.update(json.dumps(demos.languages).encode())
    return f"{len(demos.demo_lengths_D)} of {demos.num_frames} frames, {digest.hexdigest()}"


def _report(
    options: argparse.Namespace,
    config: TrainConfig,
    read: _Read,
    result: TrainResult,
    seconds: _Seconds,
    per_task: dict[str, dict[str, float]],
    ranks: Ranks,
    *,
    num_actions: int,
    keys: list[str],
) -> dict[str, object]:
    """Contents of training.json."""
    demos, split = read.demos, read.split
    return {
        "command": "python -m openvla_oft.finetune " + shlex.join(options.command),
        "data": {
            "suite": options.suite,
            "demonstrations": len(demos.demo_lengths_D),
            "frames": demos.num_frames,
            "validation_frames": len(split.validation_frames),
            "cameras": list(demos.cameras),
            "noops_dropped": options.drop_noops,
            "tasks": {
                language: int((demos.demo_tasks_D == task).sum()) for task, language in enumerate(demos.languages)
            },
        },
        "config": {
            **asdict(config),
            "objective": options.objective,
            "layout": options.layout,
            "proprio": options.proprio,
            "pictures": options.pictures,
            "picture_path": images.PICTURES[options.pictures],
            "actions_per_chunk": num_actions,
            "statistics": keys,
            "after_end": options.after_end,
            "action_bounds": options.action_bounds,
            "lora_rank": options.lora_rank,
        },
        "processes": ranks.world_size,
        "steps": result.num_steps,
        "resumed_from_step": result.resumed_from,
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return cli.run_command(
        arguments.parser(__doc__), run, argv, interrupted=lambda options: resume.outlook(options.output)
    )


if __name__ == "__main__":
    end_process(main())
