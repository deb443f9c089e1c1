"""Models for the "fast" look, made once from LIBERO's own: coarser meshes, smaller textures, the same physics.

A folder of the same layout is written to the cache. Documents differ in the files they name only; meshes that something
collides with, and whatever is no mesh or texture, are copied. It is a tenth of the size and needs nothing of the
original, so that it can be taken to a machine that has no way to install the models.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image
from tqdm import tqdm

from libero_runtime.assets import touched_meshes
from libero_runtime.assets.meshes import Coarseness, coarser, msh_bytes, read_msh
from libero_runtime.cpus import num_cpus
from libero_runtime.files import one_at_a_time

logger = logging.getLogger(__name__)

# Documents that LIBERO's classes open, below the assets folder.
DOCUMENTS = (
    "*.xml",
    "scenes/*.xml",
    "articulated_objects/*.xml",
    "stable_hope_objects/*/*.xml",
    "stable_scanned_objects/*/*.xml",
    "turbosquid_objects/*/*.xml",
    "custom_objects/*/*.xml",
)
_OBJECTS = Coarseness(0.0004, (0.024, 0.012, 0.006, 0.003))  # a pixel of agentview is 4 mm of the table
_BACKGROUNDS = Coarseness(0.002, (0.2, 0.1, 0.05, 0.025, 0.012))
_TEXTURE_PIXELS = 512
_MANIFEST = "manifest.json"

Product = Callable[[], bytes]


def compact_folder(cache: Path, kind: str) -> Path:
    """Where the compact models of a kind of assets are, or will be."""
    return cache / f"compact-{_code_hash()}-{kind.replace(' ', '-')}"


def is_whole(folder: Path) -> bool:
    """Whether a compact folder is there, with files as long as they were written."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return all((folder / path).stat().st_size == size for path, size in sizes.items())
    except (FileNotFoundError, ValueError, AttributeError):
        return False


def ensure_compact(assets: Path, *, kind: str, cache: Path) -> Path:
    """The compact models of an assets folder; made now if they are not there, or not whole.

    kind: of the assets, part of the folder's name. Processes that need it at the same time wait for one of them.
    """
    target = compact_folder(cache, kind)
    if is_whole(target):
        return target
    with one_at_a_time(cache / "compact.lock"):
        if not is_whole(target):
            _make(assets, target)
    return target


def _code_hash() -> str:
    digest = hashlib.sha256()
    for name in ("compact.py", "meshes.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:8]


@dataclass
class _Plan:
    """What is to be made: each file's content by its path in the folder."""

    assets: Path
    products: dict[str, Product] = field(default_factory=dict)

    def document(self, path: Path) -> None:
        """A document, and all that it names."""
        root = ElementTree.parse(path).getroot()
        touched = touched_meshes(root)
        for mesh in root.iter("mesh"):
            file = self._named(path, mesh)
            if file is not None:
                self._mesh(path, mesh, file, touched=mesh.get("name") in touched)
        for texture in root.iter("texture"):
            file = self._named(path, texture)
            if file is not None:
                self.texture(file)
        self.products[self._path(path)] = lambda: ElementTree.tostring(root)

    def texture(self, file: Path) -> None:
        self.products[self._path(file)] = lambda: _smaller(file)

    def _mesh(self, document: Path, mesh: ElementTree.Element, file: Path, *, touched: bool) -> None:
        if touched or file.suffix != ".msh":
            self.products[self._path(file)] = file.read_bytes
            return
        scale = max(map(float, mesh.get("scale", "1").split()))
        coarseness = (_BACKGROUNDS if document.parent.name == "scenes" else _OBJECTS).scaled(scale)
        name = f"{file.stem}-{scale:g}.msh"  # a file is used in several sizes
        mesh.set("file", str(Path(mesh.get("file", "")).with_name(name)))
        mesh.set("inertia", "shell")  # merged surfaces need not enclose a volume; what is only drawn has no mass
        self.products[self._path(file.with_name(name))] = lambda: msh_bytes(coarser(read_msh(file), coarseness))

    def _named(self, document: Path, element: ElementTree.Element) -> Path | None:
        """The file that an element names, if it is there: documents name some that nothing uses."""
        name = element.get("file")
        # not resolve(): links are not followed out of the folder
        file = Path(os.path.normpath(document.parent / name)) if name else None
        return file if file is not None and file.is_file() and file.is_relative_to(self.assets) else None

    def _path(self, file: Path) -> str:
        return file.relative_to(self.assets).as_posix()


def _plan(assets: Path) -> _Plan:
    plan = _Plan(assets.absolute())
    for pattern in DOCUMENTS:
        for path in sorted(plan.assets.glob(pattern)):
            plan.document(path)
    for path in sorted((plan.assets / "textures").glob("*.png")):
        plan.texture(path)
    return plan


def _make(assets: Path, target: Path) -> None:
    """Fill a folder under a temporary name and rename it when it is whole."""
    begin = time.perf_counter()
    logger.info("making the fast look's models from %s, once (a minute on two cores)", assets)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".compact-", dir=target.parent))
    try:
        sizes = dict(_write(_plan(assets), partial))
        (partial / _MANIFEST).write_text(json.dumps(sizes, indent=0, sort_keys=True), encoding="utf-8")
        partial.chmod(0o755)  # a temporary folder is its owner's only
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    megabytes = sum(sizes.values()) / 1e6
    logger.info("made %s, %.0f MB, in %.0f s", target, megabytes, time.perf_counter() - begin)


def _write(plan: _Plan, folder: Path) -> Iterator[tuple[str, int]]:
    def write(path: str) -> tuple[str, int]:
        content = plan.products[path]()
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        return path, len(content)

    with ThreadPoolExecutor(num_cpus()) as pool:
        jobs = [pool.submit(write, path) for path in plan.products]
        shown = tqdm(as_completed(jobs), total=len(jobs), desc="fast look's models", disable=not sys.stderr.isatty())
        try:
            for job in shown:
                yield job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else the others are made before the message
            raise


def _smaller(file: Path) -> bytes:
    """A picture with sides of at most 512 pixels; the file itself if it is no larger."""
    with Image.open(file) as image:
        if max(image.size) <= _TEXTURE_PIXELS:
            return file.read_bytes()
        picture = image.convert("RGB")
        picture.thumbnail((_TEXTURE_PIXELS, _TEXTURE_PIXELS), Image.Resampling.BOX)  # as smaller mipmaps are made
        out = io.BytesIO()
        picture.save(out, "PNG")
    return out.getvalue()
