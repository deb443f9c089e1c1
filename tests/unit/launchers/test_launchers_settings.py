"""One folder, one set of settings; a checkpoint, its suite and its base model; scaled evaluations."""

import json
from functools import cache
from pathlib import Path

import pytest

from rlinf.cli import run_sequence
from rlinf.cli.console import UsageError
from rlinf.cli.launcher import read_arguments
from rlinf.config import REPOSITORY, Config, ConfigError, config_yaml, load_config
from rlinf.config.differences import differences, refuse_other_settings
from rlinf.custom.sequence.lineage import Lineage, check_lineage, is_as_trained
from rlinf.custom.sequence.plan import SequenceRequest, plan_sequence
from rlinf.custom.sequence.recipe import Recipe, Step
from rlinf.runners.run_folder import run_folder
from tests.sequences import TINY, at, save

SEQUENTIAL = "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]"
SCALE = "CHECKPOINT_LOCATION CURRENT_LORA_SCALE [PREVIOUS_LORA_COEFF] [STEP_NUMBER] [CONFIG_NAME]"
SCALE_SETTINGS = (
    "action=evaluate",
    "actor.model.lora_scale={CURRENT_LORA_SCALE}",
    "actor.model.previous_lora_coeff={PREVIOUS_LORA_COEFF}",
)


def record_run(folder: Path, config: Config, *, step: int | None = 3) -> Path:
    """Leave a run's settings, and a checkpoint, as training does."""
    actor = folder
    if step is not None:
        actor = save(folder, step)
        write_lineage(actor)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config_yaml(config))
    (folder / "run.json").write_text(json.dumps({"config_name": TINY}))
    return actor


def write_lineage(
    actor: Path, *, suite: str = "libero_spatial", model: str = "tiny-openvla-oft-libero-spatial"
) -> None:
    Lineage("sequential", suite, 7, (0,), (0,), f"./model/{model}").save(actor)


@cache
def tiny(*overrides: str) -> Config:
    return load_config(TINY, overrides)


def sequence(root: Path, *words: str) -> tuple[Step, ...]:
    return run_sequence.sequence_steps(read_arguments(["run.sh", SEQUENTIAL, *words, "--"]), at(root))[1]


def evaluation(root: Path, *words: str, signature: str = SCALE) -> Step:
    arguments = read_arguments(["eval.sh", signature, *words, "--", *SCALE_SETTINGS])
    return run_sequence.evaluation_steps(arguments, at(root))[1][0]


# ------------------------------------------------------------------------------------------------------ one folder


@pytest.mark.parametrize(
    "override",
    [
        "runner.max_epochs=30",
        "runner.eval_after=true",
        "cluster.num_env_workers=4",
        "actor.micro_batch_size=4",
        "runner.logger.project_name=other",
        "env.video_episodes=3",
    ],
)
def test_how_long_and_on_what_machine_may_change(tmp_path: Path, override: str) -> None:
    record_run(tmp_path / "task_0_seed7", tiny())
    refuse_other_settings(tmp_path / "task_0_seed7", tiny(override))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("actor.optim.lr=0.5", "  actor.optim.lr: 0.001 there, 0.5 now"),
        ("method=ewc", "  method.name: sequential there, ewc now"),
        ("algorithm.group_size=4", "  algorithm.group_size: 8 there, 4 now"),
        ("env.eval.episodes_per_task=7", "  env.eval.episodes_per_task: 5 there, 7 now"),
        ("actor.model.lora_path=x/task_1_seed7/checkpoints/global_step_3/actor", "  actor.model.lora_path: None there"),
    ],
)
def test_other_settings_are_refused_and_shown(tmp_path: Path, override: str, line: str) -> None:
    record_run(tmp_path / "task_0_seed7", tiny())
    with pytest.raises(ConfigError) as caught:
        refuse_other_settings(tmp_path / "task_0_seed7", tiny(override))
    assert line in str(caught.value)
    assert "runner.logger.log_root=FOLDER" in str(caught.value)


def test_tasks_and_seeds_beside_it_share_settings(tmp_path: Path) -> None:
    record_run(tmp_path / "task_0_seed7", tiny("runner.seed=7", "env.fixed_task_ids=[0]"))
    start = "actor.model.lora_path=logs/task_0_seed7/checkpoints/global_step_3/actor"
    other = ("runner.seed=8", "env.fixed_task_ids=[1]", start)
    refuse_other_settings(tmp_path / "task_1_seed8", tiny(*other))
    with pytest.raises(ConfigError, match=r"task_0_seed7 was trained with other settings(.|\n)*actor.optim.lr"):
        refuse_other_settings(tmp_path / "task_1_seed8", tiny(*other, "actor.optim.lr=0.5"))


def test_a_run_without_a_checkpoint_may_start_again_differently(tmp_path: Path) -> None:
    record_run(tmp_path / "task_0_seed7", tiny(), step=None)
    refuse_other_settings(tmp_path / "task_0_seed7", tiny("actor.optim.lr=0.5"))


def test_moved_folders_and_new_keys_are_no_difference() -> None:
    key = "lora_path"
    old = {"actor": {"model": {key: "logs/a/task_0_seed1/checkpoints/global_step_3/actor"}}}
    new = {"actor": {"model": {key: "/copy/a/task_0_seed1/checkpoints/global_step_3/actor", "added_later": 1}}}
    assert differences(old, new) == {}
    new["actor"]["model"][key] = "/copy/a/task_0_seed1/checkpoints/global_step_4/actor"
    assert list(differences(old, new)) == ["actor.model.lora_path"]


def test_a_key_that_is_newer_than_a_run_had_its_default_then() -> None:
    old = {"actor": {"model": {"lora_rank": 4}}}
    new = {"actor": {"model": {"lora_rank": 4, "picture_path": "rl"}}}
    assert differences(old, new) == {}
    new["actor"]["model"]["picture_path"] = "oft"
    assert differences(old, new) == {"actor.model.picture_path": ("rl", "oft")}


@pytest.mark.parametrize("key", ["picture_path", "unnorm_key"])
def test_what_follows_the_policys_training_is_compared_when_that_is_known(key: str) -> None:
    """The launcher does not read it; the training itself does, and compares again."""
    old = {"actor": {"model": {key: "taken over"}}}
    assert differences(old, {"actor": {"model": {key: None}}}) == {}
    assert differences(old, {"actor": {"model": {key: "another"}}})


def test_the_launcher_refuses_before_it_starts_anything(tmp_path: Path) -> None:
    recorded = tiny("runner.seed=7", "env.fixed_task_ids=[0]")
    record_run(tmp_path / "logs/sequential/task_0_seed7", recorded)
    command = ("0,1", "", "", TINY, "7")
    assert [step.title for step in sequence(tmp_path, *command)] == ["base model", "task 0", "task 1"]
    assert sequence(tmp_path, "0", "", "5", TINY, "7")[1].todo[0] == "train to epoch 5, resuming after 3"
    with pytest.raises(ConfigError, match=r"actor\.optim\.lr: 0\.001 there, 0\.1 now"):
        sequence(tmp_path, *command, "actor.optim.lr=0.1")
    with pytest.raises(ConfigError, match=r"actor\.optim\.lr: 0\.001 there, 0\.1 now"):
        sequence(tmp_path, "3", "", "", TINY, "8", "actor.optim.lr=0.1")
    assert sequence(tmp_path, *command, "actor.optim.lr=0.1", f"runner.logger.log_root={tmp_path}/other")


def test_a_dry_run_knows_the_methods(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.name=ewcc is not known; expected one of: sequential, ewc, "):
        sequence(tmp_path, "0", "", "", TINY, "7", "--dry-run", "method.name=ewcc")


def test_ppo_in_the_folder_of_grpo_is_refused(tmp_path: Path) -> None:
    record_run(tmp_path / "logs/sequential/task_0_seed7", tiny("runner.seed=7", "env.fixed_task_ids=[0]"))
    words = ("0", "", "", TINY, "7", "algorithm=ppo", "runner.logger.method_suffix=''")
    with pytest.raises(ConfigError, match=r"algorithm\.adv_type: grpo there, gae now"):
        sequence(tmp_path, *words)


def test_what_is_run_alone_lies_where_the_launcher_puts_it(tmp_path: Path) -> None:
    """Without a launcher a run names its own folder."""
    for method, tasks in (("sequential", [3]), ("multitask", [0, 2]), ("ewc_ppo", [1])):
        config = tiny(
            f"method={method.removesuffix('_ppo')}",
            f"env.fixed_task_ids={tasks}",
            "runner.seed=5",
            f"runner.logger.method_suffix={'_ppo' if '_ppo' in method else ''}",
        )
        request = SequenceRequest(stages=(tuple(tasks),), seed=5)
        (planned,) = plan_sequence(request, Recipe(config, TINY), workspace=at(REPOSITORY), ledger=())
        assert run_folder(config) == REPOSITORY / planned.folder


# ------------------------------------------------------------------------------------ checkpoint and configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "libero_goal"}, "trained with suite libero_goal .* the configuration has libero_spatial"),
        ({"model": "other-model"}, "trained with base model other-model"),
    ],
)
def test_a_wrong_configuration_for_the_checkpoint(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    actor = record_run(tmp_path / "logs/sequential/task_0_seed7", tiny("runner.seed=7"))
    write_lineage(actor, **changes)
    with pytest.raises(ConfigError, match=message):
        check_lineage(tiny(), actor)
    with pytest.raises(ConfigError, match=message):
        evaluation(tmp_path, "logs/sequential/task_0", "0.5")
    with pytest.raises(ConfigError, match=message):
        sequence(tmp_path, "1", "logs/sequential/task_0_seed7", "", TINY, "9")


def test_merged_adapters_must_be_given_again(tmp_path: Path) -> None:
    actor = record_run(tmp_path / "task_1_seed7", tiny())
    merged = ("logs/weight_merge/task_0_seed7/checkpoints/global_step_3/actor",)
    base = "./model/tiny-openvla-oft-libero-spatial"
    Lineage("weight_merge", "libero_spatial", 7, (0, 1), (1,), base, merged, 0.8).save(actor)
    assert Lineage.load(actor) == Lineage("weight_merge", "libero_spatial", 7, (0, 1), (1,), base, merged, 0.8)
    with pytest.raises(ConfigError, match=r"on top of 1 merged adapters, .* expected \[logs/weight_merge/task_0"):
        check_lineage(tiny(), actor)
    check_lineage(tiny(f"actor.model.previous_lora_paths=[{merged[0]}]"), actor)
    check_lineage(tiny(), actor, is_merged=True)


def test_lineages_of_earlier_versions_are_read(tmp_path: Path) -> None:
    values = {"method": "sequential", "suite": "s", "seed": 1, "learnt_tasks": [0], "stage": [0], "base_model": "m"}
    (tmp_path / "lineage.json").write_text(json.dumps(values))
    assert Lineage.load(tmp_path) == Lineage("sequential", "s", 1, (0,), (0,), "m")


# --------------------------------------------------------------------------------------------------- scaled evaluations


def test_what_cannot_be_scaled_is_refused(tmp_path: Path) -> None:
    record_run(tmp_path / "logs/sequential/task_0_seed7", tiny("runner.seed=7"))
    with pytest.raises(UsageError, match="no earlier adapters are merged beneath task_0_seed7, global_step_3"):
        evaluation(tmp_path, "logs/sequential/task_0", "0.5", "0.3")
    with pytest.raises(UsageError, match="the base model has no adapter to scale"):
        evaluation(tmp_path, "base", "0.5", "", "", TINY)
    with pytest.raises(ConfigError, match=r"previous_lora_coeff=2.0 must be between 0 and 1"):
        evaluation(tmp_path, "logs/sequential/task_0", "0.5", "2")


@pytest.mark.parametrize(
    ("overrides", "coeff", "expected"),
    [
        ((), None, True),
        (("actor.model.lora_scale=0.5",), None, False),
        (("method=weight_merge", "method.merge.coeff=0.8"), 0.8, True),
        ((), 0.8, False),
        (("actor.model.lora_scale=0.8", "actor.model.previous_lora_paths=[a]"), 0.8, False),
        (
            (
                "actor.model.lora_scale=0.8",
                "actor.model.previous_lora_paths=[a]",
                "actor.model.previous_lora_coeff=0.8",
            ),
            0.8,
            True,
        ),
    ],
)
def test_what_is_a_probe_and_what_a_result(overrides: tuple[str, ...], coeff: float | None, expected: bool) -> None:
    lineage = Lineage("m", "libero_spatial", 7, (0,), (0,), "model", ("a",), coeff)
    assert is_as_trained(tiny(*overrides), lineage) == expected
