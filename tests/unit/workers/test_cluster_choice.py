"""Which Ray cluster a run uses, and where a cluster of our own keeps its files."""

import json
import os
import socket
import stat
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from ray._raylet import Config

from rlinf.config import ConfigError
from rlinf.scheduler import cluster
from rlinf.scheduler.cluster import LONGEST_SOCKET, SOCKET, find_cluster, named_cluster, work_folders


@pytest.mark.parametrize(("value", "named"), [(None, None), ("", None), (" ", None), ("local", None), ("a:1", "a:1")])
def test_without_an_address_the_cluster_is_our_own(monkeypatch, value, named):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    assert named_cluster() == named


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "https://a.example", "127.0.0.1", ":6379", "::1:6379"])
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(ConfigError, match=f"^RAY_ADDRESS={address}: expected HOST:PORT"):
        find_cluster(address)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "[::1]:{}", "no-such-host.invalid:{}", "127.0.0.1:99999999"])
def test_where_nothing_answers_the_address_is_named_soon(address):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address.format(free.getsockname()[1])
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        find_cluster(address)
    assert f"RAY_ADDRESS={address}: nothing answers at " in str(caught.value)
    assert time.monotonic() - began < 30


def test_no_cluster_on_this_machine_for_auto(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ConfigError, match="RAY_ADDRESS=auto: `ray start` has started no cluster on this machine"):
        find_cluster("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=auto: nothing answers at [\d.]+:1 "):
        find_cluster("auto")


@pytest.fixture
def impatient():
    """Ray waits a second for each answer, where it waits 5, 5 and 30."""
    patience = {"gcs_rpc_server_connect_timeout_s": 5, "py_gcs_connect_timeout_s": Config.py_gcs_connect_timeout_s()}
    assert patience["py_gcs_connect_timeout_s"] == 30, "less than a minute altogether"
    Config.initialize(json.dumps(dict.fromkeys(patience, 1)))
    yield
    Config.initialize(json.dumps(patience))


def test_something_that_is_no_cluster_is_told_within_a_minute(impatient):
    with socket.create_server(("127.0.0.2", 0)) as other:  # of 127.0.0.1 Ray makes the machine's own address
        address = f"127.0.0.2:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"what answers at {address} is no cluster"):
            find_cluster(address)


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Stands for /tmp."""
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster, "SHORT_FOLDER", str(tmp_path))
    return tmp_path


def test_a_folder_that_fits_is_taken(monkeypatch, short):
    room = LONGEST_SOCKET - len(SOCKET) - len("/ray/")
    monkeypatch.setattr(cluster, "LONGEST_SOCKET", LONGEST_SOCKET + len(str(short)))
    fits, others = short / ("x" * (room - 1)), short / "others"
    monkeypatch.setenv("TMPDIR", str(others))
    monkeypatch.setenv("RAY_TMPDIR", str(fits))
    with ExitStack() as stack:
        assert work_folders(stack) == (fits / "ray", None)
    monkeypatch.setenv("RAY_TMPDIR", "")
    with ExitStack() as stack:
        assert work_folders(stack) == (others / "ray", None)
    monkeypatch.setenv("RAY_TMPDIR", f"{fits}y")
    with ExitStack() as stack:
        assert work_folders(stack)[0].is_relative_to(short)
        assert work_folders(stack)[1] == Path(f"{fits}y", "ray")


@pytest.mark.parametrize("name", ["a" * 90, "ä" * 45])
def test_a_long_folder_is_replaced_by_a_private_one_for_sockets_alone(monkeypatch, short, name, caplog):
    caplog.set_level("INFO")
    long = short / name
    monkeypatch.setenv("TMPDIR", str(long))
    with ExitStack() as stack:
        sockets, samples = work_folders(stack)
        private = sockets.parent
        assert (private.parent, samples) == (short, long / "ray")
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert private.owner() == long.owner()
        (sockets / "session").mkdir(parents=True)
    assert f"TMPDIR={long} is too long" in caplog.text
    assert not private.exists()


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, short):
    (short / "file").touch()
    monkeypatch.setenv("TMPDIR", str(short / "file"))
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"TMPDIR is .*/file\).*Set RAY_TMPDIR to one"):
        work_folders(stack)


def test_sockets_are_as_long_as_rays():
    assert len(f"session_{time.strftime('%Y-%m-%d_%H-%M-%S')}_123456_{os.getpid()}/sockets/plasma_store") <= len(SOCKET)
