"""What is done with a policy of the results table after its last task: LIBERO-PRO, and what training changed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.crl_rows import LAUNCHERS, ROWS, SUITES
from libero_runtime.suites import PERTURBATIONS
from rlinf.reporting import diagnoses, ledger
from rlinf.reporting.ledger import EvaluationRecord, row_tasks
from rlinf.run_layout import DIAGNOSTICS_FILE, LEDGER_FILE, Checkpoint, run_name, same_checkpoint, step_of


@dataclass(frozen=True)
class LastPolicy:
    """The policy after the last task of a sequence: its last evaluation on the suite that was learnt, every other one
    of the same seed, and where it lies."""

    record: EvaluationRecord
    others: tuple[EvaluationRecord, ...]
    checkpoint: Checkpoint

    @staticmethod
    def of(logs: Path, suite: str) -> LastPolicy | None:
        """The one that a launcher left in ``logs``; None where nothing was evaluated."""
        for path in sorted(logs.rglob(LEDGER_FILE)):
            everything = ledger.read(path)
            if rows := ledger.rows([one for one in everything if one.suite == suite]):
                last = rows[-1]
                folder = path.parent / run_name(row_tasks(last.row), last.seed)
                return LastPolicy(last, tuple(everything), Checkpoint.at(folder, step_of(last.checkpoint)))
        return None

    @property
    def perturbed(self) -> tuple[str, ...]:
        """LIBERO-PRO's suites on which it is still to be evaluated, at each temperature of its other evaluations."""
        own = self.record
        temperatures = sorted({one.temperature for one in self.others if (one.suite, one.row) == (own.suite, own.row)})
        return ledger.not_evaluated(
            self.others,
            [f"{own.suite}_{change}" for change in PERTURBATIONS],
            method=own.method,
            seed=own.seed,
            row=own.row,
            checkpoint=self.checkpoint,
            temperatures=temperatures,
        )

    @property
    def is_diagnosed(self) -> bool:
        """Whether it is known what training changed, task by task."""
        known = diagnoses.read(self.checkpoint.run_folder.parent / DIAGNOSTICS_FILE)
        return any(same_checkpoint(one.checkpoint, self.checkpoint.short_name) and one.kl for one in known)


def evaluation(policy: LastPolicy, row: str, settings: Sequence[str]) -> list[str]:
    """The launcher that evaluates it on what is missing of LIBERO-PRO. settings: of the row's cell."""
    first, *others = policy.perturbed
    script, config = LAUNCHERS / "eval_embodiment.sh", SUITES[policy.record.suite].config(policy.record.suite)
    words = ["bash", str(script), str(policy.checkpoint.run_folder), str(policy.checkpoint.step), config]
    return [*words, *settings, *ROWS[row].overrides, f"env.suite={first}", f"env.eval_suites=[{','.join(others)}]"]


def diagnosis(policy: LastPolicy, demonstrations: Path, *, threads: int) -> list[str]:
    """The command that says what training changed, on so many of the processor's threads: cells that end together
    would each take all of them."""
    command = [sys.executable, "-m", "rlinf.cli.diagnose", str(policy.checkpoint.actor)]
    return ["env", f"OMP_NUM_THREADS={threads}", *command, "--demonstrations", str(demonstrations.resolve())]
