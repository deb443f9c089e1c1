"""A hash that tells one base checkpoint from another, cheap enough for 15 GB."""

import os
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

WHOLE_BYTES = 64 * 2**20
NUM_BLOCKS = 64
BLOCK_BYTES = 2**16


@lru_cache(maxsize=8)
def checkpoint_hash(folder: Path, weights: tuple[str, ...]) -> str:
    """Sixteen hex digits of ``config.json`` and ``weights``, the files of the folder that weights are read from.

    Files up to 64 MiB count whole; of larger ones the size, the header with all tensors' names and shapes, and 64
    blocks spread evenly: fine-tuning changes nearly every weight, and reading all would take a minute.
    """
    digest = blake2b(digest_size=8)
    for path in (folder / "config.json", *(folder / name for name in weights)):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                digest.update(file.read())
                continue
            header = 8 + int.from_bytes(file.read(8), "little")
            file.seek(0)
            digest.update(file.read(min(header, size)))
            for block in range(NUM_BLOCKS):
                file.seek((size - BLOCK_BYTES) * block // (NUM_BLOCKS - 1), os.SEEK_SET)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
