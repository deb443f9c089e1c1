"""The names of cameras: in the simulator, and in demonstrations and whatever is trained on them."""

DEMONSTRATED = {"robot0_eye_in_hand": "eye_in_hand"}
"""The simulator's name -> that of LIBERO's demonstrations, where they differ."""
_SIMULATED = {demonstrated: simulated for simulated, demonstrated in DEMONSTRATED.items()}


def simulated_name(camera: str) -> str:
    """A camera by the simulator's name, whichever is given."""
    return _SIMULATED.get(camera, camera)


def demonstrated_name(camera: str) -> str:
    """A camera by the name that demonstrations have for it, whichever is given."""
    return DEMONSTRATED.get(camera, camera)
