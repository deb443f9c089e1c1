"""What an unfinished recording run leaves behind, so that the same command continues it.

In `<output>/.parts`: one file per successful attempt, a line per finished attempt, and the options of the run. A run
with other options is refused; finished files remember their options too.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from libero_runtime.demonstration_plan import DemonstrationError, EpisodeReport
from libero_runtime.demos.hdf5 import demonstration_file
from libero_runtime.folder_lock import only_one
from libero_runtime.suites import TaskSpec

_FOLDER = ".parts"
_ANY_TASKS = "tasks"  # demonstrations of a task do not depend on which other tasks are recorded


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines that say which options are not the same."""
    first, second = _flat(earlier), _flat(now)
    return [
        f"{key}: {first.get(key, 'absent')} there, {second.get(key, 'absent')} now"
        for key in sorted(first.keys() | second.keys())
        if key != _ANY_TASKS and first.get(key) != second.get(key)
    ]


def _check(earlier: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    lines = differences(earlier, now)
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise DemonstrationError(
            f"{where} holds demonstrations made with other options:\n{listed}\n"
            "Continue with those options, choose another folder, or throw them away with --restart"
        )


class Parts:
    """The finished attempts of a run in its output folder."""

    def __init__(self, output: Path, options: str, *, restart: bool) -> None:
        """A run with these options (JSON); `restart` does without what is there."""
        self.folder = output / _FOLDER
        self._options: dict[str, Any] = json.loads(options)
        self._restart = restart
        self._log = self.folder / "attempts.jsonl"

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Begin or continue the run: keeps other processes out, and raises where another run was interrupted."""
        with only_one(self.folder, doing="recording into", advice="Wait for it, or choose another folder"):
            noted = self.folder / "options.json"
            if self._restart:
                for path in (self._log, noted, *self.folder.glob("*.hdf5")):
                    path.unlink(missing_ok=True)
            if noted.is_file():
                _check(json.loads(noted.read_text(encoding="utf-8")), self._options, self.folder)
            else:
                noted.write_text(json.dumps(self._options) + "\n", encoding="utf-8")
            yield

    def path(self, task_id: int, attempt: int) -> Path:
        """File of one successful attempt until its task is complete."""
        return self.folder / f"task{task_id}_attempt{attempt:06d}.hdf5"

    def note(self, report: EpisodeReport) -> None:
        """Remember a finished attempt; its file, if it succeeded, is there already."""
        line = json.dumps([report.task_id, report.attempt, report.success, report.num_steps])
        with self._log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def finished(self, task_id: int) -> list[EpisodeReport]:
        """The task's attempts that need not be made again."""
        if not self._log.is_file():
            return []
        reports = {}
        for line in self._log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a run that was killed
                report = EpisodeReport(*json.loads(line))
                if report.task_id == task_id and (not report.success or self.path(task_id, report.attempt).is_file()):
                    reports[report.attempt] = report
        return list(reports.values())

    def complete_file(self, task: TaskSpec, output: Path) -> list[int] | None:
        """Lengths of a task's demonstrations when its file is complete; raises when other options made it."""
        path = demonstration_file(output, task)
        if self._restart or not path.is_file():
            return None
        try:
            with h5py.File(path, "r") as file:
                data = file["data"]
                _check(json.loads(data.attrs["options"]), self._options, path)
                return [
                    int(data[f"demo_{index}"].attrs["num_samples"]) for index in range(int(data.attrs["num_demos"]))
                ]
        except (OSError, KeyError) as error:
            raise DemonstrationError(
                f"{path} is not a file of this command ({error}): choose another folder, or replace it with --restart"
            ) from error

    def clear(self, task_id: int) -> None:
        """A task's demonstrations are in their final file."""
        for path in self.folder.glob(f"task{task_id}_attempt*.hdf5"):
            path.unlink()

    def remove(self) -> None:
        """Every task is complete; what another run left of other tasks is kept. To be called while begun."""
        if not any(self.folder.glob("*.hdf5")):
            shutil.rmtree(self.folder)
