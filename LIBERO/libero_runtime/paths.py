"""Where LIBERO's files are: an official checkout, an official download, or generated stand-ins.

In order:

1. ``LIBERO_REPO_PATH``, an official LIBERO checkout: BDDL files, initial states and assets all come from it. Unset (or
   naming the folder this package is in, the documented default) means: the files hf-libero brings, and
2. the assets of an official download: beside hf-libero's code, or in ``~/.cache/libero/assets`` where hf-libero's own
   downloader leaves them, else
3. stand-ins generated once into the cache, with LIBERO's sizes, masses, joints and sites.

hf-libero asks on standard input when it finds no configuration and ignores that file's `assets` key. Both are dealt
with here: a configuration is written to the cache, ``LIBERO_CONFIG_PATH`` names it before the first import, and the
module's own cached asset location is set, which every object class reads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from libero_runtime.sources import check_sources, installed_folder

logger = logging.getLogger(__name__)

PACKAGE_FOLDER = Path(__file__).resolve().parent
BUNDLED_FOLDER = PACKAGE_FOLDER.parent
_CHECKOUT_FOLDERS = ("bddl_files", "init_files", "assets")
_ASSET_FOLDERS = (
    "scenes",
    "textures",
    "articulated_objects",
    "stable_hope_objects",
    "stable_scanned_objects",
    "turbosquid_objects",
)

# for a file that is there and cannot be read
DAMAGED_ADVICE = (
    "It is cut off or damaged: restore it (copy or install it again; generated stand-ins are restored when a "
    "command starts)"
)


class LiberoPathError(ValueError):
    """A LIBERO folder or file that should be there is not; the message names every missing one."""


@dataclass(frozen=True)
class LiberoPaths:
    """Resolved folders. `asset_kind` is "official" or "stand-in <hash>" and belongs in every recorded result."""

    bddl_files: Path
    init_files: Path
    assets: Path
    datasets: Path
    asset_kind: str


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/libero-runtime`` or ``~/.cache/libero-runtime``."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "libero-runtime"


def hf_libero_folder() -> Path:
    """The ``libero/libero`` folder of the installed hf-libero, found without importing it (an import may prompt).

    Raises:
        SourceError: see ``check_sources``.
    """
    check_sources()
    return installed_folder("libero") / "libero"


def _checkout_paths(repo: Path) -> LiberoPaths:
    """Paths inside an official checkout; raises with every missing folder."""
    inner = repo / "libero" / "libero"
    missing = [inner / name for name in _CHECKOUT_FOLDERS if not (inner / name).is_dir()]
    if inner / "assets" not in missing:
        missing += [inner / "assets" / name for name in _ASSET_FOLDERS if not (inner / "assets" / name).is_dir()]
    if missing:
        listed = "\n".join(f"  {path}" for path in missing)
        raise LiberoPathError(
            f"LIBERO_REPO_PATH={str(repo)!r} is not a complete LIBERO checkout "
            f"(expected libero/libero/{{{','.join(_CHECKOUT_FOLDERS)}}} in it). Missing:\n{listed}\n"
            "Point it to an official checkout, or unset it to use the files installed with hf-libero"
        )
    return LiberoPaths(
        bddl_files=inner / "bddl_files",
        init_files=inner / "init_files",
        assets=inner / "assets",
        datasets=repo / "libero" / "datasets",
        asset_kind="official",
    )


def _downloaded_assets() -> Path | None:
    """Where an official download is, if there is one; an interrupted one is an error, not a reason for stand-ins."""
    for folder in (hf_libero_folder() / "assets", Path.home() / ".cache" / "libero" / "assets"):
        missing = [folder / name for name in _ASSET_FOLDERS if not (folder / name).is_dir()]
        if not missing:
            return folder
        if len(missing) < len(_ASSET_FOLDERS):
            listed = "\n".join(f"  {path}" for path in missing)
            raise LiberoPathError(
                f"the download of LIBERO's assets in {folder} is incomplete. Missing:\n{listed}\n"
                "Finish it, or remove the folder to use generated stand-ins"
            )
    return None


def _installed_paths() -> LiberoPaths:
    """hf-libero's own BDDL files and states, with downloaded assets when they are there, else stand-ins."""
    inner = hf_libero_folder()
    downloaded = _downloaded_assets()
    if downloaded is not None:
        assets, kind = downloaded, "official"
    else:
        from libero_runtime.assets import content_hash, ensure_assets

        assets = ensure_assets(cache_folder())
        kind = f"stand-in {content_hash(assets)}"
        logger.info("LIBERO's own assets are not installed: using generated stand-ins (%s) in %s", kind, assets)
    return LiberoPaths(
        bddl_files=inner / "bddl_files",
        init_files=inner / "init_files",
        assets=assets,
        datasets=BUNDLED_FOLDER / "libero" / "datasets",
        asset_kind=kind,
    )


@lru_cache(maxsize=8)
def _resolve(repo: str) -> LiberoPaths:
    folder = Path(repo).expanduser().resolve()
    ours = folder == BUNDLED_FOLDER and not (folder / "libero" / "libero").is_dir()
    if repo and not ours:
        if not folder.is_dir():
            raise LiberoPathError(
                f"LIBERO_REPO_PATH={repo!r} is not a folder: expected an official LIBERO checkout, or unset it"
            )
        return _checkout_paths(folder)
    return _installed_paths()


def resolve_paths() -> LiberoPaths:
    """Where everything is, by the rules above. Generates the stand-ins on the first call that needs them."""
    return _resolve(os.environ.get("LIBERO_REPO_PATH", "").strip())


def asset_kind() -> str:
    """Kind of the assets in use, "official" or "stand-in <hash>": to be recorded with every result."""
    return resolve_paths().asset_kind


def _write_config(paths: LiberoPaths) -> Path:
    """Write hf-libero's config.yaml into a folder named by its content; returns the folder."""
    text = yaml.safe_dump(
        {
            "assets": str(paths.assets),
            "bddl_files": str(paths.bddl_files),
            "benchmark_root": str(paths.bddl_files.parent),
            "datasets": str(paths.datasets),
            "init_states": str(paths.init_files),
        }
    )
    folder = cache_folder() / "config" / hashlib.sha256(text.encode()).hexdigest()[:12]
    target = folder / "config.yaml"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as part:
            part.write(text)
        Path(part.name).replace(target)
    return folder


def prepare_libero() -> LiberoPaths:
    """Make `import libero.libero` safe (no prompt) and pointed at our paths, which are returned."""
    paths = resolve_paths()
    os.environ["LIBERO_CONFIG_PATH"] = str(_write_config(paths))
    import libero.libero

    # get_assets_path() returns this variable when it is set; nothing else in hf-libero can redirect it.
    libero.libero._assets_path_cache = str(paths.assets)
    return paths
