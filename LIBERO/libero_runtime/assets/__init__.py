"""Stand-ins for LIBERO's object and scene models, generated from measured facts.

LIBERO's meshes and textures must be downloaded. Without them this package writes an assets folder of the same layout,
with the same bodies, masses, joints, sites and sizes, so that tasks run and initial states load: all of
LIBERO-Spatial, -Object, -Goal and -10, and the tasks of LIBERO-90 that need nothing else. Shapes are primitives and
simple meshes with drawn prints; only the looks differ from the official ones.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from libero_runtime.assets.arenas import ARENAS, build_arena
from libero_runtime.assets.labels import LABELS, build_label
from libero_runtime.assets.objects import ARTICULATED, GROCERIES, HOUSEHOLD, OBJECTS, SCANNED, build_object
from libero_runtime.assets.textures import TEXTURES, build_texture

__all__ = ["build_files", "content_hash", "ensure_assets", "source_hash"]

logger = logging.getLogger(__name__)

_HASH_FILE = "content_hash.txt"
_FOLDERS = ("scenes", "textures", ARTICULATED, GROCERIES, SCANNED, HOUSEHOLD)


def source_hash() -> str:
    """Twelve hex digits that change whenever the generator or its facts change."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("*.json")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def content_hash(assets: Path) -> str:
    """Twelve hex digits of what a generated folder holds: equal for equal scenes, whatever code wrote them."""
    return (assets / _HASH_FILE).read_text(encoding="utf-8").strip()


def build_files() -> dict[PurePosixPath, bytes]:
    """Every file of the assets folder by its path in it."""
    texts: dict[PurePosixPath, str] = {}
    for category in OBJECTS:
        texts |= build_object(category)
    for arena in ARENAS:
        texts |= build_arena(arena)
    files = {path: text.encode() for path, text in texts.items()}
    for name in TEXTURES:
        files[PurePosixPath("textures", f"{name}.png")] = build_texture(name)
    for name in LABELS:
        files[PurePosixPath("textures", f"{name}.png")] = build_label(name)
    return files


def ensure_assets(cache_folder: Path) -> Path:
    """The folder of generated assets below `cache_folder`, written now if this version is not there yet.

    The folder is named by a hash of the generator, filled under a temporary name and renamed when complete, so
    that an interrupted run leaves no half-written folder and concurrent processes do not disturb each other.
    """
    target = cache_folder / f"assets-{source_hash()}"
    if target.is_dir():
        return target
    cache_folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".assets-", dir=cache_folder))
    try:
        for folder in _FOLDERS:
            (partial / folder).mkdir()
        digest = hashlib.sha256()
        for path, content in sorted(build_files().items()):
            file = partial / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            digest.update(str(path).encode() + b"\0" + content)
        (partial / _HASH_FILE).write_text(digest.hexdigest()[:12] + "\n", encoding="utf-8")
        # mkdtemp gives access to the owner only
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            # Another process finished first: its folder has the same content.
            if not target.is_dir():
                raise
        else:
            logger.info("generated stand-in assets in %s", target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
