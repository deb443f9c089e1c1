"""The scenes: room, lights, cameras and the table, from the measured list of geoms."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from libero_runtime.assets import rooms
from libero_runtime.assets.facts import raw_facts
from libero_runtime.assets.mjcf import numbers, primitive_attributes
from libero_runtime.assets.shapes import Mesh, Primitive, Visual


@dataclass(frozen=True)
class ArenaEntry:
    """How one scene is built: from the measured arena `facts`, with the given wood and background.

    `table_body` is the body that geoms of the table belong to (None: no table). Some tables were measured as geoms
    without names and without looks: `dress` makes what is seen of them.
    """

    facts: str
    table_body: str | None
    wood: str = "wood_table"
    dress: Callable[[Sequence[Primitive]], Sequence[Visual]] = rooms.nothing
    room: Callable[[], Sequence[Visual]] = rooms.nothing


# By the file stem that hf-libero's problem classes load from `scenes/`.
ARENAS: dict[str, ArenaEntry] = {
    "libero_tabletop_base_style": ArenaEntry("tabletop_base", "table"),
    "libero_kitchen_tabletop_base_style": ArenaEntry("kitchen_tabletop_base", "table", room=rooms.kitchen),
    "libero_floor_base_style": ArenaEntry("floor_base", None),
    "libero_living_room_tabletop_base_style": ArenaEntry(
        "living_room_tabletop_base",
        "living_room_table_col",
        wood="coffee_table",
        dress=rooms.coffee_table,
        room=rooms.living_room,
    ),
    "libero_study_base_style": ArenaEntry("study_base", "study_table", wood="desk", dress=rooms.desk, room=rooms.study),
}

_FLOOR_MATERIAL = "floorplane"
_WALL_MATERIAL = "walls_mat"
_TABLE_MATERIAL = rooms.WOOD
_LEG_MATERIAL = "table_legs"
_SEEN_ONLY = {"contype": "0", "conaffinity": "0", "group": "1"}


def _texture(asset: ET.Element, name: str, picture: str, kind: str) -> None:
    ET.SubElement(asset, "texture", name=name, type=kind, file=f"../textures/{picture}.png")


def _material(asset: ET.Element, name: str, texture: str, repeat: str, *, uniform: bool, specular: str = "0.1") -> None:
    ET.SubElement(
        asset,
        "material",
        name=name,
        texture=texture,
        texrepeat=repeat,
        texuniform="true" if uniform else "false",
        specular=specular,
        shininess="0.1",
        # Reflections would draw the whole scene twice.
        reflectance="0",
    )


def _assets(root: ET.Element, table_texture: str) -> ET.Element:
    asset = ET.SubElement(root, "asset")
    sky = {"builtin": "gradient", "rgb1": ".9 .9 1", "rgb2": ".2 .3 .4", "width": "64", "height": "64"}
    ET.SubElement(asset, "texture", {"type": "skybox", **sky})
    # hf-libero replaces the files of `texplane` and `tex-wall` by those of the problem's style.
    _texture(asset, "texplane", "light-gray-floor-tile", "2d")
    _texture(asset, "tex-wall", "light-gray-plaster", "2d")
    _texture(asset, "tex-table", table_texture, "cube")
    _texture(asset, "tex-table-legs", "metal_legs", "cube")
    _material(asset, _FLOOR_MATERIAL, "texplane", "2 2", uniform=True)
    _material(asset, _WALL_MATERIAL, "tex-wall", "2 2", uniform=True)
    _material(asset, _TABLE_MATERIAL, "tex-table", "1 1", uniform=False, specular="0.2")
    _material(asset, _LEG_MATERIAL, "tex-table-legs", "1 1", uniform=False, specular="0.5")
    return asset


def _material_of(name: str) -> str | None:
    if name == "floor":
        return _FLOOR_MATERIAL
    if name.startswith("wall_"):
        return _WALL_MATERIAL
    if name.startswith("table_leg"):
        return _LEG_MATERIAL
    if name == "table_visual":
        return _TABLE_MATERIAL
    return None


def _attributes(raw: dict[str, Any]) -> dict[str, str]:
    attributes = {key: value for key, value in raw.items() if value is not None}
    material = _material_of(attributes.get("name", ""))
    if material is not None:
        attributes["material"] = material
    return attributes


def _primitive(raw: dict[str, str]) -> Primitive:
    """A measured geom as a shape."""
    x, y, z = (float(value) for value in raw["pos"].split())
    qw, qx, qy, qz = (float(value) for value in raw["quat"].split())
    return Primitive(raw["type"], (x, y, z), tuple(float(value) for value in raw["size"].split()), (qw, qx, qy, qz))


def _add_visuals(asset: ET.Element, parent: ET.Element, visuals: Sequence[Visual]) -> None:
    for visual in visuals:
        paint = visual.paint
        if isinstance(visual.shape, Mesh) or paint.texture not in (None, _TABLE_MATERIAL):
            raise ValueError(f"a scene is furnished with primitives, plain or of the table's wood; given {visual}")
        name = "decor" + "".join(f"_{round(100 * value)}" for value in (*paint.rgb, paint.specular, paint.emission))
        name += "_wood" if paint.texture else ""
        if asset.find(f"./material[@name='{name}']") is None:
            attributes = {
                "name": name,
                "rgba": numbers((*paint.rgb, 1.0)),
                "specular": numbers([paint.specular]),
                "shininess": numbers([paint.shininess]),
                "emission": numbers([paint.emission]),
            }
            if paint.texture:
                attributes |= {"texture": "tex-table"}
            ET.SubElement(asset, "material", attributes)
        ET.SubElement(parent, "geom", {**primitive_attributes(visual.shape), **_SEEN_ONLY, "material": name})


def build_arena(name: str) -> dict[PurePosixPath, str]:
    """The MJCF document of one scene, by its path below the assets folder."""
    if name not in ARENAS:
        raise ValueError(f"no stand-in for the scene {name!r}; there are {sorted(ARENAS)}")
    entry = ARENAS[name]
    facts = raw_facts()["arenas"][entry.facts]
    root = ET.Element("mujoco", model=name)
    asset = _assets(root, entry.wood)
    worldbody = ET.SubElement(root, "worldbody")
    bodies: dict[str, ET.Element] = {}
    for raw in facts["bodies"]:
        bodies[raw["name"]] = ET.SubElement(worldbody, "body", raw)
    for raw in facts["geoms"]:
        on_table = raw.get("name", "table_").startswith("table_")
        parent = bodies[entry.table_body] if on_table and entry.table_body else worldbody
        ET.SubElement(parent, "geom", _attributes(raw))
    if entry.table_body is not None:
        bare = [_primitive(raw) for raw in facts["geoms"] if "name" not in raw]
        _add_visuals(asset, bodies[entry.table_body], entry.dress(bare))
    _add_visuals(asset, worldbody, entry.room())
    for raw in facts["sites"]:
        ET.SubElement(bodies[entry.table_body] if entry.table_body else worldbody, "site", raw)
    for tag, key in (("light", "lights"), ("camera", "cameras")):
        for raw in facts[key]:
            ET.SubElement(worldbody, tag, raw)
    ET.indent(root)
    return {PurePosixPath("scenes", f"{name}.xml"): ET.tostring(root, encoding="unicode") + "\n"}
