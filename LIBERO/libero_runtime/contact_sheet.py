"""One picture of all tasks: the first frame of each, with its instruction.

``python -m libero_runtime.contact_sheet`` draws the four suites of ten. Tasks are shown as their camera sees them;
policies get the same picture mirrored, as LIBERO's own training data is.

H and W pixels, C colours.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from libero_runtime.asset_files import check_assets, missing_files
from libero_runtime.assets.drawing import font
from libero_runtime.commands import OptionError, run_command
from libero_runtime.paths import resolve_paths
from libero_runtime.suites import SUITES, TaskSpec, load_suite
from libero_runtime.vector_env import EpisodeStart, LiberoVectorEnv

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg")
_JPEG_QUALITY = 88

_PAPER, _INK = (255, 255, 255), (28, 28, 30)
_MARGIN, _GAP = 16, 12
_HEADING_HEIGHT, _LINE_HEIGHT = 44, 17
_SMOOTHING = 2  # drawn this many times larger than shown


def wrap(text: str, width: float, typeface: ImageFont.FreeTypeFont) -> list[str]:
    """Break a text between words into lines of at most `width` pixels (a single longer word stands alone)."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and typeface.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def first_frame(env: LiberoVectorEnv, task: TaskSpec, *, init_index: int, size: int) -> Image.Image:
    """What the agentview camera sees when an episode begins, not mirrored, in `size` pixels."""
    frames = env.reset([EpisodeStart(task.suite, task.task_id, init_index)])
    picture_HWC: NDArray[np.uint8] = frames.images_BNHWC[0, 0][:, ::-1]
    return Image.fromarray(np.ascontiguousarray(picture_HWC)).resize((size, size), Image.Resampling.LANCZOS)


def compose(rows: Sequence[tuple[str, Sequence[tuple[Image.Image, str]]]], *, columns: int) -> Image.Image:
    """Lay out (heading, [(picture, caption), ...]) groups on white; all pictures have the size of the first."""
    size = rows[0][1][0][0].width
    heading_font, caption_font = font("DejaVuSans-Bold", 22), font("DejaVuSans", 13)
    captions = [[wrap(caption, size, caption_font) for _, caption in tiles] for _, tiles in rows]
    tile_height = size + max(len(lines) for row in captions for lines in row) * _LINE_HEIGHT + 2 * _GAP
    num_tile_rows = [-(-len(tiles) // columns) for _, tiles in rows]
    width = 2 * _MARGIN + columns * size + (columns - 1) * _GAP
    sheet = Image.new(
        "RGB", (width, 2 * _MARGIN + sum(_HEADING_HEIGHT + n * tile_height for n in num_tile_rows)), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for (heading, tiles), texts, tile_rows in zip(rows, captions, num_tile_rows, strict=True):
        draw.text((_MARGIN, top + 6), heading, font=heading_font, fill=_INK)
        top += _HEADING_HEIGHT
        for index, (picture, _) in enumerate(tiles):
            row, column = divmod(index, columns)
            x, y = _MARGIN + column * (size + _GAP), top + row * tile_height
            sheet.paste(picture, (x, y))
            for line, text in enumerate(texts[index]):
                draw.text((x, y + size + 4 + line * _LINE_HEIGHT), text, font=caption_font, fill=_INK)
        top += tile_rows * tile_height
    return sheet


def loadable(tasks: Iterable[TaskSpec], *, skip_missing: bool) -> list[TaskSpec]:
    """Tasks whose assets are there; the first other one is an error, or is left out with a warning."""
    chosen = []
    for task in tasks:
        if skip_missing and (missing := missing_files(task, resolve_paths().assets)):
            logger.warning("%s task %d is left out: %d asset files missing", task.suite, task.task_id, len(missing))
            continue
        check_assets(task)
        chosen.append(task)
    return chosen


def draw_suites(suites: Sequence[str], *, size: int, columns: int, init_index: int, skip_missing: bool) -> Image.Image:
    """The contact sheet of whole suites, a heading and a block of tiles for each."""
    tasks = {suite: loadable(load_suite(suite).tasks, skip_missing=skip_missing) for suite in suites}
    env = LiberoVectorEnv(num_envs=1, image_size=_SMOOTHING * size, max_scenes=1)
    try:
        with tqdm(total=sum(map(len, tasks.values())), unit="task") as progress:
            rows = []
            for suite, chosen in tasks.items():
                tiles = []
                for task in chosen:
                    picture = first_frame(env, task, init_index=init_index, size=size)
                    tiles.append((picture, f"{task.task_id}  {task.language}"))
                    progress.update()
                rows.append((suite, tiles))
    finally:
        env.close()
    return compose(rows, columns=columns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m libero_runtime.contact_sheet", description=__doc__)
    parser.add_argument("--suites", nargs="+", default=list(SUITES), metavar="SUITE")
    parser.add_argument("--output", type=Path, default=Path("docs/libero_tasks.jpg"), help="a .png or .jpg file")
    parser.add_argument("--size", type=int, default=256, help="pixels of one picture's side (default: 256)")
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--init-index", type=int, default=0, help="which published initial state (default: 0)")
    parser.add_argument("--skip-missing", action="store_true", help="leave out tasks whose assets are not there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 2 with one message when a suite or its assets are not there."""
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return run_command(lambda: _write_sheet(parsed))


def _write_sheet(parsed: argparse.Namespace) -> int:
    if parsed.output.suffix.lower() not in SUFFIXES:
        raise OptionError(f"--output {parsed.output} must end in one of {', '.join(SUFFIXES)}")
    if parsed.size < 32 or parsed.columns < 1:
        raise OptionError(f"--size {parsed.size} must be at least 32 and --columns {parsed.columns} at least 1")
    sheet = draw_suites(
        parsed.suites,
        size=parsed.size,
        columns=parsed.columns,
        init_index=parsed.init_index,
        skip_missing=parsed.skip_missing,
    )
    parsed.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(parsed.output, quality=_JPEG_QUALITY)  # the quality concerns JPEG only
    sys.stdout.write(f"{parsed.output}: {sheet.width} x {sheet.height} pixels, assets: {resolve_paths().asset_kind}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
