"""A policy acts as it was trained: what is recorded of that is taken over, and what cannot work is refused."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from libero_runtime.render.cameras import simulated_name
from libero_runtime.suites import standard_suite
from openvla_oft.model.training_record import TrainingRecord, training_record
from rlinf.config.errors import ConfigError
from rlinf.config.schema import PICTURE_PATHS, Config, EnvConfig, ModelConfig
from rlinf.custom.sequence.lineage import Lineage
from rlinf.models import Stated
from rlinf.models.vla import own_statistics
from transformers_openvla_oft.model.configuration import DATASET_STATISTICS_FILE, NO_NOOPS_SUFFIX

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Trained:
    """A folder of weights and what is recorded there; ``is_base``: it is the checkpoint, not an adapter."""

    folder: Path
    record: TrainingRecord
    is_base: bool


def follow_training(
    config: Config, *, checkpoint: Path, adapters: Sequence[Path], stated: Stated | None = None
) -> Config:
    """The configuration with what it leaves open as the policy was trained; says what was taken over, and warns of what
    is set otherwise.

    adapters: those on the checkpoint, the newest first: the newest record counts.
    stated: what the checkpoint says of itself; None: nothing.

    Raises:
        ConfigError: the policy's action tokens were not trained, it needs more than images and words, or it was
            trained on other images or chunks, or there are no statistics of its actions.
    """
    trained = _newest(checkpoint, adapters)
    _refuse_unusable(trained)
    num_images = len(config.env.cameras) if stated is None else stated.num_images
    _check_cameras(config.env, trained, num_images=num_images, checkpoint=checkpoint)
    model, suite = config.actor.model, standard_suite(config.env.suite)
    if trained is not None:
        _check_actions(model, trained)
        model = replace(model, unnorm_key=_unnorm_key(model.unnorm_key, suite, trained))
    model = replace(model, picture_path=_picture_path(model.picture_path, trained))
    if stated is not None:
        known = {*stated.statistics, *own_statistics(adapters)}
        _check_statistics(model.unnorm_key or suite, known, checkpoint=checkpoint)
    return replace(config, actor=replace(config.actor, model=model))


def _newest(checkpoint: Path, adapters: Sequence[Path]) -> _Trained | None:
    for folder in (*adapters, checkpoint):
        record = _of_reinforcement_learning(folder) or training_record(folder)
        if record is not None:
            return _Trained(folder, record, is_base=folder == checkpoint)
    return None


def _of_reinforcement_learning(folder: Path) -> TrainingRecord | None:
    """What our own training records; older lineages do not say, and then what is beneath counts."""
    lineage = Lineage.load(folder)
    if lineage is None or lineage.picture_path is None:
        return None
    keys = None if lineage.unnorm_key is None else (lineage.unnorm_key,)
    return TrainingRecord({}, picture_path=lineage.picture_path, cameras=lineage.cameras or None, statistics=keys)


def _refuse_unusable(trained: _Trained | None) -> None:
    if trained is None:
        return
    for need, file in trained.record.needs.items():
        raise ConfigError(
            f"the policy in {trained.folder} was trained with {need}, as {file.name} says. Reinforcement learning and "
            "evaluation expect one that decodes action tokens, and from images and an instruction alone. Train one "
            "with python -m openvla_oft.finetune --objective tokens --layout rl, without --proprio, or give another "
            f"{'actor.checkpoint_load_path' if trained.is_base else 'actor.model.lora_path'}"
        )
    if trained.record.layout == "oft":
        log.warning(
            "%s was trained with --layout oft; here its tokens are decoded in the sequence of --layout rl, in which it "
            "does worse",
            trained.folder,
        )


def _check_cameras(env: EnvConfig, trained: _Trained | None, *, num_images: int, checkpoint: Path) -> None:
    given = tuple(env.cameras)
    seen = None if trained is None else trained.record.cameras
    if trained is not None and seen is not None and len(seen) != num_images and not trained.is_base:
        raise ConfigError(
            f"the adapter in {trained.folder} was trained on images of {_list(seen)}, but its base in {checkpoint} "
            f"reads {num_images} per observation: set num_images_in_input={len(seen)} in the base's config.json"
        )
    if len(given) != num_images:
        names = seen or (("agentview", "eye_in_hand") if num_images == 2 else None)
        advice = f"env.cameras={_list(names)}" if names else f"{num_images} camera(s) as env.cameras=[NAME,...]"
        raise ConfigError(
            f"the policy in {checkpoint} reads {num_images} image(s) per observation, but env.cameras={_list(given)} "
            f"names {len(given)}: give {advice}"
        )
    if trained is None or seen is None or [*map(simulated_name, seen)] == [*map(simulated_name, given)]:
        return
    message = f"env.cameras={_list(given)}, but {trained.folder} was trained on images of {_list(seen)}"
    if env.cameras == EnvConfig().cameras:
        raise ConfigError(f"{message}: give env.cameras={_list(seen)}")
    log.warning("%s", message)


def _check_actions(model: ModelConfig, trained: _Trained) -> None:
    count = trained.record.actions_per_chunk
    if count in (None, model.num_action_chunks):
        return
    also = "" if trained.is_base else f", and num_actions_chunk={count} in the config.json of its base"
    raise ConfigError(
        f"actor.model.num_action_chunks={model.num_action_chunks}, but {trained.folder} was trained on {count} actions "
        f"at a time: give actor.model.num_action_chunks={count}{also}"
    )


def _picture_path(given: str | None, trained: _Trained | None) -> str:
    recorded = None if trained is None else trained.record.picture_path
    if trained is None or recorded is None:
        return given or PICTURE_PATHS[0]
    if recorded not in PICTURE_PATHS:
        raise ConfigError(
            f"{trained.folder} was trained with picture_path={recorded}, which is not known; expected one of: "
            f"{', '.join(PICTURE_PATHS)}"
        )
    if given is None and recorded != PICTURE_PATHS[0]:
        log.info("actor.model.picture_path=%s, as %s was trained", recorded, trained.folder)
    elif given not in (None, recorded):
        log.warning("actor.model.picture_path=%s, but %s was trained with %s", given, trained.folder, recorded)
    return given or recorded


def _unnorm_key(given: str | None, suite: str, trained: _Trained) -> str | None:
    """The statistics that the policy's tokens mean, where they are not those that the suite's name finds."""
    keys = trained.record.statistics or ()
    wanted = (given or suite).removesuffix(NO_NOOPS_SUFFIX)
    if not keys or wanted in {key.removesuffix(NO_NOOPS_SUFFIX) for key in keys}:
        return given
    if given is None:
        log.info("actor.model.unnorm_key=%s, as %s was trained", keys[0], trained.folder)
        return keys[0]
    log.warning("actor.model.unnorm_key=%s, but %s was trained with %s", given, trained.folder, ", ".join(keys))
    return given


def _check_statistics(key: str, known: Collection[str], *, checkpoint: Path) -> None:
    if key not in known and key + NO_NOOPS_SUFFIX not in known:
        raise ConfigError(
            f"the policy in {checkpoint} has no action statistics {key} (nor {key}{NO_NOOPS_SUFFIX}), but of "
            f"{', '.join(sorted(known)) or 'nothing'}: give actor.model.unnorm_key=KEY, one of these, or put "
            f"{DATASET_STATISTICS_FILE} of its training there"
        )


def _list(cameras: Sequence[str]) -> str:
    return f"[{','.join(cameras)}]"
