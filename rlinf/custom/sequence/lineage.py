"""Where an adapter comes from: recorded beside it, and compared with the configuration that is to use it."""

import json
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
        return Lineage(**{**values, **lists})


def is_as_trained(config: Config, lineage: Lineage | None) -> bool:
    """Whether a configuration evaluates an adapter as its training does, and not at other factors to try them out."""
    model = config.actor.model
    factor = 1.0 if lineage is None or lineage.merge_coeff is None else lineage.merge_coeff
    return model.lora_scale in (None, factor) and (
        not model.previous_lora_paths or model.previous_lora_coeff in (None, factor)
    )


def check_lineage(config: Config, adapter: Path, *, is_merged: bool = False, learns: bool = True) -> None:
    """Refuse an adapter that was trained for another suite or model, or on top of others that are not there.

    is_merged: the adapter is one of those beneath; learns: the policy goes on learning, and is not evaluated only, for
    which a perturbation of the suite will do.

    Raises:
        ConfigError: says what the adapter was trained with and what the configuration says.
    """
    lineage = Lineage.load(adapter)
    if lineage is None:
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
