"""Coarser visual meshes of the robot for the "fast" look.

The Panda and its pedestal have 168,000 triangles, far finer than a pixel. Here they are made coarser (`meshes`), and a
link's parts of the same colour become one mesh (each geom drawn costs a renderer as much as hundreds of triangles).
Only meshes that no collision geom uses are touched, so the physics is the same. Results are kept in the cache folder,
named by what they were made from.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np

from libero_runtime.assets import touched_meshes
from libero_runtime.assets.meshes import Coarseness, Mesh, coarser, msh_bytes, read_msh
from libero_runtime.files import cache_folder, write_whole

_VERSION = 2  # part of the cached files' names: raise it when the result changes
_COARSENESS = {
    "robot0": Coarseness(0.0007, (0.040, 0.020, 0.010)),
    "mount0": Coarseness(0.002, (0.080, 0.040, 0.020)),
    "gripper0": Coarseness(0.0003, (0.008, 0.004, 0.002)),
}


def _read(path: Path) -> Mesh:
    """Any mesh file MuJoCo reads, in the file's own frame."""
    spec = mujoco.MjSpec()
    spec.add_mesh(name="mesh", file=str(path), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="mesh")
    model = spec.compile()
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.mesh_quat[0])
    rotation_33 = rotation.reshape(3, 3)
    # a vertex for each pair of place and normal that a face's corner has
    pairs = np.stack([model.mesh_face.ravel(), model.mesh_facenormal.ravel()], axis=1)
    used, corners = np.unique(pairs, axis=0, return_inverse=True)
    return Mesh(
        (model.mesh_vert[used[:, 0]] @ rotation_33.T + model.mesh_pos[0]).astype(np.float32),
        (model.mesh_normal[used[:, 1]] @ rotation_33.T).astype(np.float32),
        np.empty((len(used), 0), np.float32),
        corners.reshape(-1, 3).astype(np.int64),
    )


def _cached(parts: Sequence[Path], label: str, make: Callable[[], Mesh]) -> Path:
    """The cached mesh made of some files, made on first use."""
    stamp = " ".join(f"{part} {part.stat().st_size} {part.stat().st_mtime_ns}" for part in parts)
    digest = hashlib.sha256(f"{_VERSION} {label} {stamp}".encode()).hexdigest()[:12]
    file = cache_folder() / "robot" / f"{parts[0].stem.partition('-')[0]}-{digest}.msh"
    try:
        read_msh(file)
    except (FileNotFoundError, ValueError):  # not made yet, or cut off
        write_whole(file, msh_bytes(make()))
    return file


def _coarse(file: Path, coarseness: Coarseness) -> Mesh:
    return coarser(_read(file), coarseness)


def _merged(parts: Sequence[Path]) -> Mesh:
    """Several meshes as one."""
    meshes = [read_msh(part) for part in parts]
    offsets = np.cumsum([0] + [len(mesh.vertices_V3) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.vertices_V3 for mesh in meshes]),
        np.concatenate([mesh.normals_V3 for mesh in meshes]),
        np.concatenate([mesh.uv_V2 for mesh in meshes]),
        np.concatenate([mesh.faces_F3 + offset for mesh, offset in zip(meshes, offsets, strict=False)]),
    )


def _merge_parts(root: ElementTree.Element, meshes: Mapping[str, ElementTree.Element]) -> None:
    """Make one geom of a body's visual parts (of `meshes`) that look the same; the others shrink to hidden specks.

    They keep their names, by which robosuite looks geoms up.
    """
    looks = {
        material.get("name"): tuple(sorted((key, value) for key, value in material.items() if key != "name"))
        for material in root.iter("material")
    }
    uses = Counter(geom.get("mesh") for geom in root.iter("geom"))
    for body in root.iter("body"):
        groups: dict[tuple[object, ...], list[ElementTree.Element]] = {}
        for geom in body.findall("geom"):
            look = looks.get(geom.get("material"), ())
            if uses[geom.get("mesh")] == 1 and geom.get("mesh") in meshes and "texture" not in dict(look):
                rest = sorted((key, value) for key, value in geom.items() if key not in ("name", "mesh", "material"))
                groups.setdefault((look, *rest), []).append(geom)
        for first, *others in groups.values():
            parts = [meshes[geom.get("mesh", "")] for geom in (first, *others)]
            if others and all(part.get("scale") is None for part in parts):
                files = [Path(part.get("file", "")) for part in parts]
                parts[0].set("file", str(_cached(files, "parts", partial(_merged, files))))
                for geom in others:
                    speck = {"type": "sphere", "size": "0.0001", "contype": "0", "conaffinity": "0", "group": "3"}
                    geom.attrib = {"name": geom.get("name", "")} | speck
                for asset in root.iter("asset"):
                    for part in parts[1:]:
                        if part in list(asset):
                            asset.remove(part)


@lru_cache(maxsize=4)
def with_coarse_robot(xml: str) -> str:
    """The scene's XML with coarse visual meshes for robot, gripper and pedestal."""
    root = ElementTree.fromstring(xml)
    touched = touched_meshes(root)
    visual: dict[str, ElementTree.Element] = {}
    for mesh in root.iter("mesh"):
        name, file = mesh.get("name", ""), mesh.get("file")
        part = re.match(r"[a-z]+\d+", name)
        coarseness = _COARSENESS.get(part.group()) if part else None
        if file and coarseness and name not in touched:
            visual[name] = mesh
            made = _cached([Path(file)], str(coarseness), partial(_coarse, Path(file), coarseness))
            mesh.set("file", str(made))
            mesh.set("inertia", "shell")  # merged surfaces need not enclose a volume; visual meshes have no mass
    _merge_parts(root, visual)
    return ElementTree.tostring(root, encoding="unicode")
