"""``python -m openvla_oft.merge``: a base checkpoint and an adapter become one checkpoint, as published ones are.

For adapters of ``python -m openvla_oft.finetune`` and of reinforcement learning alike. Whoever goes on from the result
gives its folder and nothing else: fresh adapters, merging and every other method then count from there.
"""

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from libero_runtime.files import whole_folder
from libero_runtime.options import Given, Option, build
from openvla_oft import cli
from openvla_oft.model import checkpoints
from openvla_oft.model.statistics import save_statistics, take_adapter_statistics
from openvla_oft.model.training_record import TRAINING_FILE, training_record
from openvla_oft.options import SAVE_DTYPES
from transformers_openvla_oft import adapters

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """What is merged, and where it goes."""

    base: Annotated[Path, Option("folder of the checkpoint that the adapter was trained on")]
    adapter: Annotated[Path, Option("folder of the adapter (adapter_config.json, adapter_model.safetensors)")]
    output: Annotated[Path, Option("folder to write; must not exist")]
    scale: Annotated[float, Option("how much the adapter counts: 1 as trained", above=0)] = 1.0
    save_dtype: Annotated[str, Option("of the weights", choices=tuple(SAVE_DTYPES))] = "float16"


def merge(options: MergeOptions) -> None:
    """Write the merged checkpoint; nothing is left where that fails.

    Raises:
        ValueError: the base or the adapter is missing, broken, or not made for the other.
    """
    for name, folder, file in (
        ("base", options.base, "config.json"),
        ("adapter", options.adapter, adapters.CONFIG_FILE),
    ):
        if not (folder / file).is_file():
            raise ValueError(f"--{name} {folder}: no {file} there")
    record = training_record(options.adapter)
    if record is not None and record.needs:
        raise ValueError(f"--adapter {options.adapter} also needs {', '.join(record.needs)}, which stays beside it")
    model, processor = checkpoints.load_for_training(options.base)
    adapters.merge_adapters(model, [options.adapter], coeff=options.scale)
    take_adapter_statistics(model, options.adapter)
    with whole_folder(options.output) as partial:
        checkpoints.save_policy(
            partial, model=model, tensors=dict(model.state_dict()), processor=processor, save_dtype=options.save_dtype
        )
        save_statistics(partial, model.config.norm_stats or {})
        if (noted := options.adapter / TRAINING_FILE).is_file():
            shutil.copyfile(noted, partial / TRAINING_FILE)


def run(given: Given, command: Sequence[str]) -> None:
    """Merge as the options say."""
    options = build(MergeOptions, given)
    with cli.making(options.output, doing="writing"):
        merge(options)
    logger.info("wrote %s: %s and %g times %s", options.output, options.base, options.scale, options.adapter)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return cli.run_command("openvla_oft.merge", {MergeOptions: None}, run, arguments, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
