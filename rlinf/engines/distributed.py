"""Process groups: gloo on CPU, NCCL with a gloo side channel on GPUs."""

import os
import socket
from ipaddress import ip_address
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def meeting_point(address: str, folder: Path) -> str:
    """Where a group meets, as ``join_group`` takes it: a file in ``folder`` (of its own) if ``address`` is loopback,
    which only ranks of this machine reach, else a port there.

    torch looks up the host names of both ends of a TCP connection. Without a name server, as on a laptop that is
    offline, each costs six seconds and a warning.
    """
    if ip_address(address).is_loopback:
        return f"file://{folder / 'group'}"
    return f"tcp://{address}:{free_port()}"


def interface_of(address: str) -> str | None:
    """Name of the network interface that has IPv4 ``address``; gloo and NCCL must be told or may pick loopback."""
    import fcntl
    import struct

    siocgifaddr = 0x8915
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                packed = fcntl.ioctl(probe.fileno(), siocgifaddr, struct.pack("256s", name.encode()[:15]))
            except OSError:  # the interface has no IPv4 address
                continue
            if socket.inet_ntoa(packed[20:24]) == address:
                return name
    return None


def join_group(*, rank: int, world_size: int, init_method: str, own_address: str) -> DeviceMesh:
    """Join the group that meets at ``init_method``, ``tcp://ADDRESS:PORT`` of rank 0 or ``file://PATH`` on one machine.

    Collective: every rank calls it. Returns the one-dimensional mesh to shard over.
    """
    name = interface_of(own_address)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_device())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=world_size,
    )
    return init_device_mesh("cuda" if on_gpu else "cpu", (world_size,))


def leave_group() -> None:
    """Leave the group once every rank is done with it. Collective."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def set_up_torch(num_threads: int) -> None:
    """Torch as in a new process, also where an earlier run's policy was: random numbers that nobody seeds are the same,
    and memory on the GPU is given back."""
    torch.set_num_threads(num_threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(0)
    torch.cuda.empty_cache()


def local_device() -> torch.device:
    """The GPU that this process may use, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
