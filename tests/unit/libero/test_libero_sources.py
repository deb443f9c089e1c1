"""A package named as one that scenes are made with, or a fork's files, must not stand in for it without a word."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libero_runtime import paths, suites
from libero_runtime.assets import sources
from libero_runtime.commands import LiberoError
from libero_runtime.suites import suite_asset_kind
from rlinf.cli import evaluate
from rlinf.cli.console import EXIT_USER_ERROR, run_cli
from tests.launchers import TINY, of_model

INNER = paths.libero_folder()


def run(command, path, folder):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False)


def foreign_package(folder, name):
    package = folder / "other" / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return package / "__init__.py"


def test_the_doctor_names_a_package_that_comes_first(tmp_path):
    foreign = foreign_package(tmp_path, "robosuite")
    done = run(["-m", "libero_runtime.doctor", "--frame", str(tmp_path / "frame.png")], foreign.parents[1], tmp_path)
    assert done.returncode == EXIT_USER_ERROR, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert str(foreign) in done.stderr
    assert not (tmp_path / "frame.png").exists()


def test_a_run_names_it_before_anything_starts(tmp_path, small_policy, monkeypatch, capsys):
    foreign = foreign_package(tmp_path, "libero")
    monkeypatch.syspath_prepend(foreign.parents[1])
    monkeypatch.delitem(sys.modules, "libero", raising=False)
    for cached in (sources.installed_folder, suites._task_map, paths._resolve):
        cached.cache_clear()
    words = ["--config-name", TINY, *of_model(small_policy), f"runner.logger.log_root={tmp_path / 'logs'}"]
    with pytest.raises(SystemExit) as ended:
        run_cli(evaluate.main, words)
    assert ended.value.code == EXIT_USER_ERROR
    assert str(foreign) in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_our_own_folder_of_that_name_is_none(tmp_path):
    """`LIBERO/libero` holds demonstrations and is no package, nor is an official checkout's."""
    (tmp_path / "libero" / "datasets").mkdir(parents=True)
    done = run(["-c", "from libero_runtime.paths import prepare_libero; prepare_libero()"], tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with LIBERO's own task files, in use."""
    inner = tmp_path / "libero" / "libero"
    for name in ("bddl_files", "init_files"):
        shutil.copytree(INNER / name / "libero_spatial", inner / name / "libero_spatial")
    (inner / "assets").symlink_to(paths.resolve_paths().assets)
    monkeypatch.setenv("LIBERO_REPO_PATH", str(tmp_path))
    suites._load_suite.cache_clear()
    yield inner
    suites._load_suite.cache_clear()


def test_results_say_when_a_checkouts_tasks_are_not_liberos(checkout, caplog):
    """A task file that was edited, or exchanged for another task's."""
    tasks = suites.load_suite("libero_spatial").tasks
    assert suite_asset_kind("libero_spatial") == "official"
    shutil.copyfile(tasks[1].init_path, tasks[0].init_path)
    tasks[3].bddl_path.write_text(tasks[3].bddl_path.read_text().replace("plate_1", "plate_2"))
    suites._load_suite.cache_clear()
    assert suites.load_suite("libero_spatial").altered == (tasks[0].init_path, tasks[3].bddl_path)
    assert "2 of 20 task files are not LIBERO's own" in caplog.text
    assert re.fullmatch(r"official, altered tasks [0-9a-f]{12}", suite_asset_kind("libero_spatial"))


def test_installed_files_must_be_liberos(checkout, monkeypatch):
    monkeypatch.setattr(suites, "libero_folder", lambda: checkout)
    changed = min((checkout / "bddl_files" / "libero_spatial").iterdir())
    changed.write_text("(define)")
    with pytest.raises(LiberoError, match="1 of 20 task files are not LIBERO's own") as caught:
        suites._load_suite("libero_spatial", checkout / "bddl_files", checkout / "init_files")
    assert str(changed) in str(caught.value)


def test_an_edited_task_list_is_not_liberos(tmp_path):
    inner = tmp_path / "libero"
    name = Path("benchmark", "libero_suite_task_map.py")
    (inner / name).parent.mkdir(parents=True)
    text = (INNER / name).read_text()
    (inner / name).write_text(text)
    assert sources.altered([inner / name], inner=inner) == []
    (inner / name).write_text(text.replace("next_to", "beside"))
    assert sources.altered([inner / name], inner=inner) == [inner / name]


def test_words_of_tasks_are_not_known_where_the_simulator_is_not_installed(monkeypatch):
    """Demonstrations are read on machines that only fine-tune."""
    caches = (suites._instructions, suites._task_map, sources.installed_folder)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setitem(sources.DISTRIBUTIONS, "bddl", "not-installed-here")
    assert suites.instruction("pick up the milk and place it in the basket") is None
    with pytest.raises(LiberoError, match="not-installed-here is not installed"):
        paths.libero_folder()
    for cached in caches:
        cached.cache_clear()
