"""What the operating system refuses is one message that says what to do, whatever wraps it, and loses nothing."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from libero_runtime import commands
from libero_runtime.files import write_whole
from openvla_oft import cli as finetune_cli
from openvla_oft import pack
from rlinf.cli import run_sequence
from rlinf.cli.console import run_cli, user_message
from rlinf.cli.launcher import read_arguments
from rlinf.config import ConfigError, resolve_model
from rlinf.config.errors import DivergedError
from rlinf.config.places import check_readable, check_writable
from rlinf.custom.sequence.recipe import Step
from rlinf.models.simple_cnn import CNNSettings, save_cnn
from rlinf.reporting import ReportingError
from rlinf.reporting.jsonlines import append_line, read_lines
from rlinf.reporting.loggers import check_backends
from tests.full_disk import largest_file
from tests.sequences import at, declaration

NOBODY = 65534


def as_nobody(call: Callable[[], object]) -> str:
    """The error of a call that is made by a user who owns nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            if os.geteuid() == 0:
                os.setresuid(NOBODY, NOBODY, NOBODY)
            call()
        except Exception as error:  # noqa: BLE001 - handed to the parent
            text = f"{type(error).__name__}: {user_message(error)}"
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as stream:
        return stream.read()


# ------------------------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize("number", commands.MENDABLE)
def test_every_kind_names_the_path_the_fault_and_what_to_do(number: int) -> None:
    message = user_message(OSError(number, os.strerror(number), "/data/x"))
    assert message == f"/data/x: {os.strerror(number)}; {commands.MENDABLE[number]}"


def test_other_errors_of_the_system_are_bugs() -> None:
    assert user_message(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None
    assert user_message(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None
    assert user_message(RuntimeError("CUDA error")) is None


def test_what_a_file_in_the_way_hides_is_told_and_a_bug_behind_it_is_not_hidden() -> None:
    def fail() -> None:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "/data/x")
        except PermissionError:
            {}["bug"]

    with pytest.raises(KeyError) as caught:
        fail()
    assert user_message(caught.value) is None
    caught.value.__cause__ = caught.value.__context__
    assert "Permission denied" in str(user_message(caught.value))


def test_what_a_ray_worker_raised_is_found_inside() -> None:
    class TaskError(OSError):
        """How Ray hands an exception over: the text of a traceback, and the exception itself."""

        def __init__(self, cause: Exception, text: str = "traceback of the worker") -> None:
            super().__init__(text)
            self.cause = cause

    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert str(user_message(TaskError(full))).startswith("/data/x: No space left on device; free some space")
    lost = TaskError(RuntimeError("unexpected pos 704 vs 598"), "OSError: [Errno 28] No space left on device\nDuring")
    assert str(user_message(lost)).startswith("No space left on device; free some space")
    assert user_message(TaskError(ConfigError("no OpenGL"))) == "no OpenGL"
    assert user_message(TaskError(DivergedError("policy loss is nan"))) == "policy loss is nan"
    assert user_message(TaskError(ValueError("from a library"))) is None


def save_array(path: Path) -> None:
    np.save(path, np.zeros(100_000))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_file({"a": torch.zeros(100_000)}, path),
        save_array,
        lambda path: save_cnn(path.parent, CNNSettings(), {"a": torch.zeros(100_000)}),
        lambda path: path.write_text("x" * 100_000),
    ],
    ids=["safetensors", "numpy", "torch", "python"],
)
def test_a_disk_that_fills_up_is_told_whatever_library_writes(tmp_path: Path, write: Callable[[Path], object]) -> None:
    with largest_file(20_000), pytest.raises(Exception) as caught, commands.naming(tmp_path):
        write(tmp_path / "file.npy")
    message = user_message(caught.value)
    assert message is not None
    assert message.startswith(f"{tmp_path}: ")
    assert "run the same command again" in message


def test_every_command_line_ends_with_one_message_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/x")

    expected = "error: /data/x: Read-only file system; name a place that can be written to\n"
    with pytest.raises(SystemExit) as left:
        run_cli(fail, [])
    assert (left.value.code, capsys.readouterr().err) == (2, expected)
    assert (commands.run_command(fail), capsys.readouterr().err) == (2, expected)
    options = {pack.PackOptions: None}
    code = finetune_cli.run_command("", options, fail, ["--output", "y"], description=None)
    assert (code, capsys.readouterr().err) == (2, expected)


# ------------------------------------------------------------------------------------------------------ without loss


def test_a_full_disk_names_the_file_and_keeps_what_was_there(tmp_path: Path) -> None:
    lines, whole = tmp_path / "metrics.jsonl", tmp_path / "config.yaml"
    append_line(lines, {"step": 1})
    write_whole(whole, "a: 1\n")
    with largest_file(lines.stat().st_size + 5):
        with pytest.raises(OSError) as torn:
            append_line(lines, {"step": 2, "more": "x" * 100})
        with pytest.raises(OSError) as unwritten:
            write_whole(whole, "a: 2\n" * 100)
    assert str(user_message(torn.value)).startswith(f"{lines}: ")
    assert str(user_message(unwritten.value)).startswith(f"{whole}: ")
    append_line(lines, {"step": 3})
    assert [entry for _, entry in read_lines(lines)] == [{"step": 1}, {"step": 3}]
    assert whole.read_text() == "a: 1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "metrics.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device of a full disk")
def test_a_device_without_room(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        append_line(tmp_path / "metrics.jsonl", {"step": 1})
    message = user_message(caught.value)
    assert message == f"{tmp_path}/metrics.jsonl: No space left on device; {commands.MENDABLE[errno.ENOSPC]}"


# --------------------------------------------------------------------------------------------- before anything starts


def test_a_folder_that_cannot_be_made_or_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    check_writable(tmp_path / "new" / "logs", setting="log_root")
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/deep/er", "dangling"):
        with pytest.raises(ConfigError, match=r"file is no folder|dangling is no folder") as caught:
            check_writable(tmp_path / name, setting="runner.logger.log_root")
        assert "name another folder with runner.logger.log_root" in str(caught.value)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert "may not write in" in as_nobody(lambda: check_writable(locked / "logs", setting="log_root"))


def test_a_checkpoint_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder == tmp_path or folder.name.startswith(("pytest-", "popen-")):  # closed to others
            folder.chmod(0o755)
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.touch(mode=0o000)
    weights.chmod(0o000)
    message = as_nobody(lambda: resolve_model(str(tmp_path), key="actor.checkpoint_load_path"))
    assert message.startswith(f"ConfigError: actor.checkpoint_load_path: this user may not read {weights}")
    weights.chmod(0o644)
    assert not as_nobody(lambda: check_readable(tmp_path, setting="x"))
    tmp_path.chmod(0o000)
    message = as_nobody(lambda: resolve_model(str(tmp_path), key="actor.checkpoint_load_path"))
    tmp_path.chmod(0o755)
    assert message.startswith(f"PermissionError: {tmp_path}/config.json: Permission denied; change who may")


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has W&B's client, on which nobody has logged in; its home."""
    (tmp_path / "packages" / "wandb").mkdir(parents=True)
    (tmp_path / "packages" / "wandb" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"), [("WANDB_API_KEY", "x"), ("WANDB_MODE", "offline"), ("WANDB_MODE", "disabled")]
)
def test_a_login_to_wandb_is_found(wandb: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    for _ in range(2):
        with pytest.raises(ReportingError, match=r"`wandb login`, set WANDB_API_KEY, set WANDB_MODE=offline"):
            check_backends(["tensorboard", "wandb"])
        (wandb / ".netrc").write_text("machine github.com login me password x\n")
    monkeypatch.setenv(name, value)
    check_backends(["wandb"])
    monkeypatch.delenv(name)
    (wandb / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    check_backends(["wandb"])
    monkeypatch.setenv("WANDB_BASE_URL", "https://metrics.example.org")
    (wandb / ".netrc").write_text("machine metrics.example.org login user password x\n")
    check_backends(["wandb"])
    (wandb / ".netrc").rename(wandb / "_netrc")
    check_backends(["wandb"])


def test_an_evaluation_needs_no_login_to_wandb(wandb: Path) -> None:
    def plan(script: str, location: str) -> list[Step]:
        signature, fixed = declaration(script)
        words = [location, "runner.logger.logger_backends=[wandb]"]
        arguments = read_arguments([script, signature, *words, "--", *fixed])
        action = run_sequence.evaluation_steps if arguments.action == "evaluate" else run_sequence.sequence_steps
        return list(action(arguments, at(wandb))[1])

    (step,) = plan("eval_embodiment.sh", "base")
    assert step.todo
    with pytest.raises(ReportingError, match="nobody has logged in"):
        plan("run_embodiment_sequential.sh", "0")


def test_a_folder_of_wandbs_logs_is_not_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "wandb" in sys.modules:
        pytest.skip("wandb is imported")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ReportingError, match="pip install wandb"):
        check_backends(["wandb"])
