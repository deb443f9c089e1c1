"""Whether a folder holds the models of the official LIBERO repository, byte for byte.

``official.sha1`` lists that repository's 585 files with git's hashes of them. A folder is read once per machine: what
was found is kept in the cache, with the sizes and times of the files.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from libero_runtime.cpus import num_cpus
from libero_runtime.files import write_whole

logger = logging.getLogger(__name__)

OFFICIAL = "official"
_LISTED = 5  # files named in a message


@lru_cache(maxsize=1)
def published() -> Mapping[str, str]:
    """git's blob hash of each official file, by its path below the assets folder."""
    lines = (Path(__file__).parent / "official.sha1").read_text(encoding="ascii").splitlines()
    return {path: digest for digest, path in (line.split(maxsplit=1) for line in lines)}


def missing_files(assets: Path) -> list[str]:
    """Official files that a folder lacks."""
    return [path for path in published() if not (assets / path).is_file()]


def asset_kind(assets: Path, cache: Path) -> str:
    """``"official"``, or ``"altered HASH"`` of the files that are others; no file may be missing.

    cache: folder to remember the answer in.
    """
    stamps = [(path, (assets / path).stat()) for path in published()]
    key = hashlib.sha256(repr([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stamps]).encode())
    known = cache / "checked" / f"{key.hexdigest()[:24]}.json"
    if known.is_file():
        kind: str = json.loads(known.read_text(encoding="utf-8"))["kind"]
        return kind
    kind = _read(assets)
    write_whole(known, json.dumps({"kind": kind, "assets": str(assets)}))
    return kind


def _read(assets: Path) -> str:
    with ThreadPoolExecutor(num_cpus()) as pool:
        digests = dict(zip(published(), pool.map(lambda path: _blob_hash(assets / path), published()), strict=True))
    others = {path: digest for path, digest in digests.items() if digest != published()[path]}
    if not others:
        return OFFICIAL
    kind = f"altered {hashlib.sha256(repr(sorted(others.items())).encode()).hexdigest()[:12]}"
    logger.warning(
        "%d of %d files in %s are not the official LIBERO repository's (%s). Results say so (%s) and are not compared "
        "with those of official assets",
        len(others), len(digests), assets, listed(list(others)), kind,
    )  # fmt: skip
    return kind


def listed(paths: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(paths[:_LISTED]) + more


def _blob_hash(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
