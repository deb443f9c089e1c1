
import json
from pathlib import Path

import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent
RUNS = {
    "task_7_lr_1e-3": ("task 7, lr 1e-3", "#0f766e"),
    "task_7_lr_5e-4": ("task 7, lr 5e-4", "#5b9d98"),
    "task_7_lr_2e-4": ("task 7, lr 2e-4", "#a9c9c6"),
    "task_0_lr_5e-4": ("task 0, lr 5e-4", "#c2410c"),
}


def read(name: str) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(epoch, success) of training rollouts and of evaluations."""
    lines = [json.loads(line) for line in (FOLDER / "data" / f"{name}.jsonl").read_text().splitlines()]
    name = "rollout/success_rate"
    rollouts = [(entry["step"], entry["metrics"][name]) for entry in lines if name in entry["metrics"]]
    found = {e["step"]: e["metrics"]["eval/env_info/success_once"] for e in lines if _evaluated(e["metrics"])}
    return rollouts, sorted(found.items())


def _evaluated(metrics: dict[str, float]) -> bool:
    return "eval/env_info/success_once" in metrics


def main() -> None:
    """Write the picture beside this script."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    for name, (label, colour) in RUNS.items():
        rollouts, evaluations = read(name)
        axes.plot(*zip(*rollouts, strict=True), color=colour, alpha=0.35, linewidth=1)
        axes.plot(*zip(*evaluations, strict=True), color=colour, marker="o", markersize=4, label=label)
    axes.set(xlabel="epoch (192 episodes each)", ylabel="success at temperature 1.0", ylim=(0, 1), xlim=(0, 20))
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", title="points: 100 evaluation episodes; thin: rollouts")
    figure.tight_layout()
    figure.savefig(FOLDER / "learning_curves.png", dpi=130)


if __name__ == "__main__":
    main()
