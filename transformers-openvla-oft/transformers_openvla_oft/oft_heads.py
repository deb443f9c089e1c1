"""OpenVLA-OFT's small networks (arXiv:2502.19645) with its parameter names: L1 regression of actions, proprioception.

Shapes: B samples, C chunk steps, A action dimensions, H hidden size of the policy, P proprioceptive dimensions.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from .loading import listed, non_finite

NUM_BLOCKS = 2
HEAD_FILE = "l1_action_head.safetensors"
PROJECTOR_FILE = "proprio_projector.safetensors"
# What the OFT repository itself writes beside its checkpoints.
PUBLISHED_HEAD, PUBLISHED_PROJECTOR = "action_head--*_checkpoint.pt", "proprio_projector--*_checkpoint.pt"


class _Block(nn.Module):
    """Layer norm, linear, ReLU, added to what came in; W is their width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x_BCW: Tensor) -> Tensor:
        """(B, C, W) -> (B, C, W)."""
        out_BCW: Tensor = x_BCW + self.ffn(x_BCW)
        return out_BCW


class _Network(nn.Module):
    """Residual blocks of width W between two linear layers, from I inputs to O outputs for each chunk step."""

    def __init__(self, *, input_size: int, width: int, output_size: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(input_size)
        self.fc1 = nn.Linear(input_size, width)
        self.mlp_resnet_blocks = nn.ModuleList(_Block(width) for _ in range(NUM_BLOCKS))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, output_size)

    def forward(self, x_BCI: Tensor) -> Tensor:
        """(B, C, I) -> (B, C, O)."""
        x_BCW: Tensor = torch.relu(self.fc1(self.layer_norm1(x_BCI)))
        for block in self.mlp_resnet_blocks:
            x_BCW = block(x_BCW)
        out_BCO: Tensor = self.fc2(self.layer_norm2(x_BCW))
        return out_BCO


class L1ActionHead(nn.Module):
    """Normalised actions (B, C, A) from the hidden states (B, C * A, H) at the positions of the action logits."""

    def __init__(self, hidden_size: int, *, action_dim: int, width: int | None = None) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = _Network(input_size=hidden_size * action_dim, width=width or hidden_size, output_size=action_dim)

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        """(B, T = C * A, H) -> (B, C, A), float32, normalised."""
        B, T, H = hidden_BTH.shape
        steps = hidden_BTH.reshape(B, T // self.action_dim, self.action_dim * H)
        actions_BCA: Tensor = self.model(steps)
        return actions_BCA.float()


class ProprioProjector(nn.Module):
    """Normalised proprioception (B, P) to one embedding (B, H)."""

    def __init__(self, hidden_size: int, *, proprio_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio_dim, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, proprio_BP: Tensor) -> Tensor:
        """(B, P) -> (B, H)."""
        embedding_BH: Tensor = self.fc2(functional.gelu(self.fc1(proprio_BP)))
        return embedding_BH


def fresh_head(hidden_size: int, *, action_dim: int, seed: int) -> L1ActionHead:
    """A head with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return L1ActionHead(hidden_size, action_dim=action_dim)


def fresh_projector(hidden_size: int, *, proprio_dim: int, seed: int) -> ProprioProjector:
    """A projector with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ProprioProjector(hidden_size, proprio_dim=proprio_dim)


def head_file(folder: Path) -> Path | None:
    """The file of a checkpoint's L1 head, ours or the OFT repository's; None where there is none."""
    return _one_file(folder, HEAD_FILE, PUBLISHED_HEAD)


def projector_file(folder: Path) -> Path | None:
    """The file of a checkpoint's projector of proprioception; see `head_file`."""
    return _one_file(folder, PROJECTOR_FILE, PUBLISHED_PROJECTOR)


def load_head(path: Path) -> L1ActionHead:
    """Read a head; its sizes are those of the stored weights.

    Raises:
        ValueError: the file is no such head; lists what is missing or too much.
    """
    tensors = _read(path)
    needed = ("model.fc1.weight", "model.fc2.weight")
    if any(name not in tensors for name in needed):
        raise ValueError(f"{path} is no L1 action head: it lacks {needed}; it holds {sorted(tensors)[:8]}")
    action_dim = tensors["model.fc2.weight"].shape[0]
    width, input_size = tensors["model.fc1.weight"].shape
    head = L1ActionHead(input_size // action_dim, action_dim=action_dim, width=width)
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit OpenVLA-OFT's L1 action head: {error}") from error
    return head


def load_projector(path: Path) -> ProprioProjector:
    """Read a projector; its sizes are those of the stored weights.

    Raises:
        ValueError: the file is no such projector.
    """
    tensors = _read(path)
    if "fc1.weight" not in tensors:
        raise ValueError(f"{path} is no proprio projector: it lacks fc1.weight; it holds {sorted(tensors)[:8]}")
    hidden_size, proprio_dim = tensors["fc1.weight"].shape
    projector = ProprioProjector(hidden_size, proprio_dim=proprio_dim)
    try:
        projector.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit OpenVLA-OFT's proprio projector: {error}") from error
    return projector


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write the whole tensors of a small network in float32."""
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, path)


def _one_file(folder: Path, name: str, pattern: str) -> Path | None:
    found = [folder / name] if (folder / name).is_file() else sorted(folder.glob(pattern))
    if len(found) > 1:
        raise ValueError(f"{folder} holds several steps of {pattern}: {[file.name for file in found]}; leave one there")
    return found[0] if found else None


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors in float32 by name; names that a data-parallel wrapper has lengthened are shortened."""
    try:
        if path.suffix == ".pt":
            if not is_zipfile(path):
                raise pickle.UnpicklingError("it is no archive of torch.save")
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        else:
            tensors = load_file(path)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix.removeprefix('.')} ({error})") from error
    if bad := non_finite(tensors):
        raise ValueError(f"{path} holds NaN or infinity: {listed(bad)}; the training that wrote it diverged")
    return {name.removeprefix("module."): tensor.float() for name, tensor in tensors.items()}
