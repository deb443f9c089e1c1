"""Settings that follow from others: the method that the keys of the user's document select, what adapters leave open.

Pure: a new configuration is returned. Resolving twice changes nothing, and settings that mean the same are equal after.
"""

from dataclasses import replace

from rlinf.config.errors import ConfigError
from rlinf.config.schema import Config, MethodConfig, ReplayConfig, with_settings

DEFAULT_METHOD = "sequential"
MERGING_METHOD = "weight_merge"
EARLIER_ADAPTERS = {
    MERGING_METHOD: "actor.model.previous_lora_paths",
    "olora": "actor.model.previous_lora_paths",
    "dwe": "actor.model.task_lora_paths",
}
"""Methods of which every task learns a fresh adapter -> the key that the adapters of the tasks before are given in."""
REPLAY_METHODS = ("er", "der")
SELECTED_BY = {  # key of the user's document -> methods that it goes with, the one it selects first
    "use_ewc": ("ewc",),
    "use_reference_logits_bc": ("der",),
    "use_experience_replay": REPLAY_METHODS,
}

DOCUMENT_KEYS = [f"algorithm.{key}" for key in (*SELECTED_BY, "bc_coeff", "use_cached_bc_logits")]
"""Null once ``method`` says what they say."""


def resolve(config: Config) -> Config:
    """Fill in what follows from other settings.

    Raises:
        ConfigError: settings contradict each other.
    """
    config = replace(config, method=_method(config))
    return with_settings(config, {**dict.fromkeys(DOCUMENT_KEYS), **_adapters(config)})


def _method(config: Config) -> MethodConfig:
    algorithm, chosen = config.algorithm, config.method.name
    asked = [key for key in SELECTED_BY if getattr(algorithm, key)]
    if "use_ewc" in asked and len(asked) > 1:
        raise ConfigError(f"algorithm.use_ewc=true and algorithm.{asked[1]}=true: one method at a time; remove one")
    name = SELECTED_BY[asked[0]][0] if asked else chosen
    if asked and chosen not in (DEFAULT_METHOD, *SELECTED_BY[asked[0]]):
        raise ConfigError(f"algorithm.{asked[0]}=true selects method={name}, but method={chosen} is given; remove one")
    if chosen != DEFAULT_METHOD:
        name = chosen
    for key, methods in SELECTED_BY.items():
        if getattr(algorithm, key) is False and name in methods:
            raise ConfigError(f"algorithm.{key}=false contradicts method={name}; remove one of them")
    return replace(config.method, name=name, replay=_replay(config, name))


def _replay(config: Config, name: str) -> ReplayConfig:
    algorithm, replay = config.algorithm, config.method.replay
    if algorithm.bc_coeff is not None:
        if name not in REPLAY_METHODS:
            raise ConfigError(
                f"algorithm.bc_coeff={algorithm.bc_coeff} weighs the replay loss, but method={name} replays nothing; "
                "add algorithm.use_experience_replay=True or remove it"
            )
        replay = replace(replay, coeff=algorithm.bc_coeff)
    if algorithm.use_cached_bc_logits is not None:
        if algorithm.use_cached_bc_logits and name != "der":
            raise ConfigError(
                f"algorithm.use_cached_bc_logits=true needs base-model logits to replay, but method={name}; "
                "add +algorithm.use_reference_logits_bc=True or remove it"
            )
        replay = replace(replay, cached_logits=algorithm.use_cached_bc_logits)
    return replay


def _adapters(config: Config) -> dict[str, object]:
    """What is left open of adapters: the factors on them, of which weight merge has one for all; with an adapter per
    task, that there are none of earlier tasks."""
    per_task = EARLIER_ADAPTERS.get(config.method.name) == "actor.model.task_lora_paths"
    factor = config.method.merge.coeff if config.method.name == MERGING_METHOD else 1.0
    model = config.actor.model
    left_open: dict[str, tuple[object, object]] = {
        "actor.model.previous_lora_coeff": (model.previous_lora_coeff, factor),
        "actor.model.lora_scale": (model.lora_scale, factor),
        "actor.model.task_lora_paths": (model.task_lora_paths, [] if per_task else None),
    }
    return {key: follows if given is None else given for key, (given, follows) in left_open.items()}
