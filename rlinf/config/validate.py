"""Rules that span several keys. Each raises ``ConfigError`` with the numbers; none edits the configuration."""

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path

from rlinf.config.compose import REPOSITORY
from rlinf.config.errors import ConfigError
from rlinf.config.gpu_memory import BY_MEMORY
from rlinf.config.places import check_readable
from rlinf.config.schema import Config, EnvConfig
from rlinf.run_layout import ADAPTER_FILES, WHOLE_FILES

RANDOM_ACTION = "random_action"
DOWNLOAD = "Download it:      hf download Haozhan72/{name} --local-dir ./model/{name}"
PRECISIONS = ("fp32", "bf16")
ATTENTION_ROUTES = ("sdpa", "flash_attention_2", "eager")
PICTURE_PATHS = ("rl", "oft", "oft_center_crop")
CHECKPOINTING_POLICIES = ("full", "attention", "matmuls")
LEAST_STORE_GB = 0.1  # Ray asks for 75 MiB
LOSS_OF_ADVANTAGE = {"grpo": "grpo", "gae": "ppo"}
SMALL_CONFIG = "crl_experiment/libero_spatial_grpo_tiny"


def validate(config: Config, *, num_tasks: int) -> None:
    """Check a configuration for a suite of ``num_tasks`` tasks before anything is started or written."""
    rules: tuple[Callable[[Config], None], ...] = (
        _choices,
        _one_model,
        _positive,
        _sampling,
        _critic,
        _factors,
        _base_logits,
        _merged_acting,
        _batches,
    )
    for rule in rules:
        rule(config)
    _task_ids("env.fixed_task_ids", config.env.fixed_task_ids, num_tasks, config.env.suite)
    _task_ids("env.eval_task_ids", config.env.eval_task_ids, num_tasks, config.env.suite)


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
    """Episodes that one training epoch collects."""
    algorithm = config.algorithm
    return algorithm.num_group_envs * algorithm.group_size * algorithm.rollout_epoch


def _choices(config: Config) -> None:
    model = config.actor.model
    attention = model.attn_implementation
    one_of: tuple[tuple[str, str, Sequence[str]], ...] = (
        ("algorithm.adv_type", config.algorithm.adv_type, tuple(LOSS_OF_ADVANTAGE)),
        ("algorithm.loss_type", config.algorithm.loss_type, tuple(LOSS_OF_ADVANTAGE.values())),
        ("algorithm.loss_aggregation", config.algorithm.loss_aggregation, ("episode", "token")),
        ("rollout.worker", config.rollout.worker, ("policy", RANDOM_ACTION)),
        ("env.look", config.env.look, ("fast", "official")),
        ("rollout.precision", config.rollout.precision, PRECISIONS),
        ("actor.fsdp.param_dtype", config.actor.fsdp.param_dtype, PRECISIONS),
        ("actor.model.gradient_checkpointing_policy", model.gradient_checkpointing_policy, CHECKPOINTING_POLICIES),
        *([("actor.model.picture_path", model.picture_path, PICTURE_PATHS)] if model.picture_path is not None else []),
        *([("actor.model.attn_implementation", attention, ATTENTION_ROUTES)] if attention is not None else []),
    )
    for key, value, allowed in one_of:
        if value not in allowed:
            raise ConfigError(f"{key}={value} is not known; expected one of: {', '.join(allowed)}")
    for backend in config.runner.logger.logger_backends:
        if backend not in ("tensorboard", "wandb"):
            raise ConfigError(f"runner.logger.logger_backends names {backend!r}; expected any of: tensorboard, wandb")


def _one_model(config: Config) -> None:
    actor, rollout = config.actor.checkpoint_load_path, config.rollout.model_dir
    if Path(actor).expanduser().resolve() != Path(rollout).expanduser().resolve():
        raise ConfigError(
            f"actor.checkpoint_load_path={actor} and rollout.model_dir={rollout} must name the same model: "
            "rollouts and updates would use different policies"
        )


def _positive(config: Config) -> None:
    counts = {
        "runner.max_epochs": config.runner.max_epochs,
        "runner.save_interval": config.runner.save_interval,
        "algorithm.num_group_envs": config.algorithm.num_group_envs,
        "algorithm.rollout_epoch": config.algorithm.rollout_epoch,
        "algorithm.update_epoch": config.algorithm.update_epoch,
        "env.num_envs_per_worker": config.env.num_envs_per_worker,
        "env.pipeline_stages": config.env.pipeline_stages,
        "env.train.max_episode_steps": config.env.train.max_episode_steps,
        "env.eval.max_episode_steps": config.env.eval.max_episode_steps,
        "env.eval.episodes_per_task": config.env.eval.episodes_per_task,
        "actor.global_batch_size": config.actor.global_batch_size,
        "actor.model.lora_rank": config.actor.model.lora_rank,
        "actor.model.gradient_checkpointing_every": config.actor.model.gradient_checkpointing_every,
        "rollout.max_batch": config.rollout.max_batch,
    }
    for key, count in counts.items():
        if count < 1:
            raise ConfigError(f"{key}={count} must be at least 1")
    micro = config.actor.micro_batch_size
    if micro < 1 and micro != BY_MEMORY:
        raise ConfigError(f"actor.micro_batch_size={micro} must be at least 1, or {BY_MEMORY} to choose by the GPU")
    store = config.cluster.object_store_gb
    if store is not None and store < LEAST_STORE_GB:
        raise ConfigError(f"cluster.object_store_gb={store} must be at least {LEAST_STORE_GB}, or null")
    if config.runner.seed < 0:
        raise ConfigError(f"runner.seed={config.runner.seed} must not be negative")
    for key, rate in (
        ("actor.optim.lr", config.actor.optim.lr),
        ("actor.optim.value_lr", config.actor.optim.value_lr),
    ):
        if not (rate > 0 and isfinite(rate)):
            raise ConfigError(f"{key}={rate} must be greater than 0, and finite")


def _sampling(config: Config) -> None:
    sampling = config.algorithm.sampling_params
    if not sampling.temperature_train > 0:
        raise ConfigError(
            f"algorithm.sampling_params.temperature_train={sampling.temperature_train} must be greater than 0: "
            "reinforcement learning needs exploration"
        )
    if sampling.temperature_eval < 0:
        raise ConfigError(
            f"algorithm.sampling_params.temperature_eval={sampling.temperature_eval} must not be negative"
        )


def _factors(config: Config) -> None:
    model = config.actor.model
    for key, factor in (
        ("method.merge.coeff", config.method.merge.coeff),
        ("actor.model.previous_lora_coeff", model.previous_lora_coeff),
    ):
        if factor is not None and not 0 <= factor <= 1:
            raise ConfigError(f"{key}={factor} must be between 0 and 1")
    whole = {
        "method=weight_merge": config.method.name == "weight_merge",
        "actor.model.previous_lora_paths": bool(model.previous_lora_paths),
        f"actor.model.lora_scale={model.lora_scale}": model.lora_scale not in (None, 1.0),
    }
    for setting, is_given in whole.items():
        if is_given and not model.is_lora:
            raise ConfigError(f"{setting} needs adapters, but actor.model.is_lora=false: {model.model_name} has none")
    if model.lora_scale is not None and not 0 <= model.lora_scale <= 1:
        raise ConfigError(f"actor.model.lora_scale={model.lora_scale} must be between 0 and 1")


def _base_logits(config: Config) -> None:
    """``der`` asks for the base model's logits by switching the adapter off; merged ones cannot be switched off."""
    merged = config.actor.model.previous_lora_paths
    if config.method.name == "der" and merged and not config.method.replay.cached_logits:
        raise ConfigError(
            f"method=der keeps the policy close to the base model, but adapters are merged into it "
            f"(actor.model.previous_lora_paths names {len(merged)}): computed logits would be the merged model's.\n"
            "Store the base model's with bash examples/embodiment/compute_base_logits_embodiment.sh CONFIG_NAME and "
            "give method.replay.cached_logits=true, or leave actor.model.previous_lora_paths out"
        )


def _critic(config: Config) -> None:
    algorithm, optim = config.algorithm, config.actor.optim
    loss = LOSS_OF_ADVANTAGE[algorithm.adv_type]
    if algorithm.loss_type != loss:
        raise ConfigError(
            f"algorithm.adv_type={algorithm.adv_type} goes with algorithm.loss_type={loss}, "
            f"got loss_type={algorithm.loss_type}"
        )
    if algorithm.group_size < 2 and (algorithm.adv_type == "grpo" or algorithm.filter_rewards):
        why = "GRPO compares" if algorithm.adv_type == "grpo" else "algorithm.filter_rewards=true judges"
        raise ConfigError(f"algorithm.group_size={algorithm.group_size} must be at least 2: {why} rollouts of a group")
    for key, share in (("gamma", algorithm.gamma), ("gae_lambda", algorithm.gae_lambda)):
        if not 0 <= share <= 1:
            raise ConfigError(f"algorithm.{key}={share} must be between 0 and 1")
    for key, size in (
        ("algorithm.value_clip", algorithm.value_clip),
        ("algorithm.huber_delta", algorithm.huber_delta),
    ):
        if not size > 0:
            raise ConfigError(f"{key}={size} must be greater than 0")
    if optim.critic_warmup_steps < 0:
        raise ConfigError(f"actor.optim.critic_warmup_steps={optim.critic_warmup_steps} must not be negative")


def _merged_acting(config: Config) -> None:
    rollout = config.rollout
    if rollout.merge_adapter and rollout.precision != "fp32":
        raise ConfigError(
            f"rollout.merge_adapter=true needs rollout.precision=fp32, not {rollout.precision}: rounded weights would "
            "lose the adapter's small changes"
        )


def _batches(config: Config) -> None:
    if config.env.num_envs_per_worker % config.env.pipeline_stages:
        raise ConfigError(
            f"env.num_envs_per_worker={config.env.num_envs_per_worker} must be a multiple of "
            f"env.pipeline_stages={config.env.pipeline_stages}"
        )
    ranks = max(config.cluster.num_actor_workers, 1)
    micro = 1 if config.actor.micro_batch_size == BY_MEMORY else config.actor.micro_batch_size
    if config.actor.global_batch_size % (micro * ranks):
        raise ConfigError(
            f"actor.global_batch_size={config.actor.global_batch_size} must be a multiple of "
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
