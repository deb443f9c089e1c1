"""Images and task sentences to model inputs, as the RL code prepares them.

Shapes: B batch, N images, L prompt slots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from transformers_openvla_oft.loading import CheckpointError, reading
from transformers_openvla_oft.model.configuration import OpenVLAConfig

from .images import PICTURE_PATHS, PREPROCESSOR_FILE, ImageSettings, check_images, resize_pictures
from .official_images import official_pictures

PROMPT = "In: What action should the robot take to {task}?\nOut: "
# The piece that the trailing space of the prompt becomes (id 29871 in Llama-2): the position of the first logits.
PROMPT_END_TOKEN = "\u2581"
AUTO_PROCESSOR_OPTIONS = {
    *("trust_remote_code", "from_auto", "revision", "cache_dir", "force_download", "local_files_only", "token")
}


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


class PrismaticProcessor:
    """Builds `PolicyBatch`es. Images stay on the device they came on."""

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
        self.tokenizer = tokenizer
        self.images = images
        self.max_prompt_length = max_prompt_length
        self.num_images = num_images
        self.prompt_multiple = prompt_multiple
        self.picture_path = picture_path
        self.bos_token_id = _token_id(tokenizer, "bos_token", tokenizer.bos_token)
        self.pad_token_id = _token_id(tokenizer, "pad_token", tokenizer.pad_token)
        self.prompt_end_token_id = _token_id(tokenizer, "the piece of a trailing space", PROMPT_END_TOKEN)
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
        picture_path: how images come to the model's size: as in reinforcement learning (`rl`, bicubic), or as the
            OFT repository's evaluation does it, see `official_images` (`oft`, or `oft_center_crop` for policies that
            were trained with random crops).
        _of_auto_processor: what `AutoProcessor` hands on to every class (`trust_remote_code`, `revision`, ...); a
            folder has no use for it.

        subfolder: of the folder; it holds the checkpoint.

        Raises:
            CheckpointError: a file is missing or corrupt, or tokenizer or image settings are another model's.
        """
        path = Path(path) / (subfolder or "")
        if unknown := {name for name in _of_auto_processor if name.lstrip("_") not in AUTO_PROCESSOR_OPTIONS}:
            raise TypeError(f"unknown options {sorted(unknown)}")
        with reading(path):
            config = OpenVLAConfig.from_pretrained(path)
            images = ImageSettings.read(path, config)
        return cls(
            _stored_tokenizer(path if tokenizer is None else Path(tokenizer), vocabulary_size=config.llama.vocab_size),
            images=images,
            max_prompt_length=config.max_prompt_length if max_prompt_length is None else max_prompt_length,
            num_images=config.num_images_in_input,
            prompt_multiple=prompt_multiple,
            picture_path=picture_path,
        )

    def save_pretrained(self, path: str | Path) -> None:
        """Write the tokenizer and the image settings; the rest is in the model's configuration."""
        Path(path).mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(path))
        text = json.dumps(self.images.to_dict(), indent=1) + "\n"
        (Path(path) / PREPROCESSOR_FILE).write_text(text, encoding="utf-8")

    def __call__(self, images_BNHWC: Tensor, tasks: Sequence[str], *, resized: bool = False) -> PolicyBatch:
        """uint8 images (B, N, H, W, 3), upright as LIBERO's 180-degree rotation leaves them, and one task each.

        resized: they are what `resize` gave.
        """
        check_images(images_BNHWC)
        if len(tasks) != images_BNHWC.shape[0]:
            raise ValueError(f"{images_BNHWC.shape[0]} observations need as many tasks, given {len(tasks)}")
        input_ids_BL, attention_mask_BL = self.encode_prompts(tasks)
        device = images_BNHWC.device
        return PolicyBatch(
            input_ids_BL.to(device, non_blocking=True),
            attention_mask_BL.to(device, non_blocking=True),
            self.pixel_values(images_BNHWC, resized=resized),
            padded=not bool(attention_mask_BL.all()),
        )

    def encode_prompts(self, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Task sentences -> (input_ids_BL, attention_mask_BL), int64: BOS, pads, then the prompt up to its end token.

        The pads therefore sit between the patches (which follow BOS) and the prompt.
        """
        prompts = [self.prompt_ids(task) for task in tasks]
        if (longest := max(map(len, prompts), default=0)) > self.max_prompt_length:
            raise ValueError(
                f"the prompt of {tasks[[*map(len, prompts)].index(longest)]!r} has {longest} tokens, more than "
                f"max_prompt_length={self.max_prompt_length}: give PrismaticProcessor.from_pretrained a larger one"
            )
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

    def prompt_ids(self, task: str) -> tuple[int, ...]:
        """Token ids of the whole prompt, from BOS to the end token, without padding."""
        if task not in self._prompt_ids:
            self._prompt_ids[task] = tuple(self.tokenizer(PROMPT.format(task=task.lower()))["input_ids"])
        return self._prompt_ids[task]

    def pixel_values(self, images_BNHWC: Tensor, *, resized: bool = False) -> Tensor:
        """uint8 (B, N, H, W, 3) -> float32 (B, N * towers * 3, size, size), resized, rounded and normalised."""
        check_images(images_BNHWC)
        B, N = images_BNHWC.shape[:2]
        if self.num_images != N:
            raise ValueError(f"the checkpoint reads {self.num_images} image(s) per observation, given {N}")
        size = self.images.image_size
        small_BNHWC = images_BNHWC if resized else self.resize(images_BNHWC)
        images = small_BNHWC.flatten(0, 1).permute(0, 3, 1, 2).float()
        # Without `non_blocking`, so small a copy would wait for whatever the device has to do before it.
        means, stds = (
            torch.tensor(colours).to(images.device, non_blocking=True).view(1, -1, 3, 1, 1)
            for colours in (self.images.means, self.images.stds)
        )
        towers = (images[:, None] / 255 - means) / stds
        return towers.reshape(B, -1, size, size)

    def resize(self, images_BNHWC: Tensor) -> Tensor:
        """Square uint8 images -> uint8 (B, N, size, size, 3), along the image path.

        This is all that a rollout needs to keep of a image: the published path stores the resized one as uint8.
        """
        check_images(images_BNHWC)
        size = self.images.image_size
        if self.picture_path == "rl":
            return resize_pictures(images_BNHWC, size=size)
        crop = self.picture_path == "oft_center_crop"
        resized = official_pictures(images_BNHWC.flatten(0, 1), size=size, center_crop=crop)
        return resized.view(*images_BNHWC.shape[:2], size, size, 3)


def _stored_tokenizer(folder: Path, *, vocabulary_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a checkpoint or another folder, for a model with `vocabulary_size` embeddings.

    Raises:
        CheckpointError: a file is missing, corrupt, or no tokenizer of Llama's structure, or it is another model's.
    """
    # The published tokenizer classes differ in how they rebuild the tokenizer; the file is the same for all.
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        ids = tokenizer(PROMPT.format(task="pick up the bowl"))["input_ids"]
        first, last = (_token_id(tokenizer, token, token) for token in (tokenizer.bos_token, PROMPT_END_TOKEN))
        _token_id(tokenizer, "pad_token", tokenizer.pad_token)
    except Exception as error:  # tokenizers raises nothing narrower, transformers whatever the content leads to
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read ({why}); expected that of a Llama in tokenizer.json and "
            "tokenizer_config.json, as PreTrainedTokenizerFast saves it. Download or copy both again."
        ) from error
    if (ids[0], ids[-1]) != (first, last):
        raise CheckpointError(
            f"the tokenizer in {folder} must put BOS ({first}) first and turn the prompt's trailing space into token "
            f"{last}, as a Llama's does, but gives {ids}: take the tokenizer that belongs to the model."
        )
    if (largest := max(tokenizer.get_vocab().values())) >= vocabulary_size:
        raise CheckpointError(
            f"the tokenizer in {folder} has tokens up to number {largest}, but the model has only {vocabulary_size} "
            "embeddings (text_config.vocab_size of its config.json): take the tokenizer that belongs to the model."
        )
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def _token_id(tokenizer: PreTrainedTokenizerFast, name: str, token: str | None) -> int:
    """The number of a token that every prompt needs. name: what it is, for messages."""
    found = None if token is None else tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no {name} ({token!r}); it must have the structure of Llama's")
    return found
