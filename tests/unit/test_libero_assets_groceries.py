"""Groceries and the basket: can be taken and put in, and their prints read the right way round."""

import io

import mujoco
import numpy as np
import pytest
from PIL import Image

from libero_runtime.assets import ensure_assets
from libero_runtime.assets.facts import object_facts
from libero_runtime.assets.labels import LABELS, build_label
from libero_runtime.assets.meshes import FACES, Patch, Section, box_patches, cell, loft, patchwork
from libero_runtime.assets.objects import GROCERIES, OBJECTS

GRIPPER_OPENING_M = 0.08
GROCERY_NAMES = [name for name, entry in OBJECTS.items() if entry.folder == GROCERIES]
UPRIGHT_ALONG_Z = {"bbq_sauce", "butter", "chocolate_pudding", "cookies", "cream_cheese"}


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    return ensure_assets(tmp_path_factory.mktemp("cache"))


def load(assets, name: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_path(str(assets / OBJECTS[name].xml_path(name)))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("name", GROCERY_NAMES)
def test_fits_between_the_fingers(name):
    half = object_facts(name).body("object").half
    across = half[:2] if name in UPRIGHT_ALONG_Z else half[[0, 2]]
    assert 2 * across.min() < GRIPPER_OPENING_M - 0.015


@pytest.mark.parametrize("name", [*GROCERY_NAMES, "basket"])
def test_print_wraps_what_is_touched(assets, name):
    """The seen surface stays within 4 mm of the collision geometry's bounds, with few triangles."""
    model, data = load(assets, name)
    assert model.nmeshface < 3000
    seen = []
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
        mesh = model.geom_dataid[geom]
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        seen.append(
            model.mesh_vert[start : start + count] @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
        )
    if not seen:
        pytest.skip("made of primitives")
    vertices = np.concatenate(seen) - data.body("object").xpos
    low, high = object_facts(name).body("object").bounds
    np.testing.assert_allclose(vertices.min(axis=0), low, atol=0.004)
    np.testing.assert_allclose(vertices.max(axis=0), high, atol=0.004)


def test_basket_is_open_and_walled(assets):
    """Straight down inside: the floor. Outwards at half height: a wall, beyond the measured inside region."""
    model, data = load(assets, "basket")
    body = object_facts("basket").body("object")
    region = body.sites[0]
    collision = np.array([1, 0, 0, 0, 0, 0], dtype=np.uint8)
    hit = np.zeros(1, dtype=np.int32)

    def distance(start: np.ndarray, direction: list[float]) -> float:
        return mujoco.mj_ray(model, data, start, np.array(direction), collision, 1, -1, hit)

    for x in (-0.06, 0.0, 0.06):
        for y in (-0.06, 0.0, 0.06):
            floor = 0.25 - distance(np.array([x, y, 0.25]), [0.0, 0.0, -1.0])
            assert 0.004 < floor < 0.018
    for direction in ([1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]):
        reach = distance(np.array([0.0, 0.0, region.pos[2]]), direction)
        assert region.size[0] < reach < body.half[:2].max()


def test_bottles_and_cans_resist_a_push(assets):
    """Tipped by 8 degrees on the floor, an upright bottle or can returns to its foot."""
    for name in ("alphabet_soup", "tomato_sauce", "ketchup", "salad_dressing", "bbq_sauce", "milk", "orange_juice"):
        body = object_facts(name).body("object")
        up = np.array([0.0, 0.0, 1.0]) if name in UPRIGHT_ALONG_Z else np.array([0.0, 1.0, 0.0])
        spec = mujoco.MjSpec.from_file(str(assets / OBJECTS[name].xml_path(name)))
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
        root = spec.worldbody.first_body()
        root.add_freejoint()
        model = spec.compile()
        data = mujoco.MjData(model)
        stand = np.array([1.0, 0, 0, 0]) if up[2] else np.array([np.sqrt(0.5), np.sqrt(0.5), 0, 0])
        tilt = np.array([np.cos(np.deg2rad(4)), 0.0, np.sin(np.deg2rad(4)), 0.0])
        mujoco.mju_mulQuat(data.qpos[3:7], tilt, stand)
        data.qpos[2] = -float(body.bounds[0] @ up) + 0.008
        for _ in range(1000):
            mujoco.mj_step(model, data)
        now = data.body("object").xmat.reshape(3, 3) @ up
        assert now[2] > np.cos(np.deg2rad(1)), name
        assert np.linalg.norm(data.qvel) < 0.05, name


def test_faces_of_a_box_look_outwards_and_read_upright():
    low, high = np.array([-1.0, -2.0, -3.0]), np.array([1.0, 2.0, 3.0])
    windows = {face: cell(face) for face in FACES}
    patches = box_patches(low, high, front=(0, -1, 0), up=(0, 0, 1), windows=windows)
    for patch in patches:
        middle = patch.corner + patch.right / 2 + patch.up / 2
        assert np.cross(patch.right, patch.up) @ middle > 0
    front = patches[0]
    # seen from -y, x points to the right and z up
    np.testing.assert_allclose([front.corner, front.right, front.up], [[-1, -2, -3], [2, 0, 0], [0, 0, 6]])
    mesh = patchwork("box", patches)
    assert mesh.uvs is not None
    left, bottom, right, top = cell("front")
    np.testing.assert_allclose(mesh.uvs[:4], [[left, bottom], [right, bottom], [right, top], [left, top]])


def test_triangular_patches_have_one_face():
    patch = Patch(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (0.0, 0.0, 1.0, 1.0), taper=0.5)
    assert len(patchwork("gable", [patch]).faces) == 1


def test_a_wrapped_label_has_its_middle_in_front_and_reads_to_the_right():
    sections = [Section(0.0, 0.0, 0.0), Section(0.0, 1.0, 1.0), Section(2.0, 1.0, 1.0), Section(2.0, 0.0, 0.0)]
    mesh = loft("can", sections, center=(0, 0, 0), front=(1, 0, 0), up=(0, 0, 1), window=(0, 0, 1, 1), num_sides=32)
    assert mesh.uvs is not None
    side = mesh.vertices[33 : 2 * 33], mesh.uvs[33 : 2 * 33]
    (middle,) = np.flatnonzero(np.isclose(side[1][:, 0], 0.5))
    np.testing.assert_allclose(side[0][middle], [1, 0, 0], atol=1e-6)
    assert side[0][middle + 1][1] > 0  # seen from +x with z up, +y is to the right
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(2 * np.pi, rel=0.01)


def test_prints_differ_from_each_other():
    """Shrunk to what a 128-pixel camera sees of them, no two prints are alike."""
    thumbs = {
        name: np.asarray(Image.open(io.BytesIO(build_label(name))).resize((6, 6)), dtype=float) for name in LABELS
    }
    for first in thumbs:
        for second in thumbs:
            if first < second:
                assert np.abs(thumbs[first] - thumbs[second]).mean() > 20, (first, second)


def test_unknown_prints_are_explained():
    with pytest.raises(ValueError, match=r"no print .soap.; there are .*milk_label"):
        build_label("soap")
