"""What a path on a command line means: folders of runs, and the trained weights in them."""

import json
from dataclasses import dataclass
from pathlib import Path

from rlinf.config.differences import recorded
from rlinf.config.errors import UserError
from rlinf.run_layout import ADAPTER_FILES, CHECKPOINTS, RUN_FILE, WHOLE_FILES, checkpoints, has_weights


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


def find_weights(folder: Path, *, given: str) -> Path:
    """The weights that a path means: an actor folder, a ``global_step_N`` folder, or a run's folder (its newest).

    ``given`` is the user's own text, for the message.
    """
    if not folder.exists():
        raise UserError(f"the checkpoint {given!r} does not exist (looked for {folder})")
    for actor in (folder, folder / "actor"):
        if has_weights(actor):
            return actor
    run = folder.parent if folder.name == CHECKPOINTS else folder
    if found := checkpoints(run):
        return found[-1].actor
    raise UserError(
        f"no checkpoint in {given!r}: expected {' and '.join(ADAPTER_FILES)}, or {' and '.join(WHOLE_FILES)}, in it, "
        f"in its folder actor/, or in checkpoints/global_step_<n>/actor/ below it (looked in {folder})"
    )


def find_run(text: str, *, workspace: Workspace) -> Path:
    """The folder that LOCATION means; ``task_0`` alone is enough where only one seed was trained."""
    folder = workspace.find(text)
    if folder.is_dir():
        return folder
    seeds = sorted(folder.parent.glob(f"{folder.name}_seed*"))
    if len(seeds) == 1:
        return seeds[0]
    hint = f"; there are {', '.join(workspace.show(path) for path in seeds)}" if seeds else ""
    raise UserError(
        f"LOCATION={text!r} does not exist (looked for {folder}){hint}. Give a task folder such as "
        f"logs/sequential/task_0_seed1234, or `base` for the base model"
    )


def recorded_start(run_folder: Path) -> tuple[Path, ...]:
    """The adapters that a run began with, as it noted them: those of earlier tasks, then the one that it trained on;
    empty where it began with the base model."""
    noted = recorded(run_folder)
    merged, experts, adapter = (
        noted.get(f"actor.model.{key}") or [] for key in ("previous_lora_paths", "task_lora_paths", "lora_path")
    )
    return tuple(Path(path) for path in (*merged, *experts, *([adapter] if adapter else [])))


def recorded_config(folder: Path) -> str | None:
    """The configuration's name that training recorded in a run's folder (also asked from a checkpoint inside it)."""
    for candidate in (folder, *folder.parents[:3]):
        record = candidate / RUN_FILE
        if record.is_file():
            name = json.loads(record.read_text(encoding="utf-8")).get("config_name")
            return str(name) if name else None
    return None
