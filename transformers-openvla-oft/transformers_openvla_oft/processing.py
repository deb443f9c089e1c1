"""Pictures and task sentences to model inputs, as the RL code prepares them.

Shapes: B batch, N pictures, L prompt slots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from .configuration import RESIZE_STRATEGY, OpenVLAConfig
from .fields import is_number
from .loading import CheckpointError, broken, read_object, reading
from .official_images import official_pictures
from .tokenizer_files import PROBE, TOKENIZER_FILE, no_tokenizer, stored_tokenizer, token_id

PREPROCESSOR_FILE = "preprocessor_config.json"
INTERPOLATION = "bicubic"
PROMPT = "In: What action should the robot take to {task}?\nOut: "
# The piece that the trailing space of the prompt becomes (id 29871 in Llama-2): the position of the first logits.
PROMPT_END_TOKEN = "\u2581"
# What is smaller than that was not meant for the model.
MAX_ENLARGEMENT = 4
PICTURE_PATHS = ("rl", "oft", "oft_center_crop")
OPTIONS = ("max_prompt_length", "picture_path", "prompt_multiple", "tokenizer")
AUTO_PROCESSOR_OPTIONS = frozenset(
    {
        "trust_remote_code",
        "from_auto",
        "revision",
        "cache_dir",
        "force_download",
        "local_files_only",
        "token",
    }
)


@dataclass(frozen=True)
class PolicyBatch:
    """Inputs of `OpenVLAForActionPrediction.forward`, by the same names.

    padded: whether a prompt has pads; None: not known.
    """

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    pixel_values: Tensor
    padded: bool | None = None

    def to(self, device: torch.device | str) -> PolicyBatch:
        return self._changed(lambda tensor: tensor.to(device))

    def select(self, index: Tensor | slice) -> PolicyBatch:
        """The rows `index` of the batch; where any of its rows has pads, these count as padded too."""
        return self._changed(lambda tensor: tensor[index])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.input_ids_BL, self.attention_mask_BL, self.pixel_values

    def _changed(self, change: Callable[[Tensor], Tensor]) -> PolicyBatch:
        ids, mask, pixels = map(change, self.tensors())
        return PolicyBatch(ids, mask, pixels, self.padded)


@dataclass(frozen=True)
class ImageSettings:
    """Size and per-tower normalisation of the pictures."""

    image_size: int
    means: tuple[tuple[float, float, float], ...]
    stds: tuple[tuple[float, float, float], ...]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ImageSettings:
        """From a published `preprocessor_config.json`.

        Raises:
            ValueError: says which field is missing or not as expected.
        """
        strategy = fields.get("image_resize_strategy", RESIZE_STRATEGY)
        if strategy != RESIZE_STRATEGY:
            raise ValueError(
                f"image_resize_strategy must be {RESIZE_STRATEGY!r} as in the published models, not {strategy!r}"
            )
        if missing := [name for name in ("input_sizes", "means", "stds") if not fields.get(name)]:
            raise ValueError(f"{', '.join(missing)} must be given, one entry for each vision tower")
        sizes, means, stds = (_per_tower(name, fields[name]) for name in ("input_sizes", "means", "stds"))
        channels, sides = {size[0] for size in sizes}, {side for size in sizes for side in size[1:]}
        if channels != {3} or len(sides) != 1 or not min(sides) >= 1 or not min(sides).is_integer():
            raise ValueError(
                "all towers must read square pictures of one size, as [3, 224, 224], given input_sizes="
                f"{fields['input_sizes']}"
            )
        if not len(means) == len(stds) == len(sizes) or not all(std > 0 for tower in stds for std in tower):
            raise ValueError(
                f"means and stds must have one entry for each of the {len(sizes)} towers, standard deviations above 0, "
                f"given means={fields['means']} and stds={fields['stds']}"
            )
        if not all(0 <= x <= 1 for towers in (means, stds) for tower in towers for x in tower):
            raise ValueError(
                "means and stds must lie in [0, 1], for pictures divided by 255, given "
                f"means={fields['means']} and stds={fields['stds']}"
            )
        interpolations = fields.get("interpolations", [INTERPOLATION])
        if not isinstance(interpolations, list) or {*map(str, interpolations)} != {INTERPOLATION}:
            raise ValueError(
                f"interpolations must be {INTERPOLATION!r} for each tower as in the published models, not "
                f"{interpolations!r}"
            )
        return cls(image_size=int(sides.pop()), means=means, stds=stds)

    def to_dict(self) -> dict[str, Any]:
        """The fields of a published `preprocessor_config.json` that carry information."""
        num_towers = len(self.means)
        return {
            "image_processor_type": "PrismaticImageProcessor",
            "processor_class": "PrismaticProcessor",
            "image_resize_strategy": RESIZE_STRATEGY,
            "input_sizes": [[3, self.image_size, self.image_size]] * num_towers,
            "interpolations": [INTERPOLATION] * num_towers,
            "means": [list(mean) for mean in self.means],
            "stds": [list(std) for std in self.stds],
            "use_fused_vision_backbone": num_towers == 2,
        }


class PrismaticProcessor:
    """Builds `PolicyBatch`es. Pictures stay on the device they came on."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        images: ImageSettings,
        max_prompt_length: int,
        num_images: int = 1,
        prompt_multiple: int | None = None,
        picture_path: str = "rl",
    ) -> None:
        if picture_path not in PICTURE_PATHS:
            raise ValueError(f"picture_path {picture_path!r} is not known; expected one of: {', '.join(PICTURE_PATHS)}")
        for name, count in (("max_prompt_length", max_prompt_length), ("prompt_multiple", prompt_multiple)):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, given {count}")
        self.tokenizer = tokenizer
        self.images = images
        self.max_prompt_length = max_prompt_length
        self.num_images = num_images
        self.prompt_multiple = prompt_multiple
        self.picture_path = picture_path
        self.bos_token_id = token_id(tokenizer, "bos_token", tokenizer.bos_token)
        self.pad_token_id = token_id(tokenizer, "pad_token", tokenizer.pad_token)
        self.prompt_end_token_id = token_id(tokenizer, "the piece of a trailing space", PROMPT_END_TOKEN)
        self._prompt_ids: dict[str, tuple[int, ...]] = {}

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        max_prompt_length: int | None = None,
        tokenizer: str | Path | None = None,
        prompt_multiple: int | None = None,
        picture_path: str = "rl",
        subfolder: str | None = None,
        **_of_auto_processor: Any,
    ) -> PrismaticProcessor:
        """From a checkpoint folder; `max_prompt_length` defaults to the one of its `config.json`.

        tokenizer: a folder with another tokenizer than the checkpoint's own.
        prompt_multiple: give a batch only as many prompt slots as its longest prompt needs, rounded up to a multiple
            of this where prompts differ in length, so that such batches come in few shapes; None: always
            `max_prompt_length`. Pads are seen by nobody and counted in no position, so leaving out those that all rows
            share changes results by rounding only.
        picture_path: how pictures come to the model's size: as in reinforcement learning (`rl`, bicubic), or as the
            OFT repository's evaluation does it, see `official_images` (`oft`, or `oft_center_crop` for policies that
            were trained with random crops).
        _of_auto_processor: what `AutoProcessor` hands on to every class (`trust_remote_code`, `revision`, ...); a
            folder has no use for it.

        subfolder: of the folder; it holds the checkpoint.

        Raises:
            CheckpointError: a file is missing or corrupt, or tokenizer or picture settings are another model's.
        """
        path = Path(path) / (subfolder or "")
        if unknown := {name for name in _of_auto_processor if name.lstrip("_") not in AUTO_PROCESSOR_OPTIONS}:
            raise TypeError(f"unknown options {sorted(unknown)}; known: {', '.join(OPTIONS)}")
        with reading(path):
            config = OpenVLAConfig.from_pretrained(path)
            images = _stored_settings(path / PREPROCESSOR_FILE)
        _check_pictures_fit(path, images, config)
        words = path if tokenizer is None else Path(tokenizer)
        with reading(words):
            tokens = stored_tokenizer(words, vocabulary_size=config.llama.vocab_size)
        made = cls(
            tokens,
            images=images,
            max_prompt_length=config.max_prompt_length if max_prompt_length is None else max_prompt_length,
            num_images=config.num_images_in_input,
            prompt_multiple=prompt_multiple,
            picture_path=picture_path,
        )
        try:
            made.prompt_ids(PROBE)
        except ValueError as error:
            raise no_tokenizer(words / TOKENIZER_FILE, str(error)) from error
        return made

    def save_pretrained(self, path: str | Path) -> None:
        """Write the tokenizer and the picture settings; the rest is in the model's configuration."""
        Path(path).mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(path))
        text = json.dumps(self.images.to_dict(), indent=1) + "\n"
        (Path(path) / PREPROCESSOR_FILE).write_text(text, encoding="utf-8")

    def __call__(self, images_BNHWC: Tensor, tasks: Sequence[str]) -> PolicyBatch:
        """uint8 pictures (B, N, H, W, 3), upright as LIBERO's 180-degree rotation leaves them, and one task each."""
        _check_pictures(images_BNHWC)
        if len(tasks) != images_BNHWC.shape[0]:
            raise ValueError(f"{images_BNHWC.shape[0]} observations need as many tasks, given {len(tasks)}")
        input_ids_BL, attention_mask_BL = self.encode_prompts(tasks)
        device = images_BNHWC.device
        return PolicyBatch(
            input_ids_BL.to(device, non_blocking=True),
            attention_mask_BL.to(device, non_blocking=True),
            self.pixel_values(images_BNHWC),
            padded=not bool(attention_mask_BL.all()),
        )

    def encode_prompts(self, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Task sentences -> (input_ids_BL, attention_mask_BL), int64: BOS, pads, then the prompt up to its end token.

        The pads therefore sit between the patches (which follow BOS) and the prompt.
        """
        prompts = [self._fitting_ids(task) for task in tasks]
        num_slots = self._num_slots({len(ids) for ids in prompts} or {1})
        input_ids_BL = torch.full((len(tasks), num_slots), self.pad_token_id)
        attention_mask_BL = torch.zeros_like(input_ids_BL)
        input_ids_BL[:, 0] = self.bos_token_id
        attention_mask_BL[:, 0] = 1
        for row, ids in enumerate(prompts):
            input_ids_BL[row, num_slots - len(ids) + 1 :] = torch.tensor(ids[1:])
            attention_mask_BL[row, num_slots - len(ids) + 1 :] = 1
        return input_ids_BL, attention_mask_BL

    def _num_slots(self, lengths: set[int]) -> int:
        longest = max(lengths)
        if self.prompt_multiple is None:
            return self.max_prompt_length
        if len(lengths) == 1:
            return longest
        return min(-(-longest // self.prompt_multiple) * self.prompt_multiple, self.max_prompt_length)

    def _fitting_ids(self, task: str) -> tuple[int, ...]:
        ids = self.prompt_ids(task)
        if len(ids) > self.max_prompt_length:
            raise ValueError(
                f"the prompt of {task!r} has {len(ids)} tokens, more than max_prompt_length="
                f"{self.max_prompt_length}: give PrismaticProcessor.from_pretrained a larger one"
            )
        return ids

    def prompt_ids(self, task: str) -> tuple[int, ...]:
        """Token ids of the whole prompt, from BOS to the end token, without padding."""
        if task not in self._prompt_ids:
            ids = tuple(self.tokenizer(PROMPT.format(task=task.lower()))["input_ids"])
            if ids[:1] != (self.bos_token_id,) or ids[-1:] != (self.prompt_end_token_id,):
                raise ValueError(
                    f"the tokenizer must put BOS ({self.bos_token_id}) first and turn the prompt's trailing space into "
                    f"token {self.prompt_end_token_id}, but gave {ids} for {task!r}"
                )
            self._prompt_ids[task] = ids
        return self._prompt_ids[task]

    def pixel_values(self, images_BNHWC: Tensor) -> Tensor:
        """uint8 (B, N, H, W, 3) -> float32 (B, N * towers * 3, size, size), resized, rounded and normalised."""
        _check_pictures(images_BNHWC)
        B, N = images_BNHWC.shape[:2]
        if self.num_images != N:
            raise ValueError(f"the checkpoint reads {self.num_images} picture(s) per observation, given {N}")
        size = self.images.image_size
        images = self.resize(images_BNHWC).flatten(0, 1).permute(0, 3, 1, 2).float()
        # Without `non_blocking`, so small a copy would wait for whatever the device has to do before it.
        means, stds = (
            torch.tensor(colours).to(images.device, non_blocking=True).view(1, -1, 3, 1, 1)
            for colours in (self.images.means, self.images.stds)
        )
        towers = (images[:, None] / 255 - means) / stds
        return towers.reshape(B, -1, size, size)

    def resize(self, images_BNHWC: Tensor) -> Tensor:
        """Square uint8 pictures -> uint8 (B, N, size, size, 3); `pixel_values` of both are equal.

        Pictures of that size are taken as resized ones. This is all that a rollout needs to keep of a picture: the
        published path stores the resized one as uint8.
        """
        _check_pictures(images_BNHWC)
        size = self.images.image_size
        if self.picture_path == "rl" or images_BNHWC.shape[2:4] == (size, size):
            return resize_pictures(images_BNHWC, size=size)
        crop = self.picture_path == "oft_center_crop"
        resized = official_pictures(images_BNHWC.flatten(0, 1), size=size, center_crop=crop)
        return resized.view(*images_BNHWC.shape[:2], size, size, 3)


def _stored_settings(file: Path) -> ImageSettings:
    """Picture settings of a checkpoint.

    Raises:
        CheckpointError: the file is missing, or not what the published checkpoints have.
    """
    expected = "size, means and standard deviations of the pictures of each vision tower"
    fields = read_object(file, expected=expected)
    try:
        return ImageSettings.from_dict(fields)
    except ValueError as error:
        raise broken(file, str(error), expected=expected) from error


def _per_tower(name: str, entries: object) -> tuple[tuple[float, float, float], ...]:
    """Three numbers for each tower: those of the colours, or channels, height and width."""
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{name} must be a list with one entry for each vision tower, given {entries!r}")
    return tuple(_numbers(name, entry) for entry in entries)


def _numbers(name: str, values: object) -> tuple[float, float, float]:
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(is_number, values)):
        raise ValueError(f"{name} must have three numbers for each vision tower, given {values!r}")
    first, second, third = map(float, values)
    return first, second, third


def _check_pictures_fit(path: Path, images: ImageSettings, config: OpenVLAConfig) -> None:
    """Compare the picture settings of a checkpoint with its model.

    Raises:
        CheckpointError: they are for another number of towers, or another size.
    """
    size, num_towers = (config.image_sizes or [0])[0], config.num_towers
    if (images.image_size, len(images.means)) != (size, num_towers):
        raise CheckpointError(
            f"{path / PREPROCESSOR_FILE} prepares pictures of {images.image_size} pixels a side for "
            f"{len(images.means)} vision tower(s), but the model of config.json beside it has {num_towers} that read "
            f"{size}. Take both files from the same checkpoint."
        )


def _check_pictures(images_BNHWC: Tensor) -> None:
    if not isinstance(images_BNHWC, Tensor):
        raise ValueError(
            f"pictures must be a torch tensor, given {type(images_BNHWC).__name__}: torch.from_numpy makes one of a "
            "numpy array"
        )
    if images_BNHWC.dtype != torch.uint8 or images_BNHWC.ndim != 5 or images_BNHWC.shape[-1] != 3:
        raise ValueError(
            "pictures must be uint8 of shape (batch, pictures, height, width, 3), given "
            f"{images_BNHWC.dtype} {tuple(images_BNHWC.shape)}"
        )


def _check_sides(images_BNHWC: Tensor, *, size: int) -> None:
    """Refuse pictures that a resize to `size` would make something else of."""
    height, width = images_BNHWC.shape[2:4]
    if height != width:
        raise ValueError(
            f"pictures must be square, given {height} x {width} pixels: they would be stretched to {size} x {size}. "
            "Cut them to a square, as the policy's training data is"
        )
    if height * MAX_ENLARGEMENT < size:
        raise ValueError(
            f"pictures of {height} x {width} pixels are too small for a model that reads {size} x {size}: give at "
            f"least {-(-size // MAX_ENLARGEMENT)} pixels a side"
        )


def resize_pictures(images_BNHWC: Tensor, *, size: int) -> Tensor:
    """Square uint8 pictures -> uint8 (B, N, size, size, 3), by `resize_bicubic`.

    Raises:
        ValueError: they are not square, or less than a quarter as large as they are to be.
    """
    _check_sides(images_BNHWC, size=size)
    resized_NHWC = resize_bicubic(images_BNHWC.flatten(0, 1), size=size)
    return resized_NHWC.view(*images_BNHWC.shape[:2], *resized_NHWC.shape[1:])


def resize_bicubic(images_NHWC: Tensor, *, size: int) -> Tensor:
    """uint8 pictures of any size -> uint8 (N, size, size, colours): bicubic with antialiasing in float32, clamped and
    rounded, on their device. Pictures of that size are given back as they are.
    """
    if images_NHWC.shape[1:3] == (size, size):
        return images_NHWC
    num_pictures, *_, num_colours = images_NHWC.shape
    resized_NHWC = images_NHWC.new_empty(num_pictures, size, size, num_colours)
    # On a CPU, one picture at a time stays in the cache: half the time of all at once.
    num_together = 1 if images_NHWC.device.type == "cpu" else max(num_pictures, 1)
    for part_NHWC, resized_part_NHWC in zip(
        images_NHWC.split(num_together), resized_NHWC.split(num_together), strict=True
    ):
        pixels_NCHW = part_NHWC.permute(0, 3, 1, 2).float().contiguous()
        pixels_NCHW = functional.interpolate(
            pixels_NCHW, size=(size, size), mode="bicubic", antialias=True, align_corners=False
        )
        # Bicubic overshoots the range of uint8.
        resized_part_NHWC.copy_(pixels_NCHW.clamp_(0, 255).round_().permute(0, 2, 3, 1))
    return resized_NHWC
