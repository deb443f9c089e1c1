"""What several GPUs of one machine give: whole epochs of the 7B's shape with the same work for each (weak scaling),
actor and rollout on GPUs of their own, and runs that are killed and go on with another number of GPUs.

    python benchmarks/scaling.py --parts 1 2 --out FOLDER               # random weights, 128 episodes per GPU
    python benchmarks/scaling.py --parts apart fewer more --out FOLDER  # needs two GPUs
    python benchmarks/scaling.py --parts 1 2 apart fewer more --out FOLDER --tiny       # on a CPU: does it run?

Parts: a number of GPUs; `apart`, half of two for the update and half for rollouts, which play ahead
(`algorithm.max_policy_lag=1`); `fewer`, the shipped policy killed on two and resumed on one; `more`, on one and two.
GPUs are the first of CUDA_VISIBLE_DEVICES. Results are added to FOLDER/scaling.json and shown as tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.code_on_gpu import REPOSITORY
from benchmarks.gpu import LARGE, LARGE_QUICK, Place, StepError, about, run, train
from benchmarks.gpus import first_gpus
from libero_runtime.cpus import num_cpus
from rlinf.run_layout import METRICS_FILE, Checkpoint, checkpoints

LARGE_CONFIG = "crl_experiment/libero_spatial_grpo_openvlaoft_spatial"
SMALL_CONFIG = "crl_experiment/libero_spatial_grpo_tiny"
LAUNCHER = "examples/crl_experiment/run_embodiment_sequential.sh"
SIMULATORS, GROUPS, BATCH = 15, 8, 1024  # per GPU; the last of an optimizer step
ON_CPU = (
    "actor.fsdp.param_dtype=fp32",
    "rollout.precision=fp32",
    "algorithm.group_size=2",
    "actor.model.compile_blocks=false",
)
TASK, KILLED_AFTER, EPOCHS = 7, 1, 3
COMPARED = ("rollout/success_rate", "train/num_samples", "train/loss/policy", "train/grad_norm", "train/approx_kl")
PARTS = ("1", "2", "4", "8", "apart", "fewer", "more")


def devices(count: int, *, tiny: bool) -> dict[str, str]:
    """Environment in which a program sees the first GPUs of those that this one may use."""
    return {"CUDA_VISIBLE_DEVICES": "" if tiny else first_gpus(count, flag="this part")}


def workers(count: int, *, tiny: bool) -> list[str]:
    """How many workers there are for so many GPUs, which on a CPU are processes."""
    kinds = [f"cluster.num_{kind}_workers={count}" for kind in ("actor", "rollout")] if tiny else []
    return [*kinds, f"cluster.num_env_workers={max(count, min(SIMULATORS * count, num_cpus() - count))}"]


def checkpoint(place: Place) -> Path:
    """Random weights of the 7B's shape; made once."""
    folder = place.folder / "checkpoint"
    if not (folder / "config.json").is_file():
        maker = [sys.executable, "benchmarks/checkpoint_7b.py", str(folder), *(["--tiny"] if place.tiny else [])]
        run(place, "checkpoint", maker, timeout_s=180)
    return folder


def large(place: Place, name: str, count: int, settings: Sequence[str], *, epochs: int) -> dict[str, Any]:
    """Whole epochs of the 7B's shape on so many GPUs."""
    models = [f"{key}={checkpoint(place)}" for key in ("actor.checkpoint_load_path", "rollout.model_dir")]
    base = [*(LARGE_QUICK if place.tiny else LARGE), *models, *(ON_CPU if place.tiny else ())]
    seen = devices(count, tiny=place.tiny)
    return {"gpus": count, **train(place, name, LARGE_CONFIG, [*base, *settings], epochs=epochs, environment=seen)}


def together(place: Place, count: int) -> dict[str, Any]:
    """As much work for each GPU, which learns and plays in turn."""
    batch = 64 if place.tiny else BATCH
    work = [f"algorithm.num_group_envs={GROUPS * count}", f"actor.global_batch_size={batch * count}"]
    return large(place, f"gpus_{count}", count, [*work, *workers(count, tiny=place.tiny)], epochs=2)


def apart(place: Place) -> dict[str, Any]:
    """One GPU learns while the other plays the next epoch; the epoch between the first and the last does both."""
    settings = [
        "cluster.component_placement={actor: 0, rollout: 1, env: all}",
        "algorithm.max_policy_lag=1",
        f"runner.save_interval={EPOCHS}",
        f"cluster.num_env_workers={max(1, min(2 * SIMULATORS, num_cpus() - 2))}",
        *(["actor.global_batch_size=64"] if place.tiny else []),
    ]
    return large(place, "apart", 2, settings, epochs=EPOCHS)


def resumed(place: Place, before: int, after: int) -> dict[str, Any]:
    """The shipped policy: an undisturbed run, and one that is killed and goes on with another number of GPUs; what both
    measured in the epoch after it."""
    found: dict[str, Any] = {"before": before, "after": after}
    folder = place.folder / f"resumed_{before}_{after}"
    shutil.rmtree(folder, ignore_errors=True)
    for name, counts in (("undisturbed", (before,)), ("resumed", (before, after))):
        logs = folder / name
        for number, count in enumerate(counts):
            command = [
                "bash", LAUNCHER, str(TASK), "", str(EPOCHS), SMALL_CONFIG, "1234",
                "runner.eval_before=false", "runner.eval_after=false", "runner.logger.logger_backends=[]",
                "actor.micro_batch_size=16", f"runner.logger.log_root={logs}", *workers(count, tiny=place.tiny),
                *(["algorithm.num_group_envs=2", "actor.global_batch_size=32"] if place.tiny else []),
            ]  # fmt: skip
            is_killed = number < len(counts) - 1
            _launch(place, f"{name}_{count}", command, logs, devices(count, tiny=place.tiny), is_killed=is_killed)
        (metrics,) = logs.rglob(METRICS_FILE)
        lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        found[name] = {
            str(line["step"]): {key: line["metrics"][key] for key in COMPARED if key in line["metrics"]}
            for line in lines
            if "time/epoch" in line["metrics"]
        }
    return found


def _launch(place: Place, name: str, command: list[str], logs: Path, seen: dict[str, str], *, is_killed: bool) -> None:
    """Run a launcher to its end, or kill all of it once it has its first checkpoint.

    Raises:
        StepError: it failed, or ended before it was killed.
    """
    if not is_killed:
        run(place, name, command, timeout_s=420, environment=seen)
        return
    print(f"== {name}, killed after its first checkpoint: {' '.join(command)}", flush=True)
    with (place.folder / f"{name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, **seen}, stdout=log, stderr=log, start_new_session=True
        )
    while not list(_saved(logs)):
        if process.poll() is not None:
            raise StepError(f"{name} ended before it could be killed; its output is in {place.folder / name}.log")
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _saved(logs: Path) -> Iterator[Checkpoint]:
    for folder in logs.rglob("checkpoints"):
        yield from (one for one in checkpoints(folder.parent) if one.step >= KILLED_AFTER)


def table(results: dict[str, Any]) -> list[str]:
    """The measurements as lines of Markdown."""
    lines = [
        "| GPUs | epoch (s): first | next | rollouts (s) | of it inference (s) | update (s) | weights (s) | samples/s "
        "| efficiency | GPU (GB) | host (GB) |",
        "|---|" + "---:|" * 10,
    ]
    of_one: float | None = None
    for name in PARTS[: PARTS.index("apart") + 1]:
        if not (part := results.get(name)):
            continue
        first, row = part["epochs"][0], part["epochs"][1]
        speed = row["rollout/num_chunks"] / row["time/epoch"]
        of_one = speed if name == "1" else of_one
        efficiency = f"{100 * speed / of_one / part['gpus']:.0f} %" if of_one else ""
        times = [first["time/epoch"], row["time/epoch"], row["time/rollout"], row["time/inference"], row["time/update"]]
        cells = [*(f"{value:.1f}" for value in times), f"{row['time/sync_weights']:.2f}", f"{speed:.1f}", efficiency]
        title = "one learns, one plays ahead" if name == "apart" else name
        lines.append(f"| {' | '.join([title, *cells])} | {part['peak_gb']:.0f} | {part['host_gb']:.0f} |")
    for name in ("fewer", "more"):
        if part := results.get(name):
            lines += ["", *_compared(part)]
    return lines


def _compared(part: dict[str, Any]) -> list[str]:
    """An undisturbed run beside one that went on with another number of GPUs."""
    steps = [step for step in part["undisturbed"] if int(step) > KILLED_AFTER]
    titles = [f"epoch {step}: {part['before']} | then {part['after']}" for step in steps]
    lines = [f"| GPUs | {' | '.join(titles)} |", "|---|" + "---:|" * (2 * len(steps))]
    for key in COMPARED:
        pairs = [(part["undisturbed"][step].get(key), part["resumed"][step].get(key)) for step in steps]
        if all(value is not None for pair in pairs for value in pair):
            lines.append(f"| {key} | {' | '.join(f'{value:.6g}' for pair in pairs for value in pair)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["1", "2"])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "logs" / "scaling", help="folder of results")
    parser.add_argument("--commit", help="of the code, where it is no git checkout")
    parser.add_argument("--tiny", action="store_true", help="small models on a CPU")
    args = parser.parse_args()
    place = Place(args.out.resolve(), quick=args.tiny, tiny=args.tiny)
    place.folder.mkdir(parents=True, exist_ok=True)
    file = place.folder / "scaling.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results.update(about(args.commit))
    made = {"apart": lambda: apart(place), "fewer": lambda: resumed(place, 2, 1), "more": lambda: resumed(place, 1, 2)}
    try:
        for part in args.parts:
            results[part] = together(place, int(part)) if part.isdigit() else made[part]()
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except (StepError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, StepError) else 2
    print("\n".join(table(results)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
