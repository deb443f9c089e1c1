"""Command lines of training and evaluation: composed, checked, and nothing started yet."""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from libero_runtime.files import LOCK_FILE, only_one
from libero_runtime.suites import standard_suite
from rlinf.cli.console import configure_process
from rlinf.cli.launcher import DEFAULT_CONFIG
from rlinf.config import (
    RANDOM_ACTION,
    REPOSITORY,
    Config,
    ConfigError,
    check_eval_suites,
    config_yaml,
    load_config,
    resolve_model,
    validate,
)
from rlinf.config.compose import CONFIG_FOLDER
from rlinf.config.schema import with_settings
from rlinf.custom.sequence.lineage import check_lineage
from rlinf.custom.sequence.training_records import follow_training
from rlinf.models import PolicySource, find_experts, find_merged, find_weights, policy_kind


@dataclass(frozen=True)
class Request:
    """A checked command line: nothing was started or written yet."""

    config: Config
    config_name: str
    overrides: tuple[str, ...]
    source: PolicySource
    adapter: Path | None

    @contextmanager
    def alone(self, name: str = LOCK_FILE) -> Iterator[None]:
        """While this request is carried out nobody else writes what it writes in the run's folder.

        Raises:
            FolderInUseError: somebody does; says who.
            ValueError: nothing can be written there.
        """
        from rlinf.runners.run_folder import check_run_folder, run_folder

        check_run_folder(self.config)
        advice = "Nothing was started. Wait for it, or keep this one apart with runner.logger.log_root=FOLDER"
        command = shlex.join(["--config-name", self.config_name, *self.overrides])
        with only_one(run_folder(self.config), doing="writing to", advice=advice, name=name, command=command):
            yield


def parse(argv: Sequence[str], *, prog: str, description: str, learns: bool = True) -> Request | None:
    """Read a command line; None when the user only asked to see the configuration (``--cfg``). See ``check``."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--config-name", default=DEFAULT_CONFIG, help=f"configuration below {CONFIG_FOLDER}")
    parser.add_argument("--cfg", action="store_true", help="print the composed configuration and stop")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, key=value")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config_name, arguments.overrides)
    if arguments.cfg:
        print(config_yaml(config), end="")
        return None
    return check(config, config_name=arguments.config_name, overrides=arguments.overrides, learns=learns)


def check(config: Config, *, config_name: str, overrides: Sequence[str], learns: bool = True) -> Request:
    """Check a composed configuration, and fill in what the policy's training says. learns: not an evaluation only."""
    configure_process()
    if config.rollout.worker == RANDOM_ACTION:
        _validate(config, learns=learns)
        anonymous = {"runner.logger.method_suffix": "", "actor.model.task_lora_paths": None}
        named = with_settings(config, {"method.label": RANDOM_ACTION, **anonymous})
        nothing = PolicySource(REPOSITORY, unnorm_key="", seed=config.runner.seed)
        return Request(named, config_name, tuple(overrides), nothing, None)
    kind = policy_kind(config.actor.model)
    model = resolve_model(config.actor.checkpoint_load_path, key="actor.checkpoint_load_path", obtain=kind.obtain)
    asked = config.actor.tokenizer.tokenizer_model
    tokenizer = resolve_model(asked, key="actor.tokenizer.tokenizer_model") if asked else model
    _validate(config, learns=learns)
    adapter = find_weights(config.actor.model, model)
    merged = find_merged(config.actor.model)
    for path in merged:
        check_lineage(config, path, is_merged=True, learns=learns)
    experts = find_experts(config.actor.model, adapter)
    for place, path in enumerate(experts):
        check_lineage(config, path, expert=place, learns=learns)
    if adapter is not None:
        check_lineage(config, adapter, learns=learns)
    adapters = [*([] if adapter is None else [adapter]), *reversed(merged)]
    stated = kind.stated(model) if kind.stated is not None else None
    config = follow_training(config, checkpoint=model, adapters=adapters, stated=stated)
    source = PolicySource(
        checkpoint=model,
        unnorm_key=config.actor.model.unnorm_key or standard_suite(config.env.suite),
        seed=seed_of_weights(config.runner.seed, earlier=len(merged) + len(experts)),
        tokenizer=tokenizer if tokenizer != model else None,
        critic=config.algorithm.adv_type == "gae",
    )
    return Request(config, config_name, tuple(overrides), source, adapter)


def seed_of_weights(seed: int, *, earlier: int) -> int:
    """Of weights that begin at random: an adapter does not begin where the ``earlier`` ones of its sequence did."""
    return int(np.random.SeedSequence([seed, earlier]).generate_state(1)[0]) if earlier else seed


def _validate(config: Config, *, learns: bool) -> None:
    """Check it against the suite, too."""
    # Reads the suite's files: only when all else is known to be good.
    from rlinf.envs import init_states, playable_tasks, suite_tasks

    env = config.env
    infos = suite_tasks(env)
    validate(config, num_tasks=len(infos))
    check_eval_suites(env, lambda suite: len(suite_tasks(replace(env, suite=suite))))
    asked = [("env.fixed_task_ids", env.fixed_task_ids)] if learns else []
    for key, ids in (*asked, ("env.eval_task_ids", env.eval_task_ids)):
        if faulty := [task for task in ids or () if infos[task].fault]:
            raise ConfigError(f"{key}={ids}: task {faulty[0]} of {env.suite}: {infos[faulty[0]].fault}")
    init_states(env, "train", env.fixed_task_ids or range(len(infos)))
    for suite in (env.suite, *env.eval_suites):
        one = replace(env, suite=suite)
        init_states(one, "eval", playable_tasks(one, env.eval_task_ids))
