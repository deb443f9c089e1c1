"""What the expert knows of a scene: poses, collision geometry as points, articulated parts, and LIBERO's predicates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.motion import Array
from libero_runtime.sim.scene import Scene

Memory = dict[Hashable, Any]
Goal = tuple[str, ...]  # a predicate of the BDDL file: ("on", "bowl_1", "plate_1")

_HAND_SITE = "gripper0_grip_site"
_FINGER_JOINTS = ("gripper0_finger_joint1", "gripper0_finger_joint2")
_POINT_SPACING_M = 0.004
_CORRIDOR_SAMPLES = 16
_FRONT_AWAY_M = 0.05  # a front further than this behind an open drawer's middle is out of the way
_OTHER_AXES = np.array([[1, 2], [0, 2], [0, 1]])
_UPRIGHT = 0.999  # cosine of the lean up to which a box counts as standing straight


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def once_per_step(compute: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """A function of a `World`, or a method of it or of a skill; callers share its result and must not write into it."""

    @wraps(compute)
    def remembered(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        owner: Any = args[0]  # whose memory is emptied at the beginning of every control step
        key = compute, args
        if key not in owner.memory:
            owner.memory[key] = compute(*args, **kwargs)
        result: _Result = owner.memory[key]
        return result

    return remembered


class ExpertError(ValueError):
    """The task is not one this expert can do."""


class GaveUpError(ExpertError):
    """An episode has come to where the expert cannot go on from, such as a mug that has fallen over."""


@dataclass(frozen=True)
class Pose:
    """A body or site: position (3,) and rotation (3, 3) in the world."""

    pos: Array
    mat: Array


@dataclass(frozen=True)
class Region:
    """A box-shaped site of the task language."""

    name: str
    parent: str | None  # the object or fixture it belongs to; None on a table or the floor
    joint: str | None  # of the drawer it is the inside of
    pose: Pose
    size: Array  # (3,) half extents in its own frame

    @property
    def half(self) -> Array:
        """Half extents (3,) along the world's axes."""
        return np.asarray(np.abs(self.pose.mat) @ self.size)


@dataclass(frozen=True)
class Boxes:
    """Obstacles seen from above: rectangles (G) and the heights between which each is."""

    center: Array  # (G, 2)
    axes: Array  # (G, 2, 2) rows are the rectangles' own axes
    half: Array  # (G, 2)
    low: Array  # (G,)
    high: Array  # (G,)

    @classmethod
    def around(cls, *, pos: Array, mat: Array, aabb: Array) -> Boxes:
        """From poses (G, 3), (G, 3, 3) and boxes in their frames (G, 6): middle and half extents.

        Turned rectangles where one of a box's axes is vertical, otherwise rectangles along x and y.
        """
        center = pos + np.einsum("gij,gj->gi", mat, aabb[:, :3])
        half = np.einsum("gij,gj->gi", np.abs(mat), aabb[:, 3:])
        axes, flat = np.tile(np.eye(2), (len(pos), 1, 1)), half[:, :2].copy()
        upright = np.argmax(np.abs(mat[:, 2]), axis=1)
        rows = np.flatnonzero(np.abs(mat[:, 2]).max(axis=1) > _UPRIGHT)
        others = _OTHER_AXES[upright[rows]]
        axes[rows] = np.take_along_axis(mat[rows, :2], others[:, None], axis=2).transpose(0, 2, 1)
        flat[rows] = np.take_along_axis(aabb[rows, 3:], others, axis=1)
        low, high = center[:, 2] - half[:, 2], center[:, 2] + half[:, 2]
        return cls(center=center[:, :2], axes=axes, half=flat, low=low, high=high)

    def where(self, mask: NDArray[np.bool_]) -> Boxes:
        """Some of them."""
        return Boxes(self.center[mask], self.axes[mask], self.half[mask], self.low[mask], self.high[mask])

    def about(self, origin: Array) -> Boxes:
        """The same about a point (3,)."""
        return Boxes(self.center - origin[:2], self.axes, self.half, self.low - origin[2], self.high - origin[2])

    def distances(self, points: Array) -> Array:
        """Horizontal distance (N, G) of points (N, 2) from every rectangle."""
        x, y = (points[:, None, axis] - self.center[:, axis] for axis in range(2))
        outside = [
            np.maximum(np.abs(self.axes[:, axis, 0] * x + self.axes[:, axis, 1] * y) - self.half[:, axis], 0.0)
            for axis in range(2)
        ]
        return np.asarray(np.hypot(*outside))

    def ways_out(self, point: Array) -> Array:
        """Horizontal displacements (G, 2) of a point (2,) from the nearest point of every rectangle."""
        local = np.einsum("gij,gj->gi", self.axes, point - self.center)
        outside = local - np.clip(local, -self.half, self.half)
        return np.asarray(np.einsum("gij,gi->gj", self.axes, outside))


def _surface_points(kind: int, size: Array) -> Array:
    """Points (P, 3) on a primitive's surface, in its own frame."""
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        axes = [np.linspace(-half, half, max(2, int(np.ceil(2 * half / _POINT_SPACING_M)) + 1)) for half in size]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        on_surface = np.any(np.isclose(np.abs(grid), size), axis=1)
        return grid[on_surface]
    if kind in (mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE):
        radius, half = float(size[0]), float(size[1])
        angles = np.linspace(0, 2 * np.pi, max(12, int(2 * np.pi * radius / _POINT_SPACING_M)), endpoint=False)
        heights = np.linspace(-half, half, max(2, int(2 * half / _POINT_SPACING_M) + 1))
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        side = [np.column_stack([radius * circle, np.full(len(circle), z)]) for z in heights]
        if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
            rings = [(r, z) for z in (-half, half) for r in np.arange(0.0, radius, _POINT_SPACING_M)]
        else:
            tilts = np.linspace(0, np.pi / 2, 4)[1:]
            rings = [(radius * np.cos(t), sign * (half + radius * np.sin(t))) for t in tilts for sign in (-1, 1)]
        caps = [np.column_stack([r * circle, np.full(len(circle), z)]) for r, z in rings]
        return np.concatenate(side + caps)
    if kind in (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_ELLIPSOID):
        radii = size if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID else np.full(3, size[0])
        tilts, turns = np.meshgrid(np.linspace(-np.pi / 2, np.pi / 2, 13), np.linspace(0, 2 * np.pi, 24))
        unit = np.stack([np.cos(tilts) * np.cos(turns), np.cos(tilts) * np.sin(turns), np.sin(tilts)], axis=-1)
        return np.asarray(unit.reshape(-1, 3) * radii)
    raise ExpertError(f"collision geometry of type {mujoco.mjtGeom(kind).name} is not one the expert can grasp")


class World:
    """Reads one scene; call `refresh()` once per control step, right after stepping."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._env: Any = scene.env
        self.data, self.model = scene.data, scene.model
        self._hand = int(self.model.site(_HAND_SITE).id)
        self._fingers = [int(self.model.joint(name).qposadr[0]) for name in _FINGER_JOINTS]
        self._finger_dofs = [int(self.model.joint(name).dofadr[0]) for name in _FINGER_JOINTS]
        self.robot_xy: Array = self.data.body("robot0_base").xpos[:2].copy()
        self.goals: tuple[Goal, ...] = tuple(
            tuple(str(word).lower() if index == 0 else str(word) for index, word in enumerate(goal))
            for goal in self._env.parsed_problem["goal_state"]
        )
        self.objects: Collection[str] = tuple(self._env.objects_dict)
        self.fixtures: Collection[str] = tuple(self._env.fixtures_dict)
        self._points: dict[str, Array] = {}
        self._body_clouds: dict[int, Array] = {}
        self._masks: dict[frozenset[str], NDArray[np.bool_]] = {}
        self.memory: Memory = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the hand; what is derived from the rest is computed when asked for."""
        data = self.data
        self.memory.clear()
        self.hand = Pose(data.site_xpos[self._hand].copy(), data.site_xmat[self._hand].reshape(3, 3).copy())
        self.finger_gap = float(data.qpos[self._fingers[0]] - data.qpos[self._fingers[1]])
        self.closing_speed = float(data.qvel[self._finger_dofs[1]] - data.qvel[self._finger_dofs[0]])

    # Predicates and names ---------------------------------------------------------------------------------------

    def holds(self, goal: Goal) -> bool:
        """LIBERO's own answer to a predicate."""
        return bool(self._env._eval_predicate(list(goal)))

    def is_region(self, name: str) -> bool:
        """Whether a name of the task language is a site."""
        return name in self._env.object_sites_dict

    # Poses ------------------------------------------------------------------------------------------------------

    def pose(self, name: str) -> Pose:
        """Pose of an object or fixture."""
        body = int(self._env.obj_body_id[name])
        return Pose(self.data.xpos[body].copy(), self.data.xmat[body].reshape(3, 3).copy())

    def speed(self, name: str) -> float:
        """How fast an object's origin moves (m/s)."""
        velocity = np.zeros(6)
        body = int(self._env.obj_body_id[name])
        mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_XBODY, body, velocity, 0)
        return float(np.linalg.norm(velocity[3:]))

    def region(self, name: str) -> Region:
        """A region, where it is now."""
        site = self._env.object_sites_dict[name]
        index = int(self.model.site(name).id)
        joints = list(site.joints or ())
        return Region(
            name=name,
            parent=site.parent_name,
            joint=joints[0] if joints else None,
            pose=Pose(self.data.site_xpos[index].copy(), self.data.site_xmat[index].reshape(3, 3).copy()),
            size=np.array(site.size, dtype=np.float64),
        )

    def drawers(self) -> list[Region]:
        """The insides of all drawers."""
        sites = self._env.object_sites_dict.items()
        return [self.region(name) for name, site in sites if site.joints and site.parent_name in self.fixtures]

    def joint_names(self, fixture: str) -> list[str]:
        """Hinges and slides of a fixture."""
        return list(self._env.get_object(fixture).joints)

    def drawer_out(self, joint: str) -> Array:
        """Horizontal unit vector (2,) along which a drawer opens."""
        index = int(self.model.joint(joint).id)
        low, high = self.model.jnt_range[index]
        axis = self.data.xaxis[index][:2] * (1.0 if abs(high) > abs(low) else -1.0)
        return np.asarray(axis / float(np.linalg.norm(axis)))

    def front_above(self, region: Region) -> float | None:
        """How far out, along a drawer's way, the rest of its cabinet reaches above it.

        None where that is far behind the open drawer.
        """
        joint = str(region.joint)
        out, body = self.drawer_out(joint), int(self.model.jnt_bodyid[self.model.joint(joint).id])
        top = float(self.part_points(body)[:, 2].max())
        tree = self._tree(int(self._env.obj_body_id[region.parent]))
        points = np.concatenate([self.part_points(part) for part in tree if part != body])
        points = points[points[:, 2] > top]
        reach = float((points[:, :2] @ out).max()) if len(points) else -np.inf
        return reach if reach > float(region.pose.pos[:2] @ out) - _FRONT_AWAY_M else None

    # Collision geometry -----------------------------------------------------------------------------------------

    @cached_property
    def _touchable(self) -> NDArray[np.bool_]:
        return np.asarray((self.model.geom_contype | self.model.geom_conaffinity) != 0)

    def _body_cloud(self, body: int) -> Array:
        """Points (P, 3) on one body's own collision geometry, in its frame."""
        if body not in self._body_clouds:
            clouds = [np.zeros((0, 3))]
            for geom in np.flatnonzero((self.model.geom_bodyid == body) & self._touchable):
                local = _surface_points(int(self.model.geom_type[geom]), self.model.geom_size[geom])
                turn = np.zeros(9)
                mujoco.mju_quat2Mat(turn, self.model.geom_quat[geom])
                clouds.append(local @ turn.reshape(3, 3).T + self.model.geom_pos[geom])
            self._body_clouds[body] = np.concatenate(clouds)
        return self._body_clouds[body]

    def _tree(self, body: int) -> list[int]:
        roots = self.model.body_rootid
        return [int(other) for other in np.flatnonzero(roots == roots[body])]

    def points(self, name: str) -> Array:
        """Points (P, 3) on an object's collision geometry, in its own frame."""
        if name not in self._points:
            body = int(self._env.obj_body_id[name])
            pose = self.pose(name)
            world = np.concatenate([self.part_points(part) for part in self._tree(body)])
            self._points[name] = (world - pose.pos) @ pose.mat
        return self._points[name]

    @once_per_step
    def world_points(self, name: str) -> Array:
        """The same in the world, about the object's origin."""
        return np.asarray(self.points(name) @ self.pose(name).mat.T)

    @once_per_step
    def part_points(self, body: int) -> Array:
        """Points (P, 3) in the world on one body of an articulated fixture, as it is now."""
        return np.asarray(self._body_cloud(body) @ self.data.xmat[body].reshape(3, 3).T + self.data.xpos[body])

    @cached_property
    def _obstacles(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Geoms (G,) of all objects and fixtures, and the root body of each."""
        roots = {int(self.model.body_rootid[self._env.obj_body_id[name]]) for name in (*self.objects, *self.fixtures)}
        root_of = self.model.body_rootid[self.model.geom_bodyid]
        geoms = np.flatnonzero(self._touchable & np.isin(root_of, list(roots)))
        return geoms, root_of[geoms]

    @once_per_step
    def _all_boxes(self) -> Boxes:
        geoms, _ = self._obstacles
        mats = self.data.geom_xmat[geoms].reshape(-1, 3, 3)
        return Boxes.around(pos=self.data.geom_xpos[geoms], mat=mats, aabb=self.model.geom_aabb[geoms])

    @once_per_step
    def _boxes_without(self, names: frozenset[str]) -> Boxes:
        if names not in self._masks:
            left_out = [int(self.model.body_rootid[self._env.obj_body_id[name]]) for name in names]
            self._masks[names] = ~np.isin(self._obstacles[1], left_out)
        return self._all_boxes().where(self._masks[names])

    def boxes(self, *, without: Collection[str] = ()) -> Boxes:
        """Boxes around all collision geometry but the named objects'."""
        return self._boxes_without(frozenset(without))

    def tallest_under(self, points: Array, *, margin: float, without: Collection[str] = ()) -> float:
        """Height of what is within `margin` of any of some points (N, 2); minus infinity when nothing is."""
        boxes = self.boxes(without=without)
        close = (boxes.distances(points) < margin).any(axis=0)
        return float(boxes.high[close].max()) if close.any() else -np.inf

    def tallest_between(
        self,
        start: Array,
        end: Array,
        *,
        margin: float,
        near: float,
        taper: float = np.inf,
        without: Collection[str] = (),
    ) -> float:
        """Height of what stands within `margin` of the straight way from start to end (2,), its last `near` left out.

        Within `margin / taper` of the end the margin shrinks in proportion. Minus infinity when nothing is there.
        """
        distance = float(np.hypot(*(end - start)))
        if distance <= near:
            return -np.inf
        boxes = self.boxes(without=without)
        fractions = np.linspace(0.0, 1.0 - near / distance, _CORRIDOR_SAMPLES)
        margins = np.minimum(margin, taper * (distance * (1.0 - fractions) + 1e-9))
        close = (boxes.distances(start + fractions[:, None] * (end - start)) < margins[:, None]).any(axis=0)
        return float(boxes.high[close].max()) if close.any() else -np.inf
