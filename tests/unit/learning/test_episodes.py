"""Which episodes are played where, and how their steps become experience or the outcome of an evaluation."""

import weakref

import numpy as np
import pytest

from rlinf.config import ConfigError, load_config
from rlinf.data import Collected, EnvStep, EpisodePlan, EpisodeResult, Observation, RolloutBatch
from rlinf.envs import init_states
from rlinf.envs.episodes import EpisodeQueue, EpisodeRecorder, environments_at_a_time, evaluation_plans, training_plans
from rlinf.runners.collect import divide_plans
from rlinf.runners.evaluation import summarize
from tests.sequences import TINY


def _training(**changes):
    arguments = {
        "suite": "libero_spatial", "task_ids": [3, 5], "init_states": [range(4)] * 2, "num_groups": 6, "group_size": 3,
        "seed": 1, "epoch": 0,
    }  # fmt: skip
    return training_plans(**(arguments | changes))


def test_a_group_shares_task_state_and_seed():
    plans = _training()
    assert [plan.episode for plan in plans] == list(range(18))
    for group in range(6):
        members = [plan for plan in plans if plan.group == group]
        assert len(members) == 3
        assert len({(plan.task_id, plan.init_index, plan.seed) for plan in members}) == 1


def test_states_are_drawn_without_replacement_and_tasks_take_turns():
    plans = _training(num_groups=8)
    for task in (3, 5):
        states = [plan.init_index for plan in plans[::3] if plan.task_id == task]
        assert sorted(states) == [0, 1, 2, 3]


def test_the_draw_depends_on_seed_and_epoch_alone():
    assert _training() == _training()
    assert _training() != _training(epoch=1)
    assert _training() != _training(seed=2)


def test_evaluation_starts_again_from_state_zero_with_another_seed():
    plans = evaluation_plans(suite="s", task_ids=[2], init_states=[range(3)], episodes_per_task=4, seed=10)
    assert [(plan.init_index, plan.seed) for plan in plans] == [(0, 10), (1, 10), (2, 10), (0, 11)]


def test_evaluation_takes_chosen_states_in_order():
    plans = evaluation_plans(suite="s", task_ids=[2], init_states=[(1, 4)], episodes_per_task=3, seed=10)
    assert [(plan.init_index, plan.seed) for plan in plans] == [(1, 10), (4, 10), (1, 11)]


def test_training_and_evaluation_can_have_states_of_their_own():
    config = load_config(TINY, ["env.train.init_states='0-24,49'", "env.eval.init_states=25-48"]).env
    (learnt, same), (evaluated,) = init_states(config, "train", [3, 5]), init_states(config, "eval", [3])
    assert learnt == same == (*range(25), 49)
    assert evaluated == tuple(range(25, 49))
    plans = _training(init_states=[learnt, same], num_groups=52)
    assert {plan.init_index for plan in plans} == set(learnt)
    assert init_states(load_config(TINY, []).env, "train", [0]) == [range(50)]


@pytest.mark.parametrize(("text", "message"), [("0-50", "has 50: 0 to 49"), ("some", "expected numbers and ranges")])
def test_states_that_are_not_there(text, message):
    config = load_config(TINY, [f"env.eval.init_states={text}"]).env
    with pytest.raises(ConfigError, match=rf"env\.eval\.init_states.*{message}"):
        init_states(config, "eval", [0])


def test_groups_are_not_divided_between_workers():
    shares = divide_plans(_training(), 2)
    assert [len(share) for share in shares] == [9, 9]
    owners = {plan.group: {i for i, share in enumerate(shares) if plan in share} for plan in _training()}
    assert all(len(owner) == 1 for owner in owners.values())


def test_queue_keeps_a_worker_on_its_task_and_hands_out_everything_once():
    plans = evaluation_plans(suite="s", task_ids=[0, 1], init_states=[range(9)] * 2, episodes_per_task=3, seed=0)
    queue = EpisodeQueue(plans)
    first = [queue.next(worker) for worker in (0, 1)]
    assert {plan.task_id for plan in first} == {0, 1}, "idle workers spread over tasks"
    follow = queue.next(0)
    assert follow.task_id == first[0].task_id
    rest = [queue.next(0) for _ in range(3)]
    assert queue.next(1) is None
    assert sorted(plan.episode for plan in [*first, follow, *rest]) == list(range(6))


def _step(rewards, executed, success, terminated, truncated):
    count = len(rewards)
    return EnvStep(
        observation=Observation(
            np.zeros((count, 1, 4, 4, 3), np.uint8), np.zeros((count, 8), np.float32), ("lift",) * count
        ),
        rewards_BC=np.array(rewards, np.float32),
        executed_BC=np.array(executed),
        success_BC=np.array(success),
        terminated_B=np.array(terminated),
        truncated_B=np.array(truncated),
    )


def _record(recorder, episodes, step, value):
    count, actions = step.executed_BC.shape
    images_BNHWC = np.full((count, 1, 2, 2, 3), value, np.uint8)
    recorder.act(
        episodes,
        images_BNHWC=images_BNHWC,
        bins_BCA=np.full((count, actions, 7), value, np.int64),
        logprobs_BCA=np.zeros((count, actions, 7), np.float32),
        values_B=np.array([10 * episode + value for episode in episodes], np.float32),
    )
    recorder.step(episodes, step)
    return weakref.ref(images_BNHWC)  # tells whether the images of all its environments are still in memory


def test_recorder_turns_whole_episodes_into_samples_in_order():
    recorder = EpisodeRecorder()
    for number in (0, 1, 2):
        recorder.start(EpisodePlan(number, 0, "s", 4, number, 0))
    both = [[True, True]] * 2
    nothing = [[0.0, 0.0]] * 2
    _record(recorder, [1, 0], _step(nothing, both, [[False, False]] * 2, [False] * 2, [False] * 2), 1)
    # Episode 1 succeeds with its third action; episode 0 runs into the limit; episode 2 never ends.
    _record(
        recorder,
        [1, 0],
        _step([[5.0, 0.0], [0.0, 0.0]], [[True, False], [True, True]], [[True, True], [False, False]],
              [True, False], [False, True]),
        2,
    )  # fmt: skip
    assert (recorder.num_done, recorder.num_successes) == (2, 1)
    batch = RolloutBatch.cat(recorder.batches())
    assert [result.plan.episode for result in batch.episodes] == [0, 1]
    assert batch.episode_S.tolist() == [0, 0, 1, 1]
    assert batch.bins_SCA[:, 0, 0].tolist() == [1, 2, 1, 2]
    assert batch.values_S.tolist() == [1, 2, 11, 12]
    assert batch.executed_SC.tolist() == [[True, True], [True, True], [True, True], [True, False]]
    lost, won = batch.episodes
    assert (lost.success_once, lost.total_reward, lost.num_steps) == (False, 0.0, 4)
    assert (won.success_once, won.success_at_end, won.total_reward, won.num_steps) == (True, True, 5.0, 3)


def _record_images(recorder, episodes, terminated):
    count = len(episodes)
    return _record(
        recorder, episodes, _step([[0.0]] * count, [[True]] * count, [[False]] * count, terminated, [False] * count), 0
    )


def test_the_recorder_lets_go_of_an_episode_when_it_ends():
    """Its samples are in the object store then; those of a whole collection are 10 GB."""
    stored, images = [], []

    def put(batch):
        images.append(weakref.ref(batch.frames_SNHWC))
        stored.append(batch.episodes[0].plan.episode)
        return batch.num_samples

    recorder = EpisodeRecorder(put)
    for number in (0, 1):
        recorder.start(EpisodePlan(number, 0, "s", 4, number, 0))
    given = [_record_images(recorder, [0, 1], [False, True]), _record_images(recorder, [0], [True])]
    assert stored == [1, 0], "at once"
    assert recorder.batches() == [2, 1], "in order of the episodes' numbers"
    assert [result.plan.episode for result in recorder.results()] == [0, 1]
    assert [image() for image in [*given, *images]] == [None] * 4


def test_a_running_episode_does_not_keep_the_images_of_others():
    recorder = EpisodeRecorder()
    for number in (0, 1):
        recorder.start(EpisodePlan(number, 0, "s", 4, number, 0))
    given = _record_images(recorder, [0, 1], [False, True])
    assert given() is None
    assert [batch.num_samples for batch in recorder.batches()] == [1]


def test_shapes_are_checked_when_data_is_built():
    with pytest.raises(ValueError, match=r"images_BNHWC must be uint8 of shape \(1, any, any, any, 3\)"):
        Observation(np.zeros((2, 1, 4, 4, 3), np.uint8), np.zeros((1, 8), np.float32), ("a",))


@pytest.mark.parametrize(
    ("episodes", "envs", "used"),
    [(128, 120, 64), (64, 120, 64), (120, 120, 120), (500, 16, 16), (50, 16, 13), (0, 4, 0)],
)
def test_environments_that_are_used_finish_together(episodes, envs, used):
    assert environments_at_a_time(episodes, envs) == used


def _collected(*returns: tuple[int, float], seconds: float = 1.0) -> Collected:
    results = tuple(
        EpisodeResult(EpisodePlan(number, group, "toy", 0, 0, 0), value > 0, value > 0, value, 8)
        for number, (group, value) in enumerate(returns)
    )
    return Collected(results, (), (), inference_s=seconds, waiting_s=2 * seconds, num_chunks=len(results))


def test_groups_with_a_signal_are_counted_over_rounds():
    first = _collected((0, 5.0), (0, 5.0), (1, 0.0), (1, 5.0), (2, 0.0), (2, 0.0))
    assert first.num_groups_within(0.1, 4.9) == 1
    both = first.then(_collected((3, 5.0), (3, 0.0), seconds=4.0))
    assert both.num_groups_within(0.1, 4.9) == 2
    assert (both.inference_s, both.waiting_s, both.num_chunks) == (5.0, 10.0, 8)
    assert [result.plan.group for result in both.results] == [0, 0, 1, 1, 2, 2, 3, 3]


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
