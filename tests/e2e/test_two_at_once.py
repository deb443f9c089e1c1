"""The same command twice at the same time: one does it, the other names it and changes nothing."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks import chaos
from libero_runtime.files import FolderInUseError, only_one
from rlinf.cli import train
from rlinf.reporting import ledger
from rlinf.run_layout import LEDGER_FILE
from tests.launchers import SEED, TINY, command, of_model, request, run
from tests.processes import wait_until

RANDOM = "crl_experiment/libero_spatial_random_action_eval"


def holder(folder: Path) -> int | None:
    """The process that evaluates, as it noted itself."""
    texts = [path.read_text() for path in folder.glob(".evaluating_*")]
    return json.loads(texts[0])["pid"] if any(texts) else None


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


@pytest.mark.slow
def test_an_evaluation_is_recorded_once_and_one_that_was_killed_is_no_obstacle(tmp_path):
    """It is killed, and is started again by its launcher; the same command meanwhile is refused."""
    folder = tmp_path / "random_action" / "base_seed1234"
    words = command("eval_embodiment.sh", "base", "", RANDOM, logs=tmp_path)
    env = os.environ | {chaos.MARKER: str(tmp_path)}
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        assert wait_until(lambda: holder(folder) is not None, seconds=120)
        killed = holder(folder)
        os.kill(killed, signal.SIGKILL)
        assert wait_until(lambda: holder(folder) not in (None, killed), seconds=120)
        pid = holder(folder)
        os.kill(pid, signal.SIGSTOP)  # it would be done too soon
        try:
            text = run(words, code=2)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert f"error: another process is writing to {folder}: process {pid} on " in text
    assert "runner.logger.log_root=FOLDER" in text
    assert first.returncode == 0
    assert holder(folder) is None
    assert len(ledger.read(folder.parent / LEDGER_FILE)) == 1
    assert wait_until(lambda: not chaos.processes(str(tmp_path)), 60), chaos.processes(str(tmp_path))
