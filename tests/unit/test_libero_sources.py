"""A package named as one that scenes are made with, or a fork's files, must not stand in for it without a word."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libero_runtime import paths, sources, suites
from rlinf.cli.console import EXIT_USER_ERROR
from tests.small_policy import write_policy

REPOSITORY = Path(__file__).resolve().parents[2]
INNER = paths.hf_libero_folder()
EVALUATE = ("examples/embodiment/eval_embodied_agent.py", "--config-name", "crl_experiment/libero_spatial_grpo_tiny")


def run(command, path, folder):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False)


def names(done, foreign):
    assert done.returncode == EXIT_USER_ERROR, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert str(foreign) in done.stderr


def foreign_package(folder, name):
    package = folder / "other" / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return package / "__init__.py"


@pytest.mark.parametrize("name", sources.DISTRIBUTIONS)
def test_the_doctor_names_a_package_that_comes_first(tmp_path, name):
    foreign = foreign_package(tmp_path, name)
    done = run(["-m", "libero_runtime.doctor", "--frame", str(tmp_path / "frame.png")], foreign.parents[1], tmp_path)
    names(done, foreign)
    assert not (tmp_path / "frame.png").exists()


def test_a_run_names_it_before_anything_starts(tmp_path):
    foreign = foreign_package(tmp_path, "libero")
    model = write_policy(tmp_path / "small")
    models = [f"actor.checkpoint_load_path={model}", f"rollout.model_dir={model}"]
    models += [f"actor.tokenizer.tokenizer_model={model}", f"runner.logger.log_root={tmp_path / 'logs'}"]
    done = run([*EVALUATE, *models], foreign.parents[1], REPOSITORY)
    names(done, foreign)
    assert not (tmp_path / "logs").exists()


def test_our_own_folder_of_that_name_is_none(tmp_path):
    """`LIBERO/libero` holds demonstrations and is no package, nor is an official checkout's."""
    (tmp_path / "libero" / "datasets").mkdir(parents=True)
    done = run(["-c", "from libero_runtime.paths import prepare_libero; prepare_libero()"], tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr


def test_files_of_a_fork_in_a_checkout_are_refused(tmp_path):
    """Official ones pass; a task file that was edited, or exchanged for another task's, does not."""
    for name in ("bddl_files", "init_files"):
        shutil.copytree(INNER / name / "libero_spatial", tmp_path / name / "libero_spatial")
    folders = (tmp_path / "bddl_files", tmp_path / "init_files")
    load = suites._load_suite.__wrapped__
    tasks = load("libero_spatial", *folders).tasks
    shutil.copyfile(tasks[1].init_path, tasks[0].init_path)
    tasks[3].bddl_path.write_text(tasks[3].bddl_path.read_text().replace("plate_1", "plate_2"))
    with pytest.raises(paths.LiberoPathError, match="2 of 20 task files are not LIBERO's own") as caught:
        load("libero_spatial", *folders)
    assert str(tasks[0].init_path) in str(caught.value)
    assert str(tasks[3].bddl_path) in str(caught.value)


def test_an_edited_task_list_is_not_hf_liberos(tmp_path):
    inner = tmp_path / "libero"
    name = Path("benchmark", "libero_suite_task_map.py")
    (inner / name).parent.mkdir(parents=True)
    text = (INNER / name).read_text()
    (inner / name).write_text(text)
    assert sources.altered([inner / name], inner=inner) == []
    (inner / name).write_text(text.replace("next_to", "beside"))
    assert sources.altered([inner / name], inner=inner) == [inner / name]
