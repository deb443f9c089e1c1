"""LIBERO's models: whether a folder holds the official ones, and coarser ones that look the same, made from them."""

from xml.etree import ElementTree


def touched_meshes(root: ElementTree.Element) -> set[str | None]:
    """Names of the meshes in a document that something can collide with: they are physics, not only looks."""
    return {
        geom.get("mesh")
        for geom in root.iter("geom")
        if (geom.get("contype"), geom.get("conaffinity")) != ("0", "0")
    }


def without_unused_materials(xml: str) -> str:
    """A scene's XML without the materials that nothing in it wears, and without textures of no material.

    No pixel changes. robosuite's tables and arenas declare some for parts that a scene does not have; a cube texture
    takes a renderer 8 MB for 512 pixels, even of one colour.
    """
    root = ElementTree.fromstring(xml)
    worn = {element.get("material") for element in root.iter()}
    for assets in root.iter("asset"):
        for material in assets.findall("material"):
            if material.get("name") not in worn:
                assets.remove(material)
    shown = {element.get("texture") for element in root.iter()}
    for assets in root.iter("asset"):
        for texture in assets.findall("texture"):
            if texture.get("type") != "skybox" and texture.get("name") not in shown:
                assets.remove(texture)
    return ElementTree.tostring(root, encoding="unicode")
