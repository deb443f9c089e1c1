"""Configuration: keys, types, rules, and messages that say what to do."""

from dataclasses import replace
from functools import cache

import pytest

from rlinf.config import ConfigError, config_hash, load_config, resolve_adapter, resolve_model, validate
from rlinf.config.compose import config_names
from rlinf.config.resolve import resolve
from rlinf.config.validate import episodes_per_epoch
from tests.sequences import TINY

SEVEN_B = "crl_experiment/libero_spatial_grpo_openvlaoft_spatial"
SEVEN_B_PPO = "crl_experiment/libero_spatial_ppo_openvlaoft_spatial"

shipped = cache(load_config)
"""A configuration without overrides, composed once."""


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_configuration_is_valid(name):
    validate(shipped(name), num_tasks=10)


def test_published_values():
    config = shipped(SEVEN_B)
    algorithm = config.algorithm
    assert algorithm.num_group_envs * algorithm.group_size * algorithm.rollout_epoch == 1024
    assert config.runner.max_epochs == 10
    assert config.actor.global_batch_size == 8192
    assert config.actor.optim.lr == 2e-5
    assert config.actor.model.lora_rank == 32
    assert (algorithm.clip_ratio_low, algorithm.clip_ratio_high) == (0.2, 0.28)
    assert algorithm.sampling_params.temperature_train == 1.6


@pytest.mark.parametrize(
    ("suite", "short", "first_task", "max_epochs", "model"),
    [
        ("libero_spatial", "spatial", 0, 10, "Openvla-oft-SFT-libero-spatial-traj1"),
        ("libero_object", "object", 5, 10, "Openvla-oft-SFT-libero-object-traj1"),
        ("libero_goal", "goal", 0, 10, "Openvla-oft-SFT-libero-goal-traj1"),
        ("libero_10", "long", 3, 5, "Openvla-oft-SFT-libero10-trajall"),
    ],
)
@pytest.mark.parametrize(("algorithm", "spatial"), [("grpo", SEVEN_B), ("ppo", SEVEN_B_PPO)])
@pytest.mark.parametrize("suffix", ["", "_eval"])
def test_published_values_of_the_suites(suite, short, first_task, max_epochs, model, algorithm, spatial, suffix):
    config = shipped(f"crl_experiment/{suite}_{algorithm}_openvlaoft_{short}{suffix}")
    assert (config.env.suite, config.env.first_task, config.env.fixed_task_ids) == (suite, first_task, [first_task])
    assert config.runner.max_epochs == max_epochs
    assert config.env.video_episodes == (10 if suffix else 0)
    paths = (config.actor.checkpoint_load_path, config.rollout.model_dir, config.actor.tokenizer.tokenizer_model)
    assert set(paths) == {f"./model/{model}"}
    assert config.algorithm == shipped(spatial).algorithm, "one recipe for all suites"
    assert config.actor.optim == shipped(spatial).actor.optim
    assert config.runner.logger == shipped(spatial).runner.logger


def test_ppo_differs_from_grpo_in_the_algorithm_alone():
    """Episodes per epoch, batches, model and evaluation are the published recipe's."""
    grpo, ppo = shipped(SEVEN_B), shipped(SEVEN_B_PPO)
    assert (ppo.algorithm.adv_type, ppo.algorithm.loss_type, ppo.algorithm.group_size) == ("gae", "ppo", 1)
    assert episodes_per_epoch(ppo) == episodes_per_epoch(grpo) == 1024
    logger = ppo.runner.logger
    assert replace(ppo, algorithm=grpo.algorithm, runner=replace(ppo.runner, logger=grpo.runner.logger)) == grpo
    assert logger == replace(grpo.runner.logger, method_suffix="_ppo")


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize(
    ("keys", "method"),
    [
        (["use_ewc=True"], "ewc"),
        (["use_experience_replay=True", "bc_coeff=0.1"], "er"),
        (["use_experience_replay=True", "bc_coeff=0.1", "use_reference_logits_bc=True"], "der"),
        (["use_reference_logits_bc=True", "use_cached_bc_logits=True"], "der"),
        (["use_experience_replay=True", "use_reference_logits_bc=False"], "er"),
        (["use_ewc=False", "use_experience_replay=False"], "sequential"),
    ],
)
def test_the_documents_keys_select_methods_with_and_without_plus(plus, keys, method):
    config = load_config(TINY, [f"{plus}algorithm.{key}" for key in keys])
    assert config.method.name == method
    assert config == resolve(config), "resolving twice changes nothing"
    given = [f"method={method}", *(f"algorithm.{key}" for key in keys)]
    assert config == load_config(TINY, given), "the keys and the group agree"
    if "bc_coeff=0.1" in keys:
        assert config.method.replay.coeff == 0.1
    assert config.method.replay.cached_logits == ("use_cached_bc_logits=True" in keys)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.use_ewc=True", "algorithm.use_experience_replay=True"], "one method at a time"),
        (["method=ewc", "algorithm.use_experience_replay=True"], "selects method=er, but method=ewc is given"),
        (["method=er", "algorithm.use_reference_logits_bc=True"], "selects method=der, but method=er is given"),
        (["method=ewc", "algorithm.use_ewc=False"], "contradicts method=ewc"),
        (
            ["algorithm.use_reference_logits_bc=True", "algorithm.use_experience_replay=False"],
            "use_experience_replay=false contradicts method=der",
        ),
        (["algorithm.bc_coeff=0.1"], "method=sequential replays nothing"),
        (["algorithm.use_experience_replay=True", "algorithm.use_cached_bc_logits=True"], "needs base-model logits"),
    ],
)
def test_contradictory_method_settings_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TINY, overrides)


def test_weight_merge_has_one_factor_for_all_adapters():
    model = load_config(TINY, ["method=weight_merge", "method.merge.coeff=0.3"]).actor.model
    assert (model.previous_lora_coeff, model.lora_scale) == (0.3, 0.3)
    model = load_config(TINY, ["method=weight_merge", "actor.model.lora_scale=0"]).actor.model
    assert (model.previous_lora_coeff, model.lora_scale) == (0.8, 0.0)
    assert shipped(TINY).actor.model.lora_scale == 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runner.epochs=3", r"'runner.epochs' does not exist. Did you mean runner.max_epochs\?"),
        ("++env.train.max_steps=3", r"Did you mean env.train.max_episode_steps\?"),
        ("actor.optm.lr=1", r"'actor.optm.lr' does not exist. Did you mean actor.optim.lr\?"),
        ("lora_rank=3", r"Did you mean actor.model.lora_rank\?"),
        ("actor.optim.learning_rate=1", "does not exist. actor.optim has: lr, lr_warmup_steps, "),
        ("surprise=1", "'surprise' does not exist.\nEvery key"),
        ("runner.max_epochs=many", "could not be converted to Integer"),
        ("runner.seed=abc", "could not be converted to Integer"),
    ],
)
def test_wrong_keys_and_types_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TINY, [override])


def test_unknown_configuration_lists_the_known_ones():
    with pytest.raises(ConfigError, match=TINY):
        load_config("crl_experiment/nothing")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.fixed_task_ids=[10]", "task 10 is not in libero_spatial, which has tasks 0 to 9"),
        ("env.fixed_task_ids=[1,1]", "names a task twice"),
        ("env.fixed_task_ids=[]", "names no task"),
        ("actor.global_batch_size=100", r"must be a multiple of actor.micro_batch_size \* cluster.num_actor_workers"),
        ("env.num_envs_per_worker=7", "must be a multiple of env.pipeline_stages=2"),
        ("algorithm.group_size=1", "must be at least 2"),
        ("algorithm.loss_type=ppo", "goes with algorithm.loss_type=grpo, got loss_type=ppo"),
        ("algorithm.sampling_params.temperature_train=0", "must be greater than 0"),
        ("rollout.model_dir=elsewhere", "must name the same model"),
        ("runner.logger.logger_backends=[mlflow]", "tensorboard, wandb"),
        ("method.merge.coeff=1.2", "must be between 0 and 1"),
        ("actor.model.previous_lora_coeff=-0.1", "must be between 0 and 1"),
        ("actor.model.lora_scale=1.5", "must be between 0 and 1"),
        ("actor.model={is_lora:false,lora_scale:0.5}", r"lora_scale=0\.5 needs adapters"),
        ("actor.model={is_lora:false,previous_lora_paths:[a]}", "previous_lora_paths needs adapters"),
        ("runner.max_epochs=0", "must be at least 1"),
        ("actor.optim.lr=inf", "actor.optim.lr=inf must be greater than 0, and finite"),
        ("actor.optim.value_lr=0", "value_lr=0.0 must be greater than 0"),
        ("method.ewc.fisher=exact", "method.ewc.fisher=exact is not known; expected one of: per_sample, published"),
        ("method.ewc.coeff=-1", "method.ewc.coeff=-1.0 must not be negative"),
        ("method.agem.memory_per_task=0", "method.agem.memory_per_task=0 must be at least 1"),
        ("algorithm.adv_type=success", "goes with algorithm.loss_type=sft, got loss_type=grpo"),
        ("algorithm.clip_ratio_dual=1", "algorithm.clip_ratio_dual=1.0 must be greater than 1"),
        ("algorithm.importance_ratio=chunk", "expected one of: token, sequence"),
        ("algorithm.adv_type=gae", "adv_type=gae goes with algorithm.loss_type=ppo"),
        ("algorithm={adv_type:gae,loss_type:ppo,group_size:1,filter_rewards:true}", "group_size=1 must be at least 2"),
        ("algorithm.gamma=1.5", r"algorithm\.gamma=1\.5 must be between 0 and 1"),
        ("algorithm.huber_delta=0", r"huber_delta=0\.0 must be greater than 0"),
        ("actor.optim.critic_warmup_steps=-1", "must not be negative"),
        ("actor.micro_batch_size=-2", "micro_batch_size=-2 must be at least 1, or -1"),
        ("cluster.object_store_gb=0.05", "cluster.object_store_gb=0.05 must be at least 0.1, or null"),
        ("algorithm={max_rollout_epoch:3,filter_rewards:false}", "which only algorithm.filter_rewards=true tells"),
        ("algorithm={max_rollout_epoch:3,rollout_epoch:4}", "must be at least algorithm.rollout_epoch=4"),
        ("env.eval.temperatures=[1.0,-1.0]", r"temperatures=\[1\.0, -1\.0\] must not be negative"),
        ("env.eval.temperatures=[1.0,1.0]", "names one twice"),
        ("method.sft.source=mine", "expected one of: demonstrations, own"),
        ("method.replay.tasks=one", "method.replay.tasks=one is not known; expected one of: all, seen"),
        ("actor.model.gradient_checkpointing_policy=some", "expected one of: full, attention, matmuls"),
        ("actor.model.gradient_checkpointing_every=0", "gradient_checkpointing_every=0 must be at least 1"),
        ("actor.model.attn_implementation=paged", "expected one of: sdpa, flash_attention_2, eager"),
        ("actor.model.picture_path=tf", "picture_path=tf is not known; expected one of: rl, oft, oft_center_crop"),
    ],
)
def test_rules_give_expected_and_given(override, message):
    with pytest.raises(ConfigError, match=message):
        validate(load_config(TINY, [override]), num_tasks=10)


def test_der_does_not_take_a_merged_model_for_the_base():
    merged = "actor.model.previous_lora_paths=[a,b]"
    config = load_config(TINY, ["method=der", merged])
    with pytest.raises(ConfigError, match=r"adapters are merged into it .* names 2(.|\n)*cached_logits=true"):
        validate(config, num_tasks=10)
    validate(load_config(TINY, ["method=der", merged, "method.replay.cached_logits=true"]), num_tasks=10)
    for method in ("er", "lwf"):  # what they compare with does not depend on the base model
        validate(load_config(TINY, [f"method={method}", merged]), num_tasks=10)


def test_kl_does_not_take_a_merged_model_for_the_base():
    config = load_config(TINY, ["method=kl", "actor.model.previous_lora_paths=[a]"])
    with pytest.raises(ConfigError, match=r"adapters are merged into it .* names 1(.|\n)*Leave"):
        validate(config, num_tasks=10)


def test_missing_model_says_what_to_download_and_the_alternative(tmp_path):
    with pytest.raises(ConfigError, match="hf download Haozhan72/") as caught:
        resolve_model(str(tmp_path / "Openvla-oft-SFT-libero-spatial-traj1"), key="actor.checkpoint_load_path")
    assert TINY in str(caught.value)


def test_missing_adapter_names_the_files(tmp_path):
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors"):
        resolve_adapter(str(tmp_path))


def test_hash_sees_settings_and_not_folders():
    base = shipped(TINY)
    assert config_hash(base) == config_hash(load_config(TINY, ["runner.logger.log_root=elsewhere"]))
    assert config_hash(base) != config_hash(load_config(TINY, ["actor.optim.lr=3e-3"]))
