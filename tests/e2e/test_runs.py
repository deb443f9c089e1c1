"""Runs as their launchers plan them, in one process, which therefore share a cluster and its workers: real scenes, Ray
and FSDP. Launchers as processes of their own: below, where they are killed."""

import json
import os
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from random import Random

import pytest
import ray
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from benchmarks import chaos
from libero_runtime.files import FolderInUseError, only_one
from rlinf.cli import evaluate, run_sequence, steps, train
from rlinf.cli.console import run_cli
from rlinf.cli.launcher import read_arguments
from rlinf.config import ConfigError
from rlinf.custom.sequence.locations import Workspace
from rlinf.envs.vector_env import VIDEO_STRIDE
from rlinf.reporting import ledger
from rlinf.reporting.jsonlines import read_lines
from rlinf.run_layout import TRAINING_STATE, checkpoints
from rlinf.scheduler.cluster import Cluster
from rlinf.workers.session import Session
from tests.launchers import REPOSITORY, SEED, SMALL, TINY, command, of_model, request
from tests.processes import wait_until
from tests.sequences import declaration
from tests.simple_cnn import write_cnn
from tests.small_policy import write_autoregressive_policy
from tests.unit.finetuning.sft_runs import run as finetune
from tests.unit.methods.replay_demos import write_hdf5

pytestmark = pytest.mark.slow
RANDOM = "crl_experiment/libero_spatial_random_action_eval"
CNN = "crl_experiment/libero_spatial_grpo_simple_cnn"
SHARED = ("env.eval_task_ids=[0,1]", "cluster.object_store_gb=0.7")  # what a cluster is started for
SHARED_LATER = (*SHARED, "env.cameras=[agentview,eye_in_hand]", "runner.trace=true")  # and another one
WHEN_AND_WHERE = ("time", "wall_seconds", "config_hash")
LEARNING = (*SHARED, "actor.optim.lr=0.1", "algorithm.entropy_bonus=1.0")  # random weights never succeed


@pytest.fixture(scope="module")
def session():
    with Session() as shared:
        yield shared
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    return write_hdf5(tmp_path_factory.mktemp("demos"), task_ids=[0, 1])


@pytest.fixture(scope="module")
def two_cameras(small_policy, demonstrations, tmp_path_factory):
    """A policy that was trained on images of two cameras, cut at random."""
    model = tmp_path_factory.mktemp("two_cameras") / "policy"
    as_oft = ("--cameras", "agentview,eye_in_hand", "--pictures", "oft_random_crop")
    assert finetune(demonstrations, model, "--init", str(small_policy), "--steps", "1", *as_oft) == 0
    return model


@pytest.fixture
def shared_cluster(session, monkeypatch):
    """An evaluation takes the cluster of the test before, if there is one."""

    def cluster(*, object_store_gb: float):
        if session._cluster is None:
            session._cluster = session.enter_context(Cluster(object_store_gb=object_store_gb))
        return nullcontext(session._cluster)

    monkeypatch.setattr(evaluate, "Cluster", cluster)


@pytest.fixture
def carry_out(session, shared_cluster, monkeypatch):
    """Does what a launcher does, with the cluster and the workers of the test before, where they fit."""
    monkeypatch.setattr(steps, "Session", lambda: nullcontext(session))
    monkeypatch.setattr(
        evaluate, "start_workers", lambda config, *_, source, **__: session.learning_workers(config, source)
    )

    def do(script: str, *words: str, model: Path, logs: Path) -> None:
        signature, fixed = declaration(script)
        given = command(script, *words, model=model, logs=logs)[2:]
        arguments = read_arguments([script, signature, *given, "--", *fixed])
        plan = run_sequence.evaluation_steps if arguments.action == "evaluate" else run_sequence.sequence_steps
        assert steps.run_steps(plan(arguments, Workspace(root=REPOSITORY, called_from=REPOSITORY))[1]) == 0

    return do


def actor_of(results: Path, task: int, *, step: int = 1) -> Path:
    return results / f"task_{task}_seed{SEED}" / "checkpoints" / f"global_step_{step}" / "actor"


def records_of(results: Path) -> list[ledger.EvaluationRecord]:
    return ledger.read(results / "evaluations.jsonl")


def lines_of(results: Path) -> list[dict[str, object]]:
    """The ledger without when, and with how many workers, which is in the hash."""
    lines = map(json.loads, (results / "evaluations.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in WHEN_AND_WHERE} for line in lines]


def test_tasks_of_processes_that_were_killed_have_the_bits_of_tasks_in_one(
    small_policy, tmp_path, carry_out, monkeypatch, capsys, caplog
):
    """EWC, which hands on an adapter, an anchor and its importance; entropy gives every weight a gradient. A simulator
    and one of two inference workers are killed during the first task, the driver and then the launcher during the
    second, which a third process ends."""
    caplog.set_level("INFO")
    script = "run_embodiment_sequential.sh"
    own = (*SHARED, "method.name=ewc", "method.label=sequential", "method.ewc.num_samples=2")
    own += ("algorithm.entropy_bonus=0.1", "algorithm.num_group_envs=2")
    both = (script, "0,1", "", "5", TINY, str(SEED), *own)
    logs, undisturbed = tmp_path / "logs", tmp_path / "undisturbed"
    carry_out(*both, model=small_policy, logs=logs)
    assert caplog.text.count("local Ray:") == 1, "one cluster serves both"
    logs.rename(undisturbed)  # paths in the ledger are the same, too

    words = ["5", TINY, str(SEED), *SMALL, *of_model(small_policy), *own]
    words += ["cluster.num_rollout_workers=2", "cluster.num_env_workers=2"]
    monkeypatch.setattr(chaos, "QUIET_S", (0.0, 0.0))
    with chaos.launched("0,1", words, logs) as disturbed:
        for task, fault in ((0, "SIGKILL of simulator"), (0, "SIGKILL of rollout"), (1, "SIGKILL of driver")):
            run = logs / "sequential" / f"task_{task}_seed{SEED}"
            assert wait_until(lambda run=run: checkpoints(run) or disturbed.process.poll() is not None, 240)
            assert chaos.disturb(disturbed, chaos.chosen(fault, chaos.faults()), Random(0), 1), capsys.readouterr().out
        disturbed.process.kill()  # this one alone: it takes its run along
        disturbed.process.wait()
    text = disturbed.log.read_text()
    assert text.count("replaced: rollout 0") + text.count("replaced: rollout 1") == 1
    assert "the run was killed by signal 9; it goes on from what was saved, restart 1 of 3" in text
    assert re.search(r"resuming at epoch \d of 5", text)
    assert wait_until(lambda: not chaos.processes(disturbed.marker), 60), chaos.processes(disturbed.marker)

    carry_out(*both, model=small_policy, logs=logs)
    assert chaos.same_adapters(undisturbed, logs)
    for task in (0, 1):
        actors = [actor_of(results / "sequential", task, step=5) for results in (undisturbed, logs)]
        states = [load_file(actor / "method_state.safetensors") for actor in actors]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        moments = [torch.load(one / TRAINING_STATE, weights_only=True)["optimizer"]["state"] for one in actors]
        for key, moment in moments[0].items():
            assert torch.equal(moment["exp_avg"], moments[1][key]["exp_avg"]), key
        assert json.loads((actors[1] / "lineage.json").read_text())["learnt_tasks"] == list(range(task + 1))
    assert lines_of(undisturbed / "sequential") == lines_of(logs / "sequential")
    records = records_of(logs / "sequential")
    assert [record.row for record in records] == ["base", "task_0", "task_1"]
    assert {(record.decoding, record.lora_scale, record.probe) for record in records} == {("sample", 1.0, False)}
    assert {tuple(record.init_states.items()) for record in records} == {((0, "0"), (1, "0"))}
    assert ledger.success_matrix(records).success_RK.shape == (3, 2)
    capsys.readouterr()
    carry_out(*both, model=small_policy, logs=logs)
    assert capsys.readouterr().out.count("done before, skipped") == 2, "nothing was left to do"


def test_an_epoch_played_while_another_is_learnt_resumes_exactly(small_policy, tmp_path, carry_out):
    """Epochs 2 and 4 of four are played with the weights of the epoch before; checkpoints are after 2 and 4."""
    own = (*SHARED, "runner.eval_before=false", "runner.eval_after=false", "runner.save_interval=2")
    own += ("algorithm.max_policy_lag=1", "algorithm.entropy_bonus=0.01")
    folder = tmp_path / "sequential" / f"task_0_seed{SEED}"
    adapters = []
    for _ in range(2):
        carry_out(
            "run_embodiment_sequential.sh", "0", "", "4", TINY, str(SEED), *own, model=small_policy, logs=tmp_path
        )
        lines = [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        lags = [line["train/policy_lag"] for line in lines if "train/policy_lag" in line]
        assert lags == ([0, 1, 0, 1] if not adapters else [0, 1, 0, 1, 0, 1])
        last = folder / "checkpoints" / "global_step_4"
        adapters.append((last / "actor" / "adapter_model.safetensors").read_bytes())
        shutil.rmtree(last)  # as if the run had ended before it was written
    assert adapters[0] == adapters[1]


def test_two_tasks_are_merged_and_scaled(small_policy, tmp_path, carry_out, capsys):
    own = {"model": small_policy, "logs": tmp_path}
    carry_out("run_embodiment_weight_merge.sh", "0,1", "0.5", TINY, str(SEED), *LEARNING, "runner.max_epochs=1", **own)
    assert "merged      " in capsys.readouterr().out
    results = tmp_path / "weight_merge"
    lineage = json.loads((actor_of(results, 1) / "lineage.json").read_text())
    assert (lineage["learnt_tasks"], lineage["merge_coeff"]) == ([0, 1], 0.5)
    assert [f"task_0_seed{SEED}" in path for path in lineage["merged"]] == [True]
    location = str(results / f"task_1_seed{SEED}")
    carry_out("eval_embodiment_lora_scale.sh", location, "0", "0", "", TINY, *LEARNING, **own)
    records = records_of(results)
    assert [(record.row, record.lora_scale, record.previous_coeff, record.probe) for record in records] == [
        ("base", 1.0, None, False),
        ("task_0", 0.5, None, False),
        ("task_1", 0.5, 0.5, False),
        ("task_1", 0.0, 0.0, True),
    ]
    assert {record.method for record in records} == {"weight_merge"}
    assert ledger.success_matrix(records).success_RK.shape == (3, 2)


def test_two_tasks_have_an_adapter_each(small_policy, tmp_path, carry_out):
    own = {"model": small_policy, "logs": tmp_path}
    carry_out("run_embodiment_dwe.sh", "0,1", "", "1", TINY, str(SEED), *LEARNING, **own)
    results = tmp_path / "dwe"
    last = actor_of(results, 1)
    lineage = json.loads((last / "lineage.json").read_text())
    assert (lineage["learnt_tasks"], lineage["stage"]) == ([0, 1], [1])
    assert lineage["experts"] == [str(actor_of(results, 0))]
    carry_out("eval_embodiment.sh", str(last.parents[2]), "", TINY, *LEARNING, "env.eval_task_ids=[0,1,2]", **own)
    records = records_of(results)
    assert [(one.row, one.learnt_tasks, one.probe) for one in records] == [
        ("base", (), False),
        ("task_0", (0,), False),
        ("task_1", (0, 1), False),
        ("task_1", (0, 1), False),
    ]
    assert [len(one.success) for one in records] == [2, 2, 2, 3]
    assert ledger.success_matrix(records[:3]).success_RK.shape == (3, 2)


def test_an_autoregressive_policy_is_trained_and_evaluated(tmp_path, carry_out):
    model, config = write_autoregressive_policy(tmp_path / "small"), f"{TINY}_openvla"
    carry_out("run_embodiment_sequential.sh", "0", "", "1", config, str(SEED), *SHARED, model=model, logs=tmp_path)
    results = tmp_path / "sequential"
    assert (actor_of(results, 0) / "adapter_model.safetensors").is_file()
    assert json.loads((results / f"task_0_seed{SEED}" / "run.json").read_text())["config_name"] == config
    assert {record.row for record in records_of(results)} == {"base", "task_0"}
    assert {record.mean_episode_len for record in records_of(results)} == {16}


def test_a_cnn_is_trained_and_evaluated(tmp_path, carry_out):
    model, folder = write_cnn(tmp_path / "cnn"), tmp_path / "simple_cnn" / f"task_0_seed{SEED}"
    own = (*SHARED, "algorithm.rollout_epoch=1", "runner.eval_before=false", "env.eval.ignore_terminations=false")
    train = ("run_embodiment_simple_cnn.sh", "0", "", "1", CNN, str(SEED), *own)
    carry_out(*train, model=model, logs=tmp_path)
    assert {1} == {entry["step"] for _, entry in read_lines(folder / "metrics.jsonl")}
    learnt = (folder / "metrics.jsonl").read_text()
    files = {path.name for path in actor_of(tmp_path / "simple_cnn", 0).iterdir()}
    assert files >= {"model.pt", "config.json", "training_state.pt", "lineage.json"}
    records = records_of(tmp_path / "simple_cnn")
    assert [(record.method, record.row) for record in records] == [("simple_cnn", "task_0")]
    assert json.loads((folder / "run.json").read_text())["config_name"] == CNN
    carry_out("eval_embodiment.sh", str(folder), "1", f"{CNN}_eval", *SHARED, model=model, logs=tmp_path)
    assert [record.row for record in records_of(tmp_path / "simple_cnn")] == 2 * ["task_0"]
    assert (folder / "metrics.jsonl").read_text() == learnt, "an evaluation is no epoch"


def test_random_actions_are_evaluated_and_recorded_as_such_on_other_goals_too(
    tmp_path, shared_cluster, monkeypatch, capsys
):
    """Once: the same command is refused meanwhile."""
    words = [*SMALL, f"runner.logger.log_root={tmp_path}", "env.eval_suites=[libero_spatial_task]", SHARED[0]]
    # Two films, of episodes that one simulator plays side by side.
    words = ["--config-name", RANDOM, *words, "env.video_episodes=2"]
    play = evaluate.evaluate_suites

    def play_and_try_again(*given, **options):
        monkeypatch.setattr(evaluate, "evaluate_suites", play)
        with pytest.raises(SystemExit) as left:
            run_cli(evaluate.main, words)
        assert left.value.code == 2
        return play(*given, **options)

    monkeypatch.setattr(evaluate, "evaluate_suites", play_and_try_again)
    assert evaluate.main(words) == 0
    text, refusal = capsys.readouterr()
    assert refusal.count("error: ") == 1
    assert f"error: another process is writing to {tmp_path / 'random_action'}/" in refusal
    assert f": process {os.getpid()} on " in refusal
    assert "runner.logger.log_root=FOLDER" in refusal
    assert not list(tmp_path.rglob(".evaluating_*")), "it is over"
    for name in ("eval/env_info/task_0_success", "eval/libero_spatial_task/task_0_success_total"):
        assert f"'{name}'" in text
    own, other = records_of(tmp_path / "random_action")
    assert (own.suite, own.learnt_suite, own.is_further) == ("libero_spatial", "", False)
    assert (other.suite, other.learnt_suite) == ("libero_spatial_task", "libero_spatial")
    for record in (own, other):
        assert (record.method, record.row, record.checkpoint) == ("random_action", "base", "random actions")
        assert record.episodes == {0: 1, 1: 1}
        assert record.mean_episode_len == 16
    names = {path.name for path in tmp_path.rglob("*.webp")}
    assert names >= {"evaluation_task_0_init_0.webp", "evaluation_task_1_init_0.webp"}
    for path in tmp_path.rglob("*.webp"):
        with Image.open(path) as video:
            assert video.n_frames == 16 // VIDEO_STRIDE


def test_what_a_worker_refuses_ends_an_evaluation_with_one_message(small_policy, tmp_path, carry_out, capsys):
    broken = Path(shutil.copytree(small_policy, tmp_path / "policy"))
    (broken / "tokenizer.json").write_text("{}")
    words = ("eval_embodiment.sh", "base", "", TINY, *SHARED)
    with pytest.raises(SystemExit) as left:
        run_cli(lambda _: carry_out(*words, model=broken, logs=tmp_path / "logs") or 0, [])
    said = capsys.readouterr().err
    error = f"error: the tokenizer in {broken} cannot be read (KeyError: 'added_tokens'); expected that of a Llama"
    assert left.value.code == 2
    assert error in said
    assert (said.count("error: "), said.count("Traceback")) == (1, 0)


def test_training_waits_for_nobody_but_its_own_task(small_policy, tmp_path):
    model, logs = small_policy, tmp_path / "logs"
    results = logs / "sequential"
    folder = results / f"task_0_seed{SEED}"
    own = (f"runner.seed={SEED}", f"runner.logger.log_root={logs}")
    with only_one(folder, doing="writing to", advice=""):
        before = sorted(logs.rglob("*"))
        with pytest.raises(FolderInUseError, match=f"another process is writing to {folder}: process {os.getpid()} on"):
            train.main(["--config-name", TINY, *of_model(model), "env.fixed_task_ids=[0]", *own])
        assert sorted(logs.rglob("*")) == before
        beside = request(model, "env.fixed_task_ids=[1]", *own)
        with beside.alone():
            assert sorted(path.name for path in results.iterdir()) == [f"task_{task}_seed{SEED}" for task in (0, 1)]


def test_random_actions_are_not_trained(tmp_path):
    with pytest.raises(ConfigError, match="learns nothing"):
        train.main(["--config-name", RANDOM, f"runner.logger.log_root={tmp_path}"])
    assert not list(tmp_path.iterdir())


def test_rollouts_and_replay_see_what_a_policy_was_trained_on(
    two_cameras, demonstrations, session, tmp_path, carry_out, capsys, caplog
):
    """Two cameras and random crops, all the way; simulators with one camera are not among its workers. An evaluation of
    what was learnt: tests/unit/methods/test_training_records.py."""
    caplog.set_level("INFO")
    of_others = session._cluster
    own = (*SHARED_LATER, f"method.replay.demonstrations={demonstrations}", "method.replay.tasks=seen")
    train = ("run_embodiment_er.sh", "0,1", "0.03", "", "1", TINY, str(SEED), *own)
    carry_out(*train, model=two_cameras, logs=tmp_path)
    assert session._cluster is not of_others
    assert "actor.model.picture_path=oft_center_crop, as " in caplog.text
    for task in (0, 1):
        folder = tmp_path / "er" / f"task_{task}_seed{SEED}"
        assert OmegaConf.load(folder / "config.yaml").actor.model.picture_path == "oft_center_crop"
        lineage = json.loads((actor_of(tmp_path / "er", task) / "lineage.json").read_text())
        assert (lineage["picture_path"], lineage["cameras"]) == ("oft_center_crop", ["agentview", "eye_in_hand"])
    carry_out(*train, model=two_cameras, logs=tmp_path)
    skipped = capsys.readouterr().out.count("done before, skipped")
    assert skipped == 2, "the launcher, which reads no record, knows its own runs"
    assert {record.row for record in records_of(tmp_path / "er")} == {"base", "task_0", "task_1"}


def check_trace(events, *, seconds: float) -> None:
    """Each process has its row; its spans are nested or apart, and within what the driver does."""
    row_of = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert list(row_of.values()) == ["driver", "actor 0", "rollout 0", "env 0"]
    lanes: dict[tuple[str, int], list[tuple[float, float, str]]] = {}
    for event in events:
        if event["ph"] == "X":
            own = lanes.setdefault((row_of[event["pid"]], event["tid"]), [])
            own.append((event["ts"], event["ts"] + event["dur"], event["name"]))
    names = {row: {name for (of, _), own in lanes.items() if of == row for *_, name in own} for row in row_of.values()}
    assert names == {
        "driver": {"evaluate", "sync_weights", "rollout", "update", "end_task", "save", "log"},
        "actor 0": {"gather weights", "update", "read samples", "end task", "save"},  # no sample, so no step
        "rollout 0": {
            "load weights", "collect", "submit", "wait for simulators", "act", "read answer", "prepare", "policy",
            "hand over actions", "inference",
        },
        "env 0": {"reset", "build scene", "step", "simulate", "draw"},
    }  # fmt: skip
    phases = lanes["driver", 0]
    end = max(end for _, end, _ in phases)
    assert end - min(start for start, _, name in phases if name == "sync_weights") > 1e6 * seconds
    for (row, _), own in lanes.items():
        running: list[float] = []
        for start, until, name in sorted(own, key=lambda span: (span[0], -span[1])):
            while running and running[-1] <= start + 1:
                running.pop()
            assert until <= (running or [end])[-1] + 1, (row, name)
            is_saving = row == "actor 0" and name in ("gather weights", "save")  # while the driver goes on
            is_asked_for = any(first <= start and until <= last for first, last, _ in phases)
            assert row == "driver" or is_saving or is_asked_for, (row, name)
            running.append(until)


def test_rounds_until_groups_carry_a_signal_two_temperatures_and_a_trace(two_cameras, tmp_path, carry_out):
    """Random weights never succeed: no group carries a signal, and all rounds that are allowed are played. Of a task
    whose scene no test before has built."""
    words = ["2", "", "2", TINY, str(SEED), *SHARED_LATER, "algorithm.max_rollout_epoch=3"]
    words += ["env.eval.temperatures=[1.0,0.0]", "algorithm.filter_rewards=true", "runner.val_check_interval=2"]
    carry_out("run_embodiment_sequential.sh", *words, model=two_cameras, logs=tmp_path)
    folder = tmp_path / "sequential" / f"task_2_seed{SEED}"
    lines = [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "train/num_steps" in line]
    assert [line["rollout/num_episodes"] for line in trained] == 2 * [3 * 2], "rounds of a group of two"
    in_both = {f"time/{name}" for name in ("log", "sync_weights", "rollout", "update", "save")}
    for line, parts in zip(trained, (in_both, in_both | {"time/end_task", "time/evaluate"}), strict=True):
        others = {"time/epoch", "time/inference", "time/waiting_for_simulator"}
        assert {name for name in line if name.startswith("time/")} == parts | others
        assert abs(sum(line[name] for name in parts) - line["time/epoch"]) < 0.005
    check_trace(json.loads((folder / "trace.json").read_text()), seconds=sum(line["time/epoch"] for line in trained))
    evaluated = {name for line in lines for name in line if name.startswith("eval/")}
    assert {"eval/env_info/success_once", "eval/env_info_temperature_0/success_once"} <= evaluated
    records = records_of(tmp_path / "sequential")
    assert [(record.row, record.decoding, record.temperature) for record in records] == [
        (row, *way) for row in ("base", "task_2") for way in (("sample", 1.0), ("greedy", 0.0))
    ]
    assert len({str(record.init_states) for record in records}) == 1
