"""Images of scenes: cameras, the devices that draw, and the renderer."""
