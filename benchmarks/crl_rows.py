"""The rows of the results table: which launcher runs each, and with which settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCHERS = Path(__file__).resolve().parents[1] / "examples" / "crl_experiment"


@dataclass(frozen=True)
class Suite:
    """Tasks that are learnt, first to last; the others of the ten are held out, and on one of them, ``search``,
    learning rates are chosen."""

    first: int
    last: int
    search: int
    policy: str = "tiny"

    @property
    def tasks(self) -> list[int]:
        """In the order of learning."""
        return list(range(self.first, self.last + 1))

    def config(self, name: str, policy: str = "") -> str:
        """The configuration of a policy on this suite."""
        return f"crl_experiment/{name}_grpo_{policy or self.policy}"


SUITES = {"libero_spatial": Suite(0, 4, 7), "libero_object": Suite(5, 9, 2)}
"""The paper's sequences (arXiv:2603.11653) on the suites that the small policies are made for."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    script: the launcher, ``run_embodiment_SCRIPT.sh``. overrides: on top of the protocol's.
    needs: ``demonstrations`` of the expert, or ``scratch``, a policy without pretraining.
    diagnosed: which of its policies is diagnosed, where evaluations play several.
    """

    title: str
    script: str
    overrides: tuple[str, ...] = ()
    needs: str = ""
    diagnosed: str = ""

    def words(self, suite: str, *, seed: int, epochs: int, task: int | None = None) -> list[str]:
        """The launcher's positional arguments, and as an override what it has no argument for. task: this one alone."""
        of, tasks = SUITES[suite], ",".join(map(str, SUITES[suite].tasks))
        config = of.config(suite, "simple_cnn" if self.script == "simple_cnn" else "")
        a_range, by_override = f"{of.first},{of.last}" if task is None else str(task), f"runner.max_epochs={epochs}"
        return {
            "multitask": [tasks, "", str(len(of.tasks) * epochs), config, str(seed)],
            "sequential_reorder": [
                ",".join(map(str, reversed(of.tasks))), "reversed", str(epochs), config, str(seed),
            ],
            "weight_merge": [a_range, "0.8", config, str(seed), by_override],
            "slca": [a_range, "2e-4,2e-4,2e-3", config, str(seed), by_override],
            "er": [a_range, "0.03", "", str(epochs), config, str(seed)],
            "der": [a_range, "0.03", "", str(epochs), config, str(seed)],
        }.get(self.script, [a_range, "", str(epochs), config, str(seed)])  # fmt: skip


ROWS = {
    "sequential": Row("Seq. FT", "sequential"),
    "multitask": Row("Multitask (oracle)", "multitask"),
    "ewc": Row("EWC", "ewc"),
    "ewc_weak": Row("EWC, coefficient 1e3", "ewc", ("method.ewc.coeff=1e3", "method.label=ewc_weak")),
    "si": Row("SI", "si"),
    "er": Row("Expert replay", "er", needs="demonstrations"),
    "der": Row("DER", "der", needs="demonstrations"),
    "dwe": Row("DWE (an adapter per task)", "dwe", diagnosed="the last task's"),
    "slca": Row("SLCA", "slca"),
    "weight_merge": Row("Weight merge", "weight_merge"),
    "olora": Row("O-LoRA", "olora"),
    "lwf": Row("LwF", "lwf"),
    "kl": Row("KL to the base", "kl"),
    "l2": Row("L2 to the start", "l2"),
    "agem": Row("A-GEM", "agem"),
    "ema": Row("EMA", "ema"),
    "reversed": Row("Seq. FT, reversed order", "sequential_reorder"),
    "sequential_many": Row(
        "Seq. FT, many steps", "sequential", ("algorithm.update_epoch=5", "method.label=sequential_many")
    ),
    "sft": Row(
        "Supervised, demonstrations",
        "sft",
        ("algorithm.update_epoch=4", "method.replay.demonstrations_per_task=null", "actor.optim.lr=3e-4"),
        needs="demonstrations",
    ),
    "sft_few": Row(
        "Supervised, few demonstrations",
        "sft",
        ("method.replay.demonstrations_per_task=7", "method.label=sft_few", "actor.optim.lr=3e-4"),
        needs="demonstrations",
    ),
    "sft_own": Row(
        "Supervised, own successes",
        "sft",
        ("method.sft.source=own", "method.label=sft_own", "actor.optim.lr=3e-4"),
    ),
    "sft_own_many": Row(
        "Supervised, own successes, many steps",
        "sft",
        ("method.sft.source=own", "method.label=sft_own_many", "algorithm.update_epoch=20", "actor.optim.lr=3e-4"),
    ),
    "full": Row(
        "Full weights",
        "sequential",
        ("actor.model.is_lora=false", "actor.optim.lr=3e-5", "method.label=full"),
    ),
    "scratch": Row("No pretraining", "sequential", ("method.label=scratch",), needs="scratch"),
    "full_scratch": Row(
        "Full weights, no pretraining",
        "sequential",
        (
            "actor.model.is_lora=false", "actor.optim.lr=3e-5", "method.label=full_scratch",
        ),
        needs="scratch",
    ),
}  # fmt: skip
"""By the name that ``--rows`` takes, in the order in which they are run."""

PROTOCOL = (
    "algorithm.num_group_envs=12",
    "algorithm.group_size=8",
    "actor.global_batch_size=256",
    "actor.micro_batch_size=128",
    "actor.optim.lr=3e-4",
    "env.eval.episodes_per_task=10",
    "env.eval.temperatures=[1.0,0.0]",
    "env.video_episodes=0",
    "runner.keep_checkpoints=1",
)
EPOCHS = 5
SEARCHED = {
    "sequential": ("3e-4", "1e-3", "1e-3_warmup_8", "3e-3"),
    "sft": ("1e-4", "3e-4", "1e-3"),
    "full": ("1e-5", "3e-5", "1e-4"),
}
"""Learning rates that are tried for rows whose training is of another kind each; some with a warm-up over so many
optimizer steps, of which an epoch of rollouts has about six."""
TINY_PROTOCOL = (
    "algorithm.num_group_envs=2",
    "algorithm.group_size=2",
    "actor.global_batch_size=8",
    "actor.micro_batch_size=4",
    "env.train.max_episode_steps=16",
    "env.eval.max_episode_steps=16",
    "env.eval.episodes_per_task=1",
    "env.video_episodes=0",
    "method.ewc.num_samples=8",
)
"""To try the command on a laptop; its numbers mean nothing."""


def at_rate(rate: str) -> tuple[str, ...]:
    """The settings of one of the learning rates that are tried."""
    value, _, steps = rate.partition("_warmup_")
    return (f"actor.optim.lr={value}", *([f"actor.optim.lr_warmup_steps={steps}"] if steps else []))


def command(
    row: str, suite: str, *, seed: int, logs: Path, settings: Sequence[str], epochs: int, task: int | None = None
) -> list[str]:
    """What runs one cell of the table: a launcher with its arguments; ``logs``: where its results go. task: this one
    alone, instead of the suite's sequence."""
    line = ROWS[row]
    words = line.words(suite, seed=seed, epochs=epochs, task=task)
    script = LAUNCHERS / f"run_embodiment_{line.script}.sh"
    return ["bash", str(script), *words, *settings, *line.overrides, f"runner.logger.log_root={logs}"]
