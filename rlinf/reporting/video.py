"""Episode videos that play anywhere: animated WebP by default, WebM (VP8) for players with controls.

Animated WebP is an image to a browser: it plays in every current one (Safari since 14), inside a self-contained page,
without codecs or permissions, and at simulator sizes it is smaller than VP8. MP4 is left out on purpose: the OpenCV
wheels have no H.264 encoder, and browsers refuse the MPEG-4 part 2 they do have.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SUFFIXES = (".webp", ".webm")
_INK, _PAPER, _MUTED = (242, 242, 240), (24, 26, 28), (150, 154, 158)
_SUCCESS, _FAILURE = (110, 205, 140), (236, 138, 118)
_LINE_HEIGHT, _MARGIN, _MIN_WIDTH = 15, 6, 256


class VideoError(ValueError):
    """Frames or a file name that no video can be made of."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What stands under the frames.

    ``task`` is the instruction, ``success`` the episode's outcome (``None``: unknown), ``frame_steps`` the environment
    step of each frame (``None``: frames are counted instead). The outcome is shown on the last frame, which is held for
    ``hold_seconds``.
    """

    task: str
    success: bool | None = None
    frame_steps: Sequence[int] | None = None
    hold_seconds: float = 1.5


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]], *, caption: Caption, fps: float = 10.0) -> Path:
    """Write RGB frames, each (H, W, 3) uint8, to ``path`` (.webp or .webm) under a temporary name first."""
    if path.suffix not in SUFFIXES:
        raise VideoError(f"a video's name must end in {' or '.join(SUFFIXES)}, given {path.name}")
    if not 0 < fps <= 100:
        raise VideoError(f"fps must lie in 0..100, given {fps}")
    pages = _captioned(frames, caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix: the encoders go by it
    try:
        if path.suffix == ".webp":
            _write_webp(partial, pages, fps, caption.hold_seconds)
        else:
            _write_webm(partial, pages, fps, caption.hold_seconds)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _captioned(frames: Sequence[NDArray[np.uint8]], caption: Caption) -> list[Image.Image]:
    if not frames:
        raise VideoError("a video needs at least one frame")
    shape = frames[0].shape
    for number, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise VideoError(
                f"frames must be uint8 of one shape (H, W, 3); frame 0 has {shape}, frame {number} is {frame.dtype} "
                f"{frame.shape}"
            )
    if caption.frame_steps is not None and len(caption.frame_steps) != len(frames):
        raise VideoError(f"frame_steps has {len(caption.frame_steps)} entries for {len(frames)} frames")
    font = ImageFont.load_default(size=11)
    scale = max(1, -(-_MIN_WIDTH // shape[1]))
    width, height = shape[1] * scale, shape[0] * scale
    lines = _wrap(caption.task, font, width - 2 * _MARGIN)
    strip = 2 * _MARGIN + _LINE_HEIGHT * (len(lines) + 1)
    strip += (height + strip) % 2  # video encoders want even sizes
    pages = []
    for number, frame in enumerate(frames):
        page = Image.new("RGB", (width + width % 2, height + strip), _PAPER)
        page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (0, 0))
        draw = ImageDraw.Draw(page)
        for row, line in enumerate(lines):
            draw.text((_MARGIN, height + _MARGIN + row * _LINE_HEIGHT), line, font=font, fill=_INK)
        baseline = height + _MARGIN + len(lines) * _LINE_HEIGHT
        steps = caption.frame_steps
        position = f"frame {number + 1} of {len(frames)}" if steps is None else f"step {steps[number]}"
        draw.text((_MARGIN, baseline), position, font=font, fill=_MUTED)
        if number == len(frames) - 1 and caption.success is not None:
            text, colour = ("success", _SUCCESS) if caption.success else ("failure", _FAILURE)
            draw.text((page.width - _MARGIN, baseline), text, font=font, fill=colour, anchor="ra")
            draw.rectangle((0, 0, page.width - 1, height - 1), outline=colour, width=3)
        pages.append(page)
    return pages


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _write_webp(path: Path, pages: Sequence[Image.Image], fps: float, hold_seconds: float) -> None:
    durations = [round(1000 / fps)] * len(pages)
    durations[-1] += round(1000 * hold_seconds)
    first, *rest = pages
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, quality=70, method=3)


def _write_webm(path: Path, pages: Sequence[Image.Image], fps: float, hold_seconds: float) -> None:
    import cv2  # slow to import, and only this format needs it

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), fps, pages[0].size)
    if not writer.isOpened():
        raise VideoError("this OpenCV build cannot write WebM (VP8); use a .webp name instead")
    for page in [*pages, *[pages[-1]] * round(hold_seconds * fps)]:
        writer.write(np.asarray(page)[..., ::-1])
    writer.release()
