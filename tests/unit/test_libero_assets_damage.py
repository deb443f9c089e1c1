"""Generated files that a killed copy or a full disk cut off are noticed when a command starts, and written again."""

import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from libero_runtime import robot_meshes
from libero_runtime.assets import _restore, content_hash, damaged_files, ensure_assets
from libero_runtime.doctor import main as doctor
from libero_runtime.paths import LiberoPathError, _resolve


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    return ensure_assets(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def assets(generated, tmp_path) -> Path:
    return Path(shutil.copytree(generated, tmp_path / "cache" / generated.name))


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("damage", [cut, zero, lambda file: file.write_bytes(b""), Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        "stable_hope_objects/butter/butter_carton.obj",  # MuJoCo loads half of it without a word
        "stable_hope_objects/butter/butter.xml",
        "textures/butter_label.png",
        "manifest.json",
    ],
)
def test_a_damaged_file_is_written_again(assets, generated, caplog, name, damage):
    damage(assets / name)
    assert damaged_files(assets) == [name]
    with caplog.at_level(logging.WARNING):
        assert ensure_assets(assets.parent) == assets
    assert f"restored 1 damaged stand-in assets in {assets}: {name}" in caplog.text
    assert snapshot(assets) == snapshot(generated)


def test_a_cut_mesh_is_restored_although_the_manifest_is_cut_too(assets, generated):
    cut(assets / "manifest.json")
    cut(assets / "stable_hope_objects/milk/milk_carton.obj")
    shutil.rmtree(assets / "textures")
    ensure_assets(assets.parent)
    assert snapshot(assets) == snapshot(generated)
    assert content_hash(assets) == content_hash(generated)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "null",
        "[]",
        '"x"',
        '{"content_hash": "x", "files": []}',
        '{"content_hash": "x", "files": {}}',
        '{"content_hash": "x", "files": {"textures": null}}',
        '{"files": {"a": "b"}}',
        '{"content_hash": 5, "files": {"a": "b"}}',
    ],
)
def test_a_manifest_of_another_form_is_written_again(assets, generated, text):
    (assets / "manifest.json").write_text(text)
    assert damaged_files(assets) == ["manifest.json"]
    with pytest.raises(LiberoPathError, match=rf"{assets / 'manifest.json'} is missing or damaged"):
        content_hash(assets)
    ensure_assets(assets.parent)
    assert snapshot(assets) == snapshot(generated)
    assert content_hash(assets) == content_hash(generated)


def test_who_finds_everything_restored_by_another_process_says_nothing(assets, caplog):
    _restore(assets)
    assert not caplog.records


def test_whole_folders_are_left_alone_and_looked_through_quickly(assets, caplog):
    (assets / "notes.txt").write_text("a user's own file is nobody's business")
    stamps = {path: path.stat().st_mtime_ns for path in assets.rglob("*")}
    begin = time.perf_counter()
    ensure_assets(assets.parent)
    assert time.perf_counter() - begin < 0.2, "3 ms on one core"
    assert {path: path.stat().st_mtime_ns for path in assets.rglob("*")} == stamps
    assert not caplog.records


def test_a_cache_folder_that_is_a_file_is_named_by_the_doctor(tmp_path, monkeypatch, capsys):
    (tmp_path / "libero-runtime").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("libero_runtime.paths._downloaded_assets", lambda: None)
    _resolve.cache_clear()
    assert doctor(["--frame", str(tmp_path / "frame.png")]) == 2
    assert "libero-runtime/assets-" in (error := capsys.readouterr().err)
    assert "cannot be read or written" in error
    _resolve.cache_clear()


def test_a_cut_robot_mesh_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    original = tmp_path / "ball.stl"
    azimuth, height = np.meshgrid(np.linspace(0, 2 * np.pi, 60), np.linspace(-1, 1, 30))
    radius = np.sqrt(1 - height**2)
    vertices = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), height], axis=-1)
    a, b, c = vertices[:-1, :-1].reshape(-1, 3), vertices[:-1, 1:].reshape(-1, 3), vertices[1:, :-1].reshape(-1, 3)
    corners = np.concatenate([a, b, c]).astype(np.float32)
    robot_meshes._write_stl(original, corners, np.arange(len(corners)).reshape(3, -1).T)

    coarse = robot_meshes._coarse_file(original, cell_m=0.2)
    assert coarse != original
    for make in (
        lambda: robot_meshes._coarse_file(original, cell_m=0.2),
        lambda: robot_meshes._merged_file([original, original]),
    ):
        made = make()
        whole = made.read_bytes()
        for damage in (cut, zero, lambda file: file.write_bytes(b"")):
            damage(made)
            assert make() == made
            assert made.read_bytes() == whole
