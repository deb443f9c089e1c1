"""Continual-learning methods. A new one is one file here and one row in ``METHODS``."""

from rlinf.config.errors import ConfigError
from rlinf.config.schema import MethodConfig
from rlinf.custom.methods.base import ContinualMethod, ParamGroup, TaskContext

METHODS: dict[str, type[ContinualMethod]] = {"sequential": ContinualMethod}


def make_method(config: MethodConfig) -> ContinualMethod:
    """The configured method.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.name not in METHODS:
        raise ConfigError(f"method.name={config.name} is not known; expected one of: {', '.join(METHODS)}")
    return METHODS[config.name]()


__all__ = ["METHODS", "ContinualMethod", "ParamGroup", "TaskContext", "make_method"]
