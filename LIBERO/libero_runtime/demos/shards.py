"""What an unfinished recording run leaves behind, so that the same command continues it.

In `<output>/.parts`: a file for each attempt, empty for one that failed, and the options of the run. A run with other
options is refused; finished files remember their options too.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from libero_runtime.demos.plan import DemonstrationError
from libero_runtime.files import only_one

_ANY_TASKS = "tasks"  # demonstrations of a task do not depend on which other tasks are recorded


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _check_options(earlier: str, now: str, where: Path) -> None:
    """Raise where demonstrations were made with other options (JSON)."""
    first, second = _flat(json.loads(earlier)), _flat(json.loads(now))
    lines = [
        f"  {key}: {first.get(key, 'absent')} there, {second.get(key, 'absent')} now"
        for key in sorted(first.keys() | second.keys())
        if key != _ANY_TASKS and first.get(key) != second.get(key)
    ]
    if lines:
        raise DemonstrationError(
            "\n".join([f"{where} holds demonstrations made with other options:", *lines])
            + "\nContinue with those options, choose another folder, or throw them away with --restart"
        )


class Shards:
    """The finished attempts of a run in its output folder."""

    def __init__(self, output: Path, options: str) -> None:
        """A run with these options (JSON)."""
        self.folder = output / ".parts"
        self._options = options

    @contextlib.contextmanager
    def begun(self, *, restart: bool) -> Iterator[None]:
        """Begin or continue the run: keeps other processes out, and raises where another run was interrupted.

        `restart` throws away what is there. Afterwards the folder goes, unless attempts are in it.
        """
        with only_one(self.folder, doing="recording into", advice="Wait for it, or choose another folder"):
            noted = self.folder / "options.json"
            if restart:
                for path in (noted, *self.folder.glob("task*")):
                    path.unlink(missing_ok=True)
            if noted.is_file():
                _check_options(noted.read_text(encoding="utf-8"), self._options, self.folder)
            else:
                noted.write_text(self._options, encoding="utf-8")
            yield
            if not any(self.folder.glob("task*.hdf5")):
                shutil.rmtree(self.folder)

    def path(self, task_id: int, attempt: int, *, success: bool = True) -> Path:
        """File of one attempt until its task is complete."""
        return self.folder / f"task{task_id}_attempt{attempt:06d}.{'hdf5' if success else 'failed'}"

    def made(self, task_id: int) -> dict[int, bool]:
        """The attempts that need not be made again, and whether they succeeded."""
        return {int(path.stem.partition("_attempt")[2]): path.suffix == ".hdf5" for path in self._finished(task_id)}

    def _finished(self, task_id: int) -> list[Path]:
        """Without those that a worker is writing."""
        return [path for path in self.folder.glob(f"task{task_id}_attempt*") if path.suffix in (".hdf5", ".failed")]

    def clear(self, task_id: int) -> None:
        """A task's demonstrations are in their final file."""
        for path in self._finished(task_id):
            path.unlink()

    def check_complete(self, path: Path) -> None:
        """Raise when a task's file was made with other options, or by something else."""
        try:
            with h5py.File(path, "r") as file:
                options = file["data"].attrs["options"]
        except (OSError, KeyError) as error:
            raise DemonstrationError(
                f"{path} is not a file of this command ({error}): choose another folder, or replace it with --restart"
            ) from error
        _check_options(options, self._options, path)
