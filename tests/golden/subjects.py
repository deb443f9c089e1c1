"""What the golden checks run: every import of the code under test is here, and what it gives are arrays and numbers.

After a rename or a move this module is adapted, and nothing else of the suite.
"""

import io
import runpy
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from rlinf.config.schema import AlgorithmConfig, EnvConfig, EnvSplitConfig, EWCConfig, MethodConfig, OptimConfig
from rlinf.custom.methods import TaskContext, make_method
from rlinf.data import EpisodePlan, Observation, RolloutBatch
from rlinf.engines.checkpoint import save_actor
from rlinf.engines.learner import PolicyLearner
from rlinf.envs import make_env
from rlinf.models import Policy
from tests.simple_cnn import read_cnn, write_cnn
from tests.small_policy import (
    LANGUAGE,
    inputs_of,
    make_rollouts,
    read_policy,
    write_autoregressive_policy,
    write_policy,
)
from tests.unit.methods.replay_demos import write_hdf5

REPOSITORY = Path(__file__).resolve().parents[2]
POLICIES = ("openvla_oft", "openvla", "simple_cnn")
ALGORITHMS = {
    "grpo": AlgorithmConfig(entropy_bonus=0.5),
    "ppo": AlgorithmConfig(
        adv_type="gae", loss_type="ppo", filter_rewards=False, loss_aggregation="token", huber_delta=1.0, update_epoch=2
    ),
}
METHODS = ("ewc", "agem", "lwf", "slca")
SUITE, TASK, SEED = "libero_spatial", 0, 7
MAX_STEPS = 12

Arrays = dict[str, NDArray]


@dataclass(frozen=True)
class Updates:
    """Metrics of each update, and the checkpoints before and after: trained weights and what the method keeps."""

    metrics: tuple[dict[str, float], ...]
    before: Arrays
    after: Arrays


# ------------------------------------------------------------------------------------------------------- policies


def write_checkpoint(name: str, folder: Path) -> Path:
    """A fresh checkpoint with random weights that are the same every time."""
    write = {"openvla_oft": write_policy, "openvla": write_autoregressive_policy, "simple_cnn": write_cnn}[name]
    return write(folder / name)


def load(name: str, checkpoint: Path, *, weights: Path | None = None, critic: bool = False) -> Policy:
    """With the trained ``weights``, else with a fresh adapter where the policy has one."""
    if name == "simple_cnn":
        return read_cnn(checkpoint, weights=weights, critic=critic)
    return read_policy(checkpoint, lora_path=weights, critic=critic)


def act(policy: Policy, *, temperature: float) -> Arrays:
    """Three random observations: what the policy is shown, does, and says of what it did."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (3, 1, 256, 256, 3), dtype=np.uint8)
    inputs = policy.prepare(Observation(images, np.zeros((3, 8), np.float32), (LANGUAGE, "open the drawer", LANGUAGE)))
    uniforms = rng.random((3, *policy.chunk_shape))
    output = policy.act(inputs, temperature=temperature, uniforms_BCA=uniforms)
    with torch.no_grad():
        again = policy.evaluate_actions(inputs, output.bins_BCA, temperature=temperature or 1.0)
    return {
        "images": inputs.images_BNHWC.numpy(),
        "bins": output.bins_BCA.numpy(),
        "logprobs": output.logprobs_BCA.numpy(),
        "actions": output.env_actions_BCA,
        "logprobs again": again.logprobs_BCA.numpy(),
        "entropy": again.entropy_BCA.numpy(),
    }


def update_twice(policy: Policy, folder: Path, *, algorithm: str) -> Updates:
    """Two epochs of one task."""
    learner = _learner(policy, algorithm=algorithm)
    save_actor(learner, _made(folder / "before"), epoch=0)
    metrics = tuple(learner.update(experience(policy, seed=epoch), seed=epoch) for epoch in (0, 1))
    save_actor(learner, _made(folder / "after"), epoch=2)
    return Updates(metrics, saved(folder / "before"), saved(folder / "after"))


def learn_two_tasks(name: str, checkpoint: Path, folder: Path, *, method: str) -> Updates:
    """One epoch of each; the second task starts from what the first one saved, as in a sequence."""
    metrics, folders = [], [folder / "task_0", folder / "task_1"]
    for task, own in enumerate(folders):
        previous = folders[task - 1] if task else None
        policy = load(name, checkpoint, weights=previous)
        learner = _learner(policy, algorithm="grpo", method=method)
        learnt = tuple(range(task))
        context = TaskContext((task,), folder, learnt, micro_batch=4, previous=previous, temperature=1.6, seed=SEED)
        learner.method.on_task_start(context, policy)
        rollouts = experience(policy, seed=task)
        metrics.append(learner.update(rollouts, seed=task))
        learner.method.on_task_end(context, policy, rollouts)
        save_actor(learner, _made(own), epoch=1)
    return Updates(tuple(metrics), saved(folders[0]), saved(folders[1]))


def saved(folder: Path) -> Arrays:
    """Every tensor of a checkpoint but the optimizer's."""
    tensors = {
        f"{path.name}/{key}": value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()
    }
    for path in folder.glob("model.pt"):
        tensors |= {f"{path.name}/{key}": value for key, value in torch.load(path, weights_only=True).items()}
    return {
        key: tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy() for key, tensor in tensors.items()
    }


def _learner(policy: Policy, *, algorithm: str, method: str = "sequential") -> PolicyLearner:
    return PolicyLearner(
        policy,
        make_method(MethodConfig(name=method, ewc=EWCConfig(num_samples=8))),
        algorithm=ALGORITHMS[algorithm],
        optim=OptimConfig(lr=1e-3, clip_grad=0.5),
        global_batch=10,
        micro_batch=4,
        device=torch.device("cpu"),
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def experience(policy: Policy, *, seed: int) -> RolloutBatch:
    """Random images and actions, with the policy's own log-probabilities a little off, so that some are clipped."""
    rng = np.random.default_rng([seed, 9])
    critic = policy.value_head is not None
    rollouts = make_rollouts(num_actions=policy.chunk_shape[0], seed=seed, critic=critic)
    bins = torch.from_numpy(rollouts.bins_SCA)
    with torch.no_grad():
        own = policy.evaluate_actions(inputs_of(rollouts), bins, temperature=1.6).logprobs_BCA.numpy()
    noise = rng.normal(0, 0.2, own.shape).astype(np.float32)
    values = rng.normal(0, 1, rollouts.num_samples).astype(np.float32) if critic else None
    return replace(rollouts, logprobs_SCA=own + noise, values_S=values)


# ------------------------------------------------------------------------------------------------------ simulator


def open_scene() -> object:
    """Two environments of a real LIBERO scene, as a training worker holds them."""
    split = EnvSplitConfig(max_episode_steps=MAX_STEPS)
    env = make_env(EnvConfig(num_envs_per_worker=2, train=split))
    env.configure(split)
    return env


def play_fixed(env) -> Arrays:
    """Two chunks of random actions in both environments; the step limit cuts the last one short."""
    rng = np.random.default_rng(0)
    ids = (0, 1)
    first = env.reset([EpisodePlan(index, 0, SUITE, TASK, index, SEED) for index in ids], ids)
    steps = [env.step_chunk(rng.uniform(-1, 1, (2, 8, 7)).astype(np.float32), ids, video_ids=()) for _ in range(2)]
    seen = [first, *(step.observation for step in steps)]
    return {
        "images": np.stack([one.images_BNHWC for one in seen]),
        "proprio": np.stack([one.proprio_BP for one in seen]),
        "executed": np.stack([step.executed_BC for step in steps]),
        "rewards": np.stack([step.rewards_BC for step in steps]),
        "success": np.stack([step.success_BC for step in steps]),
        "done": np.stack([step.done_B for step in steps]),
    }


def play_policy(policy: Policy, env) -> Arrays:
    """The policy's own episodes: what it was shown, what it did, and what came of it, by time."""
    ids = (0, 1)
    observation = env.reset([EpisodePlan(index, 0, SUITE, TASK, index, SEED) for index in ids], ids)
    played: dict[str, list[NDArray]] = {}
    done = False
    for number in range(MAX_STEPS):
        if done:
            break
        uniforms = [np.random.default_rng([SEED, index, number]).random(policy.chunk_shape) for index in ids]
        inputs = policy.prepare(observation)
        output = policy.act(inputs, temperature=1.6, uniforms_BCA=np.stack(uniforms))
        step = env.step_chunk(output.env_actions_BCA, ids, video_ids=())
        observation, done = step.observation, bool(step.done_B.all())
        seen = {
            "images": inputs.images_BNHWC.numpy(),
            "bins": output.bins_BCA.numpy(),
            "logprobs": output.logprobs_BCA.numpy(),
            "executed": step.executed_BC,
            "rewards": step.rewards_BC,
        }
        for key, array in seen.items():
            played.setdefault(key, []).append(array)
    return {key: np.stack(arrays) for key, arrays in played.items()}


# ------------------------------------------------------------------------------------------------------- commands


def write_demonstrations(folder: Path) -> None:
    """Two demonstrations of each task of LIBERO-Spatial."""
    write_hdf5(folder, task_ids=range(10), num_demos=2, num_steps=3, size=8)


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    output: str


def launch(script: str, words: Sequence[str], *, stub: Path, environment: Mapping[str, str]) -> Done:
    """Run a launcher's bash; the Python command that it ends in runs in this process, which is ten times as quick.

    stub: a folder for the interpreter that bash finds, which only says what it is called with.
    """
    python = stub / "bin" / "python"
    if not python.exists():
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\nprintf 'PYTHON\\0'\nprintf '%s\\0' \"$@\"\n")
        python.chmod(0o755)
    shell = subprocess.run(
        ["bash", str(REPOSITORY / "examples" / script), *words],
        env={**environment, "VIRTUAL_ENV": str(stub)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if not shell.stdout.startswith("PYTHON\0"):
        return Done(shell.returncode, shell.stdout + shell.stderr)
    _, *arguments, _ = shell.stdout.split("\0")
    return run_python(arguments)


def run_python(arguments: Sequence[str]) -> Done:
    """``python ARGUMENT...`` in this process: ``-m MODULE`` or a file, with what it is given."""
    own, output, code = sys.argv, io.StringIO(), 0
    try:
        with warnings.catch_warnings(), redirect_stdout(output), redirect_stderr(output):
            warnings.simplefilter("ignore", RuntimeWarning)  # the module was imported before
            if arguments[0] == "-m":
                sys.argv = list(arguments[1:])
                runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = list(arguments)
                runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = own
    return Done(code, output.getvalue())


def make_report(study: Path, folder: Path) -> dict[str, Path]:
    """The page and the tables of the experiments below ``study``, by the command that users give."""
    files = {"page": folder / "report.html", "latex": folder / "table.tex", "csv": folder / "table.csv"}
    options = ("--out", str(files["page"]), "--latex", str(files["latex"]), "--csv", str(files["csv"]))
    done = run_python(["-m", "rlinf.cli.report", str(study), *options])
    assert done.code == 0, done.output
    return files
