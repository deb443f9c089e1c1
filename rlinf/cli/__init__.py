"""Command lines. Each is a thin shell over tested code; ``rlinf.cli.console`` gives them one way to fail."""

from rlinf.scheduler.ray_settings import configure_ray

configure_ray()  # now, since commands import Ray with their workers
