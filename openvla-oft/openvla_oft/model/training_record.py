"""How a stored policy was trained: what ``finetune`` notes in ``training.json``, and what lies beside a checkpoint.

The OpenVLA-OFT repository notes nothing, but its fine-tunes have the networks beside them that they need.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from openvla_oft.json_files import read_object
from transformers_openvla_oft.model.heads import HEAD_FILE, PROJECTOR_FILE

T = TypeVar("T")

TRAINING_FILE = "training.json"
OFT_ADAPTER = "lora_adapter"
ACTION_HEAD = "a head for continuous actions (L1 regression or diffusion)"
PROPRIO = "proprioception as an input"
FILM = "vision towers that the instruction modulates (FiLM)"
FILES = {  # what a policy needs beside its own weights -> files that show it, ours and the OFT repository's
    ACTION_HEAD: (HEAD_FILE, "action_head--*", "noisy_action_projector--*"),
    PROPRIO: (PROJECTOR_FILE, "proprio_projector--*"),
    FILM: ("vision_backbone--*",),
}


@dataclass(frozen=True)
class TrainingRecord:
    """What is known of a training; None: it is not known.

    needs: what the policy needs beside its own weights, in words -> the file that says so.
    pictures: as --pictures; picture_path: what it acts with (see ``images.PICTURES``).
    cameras: by their names in demonstrations, in the policy's order.
    statistics: keys of the action statistics that say what its tokens mean.
    """

    needs: Mapping[str, Path]
    layout: str | None = None
    pictures: str | None = None
    picture_path: str | None = None
    actions_per_chunk: int | None = None
    cameras: tuple[str, ...] | None = None
    statistics: tuple[str, ...] | None = None


def training_record(folder: Path) -> TrainingRecord | None:
    """What the folder of a checkpoint or an adapter says of its training; None: nothing.

    Raises:
        ValueError: ``training.json`` cannot be read, or something in it is of another type.
    """
    file = folder / TRAINING_FILE
    # The OFT repository keeps an adapter in a folder of its own, below the networks that go with it.
    places = (folder, folder.parent) if folder.name == OFT_ADAPTER else (folder,)
    beside = {
        need: found for need, names in FILES.items() for place in places for name in names for found in place.glob(name)
    }
    if not file.is_file():
        return TrainingRecord(beside) if beside else None
    report = read_object(file)
    config, data = (_noted(file, report, part, dict) or {} for part in ("config", "data"))
    objective = _noted(file, config, "objective", str)
    noted = {
        ACTION_HEAD: objective not in (None, "tokens"),
        PROPRIO: bool(_noted(file, config, "proprio", bool)),
    }
    return TrainingRecord(
        {**{need: file for need, needed in noted.items() if needed}, **beside},
        layout=_noted(file, config, "layout", str),
        pictures=_noted(file, config, "pictures", str),
        picture_path=_noted(file, config, "picture_path", str),
        actions_per_chunk=_noted(file, config, "actions_per_chunk", int),
        cameras=_words(_noted(file, data, "cameras", list)),
        statistics=_words(_noted(file, config, "statistics", list)),
    )


def _noted(file: Path, part: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    value = part.get(name)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{file}: {name} is {value!r}, expected a {kind.__name__}; copy that file again")
    return value


def _words(values: list[Any] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(map(str, values))
