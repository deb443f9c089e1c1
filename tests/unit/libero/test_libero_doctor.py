"""The doctor's report, its exit codes, and which device a worker draws on."""

import os
import subprocess
import sys

import numpy as np
from PIL import Image

from libero_runtime import doctor, opengl


def test_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_SECONDS", 0.01)  # of measuring how fast it is
    frame = tmp_path / "frame.png"
    assert doctor.main(["--frame", str(frame)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line)
    assert lines["mujoco"] == "3.3.2"
    assert lines["opengl"] in opengl.CANDIDATES
    pixels = np.asarray(Image.open(frame))
    assert pixels.shape == (256, 512, 3)
    assert pixels.std() > 10


def test_what_does_not_work_exits_with_2(tmp_path, monkeypatch):
    for variable in ("MUJOCO_GL", opengl._CHECKED):  # what this process has found out
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "999")
    ends_with_one_message("MUJOCO_EGL_DEVICE_ID='999' is set but does not draw here", tmp_path)


def test_a_missing_package_exits_with_2(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['bddl'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    ends_with_one_message("its package `bddl` is not found. Install with `pip install", tmp_path)


def ends_with_one_message(message, folder):
    command = [sys.executable, "-m", "libero_runtime.doctor", "--frame", str(folder / "frame.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert message in done.stderr


def test_bad_arguments(capsys, tmp_path):
    assert doctor.main(["--frame", str(tmp_path / "no" / "frame.png")]) == 2
    assert "expected a .png file in an existing folder" in capsys.readouterr().err
    assert doctor.main(["--suite", "libero_nowhere", "--frame", str(tmp_path / "frame.png")]) == 2
