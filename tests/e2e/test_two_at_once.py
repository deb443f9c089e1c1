"""The same command twice at the same time: one does it, the other names it and changes nothing."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from libero_runtime.folder_lock import only_one
from rlinf.reporting import ledger
from tests.processes import wait_until
from tests.small_policy import write_policy

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "examples" / "crl_experiment"
SEED = 7


def command(script: str, words: list[str], model: Path, logs: Path) -> list[str]:
    return [
        "bash", str(SCRIPTS / script), *words,
        f"actor.checkpoint_load_path={model}", f"rollout.model_dir={model}", f"actor.tokenizer.tokenizer_model={model}",
        f"runner.logger.log_root={logs}", "actor.model.lora_rank=4", "env.video_episodes=0",
        "algorithm.num_group_envs=1", "algorithm.group_size=2", "algorithm.filter_rewards=false",
        "env.num_envs_per_worker=2", "env.train.max_episode_steps=16", "env.eval.max_episode_steps=16",
        "env.eval.episodes_per_task=1", "env.eval_task_ids=[0,1]", "cluster.num_env_workers=1",
        "actor.global_batch_size=8", "actor.micro_batch_size=4",
    ]  # fmt: skip


def training(task: int, model: Path, logs: Path) -> list[str]:
    words = [str(task), "", "1", "crl_experiment/libero_spatial_grpo_tiny", str(SEED)]
    return command("run_embodiment_sequential.sh", words, model, logs)


def evaluation(model: Path, logs: Path) -> list[str]:
    return command("eval_embodiment.sh", ["base", "", "crl_experiment/libero_spatial_grpo_tiny_eval"], model, logs)


def is_refused(words: list[str], folder: Path, pid: int) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2, (done.stdout + done.stderr)[-3000:]
    assert f"error: another process is writing to {folder}: process {pid} on " in done.stderr
    assert "runner.logger.log_root=FOLDER" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr


def holder(folder: Path) -> int | None:
    """The process that evaluates, as it noted itself."""
    texts = [path.read_text() for path in folder.glob(".evaluating_*")]
    return json.loads(texts[0])["pid"] if any(texts) else None


@pytest.mark.slow
def test_training_waits_for_nobody_but_its_own_task(tmp_path):
    model, logs = write_policy(tmp_path / "small"), tmp_path / "logs"
    results = logs / "sequential"
    folder = results / f"task_0_seed{SEED}"
    with only_one(folder, doing="writing to", advice=""):
        before = sorted(logs.rglob("*"))
        is_refused(training(0, model, logs), folder, os.getpid())
        assert sorted(logs.rglob("*")) == before
        done = subprocess.run(training(1, model, logs), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert [record.row for record in ledger.read(results / ledger.LEDGER_NAME)] == ["base", "task_1"]


@pytest.mark.slow
def test_an_evaluation_is_recorded_once_and_one_that_was_killed_is_no_obstacle(tmp_path):
    model, logs = write_policy(tmp_path / "small"), tmp_path / "logs"
    folder = logs / "sequential" / "base_seed1234"
    words = evaluation(model, logs)
    killed = None
    for kill in (True, False):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            assert wait_until(lambda killed=killed: holder(folder) not in (None, killed), seconds=120)
            pid = holder(folder)
            if kill:
                os.kill(pid, signal.SIGKILL)
                killed = pid
            else:
                os.kill(pid, signal.SIGSTOP)  # it would be done too soon
                is_refused(words, folder, pid)
                os.kill(pid, signal.SIGCONT)
        assert first.returncode == (137 if kill else 0)
        assert holder(folder) == killed if kill else holder(folder) is None
    assert len(ledger.read(folder.parent / ledger.LEDGER_NAME)) == 1
