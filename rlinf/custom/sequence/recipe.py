"""What plans are made of: a composed configuration as it was written, and the steps that carry it out."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlinf.config import Config
from rlinf.config.overrides import Value, override
from rlinf.config.resolve import EARLIER_ADAPTERS
from rlinf.config.schema import with_settings
from rlinf.run_layout import results_root

DEFAULT_SEED = 1234
TRAIN_SCRIPT = "examples/embodiment/train_embodied_agent.py"
EVALUATE_SCRIPT = "examples/embodiment/eval_embodied_agent.py"

Settings = Mapping[str, Value | Sequence[Value]]
"""Values by configuration key."""


@dataclass(frozen=True)
class Recipe:
    """A configuration, composed once, and how it was written: what its steps change is known by key.

    overrides: Hydra's, the launcher's own and then the user's.
    """

    config: Config
    config_name: str
    overrides: tuple[str, ...] = ()

    def gives(self, key: str) -> bool:
        """Whether an override sets this key: steps then leave it as it is."""
        return any(text.lstrip("+~").split("=", 1)[0] == key for text in self.overrides)

    @property
    def earlier_key(self) -> str | None:
        """Where every task learns a fresh adapter, the key that those of the tasks before are given in."""
        return EARLIER_ADAPTERS.get(self.config.method.name)

    @property
    def suites(self) -> tuple[str, ...]:
        """What each row of the success matrix is evaluated on."""
        return (self.config.env.suite, *self.config.env.eval_suites)

    def results_root(self, suite: str) -> str:
        """The folder of all methods' results on a suite."""
        return results_root(self.config.runner.logger.log_root, suite)

    def with_settings(self, settings: Settings) -> Config:
        """The configuration of a step."""
        return with_settings(self.config, {key: value for key, value in settings.items() if not self.gives(key)})

    def command(self, script: str, settings: Settings) -> tuple[str, ...]:
        """What composes the same configuration anew; overrides come last, and so they count."""
        words = [override(key, value) for key, value in settings.items()]
        return (script, "--config-name", self.config_name, *words, *self.overrides)


@dataclass(frozen=True)
class Step:
    """One command of a plan. Paths are relative to the repository where they lie inside it."""

    title: str
    folder: str
    start: str | None  # actor folder; None is the base model, or what ``merged`` makes of it
    result: str | None  # actor folder that exists when the command has done its work; None for an evaluation
    command: tuple[str, ...]  # what does the same by itself: script and arguments, without the interpreter
    config: Config  # what the command composes
    todo: tuple[str, ...]  # what is left to do, in words; empty: skipped
    notes: tuple[str, ...] = ()

    @property
    def merged(self) -> tuple[str, ...]:
        """Actor folders that are merged into the base model."""
        return tuple(self.config.actor.model.previous_lora_paths)

    @property
    def experts(self) -> tuple[str, ...]:
        """Actor folders whose adapters play the tasks that they learnt."""
        return tuple(self.config.actor.model.task_lora_paths or ())

    @property
    def learns(self) -> bool:
        """Whether it trains, and does not only evaluate."""
        return self.command[0] == TRAIN_SCRIPT

    def skipped(self, number: int, count: int) -> str:
        """The line that says that there is nothing left to do."""
        return f"[{number}/{count}] {self.title}: done before, skipped ({self.result})"

    def describe(self, number: int, count: int) -> list[str]:
        """In lines, as the ``number``-th of ``count`` steps; the last line is its command."""
        lines = [f"[{number}/{count}] {self.title}: {'; '.join(self.todo) or 'done before, skipped'}"]
        lines += [f"  note        {note}" for note in self.notes]
        lines.append(f"  folder      {self.folder}")
        lines += [f"  merged      {path}" for path in self.merged]
        lines += [f"  expert      {path}" for path in self.experts]
        lines.append(f"  start       {self.start or ('merged model' if self.merged else 'base model')}")
        if self.result is not None:
            lines.append(f"  checkpoint  {self.result}")
        lines.append(f"  command     {shlex.join(['python', *self.command])}")
        return lines
