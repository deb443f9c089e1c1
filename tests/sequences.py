"""Runs and evaluations as training leaves them, and configurations to plan with."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from rlinf.config import Config
from rlinf.config.schema import with_settings
from rlinf.custom.sequence.locations import Workspace
from rlinf.custom.sequence.recipe import Recipe
from rlinf.run_layout import Checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCHERS = REPOSITORY / "examples" / "crl_experiment"
TINY = "crl_experiment/libero_spatial_grpo_tiny"


@dataclass(frozen=True)
class Evaluated:
    """A line of the ledger, as far as planning cares."""

    row: str
    seed: int
    checkpoint: str
    suite: str = "libero_spatial"
    method: str = "sequential"
    probe: bool = False


def recipe(*overrides: str, name: str = "crl/config", **settings: object) -> Recipe:
    """A configuration with some settings, ``__`` for a dot in their keys."""
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return Recipe(with_settings(Config(), values), name, overrides)


def changed(one: Recipe, **settings: object) -> Recipe:
    """The same with other settings."""
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return replace(one, config=with_settings(one.config, values))


def at(folder: Path) -> Workspace:
    """A repository, called from its root."""
    return Workspace(root=folder, called_from=folder)


def write_weights(actor: Path, *names: str) -> Path:
    """An adapter, or files of other names, without content."""
    actor.mkdir(parents=True, exist_ok=True)
    for name in names or ("adapter_config.json", "adapter_model.safetensors"):
        (actor / name).write_text("{}")
    return actor


def save(run_folder: Path, step: int) -> Path:
    """A checkpoint of a run; returns its actor folder."""
    return write_weights(Checkpoint.at(run_folder, step).actor)


def declaration(script: str) -> tuple[str, list[str]]:
    """The signature and the fixed settings that a launcher declares, read by bash itself."""
    text = (LAUNCHERS / script).read_text().replace("\\\n", "")
    (line,) = [line for line in text.splitlines() if line.startswith("launch ")]
    code = f'printf "%s\\n" {line.removeprefix("launch ")}'
    words = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    split = words.index("--")
    return words[0], words[split + 1 :]
