"""A small convolutional policy: the baseline that has no language model and no pretraining on other robots.

It sees what the VLA policies see, the camera images and the instruction, and answers with the same 8 x 7 bins in one
pass, so that the same reinforcement learning trains it. All of its weights are trained; there is no adapter.

A checkpoint is a folder with ``config.json`` (sizes and action statistics) and ``model.pt`` (a state dict); the
supervised start is made by ``python -m rlinf.cli.pretrain_simple_cnn``.

Shapes: B samples, N images, K channels, D instruction features, H features, T action tokens, V bins.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rlinf.config import ConfigError, resolve_adapter
from rlinf.config.schema import ModelConfig
from rlinf.models.decoding import BinnedPolicy
from rlinf.models.identity import checkpoint_hash
from rlinf.models.policy import PolicyInputs, PolicySource, Stated
from rlinf.models.whole_weights import WEIGHTS_FILE, read_whole, write_whole
from rlinf.run_layout import WHOLE_FILES
from transformers_openvla_oft import ActionTokenMap, ValueHead
from transformers_openvla_oft.loading import check_finite, check_fit, read_object, shapes
from transformers_openvla_oft.processing.images import resize_pictures

MODEL_TYPE = "simple_cnn"
CONFIG_FILE = "config.json"
INSTRUCTION_SIZE = 256
NORM_GROUPS = 8
VALUE_HEAD = "value_head."


@dataclass(frozen=True)
class CNNSettings:
    """Contents of ``config.json``.

    norm_stats: action statistics by suite, as OpenVLA checkpoints have them (``q01``, ``q99``, ``mask``).
    """

    image_size: int = 128
    num_images: int = 1
    channels: tuple[int, ...] = (32, 64, 128, 128)
    squeezed_channels: int = 32
    hidden_size: int = 384
    token_size: int = 24
    num_actions_chunk: int = 8
    action_dim: int = 7
    n_action_bins: int = 256
    norm_stats: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.channels or any(count % NORM_GROUPS for count in self.channels):
            raise ConfigError(f"channels={list(self.channels)} must be multiples of {NORM_GROUPS}")
        if self.image_size % self.stride:
            raise ConfigError(
                f"image_size={self.image_size} must be a multiple of {self.stride}: each of the "
                f"{len(self.channels)} convolutions halves it"
            )

    @property
    def stride(self) -> int:
        return int(2 ** len(self.channels))

    @property
    def num_action_tokens(self) -> int:
        return self.num_actions_chunk * self.action_dim

    @staticmethod
    def load(folder: Path) -> "CNNSettings":
        """Read ``config.json``.

        Raises:
            CheckpointError: it is missing or no JSON object.
            ConfigError: it is not that of a simple CNN.
        """
        values = read_object(folder / CONFIG_FILE, expected=f"the configuration of a {MODEL_TYPE} policy")
        if values.pop("model_type", None) != MODEL_TYPE:
            raise ConfigError(f"{folder / CONFIG_FILE} is not the configuration of a {MODEL_TYPE} policy")
        unknown = sorted(values.keys() - {item.name for item in fields(CNNSettings)})
        if unknown:
            raise ConfigError(f"{folder / CONFIG_FILE}: unknown keys {', '.join(unknown)}")
        return CNNSettings(**{**values, "channels": tuple(values["channels"])})

    def save(self, folder: Path) -> None:
        """Write ``config.json``."""
        values = {"model_type": MODEL_TYPE, **asdict(self)}
        (folder / CONFIG_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def action_map(self, unnorm_key: str) -> ActionTokenMap:
        """Bins and actions under the statistics of ``unnorm_key``.

        Raises:
            ConfigError: there are none.
            CheckpointError: they are no bounds of actions.
        """
        if unnorm_key not in self.norm_stats:
            raise ConfigError(
                f"no action statistics for {unnorm_key!r}; the checkpoint has {sorted(self.norm_stats)}: choose one "
                "with actor.model.unnorm_key"
            )
        return ActionTokenMap.from_statistics(
            self.norm_stats[unnorm_key],
            of=f"{unnorm_key} in the checkpoint's {CONFIG_FILE}",
            action_dim=self.action_dim,
            action_token_begin=0,
            num_bins=self.n_action_bins,
            num_actions_chunk=self.num_actions_chunk,
        )


@lru_cache(maxsize=1024)
def embed_instruction(text: str) -> NDArray[np.float32]:
    """A fixed vector (D,) for any sentence, of random signs: half what its words and pairs of neighbours hash to, half
    what the whole sentence does.

    Nothing is learnt and no vocabulary is stored, so tasks of other suites have a place too; sentences that share words
    lie near each other, and the same words in another order apart. Elements have about unit variance.
    """
    words = text.lower().split()
    pieces = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
    parts_D = sum((_signs(piece) for piece in pieces), start=np.zeros(INSTRUCTION_SIZE, np.float32))
    return (parts_D / np.float32(max(len(pieces), 1) ** 0.5) + _signs(" ".join(words))) / np.float32(2**0.5)


def _signs(text: str) -> NDArray[np.float32]:
    """-1 or 1 for each bit of a hash, (D,)."""
    digest = blake2b(text.encode(), digest_size=INSTRUCTION_SIZE // 8).digest()
    return 2 * np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) - 1


class FilmBlock(nn.Module):
    """A strided convolution whose channels the instruction scales and shifts (FiLM, arXiv:1709.07871)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.norm = nn.GroupNorm(NORM_GROUPS, out_channels)
        self.film = nn.Linear(INSTRUCTION_SIZE, 2 * out_channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x_BKHW: Tensor, instruction_BD: Tensor) -> Tensor:
        scale_BK, shift_BK = self.film(instruction_BD).chunk(2, dim=-1)
        x_BKHW = self.norm(self.conv(x_BKHW))
        return functional.gelu(x_BKHW * (1 + scale_BK[..., None, None]) + shift_BK[..., None, None])


class CNNOutput(NamedTuple):
    """Logits of all action tokens and, with a critic, values. A named tuple: FSDP2 looks for its tensors."""

    logits_BTV: Tensor
    values_B: Tensor | None


class SimpleCNN(nn.Module):
    """Convolutions, two hidden layers, one small output layer per action token; with ``critic``, a value head."""

    def __init__(self, settings: CNNSettings, *, critic: bool) -> None:
        super().__init__()
        widths = (3 * settings.num_images, *settings.channels)
        self.blocks = nn.ModuleList(FilmBlock(first, second) for first, second in pairwise(widths))
        self.squeeze = nn.Conv2d(widths[-1], settings.squeezed_channels, kernel_size=1)
        side = settings.image_size // settings.stride
        flat = settings.squeezed_channels * side**2
        self.hidden_1 = nn.Linear(flat + INSTRUCTION_SIZE, settings.hidden_size)
        self.norm_1 = nn.LayerNorm(settings.hidden_size)
        self.hidden_2 = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.norm_2 = nn.LayerNorm(settings.hidden_size)
        self.tokens = nn.Linear(settings.hidden_size, settings.num_action_tokens * settings.token_size)
        shape = (settings.num_action_tokens, settings.token_size, settings.n_action_bins)
        self.output_TEV = nn.Parameter(torch.randn(shape) / settings.token_size**0.5)
        self.bias_TV = nn.Parameter(torch.zeros(settings.num_action_tokens, settings.n_action_bins))
        self.value_head = ValueHead(settings.hidden_size) if critic else None

        for layer in (self.squeeze, self.hidden_1, self.hidden_2, self.tokens):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, pixels_BKHW: Tensor, instruction_BD: Tensor) -> CNNOutput:
        """pixels in [-1, 1], the colours of N images as channels; instruction: see ``embed_instruction``."""
        x = pixels_BKHW
        for block in self.blocks:
            x = block(x, instruction_BD)
        flat_BF = functional.gelu(self.squeeze(x)).flatten(1)
        x = functional.gelu(self.norm_1(self.hidden_1(torch.cat([flat_BF, instruction_BD], dim=-1))))
        feature_BH = functional.gelu(self.norm_2(self.hidden_2(x)))
        tokens_BTE = functional.gelu(self.tokens(feature_BH)).unflatten(-1, (self.output_TEV.shape[0], -1))
        logits_BTV = torch.einsum("bte,tev->btv", tokens_BTE, self.output_TEV) + self.bias_TV
        values_B = None if self.value_head is None else self.value_head(feature_BH)[:, 0].float()
        return CNNOutput(logits_BTV.float(), values_B)


def to_pixels(images_BNHWC: Tensor) -> Tensor:
    """uint8 images, or floats in [0, 1], to what the network reads: (B, 3 N, H, W) in [-1, 1]."""
    scale = 1 / 127.5 if images_BNHWC.dtype == torch.uint8 else 2.0
    return (images_BNHWC.float() * scale - 1.0).permute(0, 1, 4, 2, 3).flatten(1, 2)


def fresh_cnn(settings: CNNSettings, *, seed: int, critic: bool = False) -> SimpleCNN:
    """Random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SimpleCNN(settings, critic=critic)


def save_cnn(folder: Path, settings: CNNSettings, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint into an existing folder."""
    settings.save(folder)
    write_whole(folder, tensors)


def load_cnn(folder: Path, settings: CNNSettings, *, seed: int, critic: bool) -> SimpleCNN:
    """A network with the weights in ``folder``; where they have no value head, ``seed`` determines a fresh one, and
    without a critic the stored one is left out.

    Raises:
        CheckpointError: they cannot be read, do not fit, or hold NaN or infinity.
    """
    module, file = fresh_cnn(settings, seed=seed, critic=critic), folder / WEIGHTS_FILE
    fresh = module.state_dict()
    tensors = {name: value for name, value in fresh.items() if name.startswith(VALUE_HEAD)}
    stored = read_whole(folder)
    tensors |= {name: value for name, value in stored.items() if name in fresh or not name.startswith(VALUE_HEAD)}
    check_fit(str(file), stored=shapes(tensors), expected=shapes(fresh))
    check_finite(str(file), tensors)
    module.load_state_dict(tensors)
    return module.eval()


class SimpleCNNPolicy(BinnedPolicy):
    """Joins network, image path and actions; see the ``Policy`` protocol for shapes."""

    def __init__(self, module: SimpleCNN, settings: CNNSettings, actions: ActionTokenMap, *, checkpoint: Path) -> None:
        super().__init__(module, actions, checkpoint=checkpoint)
        self.value_head = module.value_head
        self.settings = settings
        self._base: SimpleCNN | None = None

    def resize(self, images_BNHWC: Tensor) -> Tensor:
        """Bicubic."""
        return resize_pictures(images_BNHWC, size=self.settings.image_size)

    def score(self, inputs: PolicyInputs, bins_BT: Tensor | None) -> CNNOutput:
        """One forward pass; ``bins_BT`` are not looked at."""
        output: CNNOutput = self.module(*self._read(inputs))
        return output

    @torch.no_grad()
    def base_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """The same of the base checkpoint, of which a copy is kept from the first call on."""
        if self._base is None:
            self._base = load_cnn(self.checkpoint, self.settings, seed=0, critic=False).to(self.device)
        output: CNNOutput = self._base(*self._read(inputs))
        return output.logits_BTV

    def base_identity(self, language: str, bins_FT: Tensor) -> dict[str, str]:
        """Checkpoint, instruction and image pipeline, as texts to compare."""
        num_images, size = self.settings.num_images, self.settings.image_size
        return {
            "model": checkpoint_hash(self.checkpoint, WHOLE_FILES),
            "prompt": language,
            "image pipeline": f"{num_images} picture(s), bicubic with antialiasing to {size} px, rounded to uint8, "
            "scaled to [-1, 1]",
        }

    def units(self) -> Sequence[nn.Module]:
        """The convolution blocks."""
        return [module for module in self.module.modules() if isinstance(module, FilmBlock)]

    def part_of(self, name: str) -> str | None:
        """``vision`` (convolutions), ``llm`` (where the instruction acts on them) or ``head`` (what comes after)."""
        if name.startswith(VALUE_HEAD):
            return None
        return "llm" if ".film." in name else "vision" if name.startswith(("blocks.", "squeeze.")) else "head"

    def save(self, folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Write ``model.pt`` and ``config.json``: a folder that is a checkpoint of its own."""
        save_cnn(folder, self.settings, {name: torch.from_numpy(value) for name, value in tensors.items()})

    def _read(self, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        instruction_BD = torch.from_numpy(np.stack([embed_instruction(text) for text in inputs.languages]))
        return to_pixels(inputs.images_BNHWC), instruction_BD.to(self.device)


def stated_by_cnn(checkpoint: Path) -> Stated:
    """What a checkpoint states."""
    settings = CNNSettings.load(checkpoint)
    return Stated(settings.num_images, settings.image_size, settings.num_actions_chunk, frozenset(settings.norm_stats))


def load_simple_cnn(config: ModelConfig, source: PolicySource, base_dtype: torch.dtype) -> SimpleCNNPolicy:
    """Load a checkpoint, and the weights in ``actor.model.lora_path`` instead of its own where that is given.

    base_dtype: of frozen weights, of which there are none.

    Raises:
        ConfigError: the checkpoint does not fit the configuration.
    """
    if config.is_lora:
        raise ConfigError(f"actor.model.is_lora=true: {MODEL_TYPE} has no adapter, all of its weights are trained")
    if config.previous_lora_paths or config.lora_scale not in (None, 1.0):
        raise ConfigError(f"{MODEL_TYPE} has no adapter that could be merged or scaled")
    if config.picture_path not in (None, "rl"):
        raise ConfigError(f"actor.model.picture_path={config.picture_path}: {MODEL_TYPE} knows rl only")
    settings = CNNSettings.load(source.checkpoint)
    folder = resolve_adapter(config.lora_path, files=WHOLE_FILES) if config.lora_path else source.checkpoint
    module = load_cnn(folder, settings, seed=source.seed, critic=source.critic)
    actions = settings.action_map(source.unnorm_key)
    return SimpleCNNPolicy(module, settings, actions, checkpoint=source.checkpoint)
