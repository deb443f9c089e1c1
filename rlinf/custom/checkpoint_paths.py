"""Find checkpoints: what a path on a command line means, and which checkpoints a task folder holds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from rlinf.config.differences import CONFIG_FILE
from rlinf.config.errors import UserError

ACTOR_FILES = ("adapter_config.json", "model.pt")  # a PEFT adapter, or the CNN policy's whole state
RUN_RECORD = "run.json"  # what training notes about itself in its folder

_STEP_FOLDER = re.compile(r"global_step_(\d+)")


class SequenceError(UserError):
    """A task, seed, folder or checkpoint that cannot be used as given."""


@dataclass(frozen=True)
class Workspace:
    """Where relative paths lie: in the repository, else where the command was called."""

    root: Path
    called_from: Path

    def find(self, text: str) -> Path:
        """The folder that ``text`` means, whether or not it exists; the repository's comes first, as documented."""
        path = Path(text).expanduser()
        below_root = self.root / path
        if not below_root.exists() and (self.called_from / path).exists():
            return self.called_from / path
        return below_root

    def show(self, path: Path) -> str:
        """``path`` relative to the repository when it is inside."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


def same_checkpoint(one: str | Path, other: str | Path) -> bool:
    """Whether two names mean one checkpoint; ledgers spell it in full or as ``task_0_seed7/global_step_10``."""

    def spelt(path: str | Path) -> tuple[str, ...]:
        return tuple(part for part in Path(path).parts if part not in ("checkpoints", "actor"))[-2:]

    return spelt(one) == spelt(other)


def saved_steps(task_folder: Path) -> dict[int, Path]:
    """The complete checkpoints of a task folder: epoch to ``global_step_N`` folder, oldest first."""
    folder = task_folder / "checkpoints"
    matches = [(_STEP_FOLDER.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return dict(sorted((int(match.group(1)), path) for match, path in matches if match))


def is_actor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ACTOR_FILES)


def find_actor(folder: Path, *, given: str) -> Path:
    """The adapter that a path means: an adapter folder, a ``global_step_N`` folder, or a task folder (its newest).

    ``given`` is the user's own text, for the message.
    """
    if not folder.exists():
        raise SequenceError(f"the checkpoint {given!r} does not exist (looked for {folder})")
    if is_actor(folder):
        return folder
    if is_actor(folder / "actor"):
        return folder / "actor"
    task_folder = folder.parent if folder.name == "checkpoints" else folder
    steps = [path for path in saved_steps(task_folder).values() if is_actor(path / "actor")]
    if steps:
        return steps[-1] / "actor"
    raise SequenceError(
        f"no checkpoint in {given!r}: expected {' or '.join(ACTOR_FILES)} in it, in its folder actor/, or in "
        f"checkpoints/global_step_<n>/actor/ below it (looked in {folder})"
    )


def find_location(text: str, *, workspace: Workspace) -> Path:
    """The folder that LOCATION means; ``task_0`` alone is enough where only one seed was trained."""
    folder = workspace.find(text)
    if folder.is_dir():
        return folder
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    seeds = sorted(path for path in beside if path.name.startswith(f"{folder.name}_seed"))
    if len(seeds) == 1:
        return seeds[0]
    hint = f"; there are {', '.join(workspace.show(path) for path in seeds)}" if seeds else ""
    raise SequenceError(
        f"LOCATION={text!r} does not exist (looked for {folder}){hint}. Give a task folder such as "
        f"logs/sequential/task_0_seed1234, or `base` for the base model"
    )


def task_folder_of(actor: Path) -> Path | None:
    """The task folder of ``.../checkpoints/global_step_N/actor``; None for an adapter from elsewhere."""
    is_ours = actor.name == "actor" and actor.parent.parent.name == "checkpoints"
    return actor.parents[2] if is_ours else None


def step_of(actor: Path) -> int | None:
    """The epoch of ``.../global_step_N/actor``; None for an adapter from elsewhere."""
    match = _STEP_FOLDER.fullmatch(actor.parent.name)
    return int(match.group(1)) if match else None


def recorded_start(folder: Path) -> tuple[Path, ...]:
    """The adapters that a run began with, as it noted them: merged ones, then the one that it trained on; empty where
    it began with the base model."""
    if not (folder / CONFIG_FILE).is_file():
        return ()
    noted = OmegaConf.load(folder / CONFIG_FILE)
    merged = OmegaConf.select(noted, "actor.model.previous_lora_paths") or []
    adapter = OmegaConf.select(noted, "actor.model.lora_path")
    return tuple(Path(path) for path in (*merged, *([adapter] if adapter else [])))


def recorded_config(folder: Path) -> str | None:
    """The configuration's name that training recorded in a task folder (also asked from a checkpoint inside it)."""
    for candidate in (folder, *folder.parents[:3]):
        record = candidate / RUN_RECORD
        if record.is_file():
            name = json.loads(record.read_text(encoding="utf-8")).get("config_name")
            return str(name) if name else None
    return None
