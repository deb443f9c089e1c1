"""What a training writes down as it goes: ``training_log.jsonl`` and TensorBoard beside it."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "training_log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class Records:
    """Appends lines and scalars; those of ``start`` and later, which a resumed run repeats, are taken back first."""

    def __init__(self, folder: Path, *, start: int, seconds: float, active: bool = True) -> None:
        """``seconds``: spent before; ``active`` False: another rank writes."""
        self.active = active
        self._begin = time.perf_counter() - seconds
        if not active:
            return
        path = folder / LOG_FILE
        _forget_after(path, start)
        self._log = path.open("a", encoding="utf-8")
        purge = {"purge_step": start + 1} if start else {}
        self._board = SummaryWriter(str(folder / TENSORBOARD_FOLDER), **purge)

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self._log.close()
            self._board.close()

    def write(self, step: int, scalars: Mapping[str, float], *, validation: Mapping[str, float] | None = None) -> None:
        """One line: ``{"step", "seconds", **scalars, "validation"}``; the same under ``train/`` and ``validation/``."""
        if not self.active:
            return
        line: dict[str, object] = {"step": step, "seconds": round(time.perf_counter() - self._begin, 2), **scalars}
        if validation is not None:
            line["validation"] = dict(validation)
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
        named = {f"train/{name.removeprefix('train_')}": value for name, value in scalars.items()}
        named |= {f"validation/{name}": value for name, value in (validation or {}).items()}
        for name, value in named.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()


def _forget_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    path.write_text("".join(kept), encoding="utf-8")
