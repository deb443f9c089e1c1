"""Which recipe builds which object category, and the MJCF document of one object."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from libero_runtime.assets.appliances import microwave
from libero_runtime.assets.basket import basket
from libero_runtime.assets.bottles import alphabet_soup, bbq_sauce, ketchup, salad_dressing, tomato_sauce
from libero_runtime.assets.facts import BodyFacts, ObjectFacts, object_facts
from libero_runtime.assets.furniture import flat_stove, white_cabinet, wine_rack, wooden_cabinet
from libero_runtime.assets.kitchenware import frypan, moka_pot, wine_bottle
from libero_runtime.assets.mjcf import numbers, primitive_attributes
from libero_runtime.assets.mugs import porcelain_mug, red_coffee_mug, white_yellow_mug
from libero_runtime.assets.packages import (
    butter,
    chocolate_pudding,
    cookies,
    cream_cheese,
    milk,
    orange_juice,
)
from libero_runtime.assets.shapes import Mesh, Paint, Parts, Vector
from libero_runtime.assets.stationery import black_book, desk_caddy
from libero_runtime.assets.tableware import bowl, plate, ramekin

Recipe = Callable[[ObjectFacts], Mapping[str, Parts]]


@dataclass(frozen=True)
class Entry:
    """A row of the table: where hf-libero looks for the category's file, and what builds it."""

    folder: str
    recipe: Recipe

    def xml_path(self, category: str) -> PurePosixPath:
        """Path below the assets folder."""
        return object_path(self.folder, category)


def object_path(folder: str, category: str) -> PurePosixPath:
    """Where hf-libero looks for a category: articulated objects share a folder, all others have their own."""
    if folder == ARTICULATED:
        return PurePosixPath(folder, f"{category}.xml")
    return PurePosixPath(folder, category, f"{category}.xml")


ARTICULATED = "articulated_objects"
SCANNED = "stable_scanned_objects"
GROCERIES = "stable_hope_objects"
HOUSEHOLD = "turbosquid_objects"

OBJECTS: dict[str, Entry] = {
    "flat_stove": Entry(ARTICULATED, flat_stove),
    "wooden_cabinet": Entry(ARTICULATED, wooden_cabinet),
    "white_cabinet": Entry(ARTICULATED, white_cabinet),
    "akita_black_bowl": Entry(SCANNED, bowl),
    "plate": Entry(SCANNED, plate),
    "glazed_rim_porcelain_ramekin": Entry(SCANNED, ramekin),
    "cookies": Entry(GROCERIES, cookies),
    "alphabet_soup": Entry(GROCERIES, alphabet_soup),
    "bbq_sauce": Entry(GROCERIES, bbq_sauce),
    "butter": Entry(GROCERIES, butter),
    "chocolate_pudding": Entry(GROCERIES, chocolate_pudding),
    "cream_cheese": Entry(GROCERIES, cream_cheese),
    "ketchup": Entry(GROCERIES, ketchup),
    "milk": Entry(GROCERIES, milk),
    "orange_juice": Entry(GROCERIES, orange_juice),
    "salad_dressing": Entry(GROCERIES, salad_dressing),
    "tomato_sauce": Entry(GROCERIES, tomato_sauce),
    "basket": Entry(SCANNED, basket),
    "microwave": Entry(ARTICULATED, microwave),
    "chefmate_8_frypan": Entry(SCANNED, frypan),
    "wine_rack": Entry(HOUSEHOLD, wine_rack),
    "wine_bottle": Entry(HOUSEHOLD, wine_bottle),
    "moka_pot": Entry(HOUSEHOLD, moka_pot),
    "porcelain_mug": Entry(HOUSEHOLD, porcelain_mug),
    "white_yellow_mug": Entry(HOUSEHOLD, white_yellow_mug),
    "red_coffee_mug": Entry(HOUSEHOLD, red_coffee_mug),
    "desk_caddy": Entry(HOUSEHOLD, desk_caddy),
    "black_book": Entry(HOUSEHOLD, black_book),
}

# Contact parameters measured on every object of LIBERO.
_CONTACT = {"friction": "0.95 0.3 0.1", "solref": "0.001 1", "solimp": "0.998 0.998 0.001", "density": "100"}
_SEEN_ONLY = {"contype": "0", "conaffinity": "0", "group": "1", "mass": "0"}
# Sites that a task makes visible keep their colour at zero opacity until then.
_SITE_COLORS = {"burner": "1 0 0 0"}


def principal_order(body: BodyFacts, inertia: Vector) -> Vector:
    """Assign sorted principal moments to the body's axes: the shorter the extent along an axis, the larger.

    The facts list the moments without their axes; all bodies are close enough to aligned boxes or discs.
    """
    if body.low is None:
        return inertia
    order = np.argsort(body.half)
    assigned = np.empty(3)
    assigned[order] = np.sort(inertia)[::-1]
    return assigned


class _Document:
    """Collects meshes, materials and bodies of one object."""

    def __init__(self, category: str, texture_folder: str) -> None:
        self.category = category
        self.texture_folder = texture_folder
        self.root = ET.Element("mujoco", model=category)
        # robosuite replaces the compiler's settings by its own, which agree; with these the file stands by itself.
        ET.SubElement(self.root, "compiler", angle="radian", inertiagrouprange="0 0")
        self.asset = ET.SubElement(self.root, "asset")
        self.materials: dict[Paint, str] = {}
        self.meshes: dict[str, Mesh] = {}

    def material(self, paint: Paint) -> str:
        if paint in self.materials:
            return self.materials[paint]
        name = f"material{len(self.materials)}"
        attributes = {
            "name": name,
            "rgba": numbers((*paint.rgb, 1.0)),
            "specular": numbers([paint.specular]),
            "shininess": numbers([paint.shininess]),
            "reflectance": "0",
            "emission": numbers([paint.emission]),
        }
        if paint.texture is not None:
            texture = f"texture_{paint.texture}"
            if self.asset.find(f"./texture[@name='{texture}']") is None:
                path = f"{self.texture_folder}/{paint.texture}.png"
                ET.SubElement(self.asset, "texture", name=texture, type="2d", file=path)
            attributes["texture"] = texture
            if not paint.printed:
                attributes |= {"texrepeat": "4 4", "texuniform": "true"}
        ET.SubElement(self.asset, "material", attributes)
        self.materials[paint] = name
        return name

    def add_parts(self, element: ET.Element, parts: Parts) -> None:
        for index, primitive in enumerate(parts.collision):
            name = f"{element.get('name')}_collision{index}"
            ET.SubElement(element, "geom", {"name": name, **primitive_attributes(primitive), "group": "0", **_CONTACT})
        for index, visual in enumerate(parts.visuals):
            attributes = {"name": f"{element.get('name')}_visual{index}", "material": self.material(visual.paint)}
            if isinstance(visual.shape, Mesh):
                if visual.shape.name in self.meshes:
                    raise ValueError(f"{self.category} has two meshes named {visual.shape.name!r}")
                self.meshes[visual.shape.name] = visual.shape
                mesh_file = f"{self.category}_{visual.shape.name}.obj"
                ET.SubElement(self.asset, "mesh", name=visual.shape.name, file=mesh_file, inertia="shell")
                attributes |= {"type": "mesh", "mesh": visual.shape.name}
            else:
                attributes |= primitive_attributes(visual.shape)
            ET.SubElement(element, "geom", {**attributes, **_SEEN_ONLY})

    def add_body(self, parent: ET.Element, body: BodyFacts, parts: Parts | None) -> ET.Element:
        element = ET.SubElement(parent, "body", pos=numbers(body.pos), quat=numbers(body.quat))
        if body.name:
            element.set("name", body.name)
        if body.mass > 0 and body.com is not None and body.inertia is not None:
            ET.SubElement(
                element,
                "inertial",
                pos=numbers(body.com),
                mass=numbers([body.mass]),
                diaginertia=numbers(principal_order(body, body.inertia)),
            )
        for joint in body.joints:
            ET.SubElement(
                element,
                "joint",
                name=joint.name,
                type=joint.kind,
                axis=numbers(joint.axis),
                pos=numbers(joint.pos),
                range=numbers(joint.range),
                limited="true",
                damping=numbers([joint.damping]),
                frictionloss=numbers([joint.frictionloss]),
            )
        if parts is not None:
            self.add_parts(element, parts)
        for site in body.sites:
            ET.SubElement(
                element,
                "site",
                name=site.name,
                type=site.kind,
                pos=numbers(site.pos),
                quat=numbers(site.quat),
                size=numbers(site.size),
                rgba=_SITE_COLORS.get(site.name, "0 0 0 0"),
            )
        return element


def build_object(category: str) -> dict[PurePosixPath, str]:
    """All files of one category, by path below the assets folder: its MJCF document and its meshes."""
    if category not in OBJECTS:
        raise ValueError(f"no stand-in for the object {category!r}; there are {sorted(OBJECTS)}")
    entry = OBJECTS[category]
    path = entry.xml_path(category)
    facts = object_facts(category)
    parts = dict(entry.recipe(facts))
    # robosuite resolves files relative to the document
    document = _Document(category, "../" * (len(path.parts) - 1) + "textures")
    worldbody = ET.SubElement(document.root, "worldbody")
    elements: dict[str, ET.Element] = {"world": worldbody}
    for body in facts.bodies:
        elements[body.name] = document.add_body(elements[body.parent], body, parts.pop(body.name, None))
    if parts:
        raise ValueError(f"the recipe of {category} builds bodies {sorted(parts)} that the facts do not list")
    ET.indent(document.root)
    files = {path: ET.tostring(document.root, encoding="unicode") + "\n"}
    for mesh in document.meshes.values():
        files[path.with_name(f"{category}_{mesh.name}.obj")] = mesh.as_obj()
    return files
