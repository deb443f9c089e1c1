"""What only a GPU can show, measured in one run and written as one JSON; see `benchmarks/gpu.sh`.

    bash benchmarks/gpu.sh [--quick] [--out FOLDER] [--only PART ...] [--commit HASH]
    python -m benchmarks.gpu --publish FOLDER/gpu.json          # show it in docs/benchmarks.md
    python -m benchmarks.gpu --not-run "REASON"                 # say there that the code has changed since

Parts: `tests` (tests/gpu), `model` (benchmarks/vla.py), `large` (whole epochs of the 7B's shape, random weights) and
`small` (whole epochs of the policy that ships). With `--only`, what FOLDER/gpu.json has of other parts is kept if the
code is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.code_on_gpu import REPOSITORY, fingerprint
from benchmarks.gpus import visible_gpus
from libero_runtime.cpus import num_cpus
from rlinf.reporting.run_info import hardware
from rlinf.workers.launch import torch_environment

PUBLISHED = REPOSITORY / "docs" / "gpu.json"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
BEGIN, END = "<!-- docs/gpu.json -->", "<!-- end of docs/gpu.json -->"
NOT_RUN = "Not run on a GPU since"
PACKAGES = ("torch", "triton", "transformers", "peft", "ray", "mujoco")
OUTCOMES = ("passed", "skipped", "failed", "error")
TRAIN = "examples/embodiment/train_embodied_agent.py"
LARGE = (
    "env.fixed_task_ids=[0]", "env.train.max_episode_steps=128", "algorithm.num_group_envs=8", "algorithm.group_size=8",
    "algorithm.rollout_epoch=2", "algorithm.filter_rewards=false", "actor.global_batch_size=1024",
    "actor.micro_batch_size=16", "actor.model.compile_blocks=true", "actor.model.gradient_checkpointing=false",
    "rollout.max_batch=32",
)  # fmt: skip
LARGE_QUICK = (*LARGE, "algorithm.rollout_epoch=1", "env.train.max_episode_steps=32", "actor.global_batch_size=256")
SMALL = ("env.fixed_task_ids=[0]", "runner.eval_before=false", "runner.eval_after=false")
SHOWN = (
    "time/rollout", "time/inference", "time/waiting_for_simulator", "time/update", "time/sync_weights", "time/save",
    "time/epoch", "rollout/num_chunks", "rollout/steps_per_second", "train/logprob_gap", "train/approx_kl",
)  # fmt: skip


class StepError(RuntimeError):
    """A part of the run failed; the message says which, and where its output is."""


@dataclass(frozen=True)
class Place:
    """Where a run writes, and how much it does. tiny: on a CPU, to try this program."""

    folder: Path
    quick: bool
    tiny: bool


def run(
    place: Place, name: str, command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> float:
    """Run a command with its output in a file, and with more variables in its environment; returns the seconds it took.

    Raises:
        StepError: it ended with another code than 0, or not in time.
    """
    log = place.folder / f"{name}.log"
    print(f"== {name}: {' '.join(command)}", flush=True)
    started = time.monotonic()
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, **torch_environment(), "PYTHONPATH": path, **(environment or {})}
    with log.open("w", encoding="utf-8") as file:
        try:
            done = subprocess.run(
                command, cwd=REPOSITORY, env=variables, stdout=file, stderr=subprocess.STDOUT, timeout=timeout_s,
                stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            code = str(done.returncode)
        except subprocess.TimeoutExpired:
            code = f"nothing within {timeout_s:.0f} s"
    seconds = time.monotonic() - started
    if code != "0":
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]))
        raise StepError(f"{name} ended with {code} after {seconds:.0f} s; its output is in {log}")
    print(f"   {seconds:.0f} s", flush=True)
    return seconds


class MemoryWatch:
    """The most memory in use, of all processes, in GB: of any of some GPUs (0 without one), and of the machine, beyond
    what was in use at the start."""

    def __init__(self, gpus: str) -> None:
        """gpus: as in CUDA_VISIBLE_DEVICES."""
        self.peak_gb = self.host_gb = 0.0
        self._gpus, self._free_at_start = gpus, _available_gb()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        query = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={self._gpus}")
        while not self._over.wait(1.0):
            self.host_gb = max(self.host_gb, self._free_at_start - _available_gb())
            if self._gpus:
                shown = subprocess.run(query, capture_output=True, text=True, check=True).stdout
                self.peak_gb = max(self.peak_gb, max(map(float, shown.split())) * 2**20 / 1e9)


def _available_gb() -> float:
    """What programs could still have of this machine's memory."""
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024 / 1e9


def run_tests(place: Place) -> dict[str, Any]:
    """`tests/gpu`, in several processes: they mostly compile."""
    workers = ["-n", str(min(4, num_cpus()))]
    chosen = ["-m", "not slow"] if place.quick else []
    command = [sys.executable, "-m", "pytest", "-q", "tests/gpu", "-p", "no:cacheprovider", *workers, *chosen]
    seconds = run(place, "tests", command, timeout_s=240)
    last = (place.folder / "tests.log").read_text(encoding="utf-8").strip().splitlines()[-1]
    counts = {word: int(count) for count, word in re.findall(rf"(\d+) ({'|'.join(OUTCOMES)})", last)}
    return {"seconds": seconds, **counts}


def run_model(place: Place) -> list[dict[str, Any]]:
    """Rollouts without and with an adapter, and training steps, compiled; in a process each, as workers are.

    Training steps that follow rollouts in one process took 417 ms where 333 are those of a process of their own.
    """
    rows: list[dict[str, Any]] = []
    logprobs = place.folder / "logprobs.pt"
    logprobs.unlink(missing_ok=True)
    for part in ("rollout", "training"):
        file = place.folder / f"vla_{part}.json"
        size = ["--tiny", "--compile", "off"] if place.tiny else ["--compile", "on"]
        command = [
            sys.executable, "benchmarks/vla.py", "--parts", part, *size, "--checkpointing", "none", "--json", str(file),
            "--against", str(logprobs), *(["--adapter", "on", "--repeats", "5"] if place.quick else []),
        ]  # fmt: skip
        run(place, f"model_{part}", command, timeout_s=180)
        rows += json.loads(file.read_text(encoding="utf-8"))
    return rows


def run_large(place: Place) -> dict[str, Any]:
    """Whole epochs of the published recipe on the 7B's shape, but of 128 episodes of 128 steps.

    What the first epoch costs more than the others is that of the second start of a machine, at most: the part `model`
    has compiled the same layers.
    """
    checkpoint = place.folder / "checkpoint"
    maker = [sys.executable, "benchmarks/checkpoint_7b.py", str(checkpoint), *(["--tiny"] if place.tiny else [])]
    run(place, "checkpoint", maker, timeout_s=120)
    models = [f"{key}={checkpoint}" for key in ("actor.checkpoint_load_path", "rollout.model_dir")]
    config = "crl_experiment/libero_spatial_grpo_openvlaoft_spatial"
    settings = [*(LARGE_QUICK if place.quick or place.tiny else LARGE), *models]
    if place.tiny:
        settings += ["actor.fsdp.param_dtype=fp32", "rollout.precision=fp32", "algorithm.group_size=2"]
    cores = f"cluster.num_env_workers={max(1, num_cpus() - 1)}"
    try:
        return train(place, "large", config, [*settings, cores], epochs=1 if place.quick else 2)
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)


def run_small(place: Place) -> dict[str, Any]:
    """Whole epochs of the policy for LIBERO-Spatial that ships."""
    fewer = ("algorithm.num_group_envs=2",) if place.tiny else ()
    return train(place, "small", "crl_experiment/libero_spatial_grpo_tiny", [*SMALL, *fewer], epochs=2)


def train(
    place: Place,
    name: str,
    config: str,
    settings: Sequence[str],
    *,
    epochs: int,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A training run's times by epoch, what it took beside them, and its largest memory."""
    runs = place.folder / f"{name}_run"
    shutil.rmtree(runs, ignore_errors=True)
    command = [
        sys.executable, TRAIN, "--config-name", config, *settings, f"runner.max_epochs={epochs}",
        f"runner.logger.log_root={runs}", "runner.logger.logger_backends=[]",
    ]  # fmt: skip
    seen = (environment or {}).get("CUDA_VISIBLE_DEVICES")
    with MemoryWatch(",".join(visible_gpus()) if seen is None else seen) as memory:
        seconds = run(place, name, command, timeout_s=420, environment=environment)
    (metrics,) = runs.rglob("metrics.jsonl")
    lines = [json.loads(line)["metrics"] for line in metrics.read_text(encoding="utf-8").splitlines()]
    rows = [{key: line[key] for key in SHOWN if key in line} for line in lines if "time/epoch" in line]
    assert len(rows) == epochs
    return {
        "config": config,
        "settings": [setting for setting in settings if str(place.folder) not in setting],
        "seconds": seconds,
        "start_seconds": seconds - sum(row["time/epoch"] for row in rows),
        "peak_gb": memory.peak_gb,
        "host_gb": memory.host_gb,
        "epochs": rows,
    }


PARTS: dict[str, Callable[[Place], Any]] = {
    "tests": run_tests,
    "model": run_model,
    "large": run_large,
    "small": run_small,
}


def about(commit: str | None) -> dict[str, Any]:
    """Which code, where, and with what."""
    told = commit is not None
    if commit is None:
        commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit or "unknown",
        "dirty": None if told or not commit else bool(_git("status", "--porcelain")),
        "code": fingerprint(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "hardware": hardware(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _git(*arguments: str) -> str:
    """What git says; nothing where the tree is no checkout."""
    if not (REPOSITORY / ".git").exists():
        return ""
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def measure(place: Place, parts: Sequence[str], *, commit: str | None) -> None:
    """Run `parts`; what is known after each is written."""
    file, found = place.folder / "gpu.json", about(commit)
    place.folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {}
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        kept = {name: before[name] for name in PARTS if name in before and before["code"] == found["code"]}
    results = {**found, "quick": place.quick, **{name: one for name, one in kept.items() if name not in parts}}
    started = time.monotonic()
    for name in parts:
        results[name] = PARTS[name](place)
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - started:.0f} s in all; {file}")
    print("\n".join(table(results)))


def table(results: dict[str, Any]) -> list[str]:
    """The measurements as lines of Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        f"{results['hardware']['gpus']}, {results['hardware']['cores']} cores; {versions}; commit "
        f"{results['commit'][:7]}{' with changes' if results['dirty'] else ''}, code {results['code']}.",
        "",
    ]
    if tests := results.get("tests"):
        counts = ", ".join(
            f"{tests[word]} {word}" for word in ("passed", "skipped", "failed", "error") if word in tests
        )
        lines += [f"`tests/gpu`: {counts} in {tests['seconds']:.0f} s.", ""]
    if rows := results.get("model"):
        lines += [
            "| 7B shape, compiled | batch | one step (ms) | samples/s | MFU | peak (GB) | log-probabilities differ |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *map(_model_row, rows),
            "",
        ]
    for name, title in (("large", "7B shape"), ("small", "small policy")):
        if part := results.get(name):
            lines += [*_epochs(title, part), ""]
    return lines[:-1]


def _model_row(row: dict[str, Any]) -> str:
    cells = (
        f"{row['part']}{', adapter' if row['adapter'] else ''}",
        row["batch"],
        f"{row['ms']:.0f}",
        f"{row['samples_per_s']:.1f}",
        f"{100 * row['utilisation']:.0f} %",
        f"{row['peak_gb']:.1f}",
        f"{row['logprob_gap']:.5f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _epochs(title: str, part: dict[str, Any]) -> list[str]:
    names = {
        "time/rollout": "rollouts (s)", "time/inference": "of it inference (s)", "time/update": "update (s)",
        "time/sync_weights": "weights to inference (s)", "time/save": "checkpoint (s)", "time/epoch": "epoch (s)",
        "rollout/num_chunks": "samples", "train/logprob_gap": "difference in log-probability",
    }  # fmt: skip
    rows = [(label, [row[key] for row in part["epochs"]]) for key, label in names.items() if key in part["epochs"][0]]
    count = len(part["epochs"])
    return [
        f"| {title}: starts in {part['start_seconds']:.0f} s, {part['peak_gb']:.0f} GB | "
        + " | ".join(f"epoch {number + 1}" for number in range(count))
        + " |",
        "|---|" + "---:|" * count,
        *(f"| {label} | " + " | ".join(_number(label, value) for value in values) + " |" for label, values in rows),
    ]


def _number(label: str, value: float) -> str:
    return f"{value:.0f}" if label == "samples" else f"{value:.5f}" if "difference" in label else f"{value:.1f}"


def publish(file: Path) -> None:
    """Take over a run as the one that the documentation shows."""
    results = json.loads(file.read_text(encoding="utf-8"))
    if results["quick"] or any(name not in results for name in PARTS):
        raise SystemExit(f"{file} is no full run: run bash benchmarks/gpu.sh without --quick and with all parts")
    if results["code"] != fingerprint():
        raise SystemExit(f"{file} is of code {results['code']}, this is {fingerprint()}: run bash benchmarks/gpu.sh")
    PUBLISHED.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    _write_section(table(results))


def say_not_run(reason: str) -> None:
    """State in the documentation that the code which a GPU executes has changed since the run that is shown."""
    results = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    _write_section([*table(results), "", f"**{NOT_RUN}** (now code {fingerprint()}): {reason}"])


def _write_section(lines: Sequence[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "logs" / "gpu", help="folder of results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--quick", action="store_true", help="less of each")
    parser.add_argument("--tiny", action="store_true", help="small models on a CPU: does this program run?")
    parser.add_argument("--commit", help="of the code, where it is no git checkout")
    parser.add_argument("--publish", type=Path, metavar="JSON", help="show a full run in docs/benchmarks.md")
    parser.add_argument("--not-run", metavar="REASON", help="say there that the code has changed since")
    args = parser.parse_args(arguments)
    if args.publish or args.not_run:
        publish(args.publish) if args.publish else say_not_run(args.not_run)
        return 0
    try:
        measure(Place(args.out.resolve(), args.quick, args.tiny), args.only, commit=args.commit)
    except StepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
