"""A perturbed suite beside the suite itself, end to end: a line of the ledger each, metrics by their names."""

import pytest

from rlinf.reporting import ledger
from tests.launchers import TINY, launch
from tests.small_policy import write_policy


@pytest.mark.slow
def test_the_base_model_is_evaluated_on_other_goals_too(tmp_path):
    text = launch(
        "eval_embodiment.sh", "base", "", TINY, "env.eval_suites=[libero_spatial_task]",
        "env.eval.max_episode_steps=8", model=write_policy(tmp_path / "small"), logs=tmp_path,
    )  # fmt: skip
    for name in ("eval/env_info/task_0_success", "eval/libero_spatial_task/task_0_success_total"):
        assert f"'{name}'" in text
    own, other = ledger.read(tmp_path / "sequential" / ledger.LEDGER_NAME)
    assert (own.suite, own.learnt_suite, own.is_further) == ("libero_spatial", "", False)
    assert (other.suite, other.learnt_suite, other.row) == ("libero_spatial_task", "libero_spatial", "base")
    assert other.episodes == {0: 1}
