"""The GPUs that a benchmark may use."""

import os

import torch


def visible_gpus() -> list[str]:
    """Their names in CUDA_VISIBLE_DEVICES; all of the machine where that is not set."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def first_gpus(count: int, *, flag: str) -> str:
    """The first of them, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        ValueError: there are fewer.
    """
    gpus = visible_gpus()
    if len(gpus) < count:
        raise ValueError(f"{flag} needs {count} GPUs, and there are {len(gpus)}; --tiny runs on a CPU")
    return ",".join(gpus[:count])
