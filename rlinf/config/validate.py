"""What settings may be, alone and together. Problems are said with the numbers; nothing is edited."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rlinf.config.compose import REPOSITORY
from rlinf.config.errors import ConfigError
from rlinf.config.placement import requests
from rlinf.config.places import check_readable
from rlinf.config.resolve import EARLIER_ADAPTERS
from rlinf.config.schema import BY_MEMORY, Config, EnvConfig, walk
from rlinf.run_layout import ADAPTER_FILES, WHOLE_FILES

DOWNLOAD = "Download it:      hf download Haozhan72/{name} --local-dir ./model/{name}"
LOSS_OF_ADVANTAGE = {"grpo": "grpo", "rloo": "grpo", "gae": "ppo", "success": "sft"}
SMALL_CONFIG = "crl_experiment/libero_spatial_grpo_tiny"


def validate(config: Config, *, num_tasks: int) -> None:
    """Check a configuration for a suite of ``num_tasks`` tasks before anything is started or written.

    Raises:
        ConfigError: names the key, its value and what it may be.
    """
    for key, field, given in walk(config):
        allowed, holds = field.metadata.get("choices"), field.metadata.get("holds")
        for value in given if isinstance(given, list) else [given]:
            if allowed and value is not None and value not in allowed:
                raise ConfigError(f"{key}={value} is not known; expected one of: {', '.join(allowed)}")
            if holds and value is not None and not holds(value):
                raise ConfigError(f"{key}={given} {field.metadata['must']}")
    temperatures = config.env.eval.temperatures
    if len(set(temperatures)) < len(temperatures):
        raise ConfigError(f"env.eval.temperatures={temperatures} names one twice")
    if config.env.eval.episodes_per_task < 1:  # training ignores its own
        raise ConfigError(f"env.eval.episodes_per_task={config.env.eval.episodes_per_task} must be at least 1")
    for problem in (*_model_problems(config), *_learning_problems(config), *_batch_problems(config)):
        raise ConfigError(problem)
    requests(config.cluster)
    for name in ("fixed_task_ids", "eval_task_ids"):
        _task_ids(f"env.{name}", getattr(config.env, name), num_tasks, config.env.suite)


def check_eval_suites(env: EnvConfig, num_tasks_of: Callable[[str], int]) -> None:
    """Refuse further suites whose tasks are not those of ``env.suite`` in other words, places or the like.

    num_tasks_of: how many tasks a suite has; raises where there is no such suite.
    """
    expected, suites = num_tasks_of(env.suite), env.eval_suites
    for suite in suites:
        if suite == env.suite or suites.count(suite) > 1:
            raise ConfigError(f"env.eval_suites={suites} names {suite} twice, or env.suite: it is evaluated anyway")
        if (given := num_tasks_of(suite)) != expected:
            raise ConfigError(
                f"env.eval_suites={suites}: {suite} has {given} tasks, but {env.suite} {expected}; further suites are "
                "those with a variant of each of its tasks"
            )


def resolve_model(path: str, *, key: str, obtain: str = DOWNLOAD) -> Path:
    """The folder of a base checkpoint; relative paths start at the repository's root.

    obtain: how to get one, where ``{name}`` stands for the folder's name.

    Raises:
        ConfigError: nothing is there; says what to download, and the small alternative.
    """
    folder = Path(path) if Path(path).is_absolute() else REPOSITORY / path
    if (folder / "config.json").is_file():
        check_readable(folder, setting=key)
        return folder
    what = "holds no config.json" if folder.is_dir() else "does not exist"
    raise ConfigError(
        f"the model that {key} names {what}: {folder}\n"
        f"{obtain.format(name=folder.name)}\n"
        f"or use the small policy that comes with the repository: CONFIG_NAME {SMALL_CONFIG}"
    )


def resolve_adapter(path: str, *, key: str = "actor.model.lora_path", files: Sequence[str] | None = None) -> Path:
    """The folder of trained weights; relative paths start at the repository's root.

    files: what it must hold; None: a LoRA adapter or all weights, whichever is there.
    """
    folder = Path(path) if Path(path).is_absolute() else REPOSITORY / path
    kinds = (ADAPTER_FILES, WHOLE_FILES) if files is None else (files,)
    if not any(all((folder / name).is_file() for name in kind) for kind in kinds):
        expected = ", or ".join(" and ".join(kind) for kind in kinds)
        raise ConfigError(f"{key}={path} is not an adapter folder: expected {expected} in {folder}")
    check_readable(folder, setting=key)
    return folder


def episodes_per_epoch(config: Config) -> int:
    """Episodes that one training epoch collects, at most."""
    algorithm = config.algorithm
    return algorithm.num_group_envs * algorithm.group_size * (algorithm.max_rollout_epoch or algorithm.rollout_epoch)


def _model_problems(config: Config) -> Iterator[str]:
    actor, rollout = config.actor.checkpoint_load_path, config.rollout.model_dir
    if Path(actor).expanduser().resolve() != Path(rollout).expanduser().resolve():
        yield (
            f"actor.checkpoint_load_path={actor} and rollout.model_dir={rollout} must name the same model: "
            "rollouts and updates would use different policies"
        )
    model, method, merged = config.actor.model, config.method, config.actor.model.previous_lora_paths
    if model.task_lora_paths is not None and merged:
        yield (
            "actor.model.task_lora_paths (method=dwe) gives every task an adapter on the plain base model: leave "
            "actor.model.previous_lora_paths out, which merges adapters into it"
        )
    asked = {
        f"method={method.name}": method.name in EARLIER_ADAPTERS,
        "actor.model.previous_lora_paths": bool(merged),
        "actor.model.task_lora_paths": model.task_lora_paths is not None,
        f"actor.model.lora_scale={model.lora_scale}": model.lora_scale not in (None, 1.0),
    }
    for setting in [setting for setting, is_given in asked.items() if is_given and not model.is_lora]:
        yield f"{setting} needs adapters, but actor.model.is_lora=false: {model.model_name} has none"
    # They ask the base model by switching the adapter off; merged ones cannot be switched off.
    if merged and (method.name == "kl" or (method.name == "der" and not method.replay.cached_logits)):
        store = (
            "Store the base model's with bash examples/embodiment/compute_base_logits_embodiment.sh CONFIG_NAME and "
            "give method.replay.cached_logits=true, or leave"
        )
        yield (
            f"method={method.name} keeps the policy close to the base model, but adapters are merged into it "
            f"(actor.model.previous_lora_paths names {len(merged)}): computed logits would be the merged model's.\n"
            f"{store if method.name == 'der' else 'Leave'} actor.model.previous_lora_paths out"
        )
    if config.rollout.merge_adapter and config.rollout.precision != "fp32":
        yield (
            f"rollout.merge_adapter=true needs rollout.precision=fp32, not {config.rollout.precision}: rounded weights "
            "would lose the adapter's small changes"
        )


def _learning_problems(config: Config) -> Iterator[str]:
    algorithm, most = config.algorithm, config.algorithm.max_rollout_epoch
    loss = LOSS_OF_ADVANTAGE[algorithm.adv_type]
    if algorithm.loss_type != loss:
        yield (
            f"algorithm.adv_type={algorithm.adv_type} goes with algorithm.loss_type={loss}, "
            f"got loss_type={algorithm.loss_type}"
        )
    compares = algorithm.adv_type in ("grpo", "rloo")
    if algorithm.group_size < 2 and (compares or algorithm.filter_rewards):
        why = f"{algorithm.adv_type.upper()} compares" if compares else "algorithm.filter_rewards=true judges"
        yield f"algorithm.group_size={algorithm.group_size} must be at least 2: {why} rollouts of a group"
    if most is not None and not algorithm.filter_rewards:
        yield (
            f"algorithm.max_rollout_epoch={most} plays on until enough groups carry a signal, which only "
            "algorithm.filter_rewards=true tells"
        )
    if most is not None and most < algorithm.rollout_epoch:
        yield f"algorithm.max_rollout_epoch={most} must be at least algorithm.rollout_epoch={algorithm.rollout_epoch}"
    if algorithm.max_policy_lag and algorithm.loss_type == "sft":
        yield (
            f"algorithm.max_policy_lag={algorithm.max_policy_lag} corrects for older weights in a clipped loss, but "
            "algorithm.loss_type=sft compares with no policy: give algorithm.max_policy_lag=0"
        )


def _batch_problems(config: Config) -> Iterator[str]:
    env, actor = config.env, config.actor
    if env.num_envs_per_worker % env.pipeline_stages:
        yield (
            f"env.num_envs_per_worker={env.num_envs_per_worker} must be a multiple of "
            f"env.pipeline_stages={env.pipeline_stages}"
        )
    ranks = max(config.cluster.num_actor_workers, 1)
    micro = 1 if actor.micro_batch_size == BY_MEMORY else actor.micro_batch_size
    if actor.global_batch_size % (micro * ranks):
        yield (
            f"actor.global_batch_size={actor.global_batch_size} must be a multiple of "
            f"actor.micro_batch_size * cluster.num_actor_workers = {micro} * {ranks}"
        )


def _task_ids(key: str, ids: list[int] | None, num_tasks: int, suite: str) -> None:
    if ids is None:
        return
    if not ids:
        raise ConfigError(f"{key}=[] names no task; use null for all {num_tasks} tasks of {suite}")
    for task in ids:
        if not 0 <= task < num_tasks:
            raise ConfigError(f"{key}={ids}: task {task} is not in {suite}, which has tasks 0 to {num_tasks - 1}")
    if len(set(ids)) != len(ids):
        raise ConfigError(f"{key}={ids} names a task twice")
