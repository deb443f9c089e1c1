"""The command that measures the expert, on two initial states."""

from libero_runtime.demos.episodes import Attempt
from libero_runtime.expert_table import Row, main, table


def row(suite: str, task_id: int, *, successes: list[bool]) -> Row:
    attempts = [Attempt(success, 50 + index) for index, success in enumerate(successes)]
    return Row(suite, task_id, f"do thing {task_id}", attempts)


def test_the_table_has_a_line_per_task_and_the_mean_over_tasks_per_suite():
    rows = [
        row("libero_goal", 0, successes=[True, True]),
        row("libero_goal", 1, successes=[True, False]),
        row("libero_10", 4, successes=[False]),
    ]
    lines = table(rows).splitlines()
    assert "| libero_goal | 0 | do thing 0 | 100 % | 50 | 51 |" in lines
    assert "| libero_goal | 1 | do thing 1 | 50 % | 50 | 50 |" in lines
    assert "| libero_10 | 4 | do thing 4 | 0 % | - | 0 |" in lines
    assert "| libero_goal | 75.0 % | 50 | 4 |" in lines
    assert rows[1].failed == [1]


def test_measures_an_object_task(capsys):
    flags = ["--suites", "libero_object", "--tasks", "1", "--init-states", "2", "--num-workers", "1"]
    assert main(flags) == 0
    assert "| libero_object | 100.0 % |" in capsys.readouterr().out


def test_user_errors_exit_with_2(capsys):
    for flags, message in ((["--suites", "libero_nothing"], "unknown suite"), (["--tasks", "10"], "is out of range")):
        assert main(flags) == 2
        assert message in capsys.readouterr().err
