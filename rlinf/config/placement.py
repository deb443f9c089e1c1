"""Which node and which GPU every worker gets: ``cluster.component_placement`` on the nodes of a cluster.

Pure. Nodes have ranks, 0 for the head. GPUs are numbered from 0 over the nodes in this order, those of a node group
over its nodes; where there is no GPU, the numbers are of processes, one per CPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, TypeVar

from libero_runtime.commands import OptionError, number_ranges, parse_numbers
from rlinf.config.errors import ConfigError
from rlinf.config.schema import ClusterConfig

T = TypeVar("T")

KEY = "cluster.component_placement"
COMPONENTS = ("actor", "rollout", "env")


@dataclass(frozen=True, order=True)
class Node:
    """A machine of the cluster. id: Ray's name of it."""

    rank: int
    id: str
    address: str
    num_cpus: int
    num_gpus: int


@dataclass(frozen=True, order=True)
class Place:
    """Where a worker runs. node: None, wherever Ray finds room; gpu: of the node, that a policy's worker has and a
    simulator draws on, None: the CPU."""

    node: Node | None
    gpu: int | None = None


@dataclass(frozen=True)
class Placement:
    """The place of every worker."""

    actor: tuple[Place, ...]
    rollout: tuple[Place, ...]
    env: tuple[Place, ...]

    def table(self) -> str:
        """Who sits where, a line for the workers of a kind on a node."""
        rows = [("workers", "node", "GPU")]
        for name in COMPONENTS:
            places: tuple[Place, ...] = getattr(self, name)
            for node in dict.fromkeys(place.node for place in places):
                numbers = [number for number, place in enumerate(places) if place.node == node]
                gpus = {place.gpu for place in places if place.node == node and place.gpu is not None}
                where = f"{node.rank}: {node.address}" if node else "any"
                rows.append((f"{name} {number_ranges(numbers)}", where, number_ranges(gpus) if node and gpus else "-"))
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        return "\n".join(f"  {one:{widths[0]}}  {where:{widths[1]}}  {gpu}" for one, where, gpu in rows)


@dataclass(frozen=True)
class Request:
    """What the configuration says of a component. group: label of a node group; numbers: None, all."""

    group: str | None
    numbers: tuple[int, ...] | None


def requests(cluster: ClusterConfig) -> dict[str, Request]:
    """What ``component_placement`` says of each component; empty where it is null.

    Raises:
        ConfigError: it cannot be understood, whatever the cluster.
    """
    given = cluster.component_placement
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{KEY}={given}: expected null, or a place for each component, such as {{actor: 0-3, ...}}")
    found: dict[str, Request] = {}
    for names, value in given.items():
        for name in map(str.strip, str(names).split(",")):
            if name not in COMPONENTS:
                raise ConfigError(f"{KEY} names {name!r}, which is no component; expected {', '.join(COMPONENTS)}")
            if name in found:
                raise ConfigError(f"{KEY} names {name} twice: remove one")
            found[name] = _request(f"{KEY}.{name}", value, cluster)
    if missing := [name for name in COMPONENTS if name not in found]:
        raise ConfigError(
            f"{KEY} says nothing of {' and '.join(missing)}: give every component a place, such as `all`, or none"
        )
    return found


def place_workers(cluster: ClusterConfig, nodes: Sequence[Node]) -> Placement:
    """A place for every worker.

    nodes: of the cluster, by rank. A number of workers that is left open (-1) is one per GPU, else one, of actor and
    rollout, and of env one per CPU that inference leaves free. Simulators are spread over their nodes in proportion to
    these CPUs.

    Raises:
        ConfigError: the cluster is another than the configuration expects, or its keys contradict each other.
    """
    for name in COMPONENTS:
        if (count := _given(cluster, name)) is not None and count < 1:
            raise ConfigError(f"cluster.num_{name}_workers={count} must be at least 1, or -1 to choose by the machine")
    asked = requests(cluster)
    actor, rollout = (_policies(name, cluster, asked.get(name), nodes) for name in ("actor", "rollout"))
    env = _simulators(cluster, asked.get("env"), nodes, num_rollout=len(rollout))
    if len(env) < len(rollout):
        raise ConfigError(
            f"cluster.num_env_workers={len(env)} must be at least cluster.num_rollout_workers={len(rollout)}: every "
            "inference worker needs a simulator process"
        )
    return Placement(actor, rollout, env)


def spread(count: int, weights: Sequence[int]) -> list[int]:
    """``count`` in whole parts in proportion to ``weights``; what is left over goes to the largest remainders."""
    shares = [count * weight / sum(weights) for weight in weights]
    parts = [int(share) for share in shares]
    by_remainder = sorted(range(len(parts)), key=lambda index: parts[index] - shares[index])
    for index in by_remainder[: count - sum(parts)]:
        parts[index] += 1
    return parts


def _request(key: str, value: Any, cluster: ClusterConfig) -> Request:
    if not isinstance(value, Mapping):
        return Request(None, _numbers(key, value))
    if set(value) != {"node_group", "placement"}:
        raise ConfigError(f"{key}={value}: expected a place such as 0-3, or {{node_group: LABEL, placement: 0-3}}")
    label, labels = value["node_group"], [group.label for group in cluster.node_groups]
    if labels.count(label) != 1:
        known = f"cluster.node_groups has {', '.join(labels) or 'none'}"
        raise ConfigError(f"{key}: {known}; expected one with the label {label}")
    return Request(label, _numbers(f"{key}.placement", value["placement"]))


def _numbers(key: str, value: Any) -> tuple[int, ...] | None:
    """Numbers of a text such as ``0-3,6`` or of a list; None for ``all``."""
    if value == "all":
        return None
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        return parse_numbers(text)
    except OptionError as error:
        raise ConfigError(f"{key}: {error}; all means all of them") from error


def _given(cluster: ClusterConfig, name: str) -> int | None:
    count: int = getattr(cluster, f"num_{name}_workers")
    return None if count == -1 else count


def _nodes(cluster: ClusterConfig, request: Request, nodes: Sequence[Node]) -> list[Node]:
    """Those of a request's node group, or all."""
    if request.group is None:
        return list(nodes)
    key = f"cluster.node_groups ({request.group}).node_ranks"
    ranks = _numbers(key, next(group.node_ranks for group in cluster.node_groups if group.label == request.group))
    return list(nodes) if ranks is None else _chosen(key, ranks, nodes, "nodes of the cluster")


def _chosen(key: str, numbers: Iterable[int], there: Sequence[T], what: str) -> list[T]:
    numbers = tuple(numbers)
    if max(numbers) >= len(there):
        has = f"0 to {len(there) - 1}" if there else "none"
        raise ConfigError(f"{key}={number_ranges(numbers)}: {max(numbers)} is not there; the {what}: {has}")
    return [there[number] for number in numbers]


def _slots(nodes: Sequence[Node]) -> tuple[list[Place], str]:
    """What a request's numbers mean on these nodes: their GPUs, else their CPUs; and what to call it."""
    gpus = [Place(node, gpu) for node in nodes for gpu in range(node.num_gpus)]
    if gpus:
        return gpus, "GPUs there"
    return [Place(node) for node in nodes for _ in range(node.num_cpus)], "processes there, one per CPU"


def _policies(name: str, cluster: ClusterConfig, request: Request | None, nodes: Sequence[Node]) -> tuple[Place, ...]:
    """Places of actor or rollout: a GPU each, and on a cluster without any, a process each."""
    num_gpus, given = sum(node.num_gpus for node in nodes), _given(cluster, name)
    if request is None:
        count = given or max(num_gpus, 1)
        if num_gpus and count > num_gpus:
            raise ConfigError(f"cluster.num_{name}_workers={count} must not exceed the {num_gpus} GPUs of the cluster")
        return tuple(Place(None, number if num_gpus else None) for number in range(count))
    own, key = _nodes(cluster, request, nodes), f"{KEY}.{name}"
    if num_gpus and not any(node.num_gpus for node in own):
        raise ConfigError(
            f"{key}: the nodes of {request.group} have no GPU, but the cluster has {num_gpus}; {name} needs one for "
            "each worker: name a node group with GPUs"
        )
    slots, what = _slots(own)
    if request.numbers is None and not num_gpus and slots:
        return tuple(islice(cycle(slots), given or 1))
    chosen = _chosen(key, range(len(slots) or 1) if request.numbers is None else request.numbers, slots, what)
    _agree(cluster, name, len(chosen))
    return tuple(chosen)


def _simulators(
    cluster: ClusterConfig, request: Request | None, nodes: Sequence[Node], *, num_rollout: int
) -> tuple[Place, ...]:
    """Places of simulators, node by node. GPUs say where they run and draw, not how many they are."""
    own = _nodes(cluster, request, nodes) if request else list(nodes)
    drawing = {node: list(range(node.num_gpus)) for node in own}
    if request and request.numbers is not None:
        slots, what = _slots(own)
        chosen = sorted(_chosen(f"{KEY}.env", request.numbers, slots, what))
        if chosen[0].gpu is None:
            _agree(cluster, "env", len(chosen))
            return tuple(chosen)
        drawing = {}
        for place in chosen:
            assert place.node is not None
            assert place.gpu is not None
            drawing.setdefault(place.node, []).append(place.gpu)
    spare = [max(node.num_cpus - node.num_gpus, 0) for node in drawing]
    count = _given(cluster, "env") or max(sum(spare), num_rollout)
    parts = spread(count, spare if any(spare) else [1] * len(spare))
    return tuple(
        place
        for (node, gpus), part in zip(drawing.items(), parts, strict=True)
        for place in islice(cycle([Place(node, gpu) for gpu in gpus] or [Place(node)]), part)
    )


def _agree(cluster: ClusterConfig, name: str, count: int) -> None:
    given = _given(cluster, name)
    if given is not None and given != count:
        raise ConfigError(
            f"cluster.num_{name}_workers={given}, but {KEY}.{name} gives {count} of them a place: leave "
            f"cluster.num_{name}_workers at -1, or correct one of them"
        )
