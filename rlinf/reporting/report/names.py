"""What the report calls suites, methods, tasks and numbers."""

from collections.abc import Mapping, Sequence

from libero_runtime.suites import PERTURBATIONS, STANDARD_SUITES

METHOD_NAMES = {
    "sequential": "Sequential fine-tuning",
    "ewc": "Elastic weight consolidation",
    "si": "Synaptic intelligence",
    "er": "Experience replay",
    "der": "Dark experience replay",
    "weight_merge": "Weight merge",
    "dwe": "Adapter per task (DWE)",
    "slca": "SLCA",
    "agem": "A-GEM",
    "lwf": "Learning without forgetting",
    "kl": "KL to the base model",
    "l2": "L2 to the start",
    "ema": "Moving average of weights",
    "olora": "O-LoRA",
    "sft": "Supervised fine-tuning",
    "multitask": "Multitask training",
    "simple_cnn": "Simple CNN policy",
    "random_action": "Random actions",
}
PPO_SUFFIX = "_ppo"  # runner.logger.method_suffix of algorithm=ppo


def method_name(method: str) -> str:
    """A method's name for people; GRPO goes without saying."""
    plain = method.removesuffix(PPO_SUFFIX)
    name = METHOD_NAMES.get(plain, plain.replace("_", " ").capitalize())
    return name if plain == method else f"{name}, PPO"


def method_place(method: str) -> tuple[int, bool]:
    """Sorts methods as tables list them: ours in a fixed order, each with PPO behind it, then all others."""
    plain = method.removesuffix(PPO_SUFFIX)
    known = list(METHOD_NAMES)
    return known.index(plain) if plain in known else len(known), plain != method


def suite_name(suite: str) -> str:
    """A suite's name for people; LIBERO-PRO's with what it changes."""
    base, _, change = suite.rpartition("_")
    if base in STANDARD_SUITES and change in PERTURBATIONS:
        return f"{STANDARD_SUITES[base].title}, {PERTURBATIONS[change]}"
    return STANDARD_SUITES[suite].title if suite in STANDARD_SUITES else suite or "unknown suite"


def further_name(suite: str, learnt_suite: str) -> str:
    """A further suite's name beside the suite that was learnt: what is other."""
    return PERTURBATIONS.get(suite.removeprefix(f"{learnt_suite}_"), suite_name(suite))


def percent(rate: float) -> str:
    """62%"""
    return f"{100 * rate:.0f}%"


def points(difference: float) -> str:
    """A difference of rates in points, with its sign: +12, −3, 0."""
    rounded = round(100 * difference)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded)}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def task_title(task: int, languages: Mapping[int, str]) -> str:
    """Task number with its instruction, if known."""
    return f"Task {task}: {languages[task]}" if task in languages else f"Task {task}"


def task_ranges(tasks: Sequence[int]) -> str:
    """Task ids in the given order, three and more in a row as a range: 0, 1, 2, 5 becomes "0–2, 5"."""
    runs: list[list[int]] = []
    for task in tasks:
        if runs and task == runs[-1][-1] + 1:
            runs[-1].append(task)
        else:
            runs.append([task])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def row_name(tasks: Sequence[int]) -> str:
    """A row of the success matrix by the tasks that it adds: base model, after task 3, after tasks 0–2."""
    return f"after {'task' if len(tasks) == 1 else 'tasks'} {task_ranges(tasks)}" if tasks else "base model"


def count(number: int, noun: str) -> str:
    """1 epoch, 2 epochs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listing(items: Sequence[object]) -> str:
    """a, b and c."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def duration(seconds: float) -> str:
    """7.5 s, 32 s, 12 min, 2.5 h."""
    space = "\N{NO-BREAK SPACE}"
    if seconds < 90:
        return f"{seconds:.0f}{space}s" if seconds >= 10 else f"{seconds:.1f}{space}s"
    return f"{seconds / 60:.0f}{space}min" if seconds < 5400 else f"{seconds / 3600:.1f}{space}h"
