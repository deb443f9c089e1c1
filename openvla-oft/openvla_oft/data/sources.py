"""Which files hold a suite's demonstrations (LIBERO's HDF5, or RLDS shards) and how one is read from either."""

import re
from pathlib import Path

from libero_runtime.suites import STANDARD_SUITES
from openvla_oft.data import hdf5, rlds
from openvla_oft.data.demonstration import Demo, DemoInfo, DemonstrationError, ReadOptions

_NAME = re.compile(r"\w[\w.-]*")


def scan(folder: Path, suite: str, options: ReadOptions) -> list[DemoInfo]:
    """Every demonstration of the suite, files in the order of their names; HDF5 where there is any, else RLDS.

    Raises:
        DemonstrationError: there is none, or it is another suite's; says what the folder holds instead.
    """
    if not folder.is_dir():
        raise DemonstrationError(f"demonstrations folder {folder} does not exist; {_expected(folder, suite)}")
    _check_name(folder, suite)
    infos = _scan(folder, suite, options)
    for info in infos:
        if info.suite not in (None, suite):
            raise DemonstrationError(f"{info.path} is of {info.suite}, but --suite {suite} is asked for")
    return infos


def _scan(folder: Path, suite: str, options: ReadOptions) -> list[DemoInfo]:
    files = hdf5.find_files(folder, suite)
    if files:
        return hdf5.scan(files, options)
    shards = rlds.find_shards(folder, suite)
    if shards and options.action_key != ReadOptions.action_key:
        raise DemonstrationError(f"action key {options.action_key!r}: RLDS shards have 'actions' only")
    infos = list(rlds.scan(shards, options))
    if not infos:
        present = sorted(path.name for path in folder.iterdir())[:10]
        raise DemonstrationError(
            f"no demonstration of {suite} in {folder}: no *.hdf5 file and no *.tfrecord shard there nor in {suite}/ or "
            f"{suite}_no_noops/; the folder holds {present}; {_expected(folder, suite)}"
        )
    return infos


def _check_name(folder: Path, suite: str) -> None:
    """A suite is one of LIBERO's, or own data in a folder of that name."""
    own = (folder / suite, folder / f"{suite}_no_noops")
    if suite not in STANDARD_SUITES and not (_NAME.fullmatch(suite) and any(path.is_dir() for path in own)):
        raise DemonstrationError(
            f"--suite {suite!r} is neither one of {', '.join(STANDARD_SUITES)} nor a folder of {folder}; it names "
            f"the data and their statistics"
        )


def scan_suites(folder: Path, suites: str, options: ReadOptions) -> list[DemoInfo]:
    """Every demonstration of one suite, or of several with commas between their names."""
    infos: list[DemoInfo] = []
    for suite in suites.split(","):
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
