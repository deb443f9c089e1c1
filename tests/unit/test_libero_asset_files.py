"""Which files tasks need, against hf-libero's own classes; and what is said when some are not there."""

import dataclasses
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from libero_runtime import asset_files, fidelity, paths
from libero_runtime.assets import ensure_assets
from libero_runtime.assets.objects import OBJECTS
from libero_runtime.models import build_env
from libero_runtime.opengl import select_opengl
from libero_runtime.suites import load_suite, suite_names


@pytest.fixture(scope="module")
def assets(tmp_path_factory) -> Path:
    return ensure_assets(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def checkout(monkeypatch, tmp_path, assets):
    """An official-looking checkout whose assets are a copy of the stand-ins."""
    inner = tmp_path / "repo" / "libero" / "libero"
    inner.mkdir(parents=True)
    for name in ("bddl_files", "init_files"):
        (inner / name).symlink_to(paths.hf_libero_folder() / name)
    shutil.copytree(assets, inner / "assets")
    monkeypatch.setenv("LIBERO_REPO_PATH", str(tmp_path / "repo"))
    paths._resolve.cache_clear()
    asset_files._references.cache_clear()
    yield inner / "assets"
    paths._resolve.cache_clear()


def test_categories_are_looked_for_where_hf_libero_opens_them(monkeypatch):
    select_opengl()
    prepared = paths.prepare_libero()
    from libero.libero.envs.objects import get_object_fn
    from robosuite.models.objects import MujocoXMLObject

    class OpenedError(Exception):
        pass

    def record(self, fname, *_, **__):
        raise OpenedError(fname)

    monkeypatch.setattr(MujocoXMLObject, "__init__", record)
    for category in (*OBJECTS, *asset_files._UNMEASURED):
        with pytest.raises(OpenedError) as opened:
            get_object_fn(category)(name="probe")
        assert Path(str(opened.value)) == prepared.assets / asset_files.category_path(category)


def test_settings_are_those_of_hf_libero():
    envs = paths.hf_libero_folder() / "envs"
    style: dict = {}
    exec((envs / "arenas" / "style.py").read_text(), style)
    found = 0
    for file in (envs / "problems").glob("libero_*.py"):
        text = file.read_text()
        (name,) = re.findall(r"^class (\w+)\(BDDLBaseDomain\)", text, re.MULTILINE)
        setting = {key.lower(): value for key, value in asset_files.SETTINGS.items()}[name.lower()]
        assert re.findall(r"scenes/(\w+)\.xml", text) == [setting.scene]
        assert re.findall(r'"floor_style": "([\w-]+)"', text) == [
            key for key, file in style["FLOOR_STYLE"].items() if file == f"{setting.floor}.png"
        ]
        assert re.findall(r'"wall_style": "([\w-]+)"', text) == [
            key for key, file in style["WALL_STYLE"].items() if file == f"{setting.wall}.png"
        ]
        assert re.findall(r'fixture_category == "(\w+)"', text) == [setting.furniture]
        found += 1
    assert found == len(asset_files.SETTINGS)


def test_stand_ins_serve_the_four_suites_and_most_of_libero_90(assets):
    lacking = Counter(
        suite for suite in suite_names() for task in load_suite(suite).tasks if asset_files.missing_files(task, assets)
    )
    assert lacking == {"libero_90": 23}


def test_incomplete_official_folder_names_every_missing_file(checkout):
    task = load_suite("libero_object").task(0)
    asset_files.check_assets(task)
    gone = ["textures/light-gray-plaster.png", "textures/milk_label.png", "stable_scanned_objects/basket/basket.xml",
            "stable_hope_objects/butter/butter_carton.obj"]  # fmt: skip
    for name in [*gone, "stable_hope_objects/bbq_sauce/bbq_sauce.xml"]:  # the last is not in this task
        (checkout / name).unlink()
    with pytest.raises(paths.LiberoPathError, match=r"libero_object task 0 .* needs 4 asset files") as error:
        build_env(task, control_hz=20, look="fast")
    assert all(str(checkout / name) in str(error.value) for name in gone)
    assert "bbq_sauce" not in str(error.value)
    assert "The folder is incomplete" in str(error.value)


def test_the_fidelity_command_names_missing_files(checkout):
    """MuJoCo, which would stop at the first missing mesh, is not reached."""
    meshes = [checkout / "stable_hope_objects" / name / f"{name}_carton.obj" for name in ("butter", "milk")]
    for mesh in meshes:
        mesh.unlink()
    report = fidelity.check_task("libero_object", 0, num_steps=1)
    assert not report.passed
    assert all(str(mesh) in report.problem for mesh in meshes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scenes/libero_floor_base_style.xml", b"<mujoco><asset>", "expected an XML document"),
        (
            "bddl",
            b"(define (problem LIBERO_Floor_Manipulation)",
            "expected as many \\) as \\( in a BDDL text, found 1 and 2",
        ),
        ("bddl", b"\xff\xfe", "expected a BDDL text"),
    ],
)
def test_files_that_are_cut_off_are_named(checkout, name, content, message):
    task = load_suite("libero_object").task(0)
    file = checkout / name
    if name == "bddl":
        file = checkout.parent / "task.bddl"
        task = dataclasses.replace(task, bddl_path=file)
    file.write_bytes(content)
    with pytest.raises(paths.LiberoPathError, match=message) as error:
        asset_files.check_assets(task)
    assert str(file) in str(error.value)
    assert "restore it" in str(error.value)


def test_missing_stand_ins_are_named():
    with pytest.raises(paths.LiberoPathError, match=r"libero_90 task 62 (?s:.*) official LIBERO checkout") as error:
        asset_files.check_assets(load_suite("libero_90").task(62))
    named = re.findall(r"\w+\.xml", str(error.value))
    assert sorted(named) == ["new_salad_dressing.xml", "wooden_tray.xml"]


def test_command_line(capsys):
    assert asset_files.main(["libero_object", "libero_goal"]) == 0
    assert "libero_object: 10 of 10 tasks can be loaded" in capsys.readouterr().out
    assert asset_files.main(["libero_90"]) == 2
    assert "task 36 (KITCHEN_SCENE7_put_the_white_bowl_on_the_plate) lacks" in capsys.readouterr().out
    assert asset_files.main(["libero_nothing"]) == 2
    assert "unknown suite 'libero_nothing'" in capsys.readouterr().err


def test_a_suites_hash_is_that_of_its_own_files(assets, tmp_path, monkeypatch):
    copy = tmp_path / "assets"
    shutil.copytree(assets, copy)
    monkeypatch.setattr(asset_files, "resolve_paths", lambda: SimpleNamespace(assets=copy, asset_kind="stand-in x"))
    kinds = {}
    for changed in (None, "milk", "plate"):  # milk is not in libero_spatial
        if changed:
            with (copy / OBJECTS[changed].xml_path(changed)).open("a") as file:
                file.write("<!-- -->")
        asset_files._suite_hash.cache_clear()
        kinds[changed] = asset_files.suite_asset_kind("libero_spatial")
    asset_files._suite_hash.cache_clear()
    assert kinds[None].startswith("stand-in ")
    assert kinds["milk"] == kinds[None] != kinds["plate"]
