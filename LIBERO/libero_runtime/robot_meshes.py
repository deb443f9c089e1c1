"""Coarser visual meshes of the robot for the "fast" look.

Four fifths of all triangles in a LIBERO scene are the Panda and its pedestal, far finer than a pixel. Here vertices
that fall into the same grid cell are merged, and a link's parts of the same colour become one mesh (each geom drawn
costs a renderer as much as hundreds of triangles). Only meshes that no collision geom uses are touched, so the physics
is the same. Results are kept in the cache folder, as STL files named by what they were made from.

V vertices, F faces.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.paths import cache_folder

_VERSION = 1  # part of the cached files' names: raise it when the result changes
_CELL_M = {"robot0": 0.010, "mount0": 0.030, "gripper0": 0.002}  # a pixel of agentview covers about 4 mm at the robot
_MIN_FACES = 300  # smaller meshes cost nothing
_STL_HEADER = 80  # bytes before the number of faces
_STL_FACE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def merge_vertices(
    vertices_V3: NDArray[np.float32], faces_F3: NDArray[np.int32], *, cell_m: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Replace the vertices of every grid cell by their mean; faces that collapse or repeat are dropped."""
    cells = np.floor((vertices_V3 - vertices_V3.min(axis=0)) / cell_m).astype(np.int64)
    extent = cells.max(axis=0) + 1
    keys = (cells[:, 0] * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2]
    _, cluster, counts = np.unique(keys, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(cluster, weights=vertices_V3[:, axis]) / counts for axis in range(3)], axis=1)
    faces = cluster[faces_F3]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    # The same three corners may come in any rotation: start each face at its smallest corner (orientation is kept).
    first = faces.argmin(axis=1)[:, None]
    faces = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
    return means.astype(np.float32), np.unique(faces, axis=0)


def _read_mesh(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices and faces of any mesh file MuJoCo reads, in the file's own frame."""
    spec = mujoco.MjSpec()
    spec.add_mesh(name="mesh", file=str(path), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="mesh")
    model = spec.compile()
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.mesh_quat[0])
    vertices = model.mesh_vert @ rotation.reshape(3, 3).T + model.mesh_pos[0]
    return vertices.astype(np.float32), model.mesh_face.copy()


def _write_stl(path: Path, vertices_V3: NDArray[np.float32], faces_F3: NDArray[np.int64]) -> None:
    records = np.zeros(len(faces_F3), dtype=_STL_FACE)
    records["corners"] = vertices_V3[faces_F3]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        part.write(bytes(_STL_HEADER) + np.uint32(len(records)).tobytes() + records.tobytes())
    Path(part.name).replace(path)


def _is_whole(stl: Path) -> bool:
    """Whether a cached mesh is there with as many faces as its header says; a cut one is made again."""
    if not stl.is_file():
        return False
    with stl.open("rb") as file:
        header = file.read(_STL_HEADER + 4)
    num_faces = int.from_bytes(header[_STL_HEADER:], "little")
    return num_faces > 0 and stl.stat().st_size == _STL_HEADER + 4 + num_faces * _STL_FACE.itemsize


def _coarse_file(original: Path, *, cell_m: float) -> Path:
    """The cached coarse version of a mesh file, made on first use; the original when merging gains little."""
    stamp = f"{_VERSION} {cell_m} {original} {original.stat().st_size} {original.stat().st_mtime_ns}"
    name = f"{original.stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    folder = cache_folder() / "robot"
    coarse, unchanged = folder / f"{name}.stl", folder / f"{name}.keep"
    if _is_whole(coarse):
        return coarse
    if unchanged.is_file():
        return original
    vertices, faces = _read_mesh(original)
    merged_vertices, merged_faces = merge_vertices(vertices, faces, cell_m=cell_m)
    if len(faces) < _MIN_FACES or not 4 <= len(merged_faces) < 0.8 * len(faces):
        folder.mkdir(parents=True, exist_ok=True)
        unchanged.touch()
        return original
    _write_stl(coarse, merged_vertices, merged_faces)
    return coarse


def _merged_file(parts: Sequence[Path]) -> Path:
    """The cached mesh of several mesh files together, made on first use."""
    stamp = " ".join(f"{part} {part.stat().st_size} {part.stat().st_mtime_ns}" for part in parts)
    digest = hashlib.sha256(f"{_VERSION} {stamp}".encode()).hexdigest()[:12]
    merged = cache_folder() / "robot" / f"{parts[0].stem.partition('-')[0]}-parts-{digest}.stl"
    if not _is_whole(merged):
        meshes = [_read_mesh(part) for part in parts]
        offsets = np.cumsum([0] + [len(vertices) for vertices, _ in meshes])
        faces = [faces + offset for (_, faces), offset in zip(meshes, offsets, strict=False)]
        _write_stl(merged, np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces))
    return merged


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
                parts[0].set("file", str(_merged_file([Path(part.get("file", "")) for part in parts])))
                parts[0].set("inertia", "shell")
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
    collision = {
        geom.get("mesh")
        for geom in root.iter("geom")
        if (geom.get("contype"), geom.get("conaffinity")) != ("0", "0")
    }
    visual: dict[str, ElementTree.Element] = {}
    for mesh in root.iter("mesh"):
        name, file = mesh.get("name", ""), mesh.get("file")
        part = re.match(r"[a-z]+\d+", name)
        cell = _CELL_M.get(part.group()) if part else None
        if file and cell and name not in collision:
            visual[name] = mesh
            coarse = _coarse_file(Path(file), cell_m=cell)
            if coarse != Path(file):
                mesh.set("file", str(coarse))
                mesh.set("inertia", "shell")  # merged surfaces need not enclose a volume; visual meshes have no mass
    _merge_parts(root, visual)
    return ElementTree.tostring(root, encoding="unicode")
