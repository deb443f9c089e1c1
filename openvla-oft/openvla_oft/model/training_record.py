"""How a stored policy was trained: what ``finetune`` notes in ``training.json``, and what lies beside a checkpoint.

The OpenVLA-OFT repository notes nothing, but its fine-tunes have the networks beside them that they need.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers_openvla_oft.loading import read_object
from transformers_openvla_oft.model.heads import L1ActionHead, ProprioProjector

TRAINING_FILE = "training.json"
OFT_ADAPTER = "lora_adapter"
ACTION_HEAD = "a head for continuous actions (L1 regression or diffusion)"
PROPRIO = "proprioception as an input"
FILM = "vision towers that the instruction modulates (FiLM)"
FILES = {  # what a policy needs beside its own weights -> files that show it, ours and the OFT repository's
    ACTION_HEAD: (L1ActionHead.FILE, "action_head--*", "noisy_action_projector--*"),
    PROPRIO: (ProprioProjector.FILE, "proprio_projector--*"),
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
        ValueError: ``training.json`` cannot be read.
    """
    file = folder / TRAINING_FILE
    # The OFT repository keeps an adapter in a folder of its own, below the networks that go with it.
    places = (folder, folder.parent) if folder.name == OFT_ADAPTER else (folder,)
    beside = {
        need: found for need, names in FILES.items() for place in places for name in names for found in place.glob(name)
    }
    if not file.is_file():
        return TrainingRecord(beside) if beside else None
    report = read_object(file, expected="what fine-tuning notes of a training")
    config, data = report.get("config", {}), report.get("data", {})
    noted = {ACTION_HEAD: config.get("objective", "tokens") != "tokens", PROPRIO: config.get("proprio", False)}
    return TrainingRecord(
        {**{need: file for need, needed in noted.items() if needed}, **beside},
        layout=config.get("layout"),
        pictures=config.get("pictures"),
        picture_path=config.get("picture_path"),
        actions_per_chunk=config.get("actions_per_chunk"),
        cameras=tuple(data["cameras"]) if "cameras" in data else None,
        statistics=tuple(config["statistics"]) if "statistics" in config else None,
    )
