"""``python -m openvla_oft.finetune``: from LIBERO demonstrations to an OpenVLA or OpenVLA-OFT policy.

Reads the demonstrations (HDF5, RLDS, or packed by ``openvla_oft.pack``), starts from a fresh small policy or a
checkpoint, trains all weights or a low-rank adapter on the next eight actions of every frame (or the next one, token by
token), and writes a Hugging Face folder (or a PEFT adapter): safetensors, config, tokenizer, processor,
``dataset_statistics.json``, ``training.json`` (command, data, seconds, losses), ``training_log.jsonl`` and
``tensorboard/``. Under ``torchrun`` the processes share one model (FSDP2). The same command goes on with an
interrupted training.
"""

import hashlib
import json
import logging
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
import transformers

from libero_runtime.options import Given
from openvla_oft import cli
from openvla_oft.data import batches, frames, images
from openvla_oft.data.dataset import DemonstrationSet, Split, split_demonstrations
from openvla_oft.model import initial, saving
from openvla_oft.model.statistics import choose_statistics, normalised_proprio_of
from openvla_oft.model.training_record import TRAINING_FILE
from openvla_oft.options import GROUPS, FinetuneOptions, RunOptions
from openvla_oft.torch_utils.distributed import Distributed, end_process, joined
from openvla_oft.train import resume
from openvla_oft.train.loop import Trainer, TrainResult, train
from openvla_oft.train.objectives import build_objective
from openvla_oft.train.validation import evaluate_per_task
from transformers_openvla_oft.model.action_tokens import ActionTokenMap

logger = logging.getLogger(__name__)


def run(given: Given, command: Sequence[str]) -> None:
    """Train as the options say, or go on with what was begun; raises ``ValueError`` for a user's mistake."""
    options = FinetuneOptions.of(given, command)
    options.run.torch_device(local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    _refuse_existing(options.run)
    torch.set_float32_matmul_precision("high")
    cli.use_our_cpus()
    with joined(options.run.device) as distributed:
        if not distributed.is_first:
            logging.getLogger().setLevel(logging.WARNING)
        options.training.micro_batch(distributed.world_size)
        with _workplace(options.run.output, distributed) as folder:
            if distributed.is_first:
                resume.refuse_others(folder, options.settings())
            _train_into(folder, options, distributed)
            if distributed.is_first:
                resume.finish(folder, options.run.output, helpers=(frames.FRAMES_FOLDER, initial.START_FOLDER))
                logger.info("wrote %s", options.run.output)


def _refuse_existing(run: RunOptions) -> None:
    if run.output.exists() and not (run.output.is_dir() and run.output.name):
        raise ValueError(f"--output {run.output} is not a folder that could be replaced; give another one")
    if run.output.exists() and not run.overwrite:
        raise ValueError(f"--output {run.output} exists; give another folder, or --overwrite to replace it when done")


@contextmanager
def _workplace(output: Path, distributed: Distributed) -> Iterator[Path]:
    """The unfinished folder, which rank 0 makes and holds. Collective."""
    if distributed.is_first:
        with resume.unfinished(output) as folder:
            distributed.wait()
            yield folder
    else:
        distributed.wait()
        yield resume.unfinished_folder(output)


def _train_into(folder: Path, options: FinetuneOptions, distributed: Distributed) -> None:
    """From demonstrations to a policy in ``folder``, with its record. Collective."""
    training = options.training
    device = options.run.torch_device(local_rank=distributed.local_rank)
    model, processor = initial.initial_policy(options, folder=folder, device=device, distributed=distributed)
    start = time.perf_counter()
    demos, split = _read(folder, options, image_size=model.config.image_size, distributed=distributed)
    seconds = {"reading": time.perf_counter() - start}
    logger.info(
        "%d demonstrations of %d tasks, %d frames (%d held out); model with %.2f M parameters on %d x %s",
        len(demos.demo_lengths_D),
        len(demos.languages),
        demos.num_frames,
        len(split.validation_frames),
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        distributed.world_size,
        device,
    )
    statistics = choose_statistics(options, model, demos)
    key = next(iter(statistics))
    model.config.norm_stats = {**(model.config.norm_stats or {}), **statistics}
    token_map = ActionTokenMap.from_config(model.config, key)
    start = time.perf_counter()
    data = batches.prepare(
        demos,
        frames=frames.frame_store(demos.images_FNHWC, device, kind=options.run.frames),
        config=model.config,
        processor=processor,
        token_map=token_map,
        after_end=options.targets.after_end,
        proprio=normalised_proprio_of(demos, statistics[key], key=key),
        center_crop=images.is_cropped(options.data.pictures),
    )
    seconds["copying"] = time.perf_counter() - start
    objective = build_objective(options, model, token_map, device)
    learner = initial.build_learner(options, model, device=device, distributed=distributed)
    result = train(
        Trainer(
            training,
            learner=learner,
            data=data,
            split=split,
            objective=objective,
            folder=folder,
            distributed=distributed,
        )
    )
    seconds |= {"training": result.seconds, "first_step": result.first_step_seconds}
    saving.write(folder, learner, options=options, processor=processor, statistics=statistics, distributed=distributed)
    del learner, model  # make room for the stored weights
    if distributed.is_first:
        per_task = evaluate_per_task(
            saving.read_back(folder, options=options, device=device),
            data,
            demos,
            split,
            objective=objective,
            bf16=training.bf16,
            batch_size=training.micro_batch(distributed.world_size),
        )
        report = {
            **_report(
                options, demos, split, result, num_actions=token_map.num_actions_chunk, statistics=list(statistics)
            ),
            "processes": distributed.world_size,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "validation_of_saved_weights": per_task,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        (folder / TRAINING_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    validation = {name: round(value, 4) for name, value in result.validation.items()}
    logger.info("%d steps in %.0f s; validation %s", result.num_steps, result.seconds, validation)


def _read(
    folder: Path, options: FinetuneOptions, *, image_size: int, distributed: Distributed
) -> tuple[DemonstrationSet, Split]:
    """The demonstrations, which must be those that an unfinished training in ``folder`` began with. Collective."""
    demos = frames.load_demonstrations(
        replace(options.data, image_size=image_size),
        frames=options.run.frames,
        folder=folder,
        distributed=distributed,
    )
    fraction, seed = options.model.validation_fraction, options.training.seed
    split = split_demonstrations(demos, validation_fraction=fraction, seed=seed)
    if distributed.is_first:
        settings = {**options.settings(), "the demonstrations": _fingerprint(demos)}
        resume.refuse_others(folder, settings)
        resume.note_settings(folder, settings)
    distributed.wait()
    return demos, split


def _fingerprint(demos: DemonstrationSet) -> str:
    """Of everything but the images, and of some of these."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (demos.actions_FA, demos.demo_lengths_D, demos.demo_tasks_D):
        digest.update(array.tobytes())
    for frame in range(0, demos.num_frames, max(1, demos.num_frames // 16)):
        digest.update(demos.images_FNHWC[frame].tobytes())
    digest.update(json.dumps(demos.languages).encode())
    return f"{len(demos.demo_lengths_D)} of {demos.num_frames} frames, {digest.hexdigest()}"


def _report(
    options: FinetuneOptions,
    demos: DemonstrationSet,
    split: Split,
    result: TrainResult,
    *,
    num_actions: int,
    statistics: Sequence[str],
) -> dict[str, object]:
    """What ``training_record`` reads, and more."""
    num_samples = result.num_steps * options.training.batch_size
    return {
        "command": "python -m openvla_oft.finetune " + shlex.join(options.command),
        "data": {
            "suite": options.data.suite,
            "demonstrations": len(demos.demo_lengths_D),
            "frames": demos.num_frames,
            "validation_frames": len(split.validation_frames),
            "cameras": list(demos.cameras),
            "noops_dropped": options.data.drop_noops,
            "tasks": {text: int((demos.demo_tasks_D == task).sum()) for task, text in enumerate(demos.languages)},
        },
        "config": {
            **asdict(options.training),
            "objective": options.targets.objective,
            "layout": options.targets.layout,
            "proprio": options.data.proprio,
            "pictures": options.data.pictures,
            "picture_path": images.PICTURES[options.data.pictures],
            "actions_per_chunk": num_actions,
            "statistics": list(statistics),
            "after_end": options.targets.after_end,
            "action_bounds": options.targets.action_bounds,
            "lora_rank": options.lora.rank,
        },
        "steps": result.num_steps,
        "resumed_from_step": result.resumed_from,
        "samples": num_samples,
        "passes_over_data": round(num_samples / max(1, len(split.train_frames)), 2),
        "compiled": result.compiled,
        "train_loss": result.train_loss,
        "validation": result.validation,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return cli.run_command("openvla_oft.finetune", GROUPS, run, argv, description=__doc__, interrupted=resume.outlook)


if __name__ == "__main__":
    end_process(main())
