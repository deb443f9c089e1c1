"""``python -m rlinf.cli.doctor [CONFIG_NAME] [key=value ...]``: will a run of this configuration work on this machine?

Plain lines, ``ok``, ``warning`` or ``problem`` with what to do, and a verdict; exit code 1 where there are problems.
Without a configuration it is the small policy's, which the quick start trains. Takes half a minute.
"""

# What may not be installed is imported by the check that is about it.
from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from rlinf.cli.console import REPOSITORY, run_cli, user_message

if TYPE_CHECKING:
    import psutil

    from rlinf.cli.request import Request

DEFAULT = "crl_experiment/libero_spatial_grpo_tiny"
REQUIREMENTS = tuple(REPOSITORY / name for name in ("requirements.txt", "requirements-simulator.txt"))
GIB = 2**30
PROCESS_BYTES = 0.7 * GIB  # of a worker, weights aside: a simulator with its scenes, or torch
SCENE_S = 600
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")

Level = Literal["ok", "warning", "problem"]
Finding = tuple[Level, str]
Check = Callable[[], Iterator[Finding]]


def show(name: str, check: Check) -> list[Level]:
    """Carry out a check and print what it finds; one that fails is a problem."""
    levels: list[Level] = []

    def add(level: Level, text: str) -> None:
        levels.append(level)
        print(f"{level:<8} {name}: {text}".replace("\n", "\n" + 9 * " "), flush=True)

    try:
        for finding in check():
            add(*finding)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the check found
        add("problem", _message(error))
    return levels


def _message(error: Exception) -> str:
    with suppress(ModuleNotFoundError):  # of what words the message
        if text := user_message(error):
            return text
    return f"{type(error).__name__}: {error}"


# ------------------------------------------------------------------------------------------------------ the machine


def packages(files: Sequence[Path] = REQUIREMENTS, project: Path = REPOSITORY / "pyproject.toml") -> Iterator[Finding]:
    """Python and packages are those that were asked for."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["requires-python"]
    is_right = SpecifierSet(wanted).contains(platform.python_version())
    yield "ok" if is_right else "problem", f"Python {platform.python_version()}, wanted {wanted} ({sys.executable})"
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    stated = [text for line in lines if (text := line.partition("#")[0].partition("--hash")[0].strip())]
    count = 0
    for asked in map(Requirement, stated):
        try:
            found = version(asked.name)
        except PackageNotFoundError:
            found = ""
        if not asked.specifier.contains(found or "0", prereleases=True) or not found:
            have = f"found {found}" if found else "not installed"
            yield "problem", f"{asked} is wanted, {have}: install it as the README's Installation section says"
        else:
            count += 1
    yield "ok", f"{count} packages as required"


def cpus(root: Path = Path("/")) -> Iterator[Finding]:
    """How many are ours. root: folder that holds proc/ and sys/."""
    from libero_runtime.cpus import num_cpus

    count = num_cpus(root)
    few = ": simulators and the policy take turns; two are the least for the quick start's times" if count < 2 else ""
    yield "warning" if few else "ok", f"ours: {count}{few}"


def gpus() -> Iterator[Finding]:
    """The driver's GPUs, and that torch computes on them in bf16."""
    query = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    listed: list[str] = []
    if shutil.which(query[0]):
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            yield "problem", f"nvidia-smi fails: {(done.stdout + done.stderr).strip()}. Mend the driver"
        else:
            listed = done.stdout.splitlines()
    import torch

    for number, line in enumerate(listed):
        yield "ok", f"GPU {number}: {line}"
    if listed and not torch.cuda.is_available():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "its driver is too old for this torch" if torch.version.cuda else "this torch is built for CPUs"
        why = f"CUDA_VISIBLE_DEVICES={hidden!r} hides it" if hidden is not None else why
        yield "problem", f"torch {torch.__version__} sees no GPU, but the driver has one: {why}"
    elif not torch.cuda.is_available():
        yield "ok", "none: the small policies train without one"
    for number in range(torch.cuda.device_count()):
        ones = torch.ones(64, 64, device=f"cuda:{number}", dtype=torch.bfloat16)
        works = float((ones @ ones)[0, 0]) == 64 and torch.cuda.is_bf16_supported(including_emulation=False)
        free, total = torch.cuda.mem_get_info(number)
        state = f"torch's GPU {number}: {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        state += ", computes in bf16" if works else ", no bf16: give rollout.precision=fp32 actor.fsdp.param_dtype=fp32"
        yield "ok" if works else "warning", state
        if free < total / 2:
            yield "warning", f"torch's GPU {number}: another process holds half of its memory or more; end it"


def simulator(suite: str, *, has_gpu: bool) -> Iterator[Finding]:
    """OpenGL, LIBERO's models and a scene, in a process of its own: a broken driver may abort it."""
    with TemporaryDirectory() as folder:
        words = ("--suite", suite, "--frame", str(Path(folder, "frame.png")))
        command = [sys.executable, "-m", "libero_runtime.doctor", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SCENE_S, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        yield "problem", said[-1].removeprefix("error: ")
        return
    found = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines() if "  " in line)
    device = found["gl device"]
    is_slow = has_gpu and re.search("llvmpipe|softpipe|swrast", device)
    advice = ". Draws in software beside a GPU: in a container NVIDIA_DRIVER_CAPABILITIES=all" if is_slow else ""
    yield "warning" if is_slow else "ok", f"OpenGL: {found['opengl']}, {device}{advice}"
    yield "ok" if found["assets"].startswith("official") else "warning", f"assets: {found['assets']}"
    yield "ok", f"compact models: {found['compact models']}"
    yield "ok", f"steps per second of one process: {found['steps/s, not drawn']}; {found['steps/s, drawn']}"


def temporary_files() -> Iterator[Finding]:
    """Where Ray keeps sockets and logs, and writes what its memory has no room for."""
    from rlinf.scheduler.cluster import work_folders

    with ExitStack() as stack:
        folder, spilled = work_folders(stack)
        for place in filter(None, (folder, spilled)):
            free = shutil.disk_usage(place).free
            advice = ": set TMPDIR to a disk with more room" if free < GIB else ""
            yield "warning" if advice else "ok", f"{place}, {free / GIB:.1f} GiB free{advice}"


# ------------------------------------------------------------------------------------------------ the configuration


def configuration(config_name: str, overrides: Sequence[str], requests: list[Request]) -> Iterator[Finding]:
    """It can be composed, and its model is there; what was checked is added to ``requests``."""
    from rlinf.cli.request import check
    from rlinf.config import load_config

    config = load_config(config_name, overrides)
    request = check(config, config_name=config_name, overrides=overrides)
    requests.append(request)
    yield "ok", f"{config_name} on {config.env.suite}, model {request.source.checkpoint}"


def memory(request: Request, *, available: int | None = None) -> Iterator[Finding]:
    """Weights and processes fit: on a GPU a learner's and an inference worker's, else all of them beside simulators.

    available: bytes that processes may take; None: as found.
    """
    import torch

    from libero_runtime.cpus import num_cpus
    from rlinf.config.placement import Node
    from rlinf.config.schema import with_settings
    from rlinf.scheduler.cluster import Resources, available_memory, smallest_gpu_gib
    from rlinf.scheduler.ray_settings import named_cluster
    from rlinf.workers.launch import check_workers, fit_to_gpus
    from rlinf.workers.object_store import object_store_gb, stored_bytes

    num_gpus = torch.cuda.device_count()
    here = Resources((Node(0, "", "", num_cpus(), num_gpus),), smallest_gpu_gib() if num_gpus else None)
    # Where a cluster is named, a placement is for its machines, and not for this one alone.
    config = with_settings(request.config, {"cluster.component_placement": None} if named_cluster() else {})
    placement = check_workers(fit_to_gpus(config, here), here)
    num_actor, num_rollout, num_env = len(placement.actor), len(placement.rollout), len(placement.env)
    have = available_memory() if available is None else available
    weights = stored_bytes(request.source)
    for number in range(num_gpus):
        total = torch.cuda.get_device_properties(number).total_memory
        fits = 2 * weights < total
        text = f"learner and inference hold {2 * weights / GIB:.1f} GiB of weights on GPU {number} of {total / GIB:.0f}"
        yield "ok" if fits else "problem", text + ("" if fits else ": it needs a larger GPU, or a smaller model")
    copies = 0 if num_gpus else num_actor + num_rollout
    processes = (num_actor + num_rollout + num_env) * PROCESS_BYTES
    store = object_store_gb(request.config, request.source, learn=True) * GIB
    needed = processes + copies * weights + store
    text = f"{have / GIB:.1f} GiB available; {num_env} simulators, {num_rollout} inference worker(s) and "
    text += f"{num_actor} learner(s) may take {needed / GIB:.1f}"
    if copies * weights + store > have:
        yield "problem", f"{text}, {copies * weights / GIB:.1f} of it weights: it needs a GPU, or a smaller model"
    elif needed > have:
        yield "warning", f"{text}: end other programs, or start fewer simulators (cluster.num_env_workers)"
    else:
        yield "ok", text


def shared_memory(request: Request, *, shared: int | None = None) -> Iterator[Finding]:
    """Ray's object store, as large as the configuration needs it, has a place.

    shared: bytes free in /dev/shm; None: as found.
    """
    from rlinf.scheduler.cluster import SHARED_MEMORY, available_memory, check_room
    from rlinf.workers.object_store import object_store_gb

    store = object_store_gb(request.config, request.source, learn=True)
    free = shutil.disk_usage(SHARED_MEMORY).free if shared is None else shared
    check_room(int(store * GIB), shared=free, memory=available_memory())
    yield "ok", f"object store of {store:.1f} GiB; {SHARED_MEMORY} has {free / GIB:.1f} free"


def results(request: Request, *, free: int | None = None) -> Iterator[Finding]:
    """Results can be written, and there is room for the checkpoints of a task.

    free: bytes of the disk; None: as found.
    """
    from rlinf.reporting.loggers import check_backends
    from rlinf.runners.run_folder import check_run_folder, run_folder

    config, folder = request.config, run_folder(request.config)
    check_run_folder(config)
    check_backends(config.runner.logger.logger_backends)
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    left = shutil.disk_usage(there).free if free is None else free
    size = _checkpoint_bytes(request)
    runner = config.runner
    written = -(-runner.max_epochs // runner.save_interval)
    kept = min(written, runner.keep_checkpoints + 1) if runner.keep_checkpoints else written  # one being written
    text = f"{folder.parent}: about {kept} checkpoint(s) of {size / GIB:.2g} GiB per task, {left / GIB:.1f} GiB free"
    advice = "" if kept * size < left else ": free some space, or give runner.keep_checkpoints=2"
    yield "problem" if advice else "ok", text + advice
    yield "ok", f"metrics go to {', '.join(['metrics.jsonl', *runner.logger.logger_backends])}"


def _checkpoint_bytes(request: Request) -> int:
    """Size of a checkpoint: the trained weights and AdamW's two moments, all in float32."""
    from safetensors import safe_open

    from rlinf.workers.object_store import trained_bytes

    model, count = request.config.actor.model, 0
    for path in request.source.checkpoint.glob("*.safetensors") if model.is_lora else ():
        with safe_open(path, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - no dictionary
        count += sum(model.lora_rank * sum(shape) for shape in shapes if len(shape) == 2)  # the layers that are adapted
    return 3 * (4 * count or trained_bytes(request.config, request.source))


def ray_cluster() -> Iterator[Finding]:
    """A cluster of our own starts, is reached by nobody else, and stops; or the one that is named answers."""
    import psutil

    from rlinf.scheduler.cluster import Cluster
    from rlinf.scheduler.ray_settings import VARIABLE, named_cluster

    started = time.monotonic()
    with Cluster(object_store_gb=0.1) as cluster:
        found, named = cluster.resources, named_cluster()
        where = f"{VARIABLE}={named} answers" if named else f"a cluster starts in {time.monotonic() - started:.0f} s"
        yield "ok", f"{where}: {len(found.nodes)} node(s), {found.num_cpus} CPUs, {found.num_gpus} GPUs"
        if not named:
            outside = {port for process in psutil.Process().children(recursive=True) for port in open_ports(process)}
            why = f"ports {sorted(outside)} are open to other machines: unset RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
            yield "warning" if outside else "ok", why if outside else "it listens on the loopback interface alone"
        stopping = time.monotonic()
    yield "ok", f"it was left within {time.monotonic() - stopping:.0f} s"


def open_ports(process: psutil.Process) -> set[int]:
    """TCP ports that a process listens on and that are not the loopback interface's alone."""
    import psutil

    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        sockets = [one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        return {port for address, port in sockets if address not in LOOPBACK}
    return set()


# --------------------------------------------------------------------------------------------------------- the whole


def examine(config_name: str, overrides: Sequence[str]) -> list[Level]:
    """Carry out all checks; those of what a run needs only where the configuration is right."""
    requests: list[Request] = []
    settings = partial(configuration, config_name, overrides, requests)
    machine: dict[str, Check] = {"packages": packages, "CPUs": cpus, "GPU": gpus, "configuration": settings}
    levels = [level for name, check in machine.items() for level in show(name, check)]
    suite = requests[0].config.env.suite if requests else "libero_spatial"
    rest: dict[str, Check] = {"simulator": partial(simulator, suite, has_gpu=shutil.which("nvidia-smi") is not None)}
    for request in requests:
        rest["memory"] = partial(memory, request)
        rest["shared memory"] = partial(shared_memory, request)
        rest["results"] = partial(results, request)
    rest |= {"temporary files": temporary_files, "Ray": ray_cluster}
    return levels + [level for name, check in rest.items() for level in show(name, check)]


def main(argv: Sequence[str]) -> int:
    """Examine the machine; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlinf.cli.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="CONFIG_NAME, key=value", help="a configuration, Hydra overrides")
    words: list[str] = parser.parse_args(argv).words
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        parser.error(f"expected one CONFIG_NAME, given {' and '.join(names)}")
    logging.basicConfig(level=logging.ERROR)  # what matters is a finding
    levels = examine(names[0] if names else DEFAULT, [word for word in words if "=" in word])
    num_problems, num_warnings = levels.count("problem"), levels.count("warning")
    verdict = f"It will not run: {num_problems} problem(s)" if num_problems else "It will run: no problems"
    print(f"{verdict}, {num_warnings} warning(s).")
    return 1 if num_problems else 0


if __name__ == "__main__":
    run_cli(main)
