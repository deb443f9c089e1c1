"""Typed configuration: schema, composition, validation. Pure: starts nothing, writes nothing."""

from rlinf.config.compose import CONFIG_FOLDER, REPOSITORY, config_hash, config_yaml, load_config
from rlinf.config.errors import ConfigError, UserError
from rlinf.config.schema import RANDOM_ACTION, Config
from rlinf.config.validate import DOWNLOAD, check_eval_suites, resolve_adapter, resolve_model, validate

__all__ = [
    "CONFIG_FOLDER",
    "DOWNLOAD",
    "RANDOM_ACTION",
    "REPOSITORY",
    "Config",
    "ConfigError",
    "UserError",
    "check_eval_suites",
    "config_hash",
    "config_yaml",
    "load_config",
    "resolve_adapter",
    "resolve_model",
    "validate",
]
