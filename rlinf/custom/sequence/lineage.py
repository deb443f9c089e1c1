"""Where an adapter comes from: recorded beside it, and compared with the configuration that is to use it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from libero_runtime.suites import standard_suite
from rlinf.config.errors import ConfigError
from rlinf.config.schema import Config
from rlinf.run_layout import LINEAGE_FILE


@dataclass(frozen=True)
class Lineage:
    """Where an adapter comes from.

    method: what its results are called; learnt_tasks: tasks it was trained on, in order; stage: the last of them,
    several when learnt together.
    merged: adapters of earlier tasks that were in the base model beneath it.
    merge_coeff: factor on those, and on this one in evaluations (weight merge only).
    experts: adapters of earlier tasks, which play these in evaluations; None: this one plays all tasks.
    picture_path, cameras, unnorm_key: what the policy saw and what its tokens mean; older ones do not say.
    """

    method: str
    suite: str
    seed: int
    learnt_tasks: tuple[int, ...]
    stage: tuple[int, ...]
    base_model: str
    merged: tuple[str, ...] = ()
    merge_coeff: float | None = None
    picture_path: str | None = None
    cameras: tuple[str, ...] = ()
    unnorm_key: str | None = None
    experts: tuple[str, ...] | None = None

    def save(self, actor_folder: Path) -> None:
        """Write beside an adapter."""
        (actor_folder / LINEAGE_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(actor_folder: Path) -> "Lineage | None":
        """Read from beside an adapter; None where an adapter comes from elsewhere."""
        path = actor_folder / LINEAGE_FILE
        if not path.is_file():
            return None
        values = json.loads(path.read_text())
        lists = {name: tuple(values.get(name, ())) for name in ("learnt_tasks", "stage", "merged", "cameras")}
        experts = values.get("experts")
        return Lineage(**{**values, **lists, "experts": None if experts is None else tuple(experts)})


def is_as_trained(config: Config, lineage: Lineage | None) -> bool:
    """Whether a configuration evaluates an adapter as its training does, and not at other factors to try them out."""
    model = config.actor.model
    factor = 1.0 if lineage is None or lineage.merge_coeff is None else lineage.merge_coeff
    return model.lora_scale in (None, factor) and (
        not model.previous_lora_paths or model.previous_lora_coeff in (None, factor)
    )


def check_lineage(
    config: Config, adapter: Path, *, is_merged: bool = False, expert: int | None = None, learns: bool = True
) -> None:
    """Refuse an adapter that was trained for another suite or model, or with others that are not there.

    is_merged: the adapter is one of those beneath; expert: its place among ``actor.model.task_lora_paths``; learns: the
    policy goes on learning, and is not evaluated only, for which a perturbation of the suite will do.

    Raises:
        ConfigError: says what the adapter was trained with and what the configuration says.
    """
    lineage = Lineage.load(adapter)
    if lineage is None:
        if expert is not None:
            raise ConfigError(f"{adapter} holds no {LINEAGE_FILE}, which says what tasks the adapter there is to play")
        return
    base, model = config.actor.checkpoint_load_path, config.actor.model
    is_perturbed = not learns and lineage.suite == standard_suite(config.env.suite)
    for what, trained, given in (
        ("suite", lineage.suite, lineage.suite if is_perturbed else config.env.suite),
        ("base model", Path(lineage.base_model).name, Path(base).name),
    ):
        if trained != given:
            raise ConfigError(
                f"wrong configuration for the checkpoint {adapter}: it was trained with {what} {trained} "
                f"(method {lineage.method}), the configuration has {given}; give the CONFIG_NAME it was trained with"
            )
    if not is_merged and len(lineage.merged) != len(model.previous_lora_paths):
        raise ConfigError(
            f"the checkpoint {adapter} was trained on top of {len(lineage.merged)} merged adapters, but "
            f"actor.model.previous_lora_paths names {len(model.previous_lora_paths)}; expected "
            f"[{','.join(lineage.merged)}]"
        )
    experts = model.task_lora_paths if model.task_lora_paths is None else model.task_lora_paths[:expert]
    if not is_merged and _count(lineage.experts) != _count(experts):
        raise ConfigError(
            f"the checkpoint {adapter} goes with actor.model.task_lora_paths={_list(lineage.experts)} (an adapter per "
            f"task, method=dwe; null: one for all), but the configuration has {_list(experts)} before it"
        )


def _count(paths: Sequence[str] | None) -> int | None:
    return None if paths is None else len(paths)


def _list(paths: Sequence[str] | None) -> str:
    return "null" if paths is None else f"[{','.join(paths)}]"
