"""Does a run keep going, without a person, whatever dies? Faults are sent into a run of two tasks.

    python -m benchmarks.chaos [--faults 20] [--seed 0] [--only NAME,...] [--out FOLDER] [key=value ...]

The run is made twice, undisturbed and with faults, each at a random moment after the one before was survived. Both must
end with the same adapters bit for bit, and leave no process behind. Exit code 0 when all that holds, else 1. As root a
disk that is full for a while is among the faults: results are then in a tmpfs of their own.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from libero_runtime.commands import OptionError
from rlinf.cli.console import REPOSITORY, configure_process, run_cli
from rlinf.run_layout import checkpoints

LAUNCHER = REPOSITORY / "examples" / "crl_experiment" / "run_embodiment_sequential.sh"
CONFIG = "crl_experiment/libero_spatial_grpo_tiny"
MARKER = "CRL_CHAOS"  # an environment variable of all processes of a run
DEADLINES = ("env.call_timeout_s=20", "runner.stall_timeout_s=30", "runner.call_timeout_s=60")
SMALL = (
    "env.num_envs_per_worker=2", "cluster.num_env_workers=2", "cluster.num_rollout_workers=2",
    "env.train.max_episode_steps=48", "env.eval.max_episode_steps=48", "env.eval.episodes_per_task=1",
    "env.eval_task_ids=[0,1]", "env.video_episodes=0", "algorithm.num_group_envs=2", "algorithm.group_size=2",
    "algorithm.rollout_epoch=2", "algorithm.filter_rewards=false", "algorithm.entropy_bonus=0.1",
    "actor.global_batch_size=16", "actor.micro_batch_size=8",
)  # fmt: skip
"""Short episodes; the bonus lets every epoch learn something."""
DISK_MB = 128
CHECKPOINT_MB = 24  # 15, and logs
FULL_S = 12.0
QUIET_S = (2.0, 12.0)  # between a fault that was survived and the next
SURVIVED_S = 300.0


@dataclass(frozen=True)
class Target:
    """A kind of process, by what its command line holds."""

    name: str
    text: str


SIMULATOR = Target("simulator", "ray::Env")
INFERENCE, LEARNER = Target("rollout", "ray::Roll"), Target("actor", "ray::Act")
DRIVER = Target("driver", "rlinf.cli.run_sequence")
RAYLET, GCS = Target("raylet", "raylet/raylet"), Target("Ray's head", "gcs/gcs_server")


@dataclass(frozen=True)
class Fault:
    """Something bad; ``do`` returns whether it could be done now."""

    name: str
    do: Callable[[Run], bool]


@dataclass
class Run:
    """A launcher at work. folder: of its results; log: what it printed."""

    process: subprocess.Popen[bytes]
    marker: str
    folder: Path
    log: Path

    def pids(self, target: Target) -> list[int]:
        """Processes of a kind; the launcher itself, which looks after the driver, is none."""
        found = [pid for pid, line in processes(self.marker) if target.text in line and pid != self.process.pid]
        return [pid for pid in found if target is not DRIVER or parent(pid) == self.process.pid]

    def newest(self) -> int:
        """The epoch of the newest checkpoint of a task."""
        found = [checkpoints(folder) for folder in (self.folder / "sequential").glob("task_*")]
        return max((saved[-1].step for saved in found if saved), default=0)

    def saved(self) -> int:
        """How many checkpoints there are."""
        return sum(len(checkpoints(folder)) for folder in (self.folder / "sequential").glob("task_*"))


def main(arguments: Sequence[str]) -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="which faults, and when")
    parser.add_argument("--only", default="", help="faults by name, separated by commas; by default all in turn")
    parser.add_argument("--epochs", type=int, help="of each of the two tasks; by default three for two faults")
    parser.add_argument("--out", type=Path, help="a new folder; by default below logs/chaos")
    parser.add_argument("overrides", nargs="*", help="of the configuration, key=value")
    args = parser.parse_args(arguments)
    configure_process()  # so that a signal ends the run, too
    kinds, epochs = chosen(args.only, faults()), args.epochs or max(2, 3 * args.faults // 2)
    out = (args.out or REPOSITORY / "logs" / "chaos" / time.strftime("%Y%m%d_%H%M%S")).absolute()
    out.mkdir(parents=True)
    words = [str(epochs), CONFIG, "1234", *SMALL, *DEADLINES, *args.overrides]
    started = time.monotonic()
    with launched("0,1", words, out / "undisturbed") as run:
        code = run.process.wait()
    print(f"undisturbed: exit code {code}, {time.monotonic() - started:.0f} s", flush=True)
    with (
        small_disk(out / "disturbed", num_checkpoints=2 * epochs),
        launched("0,1", words, out / "disturbed") as run,
    ):
        started = time.monotonic()
        survived = disturb(run, kinds, random.Random(args.seed), args.faults)
        code = max(code, run.process.wait())
        print(f"{survived} faults: exit code {code}, {time.monotonic() - started:.0f} s", flush=True)
        same = code == 0 and same_adapters(out / "undisturbed", out / "disturbed")
    left = [line for _, line in processes(run.marker)]
    print(f"adapters equal bit for bit: {'yes' if same else 'NO'}\nprocesses left: {left or 'none'}")
    return int(bool(not same or left or survived < args.faults))


def faults() -> list[Fault]:
    """All kinds."""
    workers = (SIMULATOR, INFERENCE, LEARNER)
    found = [killing(target, signal.SIGKILL) for target in (*workers, DRIVER, RAYLET, GCS)]
    found += [killing(target, signal.SIGSTOP) for target in workers]
    found.append(Fault("deleted socket of Ray", delete_socket))
    return [*found, Fault(f"disk full for {FULL_S:.0f} s", fill_disk)] if os.geteuid() == 0 else found


def chosen(names: str, kinds: list[Fault]) -> list[Fault]:
    """Faults that are named, all where none is."""
    asked = [name for name in names.split(",") if name]
    if unknown := set(asked) - {fault.name for fault in kinds}:
        known = ", ".join(fault.name for fault in kinds)
        raise OptionError(f"--only {', '.join(sorted(unknown))}: expected some of {known}")
    return [fault for fault in kinds if not asked or fault.name in asked]


def killing(target: Target, number: signal.Signals) -> Fault:
    """A signal for a process of a kind."""

    def do(run: Run) -> bool:
        pids = run.pids(target)
        if pids:
            os.kill(pids[0], number)
        return bool(pids)

    return Fault(f"{number.name} of {target.name}", do)


def delete_socket(run: Run) -> bool:
    """Remove the file through which processes reach the object store; then kill a simulator: its successor needs it."""
    words = [word for _, line in processes(run.marker) if RAYLET.text in line for word in line.split()]
    names = [word.partition("=")[2] for word in words if word.startswith("--store_socket_name=")]
    if not names or not run.pids(SIMULATOR):
        return False
    Path(names[0]).unlink(missing_ok=True)
    os.kill(run.pids(SIMULATOR)[0], signal.SIGKILL)
    return True


def fill_disk(run: Run) -> bool:
    """Let nobody write results for a while."""
    ballast = run.folder / "ballast"
    try:
        with ballast.open("wb") as file:
            while True:
                file.write(bytes(2**16))
                file.flush()
    except OSError:
        time.sleep(FULL_S)
    finally:
        ballast.unlink()
    return True


def disturb(run: Run, kinds: Sequence[Fault], rng: random.Random, count: int) -> int:
    """Send ``count`` faults, all kinds in turn; returns how many were survived, which is said of each."""
    survived = 0
    order = [kinds[index % len(kinds)] for index in range(count)]
    rng.shuffle(order)
    for number, fault in enumerate(order, start=1):
        time.sleep(rng.uniform(*QUIET_S))
        saved, begun = run.saved(), time.monotonic()
        while not fault.do(run):
            if run.process.poll() is not None:
                print(f"the run had ended before fault {number}: give more --epochs", flush=True)
                return survived
            time.sleep(0.2)
        while run.saved() <= saved and run.process.poll() is None and time.monotonic() - begun < SURVIVED_S:
            time.sleep(0.2)
        took = time.monotonic() - begun
        if run.process.poll() is not None and run.process.returncode != 0:
            print(f"{number:3d} {fault.name:24s} ENDED the run\n{run.log.read_text()[-3000:]}", flush=True)
            return survived
        survived += 1
        print(f"{number:3d} {fault.name:24s} the next checkpoint after {took:5.1f} s", flush=True)
    return survived


@contextmanager
def launched(tasks: str, words: Sequence[str], folder: Path) -> Iterator[Run]:
    """Tasks through the launcher, which is ended with this."""
    marker, log = f"{MARKER}={os.getpid()}_{folder.name}", folder.parent / f"{folder.name}.log"
    command = ["bash", str(LAUNCHER), tasks, "", *words, f"runner.logger.log_root={folder}"]
    environment = {**os.environ, MARKER: marker.partition("=")[2]}
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY)
    try:
        yield Run(process, marker, folder, log)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def small_disk(folder: Path, *, num_checkpoints: int) -> Iterator[None]:
    """A file system of its own with room for the run, where we may make one."""
    folder.mkdir(parents=True)
    is_root = os.geteuid() == 0
    if is_root:
        options = ["-t", "tmpfs", "-o", f"size={DISK_MB + CHECKPOINT_MB * num_checkpoints}m", "tmpfs"]
        subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield
    finally:
        if is_root:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def processes(marker: str) -> list[tuple[int, str]]:
    """Running processes that carry ``marker`` in their environment, and their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        except OSError:  # the process has ended meanwhile, or is not ours
            continue
    return found


def parent(pid: int) -> int | None:
    """The process that started another; None where that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def same_adapters(one: Path, other: Path) -> bool:
    """Whether both runs' tasks ended with the same tensors."""
    paths = sorted(path.relative_to(one) for path in one.rglob("adapter_model.safetensors"))
    pairs = [(load_file(one / path), load_file(other / path)) for path in paths if (other / path).is_file()]
    if not pairs or len(pairs) < len(paths):
        return False
    if not any(tensor.any() for key, tensor in pairs[-1][0].items() if "lora_B" in key):
        raise ValueError("nothing was learnt, so that equal adapters say nothing")
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


if __name__ == "__main__":
    run_cli(main)
