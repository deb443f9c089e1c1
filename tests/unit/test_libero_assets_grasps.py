"""Two fingers of the size of the Panda's hold the stand-ins where a robot would take them."""

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import pytest

from libero_runtime.assets import ensure_assets
from libero_runtime.assets.facts import object_facts
from libero_runtime.assets.objects import OBJECTS

# Pads 2 cm high and wide that open 4 cm each, and the palm above them (half extents: closing direction, width, height).
PAD = (0.004, 0.010, 0.010)
PALM = (0.095, 0.030, 0.015)
PAD_TO_PALM_M = 0.060
OPENING_M = 0.040
FORCE_N = 15.0
LIFT_M = 0.15
MAX_TILT_DEG = 8.0


@dataclass(frozen=True)
class Hold:
    """Where the middle between the pads goes, in the object's body frame, and along which axis they close."""

    category: str
    name: str
    point: tuple[float, float, float]
    axis: str


HOLDS = (
    Hold("porcelain_mug", "rim", (0.0118, 0.0440, 0.0970), "y"),
    Hold("porcelain_mug", "handle", (-0.0597, -0.0013, 0.0780), "y"),
    Hold("white_yellow_mug", "rim", (-0.0182, 0.0490, 0.0920), "y"),
    Hold("white_yellow_mug", "handle", (0.0634, 0.0001, 0.0720), "y"),
    Hold("red_coffee_mug", "rim", (-0.0141, 0.0415, 0.1190), "y"),
    Hold("red_coffee_mug", "handle", (0.0572, -0.0006, 0.0900), "y"),
    Hold("wine_bottle", "neck", (0.0006, 0.0001, 0.1350), "x"),
    Hold("wine_bottle", "neck across", (0.0006, 0.0001, 0.1350), "y"),
    Hold("moka_pot", "knob", (0.0001, 0.0, 0.0730), "x"),
    Hold("moka_pot", "knob across", (0.0001, 0.0, 0.0730), "y"),
    Hold("moka_pot", "jug", (0.0001, 0.0, 0.0400), "x"),
    Hold("moka_pot", "handle", (0.0001, 0.0600, 0.0390), "x"),
    Hold("chefmate_8_frypan", "handle", (0.1900, -0.0010, 0.0500), "y"),
    Hold("black_book", "thickness", (-0.0005, -0.0122, 0.1250), "x"),
)


@pytest.fixture(scope="module")
def assets(tmp_path_factory) -> Path:
    return ensure_assets(tmp_path_factory.mktemp("cache"))


def gripper_and_object(assets: Path, hold: Hold, height: float) -> mujoco.MjModel:
    """An object that stands on the ground and an open gripper at the hold, which can move up."""
    spec = mujoco.MjSpec.from_string(
        "<mujoco><compiler angle='radian' inertiagrouprange='0 0'/><option timestep='0.002' cone='elliptic' "
        "impratio='20'/><worldbody><geom type='plane' size='2 2 0.1'/></worldbody></mujoco>"
    )
    part = mujoco.MjSpec.from_file(str(assets / OBJECTS[hold.category].xml_path(hold.category)))
    body = spec.worldbody.add_frame(pos=[0, 0, height]).attach_body(part.worldbody.first_body(), "", "")
    body.add_freejoint()
    along = np.eye(3)["xyz".index(hold.axis)]
    box, order = mujoco.mjtGeom.mjGEOM_BOX, (0, 1, 2) if hold.axis == "x" else (1, 0, 2)
    hand = spec.worldbody.add_body(name="hand", pos=np.add(hold.point, [0, 0, height]), gravcomp=1)
    hand.add_joint(name="lift", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, 1], damping=200)
    hand.add_geom(type=box, size=[PALM[i] for i in order], pos=[0, 0, PAD_TO_PALM_M + PALM[2]], mass=1.0)
    for side in (-1, 1):
        finger = hand.add_body(name=f"finger{side}", gravcomp=1, pos=side * (OPENING_M + PAD[0]) * along)
        finger.add_joint(name=f"finger{side}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=-side * along, damping=50)
        finger.add_geom(type=box, size=[PAD[i] for i in order], friction=[2, 0.05, 0.0001], mass=0.1)
    return spec.compile()


@pytest.mark.parametrize("hold", HOLDS, ids=lambda hold: f"{hold.category}-{hold.name}")
def test_two_fingers_lift_it(assets, hold):
    height = -float(object_facts(hold.category).body("object").bounds[0][2])
    model = gripper_and_object(assets, hold, height)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    hand = {model.body(name).id for name in ("hand", "finger-1", "finger1")}
    bodies = model.geom_bodyid[data.contact.geom]
    assert not any({int(a), int(b)} & hand for a, b in bodies), "the open gripper already touches it"
    lift = model.joint("lift")
    for side in (-1, 1):
        data.joint(f"finger{side}").qfrc_applied = FORCE_N
    target = 0.0

    def run(seconds: float, rise: float) -> None:
        nonlocal target
        steps = round(seconds / 0.002)
        for _ in range(steps):
            target += rise / steps
            data.qfrc_applied[lift.dofadr] = 5000 * (target - data.qpos[lift.qposadr])
            mujoco.mj_step(model, data)

    run(0.4, 0.0)
    run(1.0, LIFT_M)
    run(0.5, 0.0)
    body = data.body("object")
    raised = body.xpos[2] - height
    assert raised == pytest.approx(LIFT_M, abs=0.01)
    tilt = np.degrees(np.arccos(np.clip(body.xmat[8], -1, 1)))
    assert tilt < MAX_TILT_DEG
    before = body.xpos.copy()
    run(0.5, 0.0)
    assert np.linalg.norm(data.body("object").xpos - before) < 0.003


def test_fingers_behind_the_microwaves_handle_open_the_door(assets):
    """A finger 1 cm thick fits between bar and door and drags the door open by its bar."""
    microwave = object_facts("microwave").body("microdoorroot")
    bar = next(shape for shape in microwave.collision if shape.kind == "capsule")
    leaf = next(shape for shape in microwave.collision if shape.kind == "box")
    gap = (leaf.pos[1] - leaf.size[1]) - (bar.pos[1] + bar.size[0])
    assert gap > 0.018
    model = mujoco.MjModel.from_xml_path(str(assets / OBJECTS["microwave"].xml_path("microwave")))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    # torque of 2 N at the bar, against the hinge's damping
    data.qfrc_applied[0] = -2.0 * bar.pos[0]
    for _ in range(round(5.0 / 0.002)):
        mujoco.mj_step(model, data)
    assert data.qpos[0] < -1.3
