"""What joining a group writes on a machine that has no name server."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlinf.engines.distributed import meeting_point

REPOSITORY = Path(__file__).resolve().parents[2]
# What glibc answers, there after seconds of waiting.
NO_NAME_SERVER = """
#include <netdb.h>
int getnameinfo(const struct sockaddr *a, socklen_t b, char *c, socklen_t d, char *e, socklen_t f, int g)
{ return EAI_AGAIN; }
"""
JOIN = """
import os, sys
from rlinf.engines.distributed import join_group, leave_group
join_group(rank=int(sys.argv[1]), world_size=2, init_method=sys.argv[2], own_address="127.0.0.1")
leave_group()
os._exit(0)  # see tests/distributed/ranks.py
"""


@pytest.fixture(scope="module")
def no_name_server(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of processes that find no host name."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux")
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.c").write_text(NO_NAME_SERVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "names.so", folder / "names.c"], check=True)
    environment = dict(os.environ, LD_PRELOAD=str(folder / "names.so"))
    lookup = [sys.executable, "-c", "import socket; socket.getnameinfo(('127.0.0.1', 1), 0)"]
    assert b"gaierror" in subprocess.run(lookup, env=environment, capture_output=True, check=False).stderr
    return environment


def join(init_method: str, environment: dict[str, str]) -> str:
    """Standard error of two ranks that join and leave."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, str(rank), init_method],
            cwd=REPOSITORY,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return "".join(errors)


def test_ranks_of_one_machine_join_without_looking_up_names(no_name_server: dict[str, str], tmp_path: Path) -> None:
    assert join(meeting_point("127.0.0.1", tmp_path), no_name_server) == ""


def test_ranks_of_several_machines_meet_at_a_port(tmp_path: Path) -> None:
    assert meeting_point("192.0.2.7", tmp_path).startswith("tcp://192.0.2.7:")
