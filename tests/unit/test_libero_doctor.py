"""The doctor's report, its exit codes, and which device a worker draws on."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from libero_runtime import doctor, opengl


def test_report(tmp_path, capsys):
    frame = tmp_path / "frame.png"
    assert doctor.main(["--frame", str(frame)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line)
    assert lines["mujoco"] == "3.3.2"
    assert lines["opengl"] in opengl.CANDIDATES
    pixels = np.asarray(Image.open(frame))
    assert pixels.shape == (256, 512, 3)
    assert pixels.std() > 10


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MUJOCO_GL", "glfw", "MUJOCO_GL='glfw' cannot render off-screen"),
        ("LIBERO_REPO_PATH", "/nowhere/at/all", "LIBERO_REPO_PATH='/nowhere/at/all' is not a folder"),
    ],
)
def test_missing_parts_exit_with_2(name, value, message, tmp_path):
    env = dict(os.environ, **{name: value})
    command = [sys.executable, "-m", "libero_runtime.doctor", "--frame", str(tmp_path / "frame.png")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_arguments(capsys, tmp_path):
    assert doctor.main(["--frame", str(tmp_path / "no" / "frame.png")]) == 2
    assert "expected a .png file in an existing folder" in capsys.readouterr().err
    assert doctor.main(["--suite", "libero_nowhere", "--frame", str(tmp_path / "frame.png")]) == 2


def test_workers_take_devices_in_turns(monkeypatch):
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    chosen = [opengl.worker_environment(worker, num_devices=2)["MUJOCO_EGL_DEVICE_ID"] for worker in range(3)]
    assert chosen == ["0", "1", "0"]
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "5")
    assert opengl.worker_environment(1, num_devices=2) == {"MUJOCO_EGL_DEVICE_ID": "5"}
    with pytest.raises(opengl.OpenGLError, match="num_devices >= 1"):
        opengl.worker_environment(0, num_devices=0)
    assert opengl.num_egl_devices() >= 0
