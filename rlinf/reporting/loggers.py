"""Training metrics: ``metrics.jsonl`` always, TensorBoard and Weights & Biases when asked for.

A run that was killed and resumed logs some steps twice. All three places cope: the file's reader drops what a resumed
run superseded, TensorBoard purges from the first new step on, and W&B takes the step as a metric of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from libero_runtime.files import write_whole
from rlinf.reporting import ReportingError
from rlinf.reporting.jsonlines import append_line, read_lines
from rlinf.reporting.ledger import utc_now
from rlinf.run_layout import METRICS_FILE

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WANDB_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
WANDB_ADVICE = (
    "run `wandb login`, set WANDB_API_KEY, set WANDB_MODE=offline to keep the run here, or remove it from "
    "runner.logger.logger_backends"
)


class Backend(Protocol):
    """One more place that metrics go to."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class MetricLogger:
    """Writes each call's metrics under ``folder`` and to the chosen backends; usable as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        backends: Sequence[str],
        project: str,
        experiment: str,
        config: Mapping[str, Any],
    ) -> None:
        check_backends(backends)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS_FILE
        self._backends: list[Backend] = []
        for name in dict.fromkeys(backends):
            self._backends.append(BACKENDS[name](folder, project, experiment, config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics of one step (an epoch); several calls with one step add to each other."""
        numbers = {name: float(value) for name, value in metrics.items()}
        # NaN and infinity are no JSON; they are kept as the strings that float() reads.
        plain = {name: value if value - value == 0 else str(value) for name, value in numbers.items()}
        append_line(self.path, {"step": step, "time": utc_now(), "metrics": plain})
        for backend in self._backends:
            backend.log(numbers, step)

    def close(self) -> None:
        """Flush and close the backends; the file needs no closing."""
        while self._backends:
            self._backends.pop().close()

    def __enter__(self) -> MetricLogger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> dict[int, dict[str, float]]:
    """Metrics by step, in ascending order.

    The last value of each step and name counts. A step lower than the one before it in the file means that the run
    was resumed there: everything logged earlier from that step on is superseded and dropped.
    """
    steps: dict[int, dict[str, float]] = {}
    last = -1
    for number, entry in read_lines(path):
        step, metrics = entry.get("step"), entry.get("metrics")
        if not isinstance(step, int) or isinstance(step, bool) or not isinstance(metrics, dict):
            raise ReportingError(f"{path} line {number} must hold an integer 'step' and an object 'metrics'")
        if step < last:
            steps = {known: values for known, values in steps.items() if known < step}
        last = step
        try:
            values = {name: float(value) for name, value in metrics.items()}
        except (TypeError, ValueError) as error:
            raise ReportingError(f"{path} line {number}: metrics must be numbers, given {metrics}") from error
        steps.setdefault(step, {}).update(values)
    return dict(sorted(steps.items()))


class TensorBoardBackend:
    """Scalars in an event file; the configuration is among its texts."""

    def __init__(self, folder: Path, project: str, experiment: str, config: Mapping[str, Any]) -> None:
        self._folder = folder / "tensorboard"
        settings = {"project": project, "experiment": experiment, "config": dict(config)}
        self._settings = f"```json\n{json.dumps(settings, indent=2, default=str)}\n```"
        self._writer: SummaryWriter | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # TensorBoard forgets what an earlier process logged from this step on.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
            self._writer.add_text("settings", self._settings, step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbBackend:
    """Weights & Biases; the run's id is kept in the folder, so that a resumed run continues its curves."""

    def __init__(self, folder: Path, project: str, experiment: str, config: Mapping[str, Any]) -> None:
        import wandb

        id_file = folder / "wandb_run_id.txt"
        if not id_file.exists():
            write_whole(id_file, uuid4().hex[:12] + "\n")
        try:
            self._run = wandb.init(
                project=project,
                name=experiment,
                id=id_file.read_text().strip(),
                resume="allow",
                dir=str(folder),
                config=dict(config),
            )
        except wandb.errors.Error as error:
            raise ReportingError(f"Weights & Biases does not take this run ({error}): {WANDB_ADVICE}") from error
        # W&B refuses steps that go back, as they do after resuming; a step metric of our own may.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        self._run.finish()


BACKENDS: dict[str, Callable[[Path, str, str, Mapping[str, Any]], Backend]] = {
    "tensorboard": TensorBoardBackend,
    "wandb": WandbBackend,
}


def check_backends(names: Sequence[str]) -> None:
    """Refuse places that metrics cannot go to, as far as that can be known before anything is started.

    Raises:
        ReportingError: one is unknown or not installed, or nobody has logged in to it.
    """
    if unknown := sorted(set(names) - set(BACKENDS)):
        raise ReportingError(f"unknown logger backends {unknown}; runner.logger.logger_backends takes {list(BACKENDS)}")
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder wandb/ of its logs can be imported, too
            raise ReportingError(
                f"runner.logger.logger_backends has {name}, which is not installed: run `pip install {name}` or remove "
                "it from runner.logger.logger_backends"
            )
    if "wandb" in names and not _knows_wandb_user():
        raise ReportingError(f"runner.logger.logger_backends has wandb, and nobody has logged in to it: {WANDB_ADVICE}")


def _knows_wandb_user() -> bool:
    """Whether W&B's client finds an API key, or needs none; where it might, it is left to say so itself.

    Asking the client would start its service, and versions differ in how they are asked.
    """
    given = os.environ.get
    if any(map(given, WANDB_KEYS)) or given("WANDB_MODE", "online") not in ("", "online", "shared"):
        return True
    config_folder = given("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
    if Path(config_folder, "settings").is_file() or Path(given("WANDB_DIR") or ".", "wandb", "settings").is_file():
        return True  # written by `wandb offline`, `wandb login --host` and the like
    host = urlsplit(given("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    files = [Path(given("NETRC", ""))] if given("NETRC") else [Path.home() / name for name in (".netrc", "_netrc")]
    hosts: set[str] = set()
    for path in files:
        with suppress(FileNotFoundError, NetrcParseError):
            hosts |= netrc(path).hosts.keys()
    return any(one == host or "wandb" in one for one in hosts)
