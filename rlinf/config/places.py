"""Whether files can be read and written where the configuration says, before anything is started."""

import os
import shutil
from pathlib import Path

from rlinf.config.errors import ConfigError

LEAST_FREE = 2**20
"""Bytes of a disk that is not full: what a run writes first, and less than any checkpoint."""


def check_writable(folder: Path, *, setting: str) -> None:
    """Refuse a folder that cannot be made or in which nothing could be written.

    setting: what names it, for the message.

    Raises:
        ConfigError: says what is in the way.
    """
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        why = f"{there} is no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"this user may not write in {there}"
    elif shutil.disk_usage(there).free < LEAST_FREE:
        why = f"the disk of {there} is full"
    else:
        return
    raise ConfigError(f"nothing can be written to {folder}: {why}. Mend that, or name another folder with {setting}")


def check_readable(folder: Path, *, setting: str) -> None:
    """Refuse a folder of weights with a file in it that this user may not read.

    Raises:
        ConfigError: names the file.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and not os.access(path, os.R_OK):
            raise ConfigError(
                f"{setting}: this user may not read {path}; change who may, or name a copy that can be read"
            )
