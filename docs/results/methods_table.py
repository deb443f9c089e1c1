"""Print the table of docs/results/README.md from the ledgers in docs/results/methods: success in percent."""

from pathlib import Path

from rlinf.reporting.ledger import EvaluationRecord, read

FOLDER = Path(__file__).parent / "methods"
TRAINED = (4, 5, 7)
ORDER = ("sequential", "ewc", "er", "der", "weight_merge", "slca", "agem", "lwf", "multitask")


def cells(record: EvaluationRecord | None) -> tuple[str, str]:
    """Mean success over the trained tasks and over the other seven."""
    if record is None:
        return "", ""
    trained = [rate for task, rate in record.success.items() if task in TRAINED]
    others = [rate for task, rate in record.success.items() if task not in TRAINED]
    return f"{100 * sum(trained) / len(trained):.0f}", f"{100 * sum(others) / len(others):.0f}"


def main() -> None:
    for method in ORDER:
        rows = {record.row: record for record in read(FOLDER / method / "evaluations.jsonl")}
        last = rows.get("task_7") or rows.get("tasks_4_5_7")
        row = [method, *cells(rows["base"]), *cells(rows.get("task_5")), *cells(last)]
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
