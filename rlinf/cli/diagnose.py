"""``python -m rlinf.cli.diagnose CHECKPOINT...``: what training changed, of weights and of what the policy would do.

For each checkpoint, a run's folder or one of its ``checkpoints/global_step_<n>/actor``: the mean effective rank of the
change of its weight matrices (an adapter's, or of all weights), its size relative to the weights, and with
``--demonstrations``, task by task on the expert's frames, the divergence of the policy from its base model and the
Fisher energy of the change. Each line is kept in ``diagnostics.jsonl`` beside the ledger of the run, where reports find
it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from peft import PeftModel
from torch import Tensor

from libero_runtime.commands import parse_numbers
from libero_runtime.files import write_whole
from libero_runtime.suites import num_tasks
from rlinf.cli.console import UsageError, run_cli
from rlinf.cli.request import Request, check
from rlinf.config import Config
from rlinf.config.compose import typed_config
from rlinf.config.schema import with_settings
from rlinf.custom.methods import TaskContext
from rlinf.custom.methods.parts.replay import replayable
from rlinf.custom.replay.dataset import DemonstrationRef, find_demonstrations, read_demonstration
from rlinf.custom.sequence.lineage import Lineage
from rlinf.diagnostics.divergence import divergence_from_base, expert_samples
from rlinf.diagnostics.fisher_energy import fisher_at, fisher_energy
from rlinf.diagnostics.weight_change import (
    LayerChange,
    adapter_changes,
    adapter_deltas,
    changes,
    means,
    whole_deltas,
)
from rlinf.models import Policy, load_policy
from rlinf.reporting.diagnoses import Diagnosis
from rlinf.reporting.jsonlines import append_record
from rlinf.reporting.ledger import utc_now
from rlinf.run_layout import CONFIG_FILE, DIAGNOSTICS_FILE, LINEAGE_FILE, Checkpoint, checkpoint_of, checkpoints


def main(argv: Sequence[str]) -> int:
    """Print a line for each checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlinf.cli.diagnose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--demonstrations", type=Path, help="folder of expert demonstrations, one of each task is read")
    parser.add_argument("--tasks", help="on which, such as 5-9 (all of the suite)")
    parser.add_argument("--frames", type=int, default=64, help="of each demonstration (%(default)s)")
    parser.add_argument(
        "--fisher",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the Fisher energy, too: a backward pass through all weights of the base model for each frame (yes)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, layer by layer")
    arguments = parser.parse_args(argv)
    if arguments.frames < 1:
        raise UsageError(f"--frames {arguments.frames} must be at least 1")
    found = []
    for path in arguments.checkpoints:
        diagnosis, layers, kept = _diagnose(path, arguments)
        append_record(kept, diagnosis)
        found.append((path, diagnosis, layers, kept))
    tasks = sorted({task for _, one, *_ in found for task in one.kl})
    head = ["checkpoint", "effective rank", "relative change"]
    with_energy = any(one.fisher_energy for _, one, *_ in found)
    head += [f"{what} task {task}" for what in ("KL", *["Fisher energy"] * with_energy) for task in tasks]
    print("| " + " | ".join(head) + " |\n|---|" + "---:|" * (len(head) - 1))
    for path, one, *_ in found:
        cells = [str(path), f"{one.effective_rank:.1f}", f"{one.relative_change:.2e}"]
        known = (one.kl, one.fisher_energy) if with_energy else (one.kl,)
        cells += [f"{by[task]:.4f}" if task in by else "" for by in known for task in tasks]
        print("| " + " | ".join(cells) + " |")
    for kept in dict.fromkeys(kept for *_, kept in found):
        print(kept)
    if arguments.json:
        everything = [asdict(one) | {"layers": [vars(layer) for layer in layers]} for _, one, layers, _ in found]
        write_whole(arguments.json.resolve(), json.dumps(everything, indent=1) + "\n")
        print(arguments.json.resolve())
    return 0


def _diagnose(path: Path, arguments: argparse.Namespace) -> tuple[Diagnosis, list[LayerChange], Path]:
    """What training changed, layer by layer, too, and the file that keeps it."""
    checkpoint, lineage, config = _find(path)
    config = with_settings(config, {"actor.model.lora_path": str(checkpoint.actor.resolve())})
    if arguments.demonstrations:
        replay = {"demonstrations": str(arguments.demonstrations.resolve()), "demonstrations_per_task": 1}
        config = with_settings(config, {f"method.replay.{key}": value for key, value in replay.items()})
    request = check(config, config_name=str(path), overrides=(), learns=False)
    trained = _Trained.load(request, needs_base=bool(arguments.demonstrations and arguments.fisher))
    kl: dict[int, float] = {}
    energy: dict[int, float] = {}
    temperature = request.config.algorithm.sampling_params.temperature_train
    for ref in _demonstrations(request.config, arguments):
        demo, policy = read_demonstration(ref, cameras=request.config.env.cameras), replayable(trained.policy)
        samples = expert_samples(ref, demo, policy, max_frames=arguments.frames)
        kl[ref.task_id] = divergence_from_base(
            policy,
            samples,
            temperature=temperature,
            device=_device(),
            base=replayable(trained.base) if trained.is_on_merged else None,
        )
        if arguments.fisher:
            task = TaskContext((ref.task_id,), Path(), temperature=temperature, device=_device())
            energy[ref.task_id] = fisher_energy(fisher_at(replayable(trained.base), samples, task), trained.deltas())
    layers = trained.changes()
    rank, norm = means(layers)
    diagnosis = Diagnosis(
        method=lineage.method,
        suite=lineage.suite,
        seed=lineage.seed,
        learnt_tasks=lineage.learnt_tasks,
        checkpoint=checkpoint.short_name,
        effective_rank=rank,
        relative_change=norm,
        temperature=temperature,
        frames=arguments.frames,
        time=utc_now(),
        kl=kl,
        fisher_energy=energy,
    )
    return diagnosis, layers, checkpoint.run_folder.parent / DIAGNOSTICS_FILE


@dataclass(frozen=True)
class _Trained:
    """A policy, and its base model without any adapter where that is looked at. is_on_merged: adapters of earlier tasks
    are merged beneath its own."""

    policy: Policy
    given_base: Policy | None
    is_on_merged: bool

    @staticmethod
    def load(request: Request, *, needs_base: bool) -> _Trained:
        policy, is_on_merged = _load(request, request.config), bool(request.config.actor.model.previous_lora_paths)
        if not (needs_base or is_on_merged or not isinstance(policy.module, PeftModel)):
            return _Trained(policy, None, is_on_merged)
        plain: dict[str, object] = {
            "lora_path": None,
            "is_lora": False,
            "previous_lora_paths": [],
            "previous_lora_coeff": None,
        }
        config = with_settings(request.config, {f"actor.model.{key}": value for key, value in plain.items()})
        return _Trained(policy, _load(request, config), is_on_merged)

    @property
    def base(self) -> Policy:
        assert self.given_base is not None
        return self.given_base

    def deltas(self) -> Iterator[tuple[str, Tensor]]:
        """What training added to each weight of the base model."""
        if isinstance(self.policy.module, PeftModel):
            return adapter_deltas(self.policy.module, self.base.module if self.is_on_merged else None)
        return whole_deltas(self.policy.module, self.base.module)

    def changes(self) -> list[LayerChange]:
        if isinstance(self.policy.module, PeftModel) and not self.is_on_merged:
            return adapter_changes(self.policy.module)  # which is small enough to need no whole matrix
        return changes(self.deltas(), self.base.module)


def _find(path: Path) -> tuple[Checkpoint, Lineage, Config]:
    """A checkpoint, where it comes from, and the configuration of its run.

    Raises:
        UsageError: there is none.
    """
    checkpoint = checkpoint_of(path)
    if checkpoint is None:
        of_run = checkpoints(path)
        if not of_run:
            raise UsageError(f"{path} is neither a run's folder with checkpoints nor one of its actor folders")
        checkpoint = of_run[-1]
    file, lineage = checkpoint.run_folder / CONFIG_FILE, Lineage.load(checkpoint.actor)
    if not file.is_file() or lineage is None:
        lacking = LINEAGE_FILE if file.is_file() else CONFIG_FILE
        raise UsageError(f"{path} is of a run without {lacking}, which says what its policy is")
    composed = OmegaConf.load(file)
    assert OmegaConf.is_dict(composed)
    return checkpoint, lineage, typed_config(composed)  # type: ignore[arg-type]


def _load(request: Request, config: Config) -> Policy:
    policy = load_policy(config.actor.model, request.source, base_dtype=torch.float32)
    policy.to(_device())
    return policy


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _demonstrations(config: Config, arguments: argparse.Namespace) -> list[DemonstrationRef]:
    """One of each task that is asked for; none where no folder is given."""
    if not arguments.demonstrations:
        return []
    tasks = parse_numbers(arguments.tasks) if arguments.tasks else tuple(range(num_tasks(config.env.suite)))
    return find_demonstrations(config.method.replay, suite=config.env.suite, task_ids=tasks)


if __name__ == "__main__":
    run_cli(main)
