"""Whether two runs have the same settings, as far as their results depend on them."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from rlinf.config.errors import ConfigError
from rlinf.config.schema import FREE, PICTURE_PATHS, Config, walk
from rlinf.run_layout import CONFIG_FILE, checkpoints


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted key."""
    pairs: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        pairs |= flat(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return pairs


def recorded(run_folder: Path) -> dict[str, Any]:
    """The configuration that a run noted, by dotted key; empty where it noted none."""
    path = run_folder / CONFIG_FILE
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=True) if path.is_file() else None
    return flat({str(key): value for key, value in values.items()}) if isinstance(values, dict) else {}


def scope_of(key: str) -> str:
    """The mark of a key in the schema, or of a group that it is in; "" for what results depend on."""
    marks = _marks().items()
    return next((mark["scope"] for name, mark in marks if "scope" in mark and f"{key}.".startswith(f"{name}.")), "")


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, beside: bool = False
) -> dict[str, tuple[object, object]]:
    """Keys of which two configurations have different values, and these. A key that the old one does not know had its
    default then; keys that only the old one knows are left out.

    beside: compare two runs of one experiment, which have tasks and seeds of their own.
    """
    scopes = ("free", "own") if beside else ("free",)
    old_values = {**_defaults(), **flat(old)}
    return {
        key: (old_values[key], value)
        for key, value in flat(new).items()
        if key in old_values
        and not (value is None and "as_trained" in _marks().get(key, {}))
        and scope_of(key) not in scopes
        and _comparable(key, old_values[key]) != _comparable(key, value)
    }


def refuse_other_settings(folder: Path, config: Config) -> None:
    """Raise where ``folder`` or a run beside it holds checkpoints of other settings; results would be mixed up.

    Raises:
        ConfigError: shows each difference.
    """
    new = asdict(config)
    for other in sorted({folder, *_siblings(folder)}, key=lambda path: (path != folder, path.name)):
        if not (other / CONFIG_FILE).is_file() or not checkpoints(other):
            continue
        found = differences(recorded(other), new, beside=other != folder)
        if found:
            lines = "\n".join(f"  {key}: {there} there, {now} now" for key, (there, now) in found.items())
            raise ConfigError(
                f"{other} was trained with other settings, and results of one folder must be comparable:\n{lines}\n"
                "Give the same settings, with the same MAX_EPOCH (runner.max_epochs), to continue, or keep these apart "
                "with runner.logger.log_root=FOLDER"
            )


@cache
def _marks() -> dict[str, Mapping[str, Any]]:
    marks = {key: field.metadata for key, field, _ in walk(Config())}
    return {**marks, "runner.resume": FREE}  # the last one is known from older runs only


def _siblings(folder: Path) -> list[Path]:
    return [path.parent for path in folder.parent.glob(f"*/{CONFIG_FILE}")]


def _defaults() -> dict[str, Any]:
    pairs = {key: value for key, value in flat(asdict(Config())).items() if value != MISSING}
    pairs["actor.model.picture_path"] = PICTURE_PATHS[0]  # which is what it was before it could be left open
    return pairs


def _comparable(key: str, value: object) -> object:
    count = _marks().get(key, {}).get("compared_parts")
    if count is None or value is None:
        return value
    if isinstance(value, list):
        return [Path(item).parts[-count:] for item in value]
    return Path(str(value)).parts[-count:]
