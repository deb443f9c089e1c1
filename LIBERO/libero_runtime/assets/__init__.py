"""Stand-ins for LIBERO's object and scene models, generated from measured facts.

LIBERO's meshes and textures must be downloaded. Without them this package writes an assets folder of the same layout,
with the same bodies, masses, joints, sites and sizes, so that tasks run and initial states load: all of
LIBERO-Spatial, -Object, -Goal and -10, and the tasks of LIBERO-90 that need nothing else. Shapes are primitives and
simple meshes with drawn prints; only the looks differ from the official ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from libero_runtime.assets.arenas import ARENAS, build_arena
from libero_runtime.assets.labels import LABELS, build_label
from libero_runtime.assets.objects import ARTICULATED, GROCERIES, HOUSEHOLD, OBJECTS, SCANNED, build_object
from libero_runtime.assets.textures import TEXTURES, build_texture
from libero_runtime.paths import LiberoPathError

__all__ = ["build_files", "content_hash", "damaged_files", "ensure_assets", "source_hash"]

logger = logging.getLogger(__name__)

_MANIFEST_FILE = "manifest.json"
_FOLDERS = ("scenes", "textures", ARTICULATED, GROCERIES, SCANNED, HOUSEHOLD)


@dataclass(frozen=True)
class _Manifest:
    """What was generated. files: SHA-256 of each file by its path in the folder."""

    content_hash: str
    files: Mapping[str, str]


def source_hash() -> str:
    """Twelve hex digits that change whenever the generator or its facts change."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("*.json")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def content_hash(assets: Path) -> str:
    """Twelve hex digits of what a generated folder holds: equal for equal scenes, whatever code wrote them.

    Raises:
        LiberoPathError: the folder does not say so; `ensure_assets` mends it.
    """
    manifest = _read_manifest(assets)
    if manifest is None:
        raise LiberoPathError(f"{assets / _MANIFEST_FILE} is missing or damaged; remove {assets}, to have it generated")
    return manifest.content_hash


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
    """The folder of generated assets below `cache_folder`, whole: written now if this version is not there yet, and
    with the files written again that are cut off, changed or gone.

    The folder is named by a hash of the generator.

    Raises:
        LiberoPathError: it cannot be read or written.
    """
    target = cache_folder / f"assets-{source_hash()}"
    try:
        if not target.is_dir():
            _generate(target)
        elif damaged_files(target):
            _restore(target)
    except OSError as error:
        raise LiberoPathError(
            f"the stand-in assets in {target} cannot be read or written ({error}): free space or give access there, or "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return target


def damaged_files(assets: Path) -> list[str]:
    """The files of a generated folder that do not hold what was generated, by their paths in it.

    Every byte is read: 2 MB in 3 ms. Without this, MuJoCo takes a mesh for whole that is cut off before its last faces.
    """
    manifest = _read_manifest(assets)
    if manifest is None:
        return [_MANIFEST_FILE]
    return [path for path, digest in manifest.files.items() if not _holds(assets / path, digest)]


def _read_manifest(assets: Path) -> _Manifest | None:
    """None where it is gone, cut off, or of another form."""
    try:
        fields = json.loads((assets / _MANIFEST_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(fields, dict):
        return None
    whole, files = fields.get("content_hash"), fields.get("files")
    if not (isinstance(whole, str) and isinstance(files, dict) and files):
        return None
    return _Manifest(whole, files) if all(isinstance(digest, str) for digest in files.values()) else None


def _holds(file: Path, digest: str) -> bool:
    return file.is_file() and _sha256(file.read_bytes()) == digest


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest(files: Mapping[PurePosixPath, bytes]) -> bytes:
    """What was generated, as JSON: cut off anywhere, it is no JSON any more."""
    whole = hashlib.sha256()
    for path, content in sorted(files.items()):
        whole.update(str(path).encode() + b"\0" + content)
    hashes = {str(path): _sha256(content) for path, content in sorted(files.items())}
    return json.dumps({"content_hash": whole.hexdigest()[:12], "files": hashes}, indent=1).encode()


def _generate(target: Path) -> None:
    """Fill a folder under a temporary name and rename it when complete.

    So an interrupted run leaves no half-written folder, and processes beside each other do not disturb each other.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".assets-", dir=target.parent))
    try:
        for folder in _FOLDERS:
            (partial / folder).mkdir()
        files = build_files()
        for path, content in {**files, PurePosixPath(_MANIFEST_FILE): _manifest(files)}.items():
            file = partial / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
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


def _restore(target: Path) -> None:
    """Write the damaged files again, each in one step: others may be reading the folder, or restoring it too."""
    files = build_files()
    whole = {**files, PurePosixPath(_MANIFEST_FILE): _manifest(files)}
    damaged = {path: content for path, content in whole.items() if not _holds(target / path, _sha256(content))}
    for path, content in damaged.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            part.write_bytes(content)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    if damaged:  # else another process was quicker
        names = ", ".join(map(str, damaged))
        logger.warning("restored %d damaged stand-in assets in %s: %s", len(damaged), target, names)
