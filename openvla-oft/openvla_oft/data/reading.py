"""Reads many demonstrations into one array, in several processes where asked."""

import functools
import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from openvla_oft.data import sources
from openvla_oft.data.demonstration import ACTION_DIM, PROPRIO_DIM, DemoInfo, ReadOptions

LONGEST_SOCKET = 107  # bytes of its path on Linux

_Part = tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.uint8] | None]
"""Actions of a demonstration, its proprioception where asked for, and its pictures unless they went to a file."""


def fill(
    infos: Sequence[DemoInfo],
    images_FNHWC: NDArray[np.uint8],
    options: ReadOptions,
    *,
    num_workers: int,
    file: Path | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Read every demonstration into its slice of ``images_FNHWC``; returns actions (F, A) and proprioception (F, P).

    Where that array is a memory map of ``file``, the workers write there themselves: passing gigabytes of pictures
    between processes would take longer than reading them.
    """
    lengths_D = np.array([info.num_steps for info in infos], dtype=np.int64)
    starts_D = np.cumsum(lengths_D) - lengths_D
    actions_FA = np.empty((images_FNHWC.shape[0], ACTION_DIM), dtype=np.float32)
    proprio_FP = np.empty((images_FNHWC.shape[0], PROPRIO_DIM), dtype=np.float32) if options.proprio else None
    job = functools.partial(_read_part, options=options, file=file)
    parts = _map_in_order(job, list(zip(infos, starts_D.tolist(), strict=True)), num_workers=num_workers)
    bar = tqdm(parts, total=len(infos), desc="reading demonstrations", unit="demo", mininterval=1.0)
    for start, length, (actions_TA, proprio_TP, images_TNHWC) in zip(starts_D, lengths_D, bar, strict=True):
        actions_FA[start : start + length] = actions_TA
        if proprio_FP is not None:
            proprio_FP[start : start + length] = proprio_TP
        if images_TNHWC is not None:
            images_FNHWC[start : start + length] = images_TNHWC
    return actions_FA, proprio_FP


def _read_part(part: tuple[DemoInfo, int], *, options: ReadOptions, file: Path | None) -> _Part:
    """Read one demonstration; write its pictures into ``file`` from the given frame on, or return them."""
    info, start = part
    demo = sources.read(info, options)
    if file is None:
        return demo.actions_TA, demo.proprio_TP, demo.images_TNHWC
    np.load(file, mmap_mode="r+")[start : start + info.num_steps] = demo.images_TNHWC
    return demo.actions_TA, demo.proprio_TP, None


def _map_in_order(
    job: Callable[[tuple[DemoInfo, int]], _Part], items: Sequence[tuple[DemoInfo, int]], *, num_workers: int
) -> Iterator[_Part]:
    """Results in the order of the items; with workers, at most four per worker wait in memory."""
    if num_workers < 2:
        yield from map(job, items)
        return
    # Not "fork": a forked child of a process that used OpenMP or CUDA can hang. The server that forks these has only
    # imported torch, once for all of them.
    _shorten_socket_paths()
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_prepare) as pool:
        pending: deque[Future[_Part]] = deque()
        for item in items:
            pending.append(pool.submit(job, item))
            if len(pending) >= 4 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _shorten_socket_paths() -> None:
    """Have multiprocessing's sockets in /tmp where ``TMPDIR`` is too long for their paths, as batch systems' are."""
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) + len("/pymp-12345678/listener-12345678") > LONGEST_SOCKET:
        tempfile.tempdir = "/tmp"
        try:
            util.get_temp_dir()  # makes one for this user alone, and remembers it
        finally:
            tempfile.tempdir = usual


def _prepare() -> None:
    """Of a worker: one thread, and Ctrl-C is for the process that waits for it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
