"""Draw policy_lag.png from data/task_7_policy_lag_*.jsonl: what playing ahead costs and gains on two CPU cores."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent
RUNS = {0: ("one after the other (max_policy_lag=0)", "#0f766e"), 1: ("played ahead (max_policy_lag=1)", "#c2410c")}


def read(lag: int) -> tuple[list[int], list[float], list[float]]:
    """Epoch, success of its rollouts, and minutes since the start at its end."""
    lines = (FOLDER / "data" / f"task_7_policy_lag_{lag}.jsonl").read_text().splitlines()
    entries = [json.loads(line)["metrics"] for line in lines]
    ends, total = [], 0.0
    for entry in entries:
        total += entry["time/epoch"] / 60
        ends.append(total)
    return list(range(1, len(entries) + 1)), [entry["rollout/success_rate"] for entry in entries], ends


def main() -> None:
    """Write the picture beside this script."""
    figure, (by_epoch, by_time) = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for lag, (label, colour) in RUNS.items():
        epochs, success, minutes = read(lag)
        by_epoch.plot(epochs, success, color=colour, marker="o", markersize=4, label=label)
        by_time.plot(minutes, success, color=colour, marker="o", markersize=4)
    by_epoch.set(xlabel="epoch (48 episodes each)", ylabel="success of rollouts", ylim=(0, 1))
    by_time.set(xlabel="minutes, start-up not counted")
    by_epoch.legend(frameon=False, loc="lower right")
    for axes in (by_epoch, by_time):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FOLDER / "policy_lag.png", dpi=120)


if __name__ == "__main__":
    main()
