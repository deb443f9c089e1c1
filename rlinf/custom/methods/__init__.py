"""Continual-learning methods. A new one is one file here and one row in ``METHODS``, or an entry point elsewhere."""

from collections.abc import Callable
from importlib.metadata import entry_points

from rlinf.config.errors import ConfigError
from rlinf.config.schema import MethodConfig
from rlinf.custom.methods.agem import AGEM
from rlinf.custom.methods.base import ContinualMethod, ParamGroup, TaskContext
from rlinf.custom.methods.der import DarkExperienceReplay
from rlinf.custom.methods.dwe import AdapterPerTask
from rlinf.custom.methods.ema import ExponentialMovingAverage
from rlinf.custom.methods.er import ExperienceReplay
from rlinf.custom.methods.ewc import EWC
from rlinf.custom.methods.kl import KLToBase
from rlinf.custom.methods.l2 import L2Start
from rlinf.custom.methods.lwf import LwF
from rlinf.custom.methods.olora import OLoRA
from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.custom.methods.parts.gradients import add_to_gradients, inner_product, loss_gradient
from rlinf.custom.methods.parts.state import check_tasks, named_shards, present_weights, read_earlier, read_state
from rlinf.custom.methods.sft import SupervisedFineTuning
from rlinf.custom.methods.si import SynapticIntelligence
from rlinf.custom.methods.slca import SLCA
from rlinf.custom.methods.weight_merge import WeightMerge
from rlinf.models.lora import trainable_parameters

MethodFactory = Callable[[MethodConfig], ContinualMethod]

METHODS: dict[str, MethodFactory] = {
    "sequential": lambda config: ContinualMethod(),
    "ewc": lambda config: EWC(config.ewc),
    "si": lambda config: SynapticIntelligence(config.si),
    "slca": lambda config: SLCA(config.slca),
    "weight_merge": lambda config: WeightMerge(),
    "agem": lambda config: AGEM(config.agem),
    "lwf": lambda config: LwF(config.lwf),
    "kl": lambda config: KLToBase(config.kl),
    "l2": lambda config: L2Start(config.l2),
    "olora": lambda config: OLoRA(config.olora),
    "dwe": lambda config: AdapterPerTask(),
    "sft": SupervisedFineTuning,
    "ema": lambda config: ExponentialMovingAverage(config.ema),
    "er": lambda config: ExperienceReplay(config.replay),
    "der": lambda config: DarkExperienceReplay(config.replay),
}

ENTRY_POINTS = "rlinf.methods"
"""Group in which another package names its methods: a name and a ``MethodFactory``, such as a class whose constructor
takes the ``MethodConfig`` (docs/adding_a_method.md)."""


def method_names() -> list[str]:
    """All methods that can be asked for: ours first, then those of installed packages."""
    return [*METHODS, *sorted({found.name for found in entry_points(group=ENTRY_POINTS)} - METHODS.keys())]


def make_method(config: MethodConfig) -> ContinualMethod:
    """The configured method; a name of ours goes before the same name of another package.

    Raises:
        ConfigError: there is none of that name, or what the other package names is not a method.
    """
    if config.name in METHODS:
        return METHODS[config.name](config)
    found = [point for point in entry_points(group=ENTRY_POINTS) if point.name == config.name]
    if not found:
        raise ConfigError(f"method.name={config.name} is not known; expected one of: {', '.join(method_names())}")
    method = found[0].load()(config)
    if not isinstance(method, ContinualMethod):
        raise ConfigError(
            f"method.name={config.name}: {found[0].value} made a {type(method).__name__}, expected a subclass of "
            "rlinf.custom.methods.ContinualMethod"
        )
    return method


__all__ = [
    "METHODS",
    "ActionChunks",
    "ContinualMethod",
    "ParamGroup",
    "TaskContext",
    "add_to_gradients",
    "check_tasks",
    "inner_product",
    "loss_gradient",
    "make_method",
    "method_names",
    "named_shards",
    "present_weights",
    "read_earlier",
    "read_state",
    "trainable_parameters",
]
