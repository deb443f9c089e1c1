"""Take an object and set it down where a predicate wants it: lifted, pushed over the table, or put through a front."""

import numpy as np

from libero_runtime.expert.grasps import DRAWER_HOVER_M, Drawer, Grasp, choose_grasp, drawer_around, drawer_grasp
from libero_runtime.expert.motion import CLOSE, OPEN, Array, action, rotation_vector
from libero_runtime.expert.placements import Placement, inwards, placement, posture
from libero_runtime.expert.skills.base import Skill
from libero_runtime.expert.world import ExpertError, Goal, Pose, World

APPROACH, GRASP, CARRY, RELEASE, RISE = "approach", "grasp", "carry", "release", "rise"

_CARRY_SLOPE = 1.0  # rise per metre of remaining distance
_CARRY_HEIGHT_M = 0.07  # of the object above its place while carried
_MAX_LIFT_M = 0.25  # above where it was or goes, whatever is in the way
_LIFT_M = 0.035  # rise before moving sideways
_TOLERANCE_M = 0.010
_ALIGNED_RAD = 0.12
_OPEN_GAP_M = 0.07
_LOST_M = 0.035  # moved this far between the fingers: the object was lost
_MIN_CLOSE_STEPS, _MAX_CLOSE_STEPS = 4, 14
_SQUEEZE_M = 0.005  # the fingers may be so much further apart than the object is wide when it is lifted
_AT_REST_M_PER_S = 0.02
_SLIDE_LIFT_M, _SLIDE_PLAY_M = 0.015, 0.008  # sideways from under a drawer, just off the table
_RIM_PLAY_M, _OVER_RIM_M = 0.001, 0.012
_DEEP_M = 0.02  # what is no higher than this above the bottom of a place is its floor
_NUM_OUTLINE_POINTS = 400
_MAX_APPROACH_STEPS = 80
_MIN_CARRY_STEPS = 10
_PATIENCE_STEPS = 12
_LET_GO_M = 0.012  # wider than the object by this: it is free
_RISE_STEPS, _MAX_RISE_STEPS = 5, 12
_LEFT = np.array([0.0, 1.0])
_PRESS_M = 0.004  # of a hand that pushes
# Through an open front:
_OUTSIDE_M = 0.03  # from the front to the object while it is lined up
_OVER_FLOOR_M = (0.006, 0.03)
_NEAR_M = 0.10
_LINED_UP_M, _LINED_UP_RAD = 0.015, 0.15


class PickPlace(Skill):
    """Approach from above, close, lift, carry over what is in the way, lower, let go."""

    def __init__(self, world: World, goal: Goal, *, last: bool) -> None:
        super().__init__(world, goal)
        self.name = goal[1]
        # Only there does `on` not ask for contact.
        self._on_table = world.is_region(goal[2]) and world.region(goal[2]).parent is None
        self._last = last  # the episode ends when it succeeds: nothing is gained by letting go
        self._blocked = False
        self._begin()

    def _begin(self) -> None:
        """Look where to take the object, and approach."""
        world = self.world
        pose = world.pose(self.name)
        self._drawer: Drawer | None = drawer_around(world, pose.pos)
        neighbours = world.boxes(without=[self.name]).about(pose.pos)
        points = world.world_points(self.name)
        if self._drawer is not None:
            grasp: Grasp | None = drawer_grasp(points, pose.pos, self._drawer)
        else:
            robot = world.robot_xy - pose.pos[:2]
            grasp = choose_grasp(points, neighbours, prefer=self._side(), robot=robot)
        if grasp is None and not self.phase:
            raise ExpertError(f"{self.name} is too wide for the hand and has no wall to take it by")
        grasp = grasp or self._grasp  # one that has toppled is tried in the same way
        self._grasp: Grasp = grasp
        self._posture = posture(world, self.goal, grasp)
        self._planned_at = pose
        self._tolerance = _TOLERANCE_M if grasp.on_wall else min(_TOLERANCE_M, 0.038 - grasp.width / 2)
        self._held: Array = np.zeros(3)
        self._grip_point = np.zeros(3)
        self._waited, self._lifted = 0, False
        self.enter(APPROACH)

    def _side(self) -> Array:
        """Side of a bowl or mug to take it by: the left one, for a drawer the one along its front nearer the robot.

        The right one where the arm could not get there.
        """
        if self._blocked:
            return -_LEFT
        if self.goal[0] != "in" or (joint := self.world.region(self.goal[2]).joint) is None:
            return _LEFT
        out = self.world.drawer_out(joint)  # between the handles of other drawers a hand only fits broadside
        across = np.array([-out[1], out[0]])
        return across if across[0] < 0 else -across

    # Phases -----------------------------------------------------------------------------------------------------

    def update(self) -> None:
        world = self.world
        pose = world.pose(self.name)
        if self.phase == APPROACH:
            self.finished = self._rests_in_place()  # where it fell
            self._update_approach(pose)
        elif self.phase == GRASP:
            closed = self.phase_steps >= _MIN_CLOSE_STEPS and world.finger_gap < self._grasp.width + _SQUEEZE_M
            if closed or self.phase_steps >= _MAX_CLOSE_STEPS:
                self._held = self.in_hand(self.name)
                self.enter(CARRY)
        elif self.phase == CARRY:
            self._lifted = self._lifted or pose.pos[2] > self._gate
            if float(np.linalg.norm(self.in_hand(self.name) - self._held)) > _LOST_M:
                self._begin()
            elif self._arrived(pose):
                self._waited += 1
                if not self._last or self._waited > _PATIENCE_STEPS:
                    self.enter(RELEASE)
        elif self.phase == RELEASE:
            if world.finger_gap > min(_OPEN_GAP_M, self._grasp.width + _LET_GO_M):
                self.enter(RISE)
        elif self.phase_steps >= _RISE_STEPS:
            if world.holds(self.goal):
                self.finished = True
            elif world.speed(self.name) < _AT_REST_M_PER_S or self.phase_steps > _MAX_RISE_STEPS:
                self._begin()

    def _update_approach(self, pose: Pose) -> None:
        if self.phase_steps > _MAX_APPROACH_STEPS:  # something is in the arm's way
            self._blocked = not self._blocked
            self.num_attempts += 1
            self._begin()
        moved = float(np.linalg.norm(pose.pos - self._planned_at.pos))
        turned = float(np.linalg.norm(rotation_vector(pose.mat @ self._planned_at.mat.T)))
        if moved > 0.02 or turned > 0.1:
            self._begin()
        error = self._start(pose) - self.world.hand.pos
        aligned = float(np.hypot(error[0], error[1])) < self._tolerance and abs(float(error[2])) < _TOLERANCE_M
        straight = self.turn_left(self._hand_mat()) < _ALIGNED_RAD
        if aligned and straight and self.world.finger_gap > _OPEN_GAP_M:
            self._grip_point = self._grasp_point(pose)
            self._picked_at = pose.pos
            self._gate, self._gate_radius = float(pose.pos[2]) + _LIFT_M, 0.03
            if self._drawer is not None:
                self._gate, self._gate_radius = self._drawer.top + 0.012, 0.15
            self.num_attempts += 1
            self.enter(GRASP)

    def _arrived(self, pose: Pose) -> bool:
        place = self._place()
        error = place.position - pose.pos
        if float(np.hypot(error[0], error[1])) > place.tolerance or self.phase_steps < _MIN_CARRY_STEPS:
            return False
        touches = self.goal[0] == "on" and not self._on_table and self.world.holds(self.goal)
        return touches or self._rests_in_place() or bool(error[2] > -0.012)

    def _rests_in_place(self) -> bool:
        return self.world.speed(self.name) < _AT_REST_M_PER_S and self.world.holds(self.goal)

    # Moves ------------------------------------------------------------------------------------------------------

    def move(self) -> Array:
        pose = self.world.pose(self.name)
        if self.phase == APPROACH:
            start = self._start(pose)
            return self.come_down(start, self._hand_mat(), tolerance=self._tolerance, without=(self.name,))
        if self.phase == GRASP:
            return self._grip()
        if self.phase == CARRY:
            return self._carry(pose)
        up = 0.05 if self.phase == RISE else 0.0
        return self.towards(self.world.hand.pos + np.array([0.0, 0.0, up]), self._hand_mat(), OPEN)

    def _start(self, pose: Pose) -> Array:
        """Hand position (3,) in which it begins to close."""
        point = self._grasp_point(pose)
        if self._drawer is not None:
            point[2] += DRAWER_HOVER_M
        return point

    def _grip(self) -> Array:
        """Close the hand; in a drawer it comes down as it closes, to pass between bowl and wall."""
        target = self._grip_point.copy()
        if self._drawer is not None:
            target[2] += np.clip(3 * (self.world.finger_gap - 0.045), 0.0, DRAWER_HOVER_M)
        return self.towards(target, self._hand_mat(), CLOSE)

    def _carry(self, pose: Pose) -> Array:
        """Lift, move sideways once clear, and come down over the place."""
        place = self._place()
        error = place.position - pose.pos
        distance = float(np.hypot(error[0], error[1]))
        needed = self._needed_height(pose, place)
        ceiling = max(self._gate + 0.01, needed) - place.position[2]
        height = min(_CARRY_SLOPE * max(0.0, distance - 0.02), max(ceiling, _CARRY_HEIGHT_M))
        error[2] += max(height, needed - place.position[2])
        if self._posture is not None:
            error[2] = max(error[2], self._rise_over_the_rim(pose, place))
        near_start = float(np.hypot(*(pose.pos - self._picked_at)[:2])) < self._gate_radius
        gate = max(self._gate, needed) if near_start else needed
        error[:2] *= float(np.clip(1 - (gate - pose.pos[2]) / 0.02, 0.0, 1.0))
        aside = self._from_under_what_hangs_over(pose)
        if aside is not None:
            error = np.array([*aside, self._picked_at[2] + _SLIDE_LIFT_M - pose.pos[2]])
        return action(move=error, hand_mat=self._hand_mat(), present_mat=self.world.hand.mat, gripper=CLOSE)

    def _from_under_what_hangs_over(self, pose: Pose) -> Array | None:
        """Displacement (2,) that frees the way up, for what stands partly under an open drawer; None if it is free."""
        points = self.world.world_points(self.name)
        boxes = self.world.boxes(without=[self.name])
        over = boxes.where(boxes.low > pose.pos[2] + float(points[:, 2].max()) - _SLIDE_PLAY_M)
        if pose.pos[2] > self._picked_at[2] + 2 * _SLIDE_LIFT_M or len(over.low) == 0:
            return None
        hides = over.distances(pose.pos[:2] + points[:, :2]).min(axis=0) < _SLIDE_PLAY_M
        ways = over.ways_out(pose.pos[:2])[hides]
        lengths = np.hypot(ways[:, 0], ways[:, 1])
        if not (lengths > 0).any():
            return None
        nearest = int(np.argmin(np.where(lengths > 0, lengths, np.inf)))
        radius = float(np.hypot(points[:, 0], points[:, 1]).max()) + _SLIDE_PLAY_M
        return np.asarray(ways[nearest] / lengths[nearest] * (radius - lengths[nearest] + _SLIDE_PLAY_M))

    def _needed_height(self, pose: Pose, place: Placement) -> float:
        """How high the object's origin must be to pass over what stands between it and its place."""
        points = self.world.world_points(self.name)
        radius = float(np.hypot(points[:, 0], points[:, 1]).max())
        start, end = pose.pos[:2], place.position[:2]
        without = (self.name, *place.beside) if self._drawer is None else (self.name, self._drawer.fixture)
        for_object = self.world.tallest_between(start, end, margin=radius + 0.01, near=place.near, without=without)
        below = -float(points[:, 2].min())
        # What sticks to the object and comes along would otherwise be fled from upwards.
        highest = max(float(self._picked_at[2]), float(place.position[2])) + _MAX_LIFT_M
        return min(for_object + 0.015 + below, highest)

    def _rise_over_the_rim(self, pose: Pose, place: Placement) -> float:
        """How far up to keep over the rims that are still under the object, until it has been turned to fit in."""
        points = self.world.world_points(self.name)
        bottom = place.position[2] + float(points[:, 2].min())
        points = pose.pos + points[:: len(points) // _NUM_OUTLINE_POINTS + 1]
        boxes = self.world.boxes(without=[self.name])
        boxes = boxes.where(boxes.high > bottom + _OVER_RIM_M + _DEEP_M)
        rise = boxes.high + _OVER_RIM_M - points[:, 2:]
        under = (boxes.distances(points[:, :2]) < _RIM_PLAY_M) & (rise < _OVER_RIM_M)
        return float(np.max(rise[under], initial=-np.inf))

    # Geometry ---------------------------------------------------------------------------------------------------

    def _grasp_point(self, pose: Pose) -> Array:
        return pose.pos + self._grasp.offset

    def _place(self) -> Placement:
        return placement(self.world, self.goal)

    def _hand_mat(self) -> Array:
        if self._posture is not None and self._lifted and self.phase != APPROACH:
            return self._posture
        return self.upright(self._grasp.finger_axis)


class Slide(PickPlace):
    """As taking and setting down, without lifting."""

    def _grasp_point(self, pose: Pose) -> Array:
        """Pressed lightly on the plate: more of the low rim is between the fingers."""
        return np.asarray(super()._grasp_point(pose) - np.array([0.0, 0.0, _PRESS_M]))

    def _carry(self, pose: Pose) -> Array:
        """Straight over the table to the place."""
        error = placement(self.world, self.goal).position - pose.pos
        error[2] = self._picked_at[2] - pose.pos[2]
        return action(move=error, hand_mat=self._hand_mat(), present_mat=self.world.hand.mat, gripper=CLOSE)


class PutThrough(PickPlace):
    """As taking and setting down, but lined up in front of the opening and moved in straight."""

    def _begin(self) -> None:
        self._entering = False
        self._stood_at = float(self.world.pose(self.goal[1]).pos[2] + self.world.world_points(self.goal[1])[:, 2].min())
        super()._begin()

    def _place(self) -> Placement:
        """In front of the opening, then inside of it."""
        world, region = self.world, self.world.region(self.goal[2])
        fixture = str(region.parent)
        way, points = inwards(world, fixture), world.world_points(self.name)
        position = region.pose.pos.copy()
        shelf = world.world_points(fixture) + world.pose(fixture).pos
        # Where the object stood is the ground of what has no floor of its own.
        floor = max(float(position[2] - region.half[2]), min(float(shelf[:, 2].min()), self._stood_at))
        play = (2 * float(region.half[2]) - float(np.ptp(points[:, 2]))) / 2
        position[2] = floor + float(np.clip(play, *_OVER_FLOOR_M)) - float(points[:, 2].min())
        if not self._entering:
            front = float((shelf[:, :2] @ way).min())
            ahead = front - _OUTSIDE_M - float((points[:, :2] @ way).max())
            position[:2] += (ahead - float(position[:2] @ way)) * way
        return Placement(position=position, tolerance=_LINED_UP_M, near=0.0, beside=(fixture,))

    def _needed_height(self, pose: Pose, place: Placement) -> float:
        """What stands around the opening is cleared by then."""
        near = float(np.hypot(*(place.position - pose.pos)[:2])) < _NEAR_M
        return -np.inf if near else super()._needed_height(pose, place)

    def _carry(self, pose: Pose) -> Array:
        error = self._place().position - pose.pos
        lined_up = float(np.linalg.norm(error)) < _LINED_UP_M and self.turn_left(self._hand_mat()) < _LINED_UP_RAD
        self._entering = self._entering or lined_up
        if not self._entering:
            return super()._carry(pose)
        error = self._place().position - pose.pos
        return action(move=error, hand_mat=self._hand_mat(), present_mat=self.world.hand.mat, gripper=CLOSE)
