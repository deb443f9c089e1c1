"""LIBERO's models: whether a folder holds the official ones, and coarser ones that look the same, made from them."""

from xml.etree import ElementTree


def touched_meshes(root: ElementTree.Element) -> set[str | None]:
    """Names of the meshes in a document that something can collide with: they are physics, not only looks."""
    return {
        geom.get("mesh")
        for geom in root.iter("geom")
        if (geom.get("contype"), geom.get("conaffinity")) != ("0", "0")
    }
