"""Builds robosuite's environment of a task; tasks whose XML is the same share one compiled model and one renderer.

All ten LIBERO-Spatial tasks compile to the same model (they differ in where things start and in the goal), so ten
scenes need the memory and the construction time of one.
"""

import copy
import ctypes
import ctypes.util
import hashlib
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.assets import without_unused_materials
from libero_runtime.assets.robot import with_coarse_robot
from libero_runtime.commands import LiberoError
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import DAMAGED_ADVICE, Quality, prepare_libero, resolve_paths
from libero_runtime.render.renderer import SceneRenderer
from libero_runtime.sim.state import CONTROL_HZ
from libero_runtime.sim.stepper import Stepper, make_arm, physics_model
from libero_runtime.suites import TaskSpec


@dataclass(eq=False)
class SharedModel:
    """A compiled model, its body poses as compiled, and the renderers and the physics model made for it."""

    xml: str
    model: mujoco.MjModel
    body_pos: NDArray[np.float64]
    body_quat: NDArray[np.float64]
    _renderers: dict[object, SceneRenderer] = field(default_factory=dict)  # by settings
    _physics: mujoco.MjModel | None = None

    def make_stepper(self, env: Any) -> Stepper:
        """A simulation of this model with a physics model of its own."""
        if self._physics is None:
            self._physics = physics_model(self.xml, self.model)
        model = copy.copy(self._physics)
        return Stepper(model, make_arm(env, model), fixture_bodies(env))

    def acquire_renderer(self, *, cameras: Sequence[str], image_size: int, quality: Quality) -> SceneRenderer:
        """A renderer for these settings, made on first use; to be given back with `release_renderer`."""
        key = (tuple(cameras), image_size, quality)
        if key not in self._renderers:
            self._renderers[key] = SceneRenderer(self.model, cameras=cameras, image_size=image_size, quality=quality)
        self._renderers[key].num_users += 1
        return self._renderers[key]

    def release_renderer(self, renderer: SceneRenderer) -> None:
        """Give a renderer back; the last user's return frees its meshes and textures."""
        renderer.num_users -= 1
        if not renderer.num_users:
            renderer.close()
            self._renderers = {key: kept for key, kept in self._renderers.items() if kept is not renderer}


_compiled: weakref.WeakValueDictionary[str, SharedModel] = weakref.WeakValueDictionary()


def return_freed_memory() -> None:
    """Hand freed memory back to the system, where the C library can: the compiler's (150 MB), a closed scene's (50)."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _shared_model(xml: str) -> SharedModel:
    key = hashlib.sha256(xml.encode()).hexdigest()
    shared = _compiled.get(key)
    if shared is None:
        # Not MjModel.from_xml_string: it keeps the parsed scene (130 MB) in a global for mj_saveLastXML.
        try:
            model = mujoco.MjSpec.from_string(xml).compile()
        except ValueError as error:
            raise LiberoError(
                f"the scene does not compile with the models in {resolve_paths().assets}: {error}. {DAMAGED_ADVICE}"
            ) from error
        shared = SharedModel(xml=xml, model=model, body_pos=model.body_pos.copy(), body_quat=model.body_quat.copy())
        _compiled[key] = shared
        return_freed_memory()
    return shared


def _is_no_macro_notice(record: logging.LogRecord) -> bool:
    """False for robosuite's advice at import to write a private macro file: nothing here uses one."""
    return Path(record.pathname).name != "macros.py"


def quiet_robosuite() -> None:
    """Keep robosuite's advice, and what Python says of its source, from the terminal; call before it is imported.

    Its logo is no raw string. Python 3.12 and later warn of that (earlier ones on request) when the file is compiled:
    at the first import where pip has not done so, at every import under PYTHONDONTWRITEBYTECODE.
    """
    for category in (SyntaxWarning, DeprecationWarning):
        warnings.filterwarnings(
            "ignore", message=".*invalid escape sequence", category=category, module=r".*\brobosuite\W__init__$"
        )
    logging.getLogger("robosuite_logs").addFilter(_is_no_macro_notice)


class _SharesModel:
    """Mixed into LIBERO's problem classes: takes the compiled model from the shared ones."""

    coarse_robot: bool
    shared: SharedModel
    sim: Any
    model: Any
    control_freq: float
    initialize_time: Callable[[float], None]

    def _initialize_sim(self, xml_string: str | None = None) -> None:
        from robosuite.utils.binding_utils import MjSim

        xml = without_unused_materials(xml_string or self.model.get_xml())
        self.shared = _shared_model(with_coarse_robot(xml) if self.coarse_robot else xml)
        self.shared.model.body_pos[:] = self.shared.body_pos
        self.shared.model.body_quat[:] = self.shared.body_quat
        self.sim = MjSim(self.shared.model)
        self.sim.forward()
        self.initialize_time(self.control_freq)


def build_env(task: TaskSpec, *, quality: Quality) -> Any:
    """robosuite's environment of a task with LIBERO's own settings, but no renderer and no camera observables."""
    task.check()
    select_opengl()  # robosuite decides for EGL while it is imported, unless told otherwise before
    prepare_libero(quality)
    quiet_robosuite()
    import robosuite
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_utils import get_problem_info

    problem = TASK_MAPPING[get_problem_info(str(task.bddl_path))["problem_name"]]
    # LIBERO compares the class name with the problem's: keep it.
    problem_class = type(problem.__name__, (_SharesModel, problem), {"coarse_robot": quality == "fast"})
    try:
        env = problem_class(
            str(task.bddl_path),
            robots=["Panda"],
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            gripper_types="default",
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=CONTROL_HZ,
            ignore_done=True,
            hard_reset=False,
        )
    except KeyError as error:
        raise LiberoError(f"{task.bddl_path} names {error}, which LIBERO has no model of") from error
    except FileNotFoundError as error:
        raise LiberoError(
            f"{task.suite} task {task.task_id} ({task.name}) needs a file that is missing: "
            f"{error.filename or error}. {DAMAGED_ADVICE}"
        ) from error
    env.visualize(vis_settings=dict.fromkeys(env._visualizations, False))  # stock's reset hides the marker sites
    return env


def fixture_bodies(env: Any) -> NDArray[np.int64]:
    """Numbers (F,) of the bodies whose poses the model keeps, and not MuJoCo's state."""
    fixtures = env.fixtures_dict.values()
    return np.array([env.sim.model.body_name2id(fixture.root_body) for fixture in fixtures], dtype=np.int64)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which LIBERO's samplers use, and leave it as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def draw_fixtures(env: Any, model: mujoco.MjModel) -> None:
    """Place fixtures in a model as a stock reset does: same order of random draws, without the rest of it."""
    from robosuite.utils.errors import RandomizationError

    while True:
        np.random.randn(len(env.robots[0].init_qpos))  # stock draws (and scales by zero) joint noise first
        for initializer in env.object_property_initializers:
            initializer.sample()
        try:
            placements = env.placement_initializer.sample()
        except RandomizationError:  # no free place found: stock tries again, and so do we
            continue
        break
    for position, quat, placed in placements.values():
        if placed.name in env.fixtures_dict:
            body = env.sim.model.body_name2id(placed.root_body)
            model.body_pos[body] = position
            model.body_quat[body] = quat


def free_env(env: Any) -> None:
    """Let go of all that robosuite's environment holds, which cannot be used afterwards.

    Its robots, its observables and LIBERO's object states point back at it: without this they wait, with the model, for
    the garbage collector. Emptied, there is no circle, and everything goes as soon as nobody else holds it.
    """
    vars(env).clear()
