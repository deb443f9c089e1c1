"""Unfinished trainings: the folder they live in, whose settings they have, and the state that they go on from.

``OUTPUT.unfinished/`` becomes ``OUTPUT`` at the end. Until then it holds ``settings.json`` and ``state/step_<n>/``:
weights, their average, the optimizer and ``progress.json``, written shard by shard
(``torch.distributed.checkpoint``), so that a run may go on with another number of processes. A state folder that
exists is complete: it is written under another name and renamed.

When the policy is whole, an ``OUTPUT`` that is to be replaced goes, the folder gets its name, and what only resuming
needs is removed from it.
"""

import json
import math
import pickle
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from libero_runtime.files import LOCK_FILE, only_one
from openvla_oft.cli import ADVICE
from openvla_oft.torch_utils.distributed import Distributed
from openvla_oft.torch_utils.tensors import trainable_parameters
from openvla_oft.train.optimisation import WeightAverage
from transformers_openvla_oft.loading import read_object

SETTINGS_FILE = "settings.json"
PROGRESS_FILE = "progress.json"
STATE_FOLDER = "state"
MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIMIZER_TENSORS = (*MOMENTS, "step")
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError)
_STEP = re.compile(r"step_(\d+)")

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Progress:
    """Where a training stands; ``loss_sum`` over the ``num_summed`` steps since the last log line (``last_loss``)."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    num_summed: int = 0
    last_loss: float = math.nan


def unfinished_folder(output: Path) -> Path:
    """Where the training of ``output`` lives until it is done."""
    return output.with_name(f"{output.name}.unfinished")


@contextmanager
def unfinished(output: Path) -> Iterator[Path]:
    """The folder to train in. Where nothing in it could be resumed, an error removes it.

    Raises:
        ValueError: another process trains in it.
    """
    folder = unfinished_folder(output)
    with only_one(folder, doing="training in", advice=ADVICE):
        if latest_state(folder) is None:  # what a killed process left
            _clear(folder)
        try:
            yield folder
        finally:
            if latest_state(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)


def outlook(output: Path) -> str:
    """What the same command would do after an interruption."""
    folder = unfinished_folder(output)
    state = latest_state(folder)
    if state is None:
        return "nothing was stored yet; the same command starts again"
    return f"the same command goes on from step {_step_of(state)}, which is stored in {folder}"


def finish(folder: Path, output: Path, *, helpers: Sequence[str] = ()) -> None:
    """Give a trained folder its name in place of what has it, without the state and other ``helpers`` of training."""
    if output.exists():
        shutil.rmtree(output)
    folder.rename(output)
    for name in (STATE_FOLDER, *helpers):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / SETTINGS_FILE).unlink()
    (output / LOCK_FILE).unlink()


def refuse_others(folder: Path, settings: Settings) -> None:
    """Compare with the settings of a training that can be resumed here, if there is one.

    Raises:
        ValueError: some differ; shows how.
    """
    path = folder / SETTINGS_FILE
    if latest_state(folder) is None or not path.exists():
        return
    stored = read_object(path, expected="the settings of a training")
    given = json.loads(json.dumps(settings))
    differing = [
        f"{name}: {stored.get(name)!r} there, {given[name]!r} now"
        for name in sorted(given)
        if stored.get(name) != given[name]
    ]
    if differing:
        raise ValueError(
            f"{folder} holds an unfinished training with other settings:\n  "
            + "\n  ".join(differing)
            + f"\nRepeat its settings to go on, or remove {folder} to start again"
        )


def note_settings(folder: Path, settings: Settings) -> None:
    """Write down what a training that goes on from here must share."""
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def latest_state(folder: Path) -> Path | None:
    """The newest complete state of an unfinished training."""
    found = [path for path in (folder / STATE_FOLDER).glob("step_*") if _STEP.fullmatch(path.name)]
    return max(found, key=_step_of, default=None)


def _step_of(state: Path) -> int:
    return int(state.name.removeprefix("step_"))


def save(
    folder: Path,
    progress: Progress,
    *,
    learner: nn.Module,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    distributed: Distributed,
) -> None:
    """Write a state and remove older ones. Collective; every rank writes its shards."""
    target = folder / STATE_FOLDER / f"step_{progress.step}"
    partial = target.with_name(f".writing_{target.name}")
    if distributed.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    distributed.wait()
    names = [name for name, parameter in trainable_parameters(learner).items() if parameter in optimizer.state]
    try:
        with _alone_is_fine():
            state_dict_saver.save(_tensors(learner, average, optimizer, names), checkpoint_id=partial)
    except CheckpointException as error:  # a BaseException, which nobody takes for an error
        raise RuntimeError(str(error)) from error
    if distributed.is_first:
        text = json.dumps({**asdict(progress), "optimized": names})
        (partial / PROGRESS_FILE).write_text(text, encoding="utf-8")
        partial.rename(target)
        for old in target.parent.glob("step_*"):
            if old != target:
                shutil.rmtree(old)
    distributed.wait()


def load(state: Path, *, learner: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer) -> Progress:
    """Take back what ``save`` wrote. Collective; shards are cut anew where the number of ranks differs."""
    with _readable(state):
        stored = read_object(state / PROGRESS_FILE, expected="where a training stands")
        names = stored.pop("optimized")
        progress = Progress(**stored)
        parameters = trainable_parameters(learner)
        for name in names:
            parameter = parameters[name]
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=_step_device(optimizer, parameter)),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        with _alone_is_fine():
            state_dict_loader.load(_tensors(learner, average, optimizer, names), checkpoint_id=state)
    return progress


@contextmanager
def _readable(state: Path) -> Iterator[None]:
    """Explain what the readers of a damaged state say."""
    try:
        yield
    except (CheckpointException, *_DAMAGED) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"the stored state {state} is damaged ({type(error).__name__}: {reason[-1] if reason else ''}); remove "
            f"{state.parent.parent} to train from the start"
        ) from error


def _clear(folder: Path) -> None:
    """Remove all but the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def _tensors(
    learner: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer, names: list[str]
) -> dict[str, dict[str, Tensor]]:
    """Views of everything that changes, to write from or to read into."""
    parameters = trainable_parameters(learner)
    moments = {
        f"{name}/{kind}": optimizer.state[parameters[name]][kind].detach()
        for name in names
        for kind in OPTIMIZER_TENSORS
    }
    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    return {"weights": weights, "average": average.state(), "optimizer": moments}


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _step_device(optimizer: torch.optim.Optimizer, parameter: Tensor) -> torch.device:
    """Fused optimizers count steps on the device of the parameter."""
    return parameter.device if optimizer.defaults["fused"] else torch.device("cpu")
