"""Stand-ins of kitchen, desk and furniture at rest, and as a task's end leaves them."""

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
import pytest

from libero_runtime.assets import ensure_assets
from libero_runtime.assets.facts import object_facts, raw_facts
from libero_runtime.assets.furniture import wine_rack
from libero_runtime.assets.objects import OBJECTS
from libero_runtime.assets.shapes import Mesh
from libero_runtime.suites import init_states, load_suite
from tests.unit.test_libero_assets_scenes import ROBOT_DOFS, Settling

# A quarter turn to the right about z, as published states put mugs.
TURNED = (np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5))
UPRIGHT = (1.0, 0.0, 0.0, 0.0)


def test_every_measured_category_has_a_stand_in():
    assert set(OBJECTS) == set(raw_facts()["objects"])


@pytest.mark.parametrize(("suite", "task_id"), [("libero_goal", 9), *(("libero_10", task_id) for task_id in range(10))])
def test_objects_settle_upright_and_stay(suite, task_id):
    task = load_suite(suite).task(task_id)
    settling = Settling(task)
    states = init_states(task)
    assert states.shape[1] == 1 + settling.model.nq + settling.model.nv
    joints = settling.model.nq - ROBOT_DOFS - 7 * len(settling.bodies)
    settling.start(states[4 * task_id + 1])
    fixtures = settling.data.qpos[settling.model.nq - joints :].copy()
    placed, upright = settling.poses()
    settling.run(0.5)
    landed, rotations = settling.poses()
    # Published states of the living room put tall groceries up to 3 cm into the measured table: it lifts them out.
    lifted = landed[:, 2] - placed[:, 2]
    assert (lifted > -0.08).all()
    assert lifted.max() < (0.03 if "LIVING_ROOM" in task.name else 0.0)
    assert np.abs(landed - placed)[:, :2].max() < 0.002
    assert (np.einsum("nij,nij->n", upright, rotations) > 1 + 2 * np.cos(np.deg2rad(1.0))).all()
    penetration = settling.run(0.5)
    still, _ = settling.poses()
    assert penetration < 0.001
    assert np.linalg.norm(still - landed, axis=1).max() < 0.0005
    assert np.abs(settling.data.qvel[ROBOT_DOFS:]).max() < 0.02
    np.testing.assert_allclose(settling.data.qpos[settling.model.nq - joints :], fixtures, atol=1e-3)


class Bench:
    """A fixture on the ground and free objects, without a robot."""

    def __init__(self, assets: Path, fixture: str, movable: Sequence[str]) -> None:
        spec = mujoco.MjSpec.from_string(
            "<mujoco><compiler angle='radian' inertiagrouprange='0 0'/><option timestep='0.002' cone='elliptic' "
            "impratio='20'/><worldbody><geom type='plane' size='2 2 0.1'/></worldbody></mujoco>"
        )
        for index, category in enumerate([fixture, *movable]):
            part = mujoco.MjSpec.from_file(str(assets / OBJECTS[category].xml_path(category)))
            body = spec.worldbody.add_frame().attach_body(part.worldbody.first_body(), f"{index}_", "")
            if index:
                body.add_freejoint()
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.num_free = len(movable)

    def place(self, index: int, pos: Sequence[float], quat: Sequence[float] = UPRIGHT) -> None:
        self.pose(index)[:] = [*pos, *quat]

    def pose(self, index: int) -> np.ndarray:
        """Position and quaternion (7,) of a free object, as a view."""
        start = self.model.nq - 7 * (self.num_free - index)
        return self.data.qpos[start : start + 7]

    def run(self, seconds: float) -> float:
        """Deepest penetration on the way (metres)."""
        deepest = 0.0
        for _ in range(round(seconds / 0.002)):
            mujoco.mj_step(self.model, self.data)
            deepest = min(deepest, self.data.contact.dist.min(initial=0.0))
        return -deepest

    def touching(self) -> bool:
        """Whether the first free object and the fixture are in contact."""
        fixture, free = self.model.body("0_object").rootid[0], self.model.body("1_object").rootid[0]
        roots = self.model.body_rootid[self.model.geom_bodyid[self.data.contact.geom]]
        return any({int(a), int(b)} == {int(fixture), int(free)} for a, b in roots)


@pytest.fixture(scope="module")
def assets(tmp_path_factory) -> Path:
    return ensure_assets(tmp_path_factory.mktemp("cache"))


def rotation(quat: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quat / np.linalg.norm(quat))
    return matrix.reshape(3, 3)


def in_rack_region(bench: Bench) -> bool:
    """LIBERO's test of `On` for a region: within its face, at most 10 cm above it, in contact with its object."""
    region = object_facts("wine_rack").body("object").sites[0]
    local = rotation(region.quat).T @ (bench.pose(0)[:3] - region.pos)
    within = (np.abs(local[:2]) < region.size[:2]).all()
    return bool(within) and region.size[2] - 0.005 < local[2] < region.size[2] + 0.10 and bench.touching()


def test_the_rack_looks_like_one():
    """Wavy boards leave room for a bottle on the slope; the signs on both sides read to the right, upright."""
    facts = object_facts("wine_rack")
    body, bottle = facts.body("object"), object_facts("wine_bottle").body("object")
    _, down, _ = rotation(body.sites[0].quat).T
    meshes = {
        part.shape.name: part.shape for part in wine_rack(facts)["object"].visuals if isinstance(part.shape, Mesh)
    }
    low, high = body.bounds
    for name, mesh in meshes.items():
        assert (mesh.vertices > low - 0.002).all(), name
        assert (mesh.vertices < high + 0.002).all(), name
    slope = (body.sites[0].pos + down * (body.sites[0].size[1] + 0.0005)) @ down
    radius = float(bottle.half[0])
    for name in ("lower", "middle", "upper"):
        across, height = meshes[name].vertices[:, 0], slope - meshes[name].vertices @ down
        in_the_way = np.hypot(across, height - radius) < radius - 0.001
        assert not in_the_way.any(), name
        assert height.max() > 0.02, name
    for name, side in (("sign_left", -1), ("sign_right", 1)):
        corner, right, _, above = meshes[name].vertices
        normal = np.cross(right - corner, above - corner)
        assert np.sign(normal[0]) == side, name
        assert (above - corner)[2] > 0, name
        assert meshes[name].uvs is not None


@pytest.mark.parametrize("aside", [-0.08, 0.0, 0.02])
def test_a_bottle_lies_in_the_rack_where_the_goal_looks_for_it(assets, aside):
    bench = Bench(assets, "wine_rack", ["wine_bottle"])
    region = object_facts("wine_rack").body("object").sites[0]
    across, down, out = rotation(region.quat).T
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.stack([across, down, out], axis=1).ravel())
    bench.place(0, region.pos + 0.02 * out - 0.006 * down + [aside, 0, 0], quat)
    assert bench.run(1.0) < 0.002
    assert in_rack_region(bench)
    assert np.abs(bench.data.qvel).max() < 0.001


@pytest.mark.parametrize(("x", "y"), [(0.0, -0.04), (-0.08, -0.02), (0.03, 0.0)])
def test_a_bottle_set_down_upright_on_the_rack_counts_too(assets, x, y):
    """A gripper need not turn the bottle: it counts when its bottom touches the slope."""
    bench = Bench(assets, "wine_rack", ["wine_bottle"])
    bench.place(0, [x, y, 0.28])
    for _ in range(150):
        bench.run(0.002)
        if bench.touching():
            break
    assert in_rack_region(bench)


@pytest.mark.parametrize("compartment", ["back", "left", "right"])
def test_a_book_dropped_into_the_caddy_stands_inside(assets, compartment):
    bench = Bench(assets, "desk_caddy", ["black_book"])
    (region,) = [site for site in object_facts("desk_caddy").body("object").sites if compartment in site.name]
    book = object_facts("black_book").body("object")
    bench.place(0, [*(region.pos - book.center)[:2], 0.10])
    assert bench.run(1.0) < 0.005
    half = np.abs(rotation(region.quat) @ region.size)
    low, high = region.pos - half - [0, 0, 0.01], region.pos + half
    assert ((low < bench.pose(0)[:3]) & (bench.pose(0)[:3] < high)).all()
    assert bench.touching()
    assert rotation(bench.pose(0)[3:])[2, 2] > np.cos(np.deg2rad(20))


@pytest.mark.parametrize("mug", ["white_yellow_mug", "porcelain_mug", "red_coffee_mug"])
def test_the_microwave_closes_and_opens_with_a_mug_inside(assets, mug):
    bench = Bench(assets, "microwave", [mug])
    hinge = bench.model.joint("0_microjoint")
    bench.data.qpos[hinge.qposadr] = -1.6
    bench.place(0, [-0.03, -0.005, 0.03], TURNED)
    assert bench.run(0.3) < 0.002
    assert bench.touching()
    start = bench.pose(0).copy()
    for torque, angle in ((1.0, 0.0), (-1.0, -2.094)):
        bench.data.qfrc_applied[hinge.dofadr] = torque
        bench.run(3.0)
        assert bench.data.qpos[hinge.qposadr[0]] == pytest.approx(angle, abs=0.02)
    np.testing.assert_allclose(bench.pose(0), start, atol=0.002)


def test_the_stove_holds_two_moka_pots_or_a_pan(assets):
    burner = object_facts("flat_stove").body("burner")
    (region,) = [site for site in burner.sites if site.name == "cook_region"]
    bench = Bench(assets, "flat_stove", ["moka_pot", "moka_pot"])
    for index, x in enumerate((-0.043, 0.043)):
        bench.place(index, burner.pos + np.array([x, 0, 0.095]))
    assert bench.run(1.0) < 0.002
    for index in range(2):
        offset = bench.pose(index)[:3] - burner.pos
        assert (np.abs(offset[:2]) < region.size[:2]).all()
        assert -0.005 < offset[2] - region.size[2] < 0.10
    bench = Bench(assets, "flat_stove", ["chefmate_8_frypan"])
    bench.place(0, [*burner.pos[:2], 0.03])
    assert bench.run(1.0) < 0.002
    assert rotation(bench.pose(0)[3:])[2, 2] > 0.999


@pytest.mark.parametrize("category", ["porcelain_mug", "white_yellow_mug", "red_coffee_mug", "chefmate_8_frypan"])
def test_mugs_and_pan_are_hollow(assets, category):
    """A probe dropped on the axis reaches the bottom, far below the rim."""
    model = mujoco.MjModel.from_xml_path(str(assets / OBJECTS[category].xml_path(category)))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    body = object_facts(category).body("object")
    hit = np.zeros(1, dtype=np.int32)
    groups = np.array([1, 0, 0, 0, 0, 0], dtype=np.uint8)
    start = np.array([0.0, body.center[1], 0.3])
    distance = mujoco.mj_ray(model, data, start, np.array([0.0, 0.0, -1.0]), groups, 1, -1, hit)
    assert start[2] - distance < body.bounds[0][2] + 0.008
