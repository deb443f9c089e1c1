"""Demonstrations as replay samples: which are chosen, what they hold, what is said when they are not there, and the
command that computes base-model logits of them."""

import h5py
import numpy as np
import pytest
import torch

from libero_runtime.suites import load_suite
from openvla_oft.data.demonstration import DemonstrationError
from rlinf.cli.console import user_message
from rlinf.cli.precompute_logits import main
from rlinf.config import ConfigError
from rlinf.config.schema import ReplayConfig
from rlinf.custom.replay.dataset import _scan, as_rollouts, find_demonstrations, read_demonstration
from tests.sequences import TINY
from tests.small_policy import read_policy
from tests.unit.methods.replay_demos import SUITE, feature, field, task_names, write_hdf5, write_rlds


@pytest.fixture(scope="module")
def policy(small_policy):
    return read_policy(small_policy)


def _find(folder, task_ids, *, per_task=1):
    config = ReplayConfig(demonstrations=str(folder), demonstrations_per_task=per_task)
    return find_demonstrations(config, suite=SUITE, task_ids=task_ids)


def _load(refs, policy, *, nearest=True):
    demos = [read_demonstration(ref, cameras=("agentview",)) for ref in refs]
    return as_rollouts(refs, demos, policy, suite=SUITE, nearest=nearest)


def test_one_demonstration_of_each_task_unless_more_are_asked_for(tmp_path):
    write_hdf5(tmp_path, task_ids=range(10), num_demos=3)
    refs = _find(tmp_path, None)
    assert [(ref.task_id, ref.name) for ref in refs] == [(task, "demo_0") for task in range(10)]
    assert [(ref.task_id, ref.name) for ref in _find(tmp_path, [4, 2], per_task=2)] == [
        (4, "demo_0"),
        (4, "demo_1"),
        (2, "demo_0"),
        (2, "demo_1"),
    ]
    assert len(_find(tmp_path, [1], per_task=None)) == 3
    assert _find(tmp_path / SUITE, [1]) == _find(tmp_path, [1]), "the suite's own folder may be named too"


def test_missing_demonstrations_name_the_folder_and_the_command(tmp_path):
    with pytest.raises(ConfigError) as error:
        _find(tmp_path / "nothing", [0, 3])
    assert str(tmp_path / "nothing") in str(error.value)
    assert "python -m libero_runtime.demonstrations --suite libero_spatial --tasks 0,3" in str(error.value)
    write_hdf5(tmp_path, task_ids=[0], num_demos=1)
    with pytest.raises(ConfigError, match=r"--tasks 3 --episodes-per-task 1"):
        _find(tmp_path, [0, 3])
    with pytest.raises(ConfigError, match=r"--tasks 0 --episodes-per-task 2"):
        _find(tmp_path, [0], per_task=2)
    config = ReplayConfig(demonstrations=str(tmp_path / "nothing"))
    for suite, is_played in (("libero_object", True), ("libero_10", True), ("libero_spatial_swap", False)):
        with pytest.raises(ConfigError, match=r"hf download openvla/modified_libero_rlds") as error:
            find_demonstrations(config, suite=suite, task_ids=None)
        assert (f"libero_runtime.demonstrations --suite {suite} " in str(error.value)) == is_played


def test_samples_are_what_the_policy_saw_and_what_the_expert_did(tmp_path, policy):
    write_hdf5(tmp_path, task_ids=[5], num_steps=12)
    (ref,) = _find(tmp_path, [5])
    rollouts = _load([ref], policy)
    assert rollouts.num_samples == 12
    assert rollouts.languages == (task_names()[5].replace("_", " "),)
    assert rollouts.frames_SNHWC.shape == (12, 1, 32, 32, 3)
    with h5py.File(ref.path) as file:
        stored = file["data/demo_0/obs/agentview_rgb"][3]
        actions = file["data/demo_0/actions"][()]
    upright = torch.from_numpy(stored[::-1, ::-1].copy())[None, None]
    assert np.array_equal(rollouts.frames_SNHWC[np.array([3])], policy.processor.resize(upright))

    decoded = policy.actions.env_actions(torch.from_numpy(rollouts.bins_SCA).flatten(1)).numpy()
    np.testing.assert_allclose(decoded[3], actions[3:11], atol=1 / 255)  # half a bin
    # Five actions are left at frame 7; after them the expert stays where it is, its gripper as it was.
    np.testing.assert_allclose(decoded[7, :5], actions[7:], atol=1 / 255)
    np.testing.assert_allclose(decoded[7, 5:], [[0, 0, 0, 0, 0, 0, actions[-1, 6]]] * 3, atol=1 / 255)


def test_targets_take_the_nearest_bin_or_that_of_supervised_training(tmp_path, policy):
    write_hdf5(tmp_path, task_ids=[5], num_steps=4)
    refs = _find(tmp_path, [5])
    nearest, supervised = (_load(refs, policy, nearest=flag).bins_SCA for flag in (True, False))
    # The gripper is open in the first step: exactly 1 before it is binned.
    assert supervised[0, 0, 6] == 0
    assert nearest[0, 0, 6] == 1
    assert np.array_equal(nearest[..., :6], supervised[..., :6])


def test_rlds_shards_are_read_without_tensorflow(tmp_path, policy):
    path = tmp_path / f"{SUITE}_no_noops" / "1.0.0" / f"{SUITE}-train.tfrecord-00000-of-00001"
    episodes = write_rlds(path, task_ids=[7, 2])
    refs = _find(tmp_path, [2, 7])
    assert [(ref.task_id, ref.name, ref.num_steps) for ref in refs] == [(2, "1", 5), (7, "0", 5)]
    demo = read_demonstration(refs[0], cameras=("agentview", "robot0_eye_in_hand"))
    images, actions = episodes[1]
    np.testing.assert_array_equal(demo.actions_TA, actions)
    np.testing.assert_array_equal(demo.images_TNHWC, np.stack([images, 255 - images], axis=1))
    wrist = read_demonstration(refs[0], cameras=("eye_in_hand",))
    np.testing.assert_array_equal(wrist.images_TNHWC, 255 - images[:, None])
    with pytest.raises(DemonstrationError, match="unknown camera 'frontview'"):
        read_demonstration(refs[0], cameras=("frontview",))
    assert _load(refs, policy).num_samples == 10


def test_a_sentence_of_two_tasks_does_not_say_whose_demonstration_it_is(tmp_path):
    """Twelve of LIBERO-90's are; RLDS names the sentence alone."""
    tasks = {task.task_id: task.language for task in load_suite("libero_90").tasks}
    shared = next(text for text in tasks.values() if list(tasks.values()).count(text) > 1)
    (own, *_) = (task for task, text in tasks.items() if list(tasks.values()).count(text) == 1)
    for name, text in (("shared", shared), ("own", tasks[own])):
        said = {"steps/language_instruction": feature(1, field(1, text.encode()) * 5)}
        path = tmp_path / "libero_90_no_noops" / "1.0.0" / f"libero_90-{name}.tfrecord-00000-of-00001"
        write_rlds(path, task_ids=[0], change=lambda features, said=said: features | said)
    assert [ref.task_id for ref in _scan(tmp_path, "libero_90", load_suite("libero_90").tasks)] == [own]


def test_a_dry_run_lists_what_is_there_and_writes_nothing(tmp_path, capsys):
    write_hdf5(tmp_path, task_ids=range(10), num_demos=1, num_steps=4)
    stored = tmp_path / SUITE / "base_logits" / f"{task_names()[1]}_demo.hdf5" / "demo_0.safetensors"
    stored.parent.mkdir(parents=True)
    stored.touch()
    before = sorted(tmp_path.rglob("*"))
    assert main([TINY, "--dry-run", f"method.replay.demonstrations={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith(f"task 0, 4 frames: {tmp_path}")
    assert [line.endswith("(missing)") for line in lines[:10]] == [True, False, *[True] * 8]
    assert lines[-1] == "dry run: nothing was started"
    assert sorted(tmp_path.rglob("*")) == before


def test_without_demonstrations_the_command_that_makes_them_is_named(tmp_path):
    with pytest.raises(ValueError) as caught:
        main([TINY, f"method.replay.demonstrations={tmp_path}"])
    assert "python -m libero_runtime.demonstrations --suite libero_spatial" in str(user_message(caught.value))
