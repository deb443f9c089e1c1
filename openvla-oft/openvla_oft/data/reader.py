"""Which files hold a suite's demonstrations (LIBERO's HDF5, or RLDS shards), and how they are read from either."""

import functools
import os
import re
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

from libero_runtime.suites import STANDARD_SUITES
from openvla_oft.data import hdf5, rlds
from openvla_oft.data.demonstration import (
    ACTION_DIM,
    PROPRIO_DIM,
    DataOptions,
    Demo,
    DemoInfo,
    DemonstrationError,
    ReadOptions,
)

_NAME = re.compile(r"\w[\w.-]*")
LONGEST_SOCKET = 107  # bytes of its path on Linux

_Part = tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.uint8] | None]
"""Actions of a demonstration, its proprioception where asked for, and its images unless they went to a file."""


def scan(folder: Path, suite: str, options: ReadOptions) -> list[DemoInfo]:
    """Every demonstration of the suite, files in the order of their names; HDF5 where there is any, else RLDS.

    Raises:
        DemonstrationError: there is none, or it is another suite's; says what the folder holds instead.
    """
    if not folder.is_dir():
        raise DemonstrationError(f"demonstrations folder {folder} does not exist; {_expected(folder, suite)}")
    _check_name(folder, suite)
    files = hdf5.find_files(folder, suite)
    infos = hdf5.scan(files, options) if files else list(rlds.scan(rlds.find_shards(folder, suite), options))
    if not infos:
        present = sorted(path.name for path in folder.iterdir())[:10]
        raise DemonstrationError(
            f"no demonstration of {suite} in {folder}: no *.hdf5 file and no *.tfrecord shard there nor in {suite}/ or "
            f"{suite}_no_noops/; the folder holds {present}; {_expected(folder, suite)}"
        )
    for info in infos:
        if info.suite not in (None, suite):
            raise DemonstrationError(f"{info.path} is of {info.suite}, but --suite {suite} is asked for")
    return infos


def _check_name(folder: Path, suite: str) -> None:
    """A suite is one of LIBERO's, or own data in a folder of that name."""
    own = (folder / suite, folder / f"{suite}_no_noops")
    if suite not in STANDARD_SUITES and not (_NAME.fullmatch(suite) and any(path.is_dir() for path in own)):
        raise DemonstrationError(
            f"--suite {suite!r} is neither one of {', '.join(STANDARD_SUITES)} nor a folder of {folder}; it names "
            f"the data and their statistics"
        )


def scan_suites(options: DataOptions) -> list[DemoInfo]:
    """Every demonstration of one suite, or of several with commas between their names."""
    folder = options.demonstrations
    infos: list[DemoInfo] = []
    for suite in options.suite.split(","):
        found = scan(folder, suite, options)
        seen = {info.path for info in infos} & {info.path for info in found}
        if seen:
            raise DemonstrationError(
                f"{min(seen)} would be read for two suites; expected one folder per suite in {folder}"
            )
        infos += found
    return infos


def read(info: DemoInfo, options: ReadOptions) -> Demo:
    """Read one demonstration that ``scan`` found with the same options."""
    reader = rlds.read_demo if rlds.is_shard(info.path) else hdf5.read_demo
    return reader(info, options)


def _expected(folder: Path, suite: str) -> str:
    return (
        f"expected LIBERO HDF5 files, one per task, for example made by `python -m libero_runtime.demonstrations "
        f"--suite {suite} --output {folder}`, or RLDS shards, for example from "
        f"`hf download openvla/modified_libero_rlds --repo-type dataset --local-dir {folder}`"
    )


def fill(
    infos: Sequence[DemoInfo],
    images_FNHWC: NDArray[np.uint8],
    options: DataOptions,
    *,
    file: Path | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Read every demonstration into its slice of ``images_FNHWC``; returns actions (F, A) and proprioception (F, P).

    Where that array is a memory map of ``file``, the workers write there themselves: passing gigabytes of images
    between processes would take longer than reading them.
    """
    lengths_D = np.array([info.num_steps for info in infos], dtype=np.int64)
    starts_D = np.cumsum(lengths_D) - lengths_D
    actions_FA = np.empty((images_FNHWC.shape[0], ACTION_DIM), dtype=np.float32)
    proprio_FP = np.empty((images_FNHWC.shape[0], PROPRIO_DIM), dtype=np.float32) if options.proprio else None
    job = functools.partial(_read_part, options=options, file=file)
    parts = _map_in_order(job, list(zip(infos, starts_D.tolist(), strict=True)), num_workers=options.num_workers)
    bar = tqdm(parts, total=len(infos), desc="reading demonstrations", unit="demo", mininterval=1.0)
    for start, length, (actions_TA, proprio_TP, images_TNHWC) in zip(starts_D, lengths_D, bar, strict=True):
        actions_FA[start : start + length] = actions_TA
        if proprio_FP is not None:
            proprio_FP[start : start + length] = proprio_TP
        if images_TNHWC is not None:
            images_FNHWC[start : start + length] = images_TNHWC
    return actions_FA, proprio_FP


def _read_part(part: tuple[DemoInfo, int], *, options: ReadOptions, file: Path | None) -> _Part:
    """Read one demonstration; write its images into ``file`` from the given frame on, or return them."""
    info, start = part
    demo = read(info, options)
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
