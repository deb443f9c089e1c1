"""What stands on top of the hidden states: the few rows of the output layer that are actions, the value head of
reinforcement learning, and OpenVLA-OFT's L1 regression of actions and projector of proprioception (arXiv:2502.19645).

Shapes: B samples, C chunk steps, A action dimensions, H hidden size of the policy, P proprioceptive dimensions.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn import functional

from transformers_openvla_oft.loading import CheckpointError, check_finite, check_fit, shapes, weight_files

from .same_rounding import NarrowLinear

VALUE_HEAD_SIZES = (512, 128)
VALUE_HEAD_PREFIX = "value_head."
NUM_BLOCKS = 2


class ValueHead(nn.Module):
    """State value from the "a0" feature: H -> 512 -> 128 -> outputs, GELU between, no bias at the end.

    The fresh head answers zero everywhere, so that training starts from the critic that knows nothing.
    """

    def __init__(self, hidden_size: int, *, num_outputs: int = 1) -> None:
        super().__init__()
        self.head_l1 = nn.Linear(hidden_size, VALUE_HEAD_SIZES[0])
        self.head_l2 = nn.Linear(VALUE_HEAD_SIZES[0], VALUE_HEAD_SIZES[1])
        self.head_l3 = nn.Linear(VALUE_HEAD_SIZES[1], num_outputs, bias=False)
        for layer in (self.head_l1, self.head_l2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head_l3.weight)

    def forward(self, feature_BH: Tensor) -> Tensor:
        """(B, H) -> (B, num_outputs)."""
        x = functional.gelu(self.head_l1(feature_BH))
        x = functional.gelu(self.head_l2(x))
        values: Tensor = self.head_l3(x)
        return values


def stored_value_head(folder: Path, names: Collection[str], *, hidden_size: int) -> ValueHead:
    """The value head that a checkpoint holds under `names`; reinforcement learning saves one with its policies.

    Raises:
        CheckpointError: it is no head of this package, or not for features of that size.
    """
    stored: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as opened:
            own = set(names).intersection(opened.keys())
            stored.update({name.removeprefix(VALUE_HEAD_PREFIX): opened.get_tensor(name) for name in own})
    last = stored.get("head_l3.weight")
    head = ValueHead(hidden_size, num_outputs=1 if last is None else len(last))
    check_fit(f"the value head in {folder}", stored=shapes(stored), expected=shapes(head.state_dict()))
    head.load_state_dict(stored)
    return head


class _StoredBeside(nn.Module):
    """A small network with a file of its own beside a policy's weights. sizes: of the policy's hidden states, and of an
    action or of proprioception."""

    NAME: ClassVar[str]
    FILE: ClassVar[str]
    PUBLISHED: ClassVar[str]  # what the OFT repository itself writes

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.sizes = hidden_size, size

    @staticmethod
    def sizes_of(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
        """`sizes` of the network that has these weights; KeyError where it is another kind of network."""
        raise NotImplementedError

    @classmethod
    def fresh(cls, hidden_size: int, size: int, *, seed: int) -> Self:
        """Random weights that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(hidden_size, size)

    @classmethod
    def file_in(cls, folder: Path) -> Path | None:
        """The file in a checkpoint's folder, ours or the OFT repository's; None where there is none."""
        own = folder / cls.FILE
        found = [own] if own.is_file() else sorted(folder.glob(cls.PUBLISHED))
        if len(found) > 1:
            names = [file.name for file in found]
            raise ValueError(f"{folder} holds several steps of {cls.PUBLISHED}: {names}; leave one there")
        return found[0] if found else None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a stored one.

        Raises:
            CheckpointError: the file cannot be read, or is no such network.
        """
        try:
            tensors = torch.load(path, "cpu", weights_only=True) if path.suffix == ".pt" else load_file(path)
        except (OSError, SafetensorError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} cannot be read as {path.suffix.removeprefix('.')} ({error})") from error
        check_finite(str(path), tensors)
        # The OFT repository stores what a data-parallel wrapper has lengthened the names of.
        tensors = {name.removeprefix("module."): tensor.float() for name, tensor in tensors.items()}
        try:
            network = cls(*cls.sizes_of(tensors))
            network.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path} is no {cls.NAME} of OpenVLA-OFT: {error}") from error
        return network

    @classmethod
    def save(cls, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Write whole tensors in float32."""
        save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, folder / cls.FILE)


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


class L1ActionHead(_StoredBeside):
    """Normalised actions (B, C, A) from the hidden states (B, C * A, H) at the positions of the action logits."""

    NAME, FILE, PUBLISHED = "L1 action head", "l1_action_head.safetensors", "action_head--*_checkpoint.pt"

    def __init__(self, hidden_size: int, action_dim: int) -> None:
        super().__init__(hidden_size, action_dim)
        self.model = _Network(input_size=hidden_size * action_dim, width=hidden_size, output_size=action_dim)

    @staticmethod
    def sizes_of(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
        """(H, A)."""
        return len(tensors["model.fc1.weight"]), len(tensors["model.fc2.weight"])

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        """(B, T = C * A, H) -> (B, C, A), float32, normalised."""
        H, A = self.sizes
        actions_BCA: Tensor = self.model(hidden_BTH.reshape(len(hidden_BTH), -1, A * H))
        return actions_BCA.float()


class ProprioProjector(_StoredBeside):
    """Normalised proprioception (B, P) to one embedding (B, H)."""

    NAME, FILE, PUBLISHED = "proprio projector", "proprio_projector.safetensors", "proprio_projector--*_checkpoint.pt"

    def __init__(self, hidden_size: int, proprio_dim: int) -> None:
        super().__init__(hidden_size, proprio_dim)
        self.fc1 = nn.Linear(proprio_dim, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    @staticmethod
    def sizes_of(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
        """(H, P)."""
        hidden_size, proprio_dim = tensors["fc1.weight"].shape
        return hidden_size, proprio_dim

    def forward(self, proprio_BP: Tensor) -> Tensor:
        """(B, P) -> (B, H)."""
        embedding_BH: Tensor = self.fc2(functional.gelu(self.fc1(proprio_BP)))
        return embedding_BH


def project_rows(head: nn.Module, hidden: Tensor, rows: slice) -> Tensor:
    """What `head(hidden)[..., rows]` gives, values and gradients, without computing the other columns.

    head: a linear layer, or one with a LoRA adapter around it. It is called as it is, hooks included, with its own
    parameters cut to `rows`; every one with an entry per output is cut, so that the adapter's `lora_B` is too.
    """
    if not _can_be_cut(head):
        whole: Tensor = head(hidden)
        return whole[..., rows]
    num_outputs = _num_outputs(head)
    cut = {
        name: parameter[rows]
        for name, parameter in head.named_parameters()
        if parameter.shape[0] == num_outputs and ".lora_A." not in f".{name}"
    }
    logits: Tensor = functional_call(head, cut, (hidden,))
    return logits


def _num_outputs(head: nn.Module) -> int:
    weight = getattr(head, "weight", None)  # PEFT's layers answer with their base layer's
    assert isinstance(weight, Tensor)
    return int(weight.shape[0])


def _can_be_cut(head: nn.Module) -> bool:
    """False for a layer that is sharded by itself (its hook brings the whole weight), one that is quantised, and a
    merged adapter that is to be switched off (PEFT then changes the whole weight in place)."""
    if getattr(head, "merged", False) and getattr(head, "disable_adapters", False):
        return False
    base_of = getattr(head, "get_base_layer", None)
    leaf = head if base_of is None else base_of()
    return type(leaf) in (nn.Linear, NarrowLinear) and not any(
        isinstance(parameter, DTensor) for parameter in head.parameters()
    )
