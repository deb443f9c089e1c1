"""Two tasks through the launcher, killed on the way and finished by the same command: real scenes, Ray and FSDP."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.chaos import processes
from rlinf.reporting import ledger
from tests.launchers import SEED, TINY, command, run
from tests.processes import wait_until


def _command(model: Path, logs: Path) -> list[str]:
    words = ("0,1", "", "2", TINY, str(SEED), "env.eval_task_ids=[0,1]")
    return command("run_embodiment_sequential.sh", *words, model=model, logs=logs)


@pytest.mark.slow
def test_a_killed_sequence_is_finished_by_the_same_command(small_policy, tmp_path):
    model, logs = small_policy, tmp_path / "logs"
    marker = f"CRL_E2E_MARKER={tmp_path.name}_{os.getpid()}"
    environment = {**os.environ, "CRL_E2E_MARKER": marker.partition("=")[2]}
    first = logs / "sequential" / f"task_0_seed{SEED}" / "checkpoints" / "global_step_1"

    with (tmp_path / "first.log").open("w") as output:
        process = subprocess.Popen(
            _command(model, logs), env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        reached = wait_until(lambda: first.is_dir() or process.poll() is not None, 240)
        process.kill()  # this one alone: it takes its run along
        process.wait()
    assert reached, (tmp_path / "first.log").read_text()[-3000:]
    assert first.is_dir(), (tmp_path / "first.log").read_text()[-3000:]
    assert wait_until(lambda: not processes(marker), 60), processes(marker)

    finished = subprocess.run(
        _command(model, logs), env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    text = finished.stdout + finished.stderr
    assert finished.returncode == 0, text[-5000:]
    assert "resuming at epoch 1 of 2" in text
    for task in (0, 1):
        actor = logs / "sequential" / f"task_{task}_seed{SEED}" / "checkpoints" / "global_step_2" / "actor"
        assert {path.name for path in actor.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
        lineage = json.loads((actor / "lineage.json").read_text())
        assert lineage["learnt_tasks"] == list(range(task + 1))
    records = ledger.read(logs / "sequential" / "evaluations.jsonl")
    assert sorted(record.row for record in records) == ["base", "task_0", "task_1"]
    assert {(record.decoding, record.lora_scale, record.probe) for record in records} == {("sample", 1.0, False)}
    assert {tuple(record.init_states.items()) for record in records} == {((0, "0"), (1, "0"))}
    matrix = ledger.success_matrix(records)
    assert matrix.success_RK.shape == (3, 2)
    assert wait_until(lambda: not processes(marker), 60), processes(marker)

    started = time.monotonic()
    again = subprocess.run(
        _command(model, logs), env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert ledger.read(logs / "sequential" / "evaluations.jsonl") == records
    assert "ray" not in again.stderr.lower(), f"nothing was left to do after {time.monotonic() - started:.0f} s"


@pytest.mark.parametrize(("arguments", "message"), [(["3,1"], "reversed"), (["0"], "hf download")])
def test_bad_input_is_one_message_and_exit_code_two(arguments, message, tmp_path):
    """Before a step is begun, and by a step; other messages: tests/unit/test_launchers_scripts.py."""
    words = command("run_embodiment_sequential.sh", *arguments, f"runner.logger.log_root={tmp_path / 'logs'}")
    assert message in run(words, code=2)
    assert not list(tmp_path.rglob("*.json*")), "nothing half-written"
