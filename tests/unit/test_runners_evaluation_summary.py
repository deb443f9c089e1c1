"""What an evaluation's episodes become: averages, counts and the initial states that were played."""

from rlinf.data import EpisodePlan, EpisodeResult
from rlinf.runners.evaluation import summarize


def _result(task: int, state: int, *, once: bool, end: bool, reward: float, steps: int) -> EpisodeResult:
    return EpisodeResult(EpisodePlan(0, -1, "libero_spatial", task, state, 7), once, end, reward, steps)


def test_success_episodes_and_initial_states_by_task():
    outcome = summarize(
        [
            _result(4, 0, once=True, end=True, reward=5.0, steps=80),
            _result(4, 1, once=True, end=False, reward=0.0, steps=160),
            _result(4, 2, once=False, end=False, reward=0.0, steps=160),
            _result(4, 0, once=False, end=False, reward=0.0, steps=160),  # states again from 0, with another seed
            _result(2, 7, once=True, end=True, reward=5.0, steps=40),
        ],
        wall_seconds=1.5,
    )
    assert outcome.success == {2: 1.0, 4: 0.5}
    assert outcome.episodes == {2: 1, 4: 4}
    assert outcome.init_states == {2: "7", 4: "0-2"}
    assert (outcome.success_once, outcome.success_at_end) == (0.6, 0.4)
    assert (outcome.mean_return, outcome.mean_episode_len) == (2.0, 120.0)
