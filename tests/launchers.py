"""The launchers with a small policy: how tests run the published commands on real scenes."""

import os
import subprocess
import sys
from pathlib import Path

from rlinf.cli.request import Request, check
from rlinf.config import load_config
from tests.sequences import LAUNCHERS, REPOSITORY, TINY

SEED = 7
SMALL = (
    "env.num_envs_per_worker=2", "env.train.max_episode_steps=16", "env.eval.max_episode_steps=16",
    "env.eval.episodes_per_task=1", "env.eval_task_ids=[0]", "env.video_episodes=0", "cluster.num_env_workers=1",
    "algorithm.num_group_envs=1", "algorithm.group_size=2", "algorithm.filter_rewards=false",
    "actor.model.lora_rank=4", "actor.global_batch_size=8", "actor.micro_batch_size=4",
    "actor.num_threads=1", "rollout.num_threads=1",
)  # fmt: skip
"""Two short episodes of one group, and two updates. Beside other tests a second thread is mostly waited for."""


def of_model(model: Path) -> tuple[str, ...]:
    """What makes a policy the one to start from."""
    paths = ("actor.checkpoint_load_path", "rollout.model_dir", "actor.tokenizer.tokenizer_model")
    return tuple(f"{path}={model}" for path in paths)


def request(model: Path, *overrides: str) -> Request:
    """A command line of ``TINY``, checked."""
    words = [*of_model(model), *overrides]
    return check(load_config(TINY, words), config_name=TINY, overrides=words)


def command(script: str, *words: str, model: Path | None = None, logs: Path | None = None) -> list[str]:
    """A launcher with its arguments; ``model`` is a policy to start from, ``logs`` where results go, with ``SMALL``."""
    own = () if logs is None else (*SMALL, f"runner.logger.log_root={logs}")
    own += () if model is None else of_model(model)
    positional = [word for word in words if "=" not in word]
    return ["bash", str(LAUNCHERS / script), *positional, *own, *(word for word in words if "=" in word)]


def run(words: list[str], *, code: int = 0, timeout: float = 400) -> str:
    """What a command writes; it must end with this exit code, and without a traceback where it is a user's mistake."""
    ours = {"VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, check=False, cwd=REPOSITORY, env=os.environ | ours
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, text[-5000:]
    if code == 2:
        assert sum(line.startswith("error: ") for line in text.splitlines()) == 1, text[-5000:]
        assert "Traceback" not in text
    return text
