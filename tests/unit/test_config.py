"""Configuration: keys, types, rules, and messages that say what to do."""

import pytest

from rlinf.config import ConfigError, config_hash, load_config, resolve_adapter, resolve_model, validate
from rlinf.config.compose import config_names, config_yaml

TINY = "crl_experiment/libero_spatial_grpo_tiny"
SEVEN_B = "crl_experiment/libero_spatial_grpo_openvlaoft_spatial"


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_configuration_is_valid(name):
    validate(load_config(name), num_tasks=10)


def test_published_values():
    config = load_config(SEVEN_B)
    algorithm = config.algorithm
    assert algorithm.num_group_envs * algorithm.group_size * algorithm.rollout_epoch == 1024
    assert config.runner.max_epochs == 10
    assert config.actor.global_batch_size == 8192
    assert config.actor.optim.lr == 2e-5
    assert config.actor.model.lora_rank == 32
    assert (algorithm.clip_ratio_low, algorithm.clip_ratio_high) == (0.2, 0.28)
    assert algorithm.sampling_params.temperature_train == 1.6


def test_null_keys_take_a_plus_or_none():
    assert load_config(TINY, ["+algorithm.bc_coeff=0.03"]).algorithm.bc_coeff == 0.03
    assert load_config(TINY, ["algorithm.bc_coeff=0.03"]).algorithm.bc_coeff == 0.03


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runner.max_epoch=3", "Did you mean runner.max_epochs"),
        ("++runner.surprise=1", "Key 'surprise' not in 'RunnerConfig'"),
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
        ("algorithm.loss_type=ppo", "expected one of: grpo"),
        ("algorithm.sampling_params.temperature_train=0", "must be greater than 0"),
        ("rollout.model_dir=elsewhere", "must name the same model"),
        ("runner.logger.logger_backends=[mlflow]", "tensorboard, wandb"),
        ("+algorithm.use_ewc=True", "does not have yet"),
        ("runner.max_epochs=0", "must be at least 1"),
    ],
)
def test_rules_give_expected_and_given(override, message):
    with pytest.raises(ConfigError, match=message):
        validate(load_config(TINY, [override]), num_tasks=10)


def test_missing_model_says_what_to_download_and_the_alternative(tmp_path):
    with pytest.raises(ConfigError, match="hf download Haozhan72/") as caught:
        resolve_model(str(tmp_path / "Openvla-oft-SFT-libero-spatial-traj1"), key="actor.checkpoint_load_path")
    assert TINY in str(caught.value)


def test_missing_adapter_names_the_files(tmp_path):
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors"):
        resolve_adapter(str(tmp_path))


def test_hash_sees_settings_and_not_folders():
    base = load_config(TINY)
    assert config_hash(base) == config_hash(load_config(TINY, ["runner.logger.log_root=elsewhere"]))
    assert config_hash(base) != config_hash(load_config(TINY, ["actor.optim.lr=3e-3"]))


def test_yaml_is_the_whole_configuration():
    assert "clip_ratio_high: 0.28" in config_yaml(load_config(TINY))
