"""The generated stand-ins against the measured facts, by compiling them with MuJoCo."""

from collections import Counter
from pathlib import Path

import mujoco
import numpy as np
import pytest

from libero_runtime.assets import build_files, ensure_assets
from libero_runtime.assets.arenas import ARENAS
from libero_runtime.assets.facts import object_facts, raw_facts
from libero_runtime.assets.objects import OBJECTS
from libero_runtime.assets.shapes import bounding_box, lathe, matrix_to_quat, quat_to_matrix, swept, wall_ring
from libero_runtime.assets.textures import TEXTURES

SITE_NUMBERS = {"sphere": 2, "capsule": 3, "ellipsoid": 4, "cylinder": 5, "box": 6}


@pytest.fixture(scope="module")
def assets(tmp_path_factory) -> Path:
    return ensure_assets(tmp_path_factory.mktemp("cache"))


def compile_object(assets: Path, category: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(assets / OBJECTS[category].xml_path(category)))


def collision_bounds(model: mujoco.MjModel, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of a body's colliding geoms in its own frame, from the corners of each geom's box."""
    lows, highs = [], []
    for geom in np.flatnonzero((model.geom_bodyid == body) & (model.geom_contype > 0)):
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        rotation = rotation.reshape(3, 3)
        center = model.geom_pos[geom] + rotation @ model.geom_aabb[geom, :3]
        extent = np.abs(rotation) @ model.geom_aabb[geom, 3:]
        lows.append(center - extent)
        highs.append(center + extent)
    return np.min(lows, axis=0), np.max(highs, axis=0)


@pytest.mark.parametrize("category", OBJECTS)
def test_bodies_match_the_facts(assets, category):
    model, facts = compile_object(assets, category), object_facts(category)
    assert model.body_mass.sum() == pytest.approx(facts.total_mass, rel=0.02)
    for body in facts.bodies[1:]:
        index = model.body(body.name).id
        np.testing.assert_allclose(model.body_pos[index], body.pos, atol=1e-5)
        np.testing.assert_allclose(model.body_quat[index], body.quat, atol=1e-4)
        assert model.body(model.body_parentid[index]).name == body.parent
        assert model.body_mass[index] == pytest.approx(body.mass, rel=0.02)
        if body.mass and body.inertia is not None:
            np.testing.assert_allclose(model.body_ipos[index], body.com, atol=1e-5)
            np.testing.assert_allclose(np.sort(model.body_inertia[index]), np.sort(body.inertia), rtol=0.01)
        if body.low is not None:
            low, high = collision_bounds(model, index)
            np.testing.assert_allclose(low, body.low, atol=0.002)
            np.testing.assert_allclose(high, body.high, atol=0.002)


@pytest.mark.parametrize("category", OBJECTS)
def test_joints_and_sites_match_the_facts(assets, category):
    model, facts = compile_object(assets, category), object_facts(category)
    assert model.njnt == sum(len(body.joints) for body in facts.bodies)
    assert model.nsite == sum(len(body.sites) for body in facts.bodies)
    for body in facts.bodies:
        for joint in body.joints:
            index = model.joint(joint.name).id
            kind = mujoco.mjtJoint(model.jnt_type[index])
            assert kind == {"hinge": mujoco.mjtJoint.mjJNT_HINGE, "slide": mujoco.mjtJoint.mjJNT_SLIDE}[joint.kind]
            assert model.jnt_limited[index]
            np.testing.assert_allclose(model.jnt_axis[index], joint.axis, atol=1e-6)
            np.testing.assert_allclose(model.jnt_pos[index], joint.pos, atol=1e-6)
            np.testing.assert_allclose(model.jnt_range[index], joint.range, atol=1e-6)
            assert model.dof_damping[model.jnt_dofadr[index]] == pytest.approx(joint.damping)
        for site in body.sites:
            index = model.site(site.name).id
            assert model.site_type[index] == SITE_NUMBERS[site.kind]
            np.testing.assert_allclose(model.site_pos[index], site.pos, atol=1e-5)
            unit = site.quat / np.linalg.norm(site.quat)
            assert abs(model.site_quat[index] @ unit) == pytest.approx(1.0, abs=1e-6)
            used = {"sphere": 1, "capsule": 2, "cylinder": 2}.get(site.kind, 3)
            np.testing.assert_allclose(model.site_size[index, :used], site.size[:used], atol=1e-6)


@pytest.mark.parametrize("category", OBJECTS)
def test_visuals_are_never_touched_and_weigh_nothing(assets, category):
    model = compile_object(assets, category)
    visual = model.geom_group == 1
    assert visual.any()
    assert not model.geom_contype[visual].any()
    assert not model.geom_conaffinity[visual].any()
    assert set(model.geom_group) <= {0, 1}
    # software rendering is bound by vertices
    assert model.nmeshface < 3000
    # robosuite draws group 1 only, and collides with named geoms of group 0
    assert (model.geom_contype[model.geom_group == 0] == 1).all()


@pytest.mark.parametrize("category", ["akita_black_bowl", "glazed_rim_porcelain_ramekin", "plate"])
def test_dishes_are_hollow(assets, category):
    """A probe dropped on the axis reaches the floor, well below the rim."""
    model = compile_object(assets, category)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    body = object_facts(category).body("object")
    low, high = body.bounds
    start = np.array([body.center[0], body.center[1], high[2] + 0.1]) + body.pos
    hit = np.zeros(1, dtype=np.int32)
    distance = mujoco.mj_ray(
        model, data, start, np.array([0.0, 0.0, -1.0]), np.array([1, 0, 0, 0, 0, 0], dtype=np.uint8), 1, -1, hit
    )
    floor = start[2] - body.pos[2] - distance
    assert low[2] < floor < low[2] + 0.008


@pytest.mark.parametrize("arena", ARENAS)
def test_arenas_have_the_measured_geoms_and_cameras(assets, arena):
    model = mujoco.MjModel.from_xml_path(str(assets / "scenes" / f"{arena}.xml"))
    facts = raw_facts()["arenas"][ARENAS[arena].facts]
    names = {model.geom(index).name for index in range(model.ngeom)}
    assert names >= {geom["name"] for geom in facts["geoms"] if "name" in geom}
    assert {model.camera(index).name for index in range(model.ncam)} == {camera["name"] for camera in facts["cameras"]}
    assert model.nlight == len(facts["lights"])
    measured = [geom for geom in facts["geoms"] if "contype" not in geom]
    solid = np.flatnonzero(model.geom_contype)
    assert len(solid) == len(measured)
    for geom in measured:
        pos, size = (np.array([float(value) for value in geom[key].split()]) for key in ("pos", "size"))
        assert any(
            np.allclose(model.geom_pos[index], pos, atol=1e-5) and np.allclose(model.geom_size[index], size, atol=1e-5)
            for index in solid
        )


def test_every_style_of_hf_libero_has_its_texture():
    libero_styles = pytest.importorskip("importlib.util").find_spec("libero")
    style = Path(libero_styles.submodule_search_locations[0]) / "libero" / "envs" / "arenas" / "style.py"
    namespace: dict = {}
    exec(style.read_text(), namespace)
    files = {*namespace["FLOOR_STYLE"].values(), *namespace["WALL_STYLE"].values()}
    assert files <= {f"{name}.png" for name in TEXTURES}


def test_generation_is_deterministic_and_written_once(tmp_path):
    assert build_files() == build_files()
    first = ensure_assets(tmp_path)
    stamp = first.stat().st_mtime_ns
    assert ensure_assets(tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_unknown_names_are_explained():
    with pytest.raises(ValueError, match=r"no facts about the object .teapot.; known: .*plate"):
        object_facts("teapot")


def test_wall_ring_stays_within_its_radii():
    low, high = bounding_box(wall_ring((0.03, 0.0), (0.05, 0.04), 0.002, center=(0.1, 0.0, 0.0), num_boxes=16))
    np.testing.assert_allclose(high[:2] - [0.1, 0.0], 0.05 * np.cos(np.pi / 16), atol=1e-9)
    assert low[2] == pytest.approx(0.0, abs=0.001)


@pytest.mark.parametrize("sweep", [(0.0, 0.2, 0.0), (0.0, -0.2, 0.0)])
def test_a_swept_board_is_closed_and_faces_outwards(sweep):
    x = np.linspace(-0.3, 0.3, 7)
    heights = 0.1 + 0.05 * np.abs(np.sin(7 * x))
    low, high = (np.stack([x, 0 * x, z], axis=1) for z in (0 * x, heights))
    mesh = swept("board", low, high, np.array(sweep))
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    volume = np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(0.2 * np.trapezoid(heights, x))
    edges = Counter(
        (tuple(start), tuple(stop))
        for corners in mesh.vertices[mesh.faces].round(9).tolist()
        for start, stop in zip(corners, [*corners[1:], corners[0]], strict=True)
    )
    assert all(count == 1 and edges[stop, start] == 1 for (start, stop), count in edges.items())


def test_lathe_is_closed_and_faces_outwards():
    mesh = lathe("cylinder", [(0.0, 0.0), (0.1, 0.0), (0.1, 0.2), (0.0, 0.2)], num_sides=64)
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(np.pi * 0.01 * 0.2, rel=0.01)
    edges = {(int(u), int(v)) for face in mesh.faces for u, v in zip(face, np.roll(face, -1), strict=True)}
    assert all((v, u) in edges for u, v in edges)


def test_quaternions_survive_a_round_trip():
    for quat in ([1, 0, 0, 0], [0, 1, 0, 0], [0.5, -0.5, 0.5, 0.5], [0.1, 0.7, -0.7, 0.1]):
        unit = np.array(quat) / np.linalg.norm(quat)
        again = np.array(matrix_to_quat(quat_to_matrix(unit)))
        assert abs(again @ unit) == pytest.approx(1.0)
