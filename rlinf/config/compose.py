"""From YAML groups and command-line overrides to one typed, checked ``Config``."""

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rlinf.config.errors import ConfigError
from rlinf.config.overrides import literals, quoting_advice
from rlinf.config.resolve import resolve
from rlinf.config.schema import Config, walk

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG_FOLDER = REPOSITORY / "examples" / "embodiment" / "config"
ALL_KEYS = "Every key with its type and meaning: rlinf/config/schema.py"
NO_SUCH_KEY = (ConfigKeyError, ConfigAttributeError)
LIKE = 0.8  # from this ratio on, one key may be meant by another


def config_names() -> list[str]:
    """Names that ``--config-name`` accepts: experiments, which live in sub-folders such as ``crl_experiment/``."""
    return sorted(f"crl_experiment/{path.stem}" for path in CONFIG_FOLDER.glob("crl_experiment/*.yaml"))


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """Compose configuration ``name`` with Hydra ``overrides`` into a typed ``Config``.

    Raises:
        ConfigError: the name, a key or a value is not one that exists; the message names it and near matches.
    """
    if not (CONFIG_FOLDER / f"{name}.yaml").is_file():
        raise ConfigError(
            f"configuration {name!r} does not exist in {CONFIG_FOLDER}.\nExpected one of: {', '.join(config_names())}"
        )
    _schema()
    try:
        with initialize_config_dir(config_dir=str(CONFIG_FOLDER), version_base="1.3"):
            composed = compose(config_name=name, overrides=list(overrides))
    except HydraException as error:
        if isinstance(error.__cause__, NO_SUCH_KEY):
            raise _no_such_key(error.__cause__, overrides) from error
        advice = quoting_advice(overrides)
        raise ConfigError(f"configuration {name!r} does not compose: {_flat(error)}{advice}") from error
    return resolve(typed_config(composed))


@cache
def _schema() -> DictConfig:
    """The schema, which Hydra is told of; made anew each time, it would be a third of the work of a composition."""
    ConfigStore.instance().store(name="schema", node=Config, package="_global_")
    schema = OmegaConf.structured(Config)
    assert isinstance(schema, DictConfig)
    return schema


def typed_config(composed: DictConfig) -> Config:
    """Check keys and types of a composed configuration against the schema."""
    try:
        plain = literals(OmegaConf.to_container(composed, resolve=True))  # forgets what Hydra's ++ let through
        config = OmegaConf.to_object(OmegaConf.merge(_schema(), OmegaConf.create(plain)))
    except NO_SUCH_KEY as error:
        raise _no_such_key(error) from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or getattr(error, "key", None)
        raise ConfigError(f"configuration key {key!r}: {str(error).splitlines()[0]}\n{ALL_KEYS}") from error
    assert isinstance(config, Config)
    return config


def config_yaml(config: Config) -> str:
    """The configuration as YAML, for run folders."""
    return OmegaConf.to_yaml(OmegaConf.create(literals(asdict(config))))


def config_hash(config: Config) -> str:
    """Twelve hex digits that change when any setting changes, folders of results aside."""
    values = asdict(config)
    values["runner"].pop("logger")
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _flat(error: Exception) -> str:
    lines = [*str(error).splitlines(), *str(error.__cause__ or "").splitlines()[:1]]
    return "; ".join(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _no_such_key(error: OmegaConfBaseException, overrides: Sequence[str] = ()) -> ConfigError:
    """The error for a key that is not declared: with those that may be meant, else those of its group."""
    key = str(error.full_key or error.key)  # up to the first name that is wrong
    given = (text.lstrip("+~").partition("=")[0] for text in overrides)
    key = next((one for one in given if f"{one}.".startswith(f"{key}.")), key)
    group = key.rpartition(".")[0]
    known = [name for name, _, value in walk(Config()) if not is_dataclass(value)]
    siblings = [name for name in known if name.rpartition(".")[0] == group]
    same = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if near := get_close_matches(key, known, cutoff=LIKE) or same[:3]:
        advice = f" Did you mean {' or '.join(near)}?"
    else:
        advice = f" {group} has: {', '.join(one.rpartition('.')[2] for one in siblings)}." if group and siblings else ""
    return ConfigError(f"configuration key {key!r} does not exist.{advice}\n{ALL_KEYS}")
