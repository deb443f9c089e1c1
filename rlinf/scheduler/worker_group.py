"""Groups of equal Ray actors, called together under a deadline."""

import gc
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

log = logging.getLogger(__name__)
T = TypeVar("T")

_POLL_S = 0.5
WATCH = "watch"
NODE_ID = "ray.io/node-id"  # a label that Ray gives every node
LAST_LINES = 20
RAYS_OWN = "in ray._raylet.check_status\n"  # of a traceback: where Ray raises what its own processes answer
Show = Callable[[Sequence[Any]], None]


class WorkerError(RuntimeError):
    """A worker died, hung or failed; the message names it. Unlike after other errors, trying again may help.

    workers: which of the group died or hung.
    """

    def __init__(self, message: str, workers: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.workers = tuple(workers)


def describe_death(error: RayActorError | ObjectLostError) -> str:
    """What Ray says of an actor's death, and the last lines that the process wrote, where this machine has them."""
    text = str(error).partition("Some common causes")[0].strip()
    pid = re.search(r"\bpid: (\d+)", text)
    node: Any = ray._private.worker._global_node
    folder = Path(node.get_logs_dir_path()) if node else None
    logs = sorted(folder.glob(f"worker-*-{pid[1]}.*"), reverse=True) if folder and pid else []  # .out before .err
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-LAST_LINES:]]
    return "\n  ".join([f"{text}\nThe last lines of its log:", *lines]) if lines else text


def has_lost_its_node(error: RayTaskError) -> bool:
    """Whether a call failed since Ray's process on the worker's node is gone, which outlives it for a moment: then what
    it asks of Ray fails like a file that cannot be read."""
    return isinstance(error.as_instanceof_cause(), OSError) and RAYS_OWN in str(error)


@dataclass(frozen=True)
class WorkerPlacement:
    """Where the workers of a group run: GPUs per worker and, in turns, bundles of a placement group or else ids of
    nodes; anywhere, if neither is given."""

    num_cpus: float = 0
    num_gpus: float = 0
    group: PlacementGroup | None = None
    bundles: Sequence[int] = ()
    nodes: Sequence[str] = ()
    env_vars: dict[str, str] | None = None

    def strategy(self, index: int, *, movable: bool) -> object:
        """Ray's word for the place of worker ``index``. movable: it may be elsewhere once its node is lost."""
        if self.group is not None:
            bundle = self.bundles[index % len(self.bundles)]
            return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=bundle)
        return NodeAffinitySchedulingStrategy(self.nodes[index % len(self.nodes)], soft=movable) if self.nodes else None


def reserve_gpus(nodes: Sequence[str | None]) -> PlacementGroup:
    """A bundle for each GPU: on the node with that id or, if None, packed on as few as possible."""
    bundles = [{"GPU": 1.0, "CPU": 1.0}] * len(nodes)
    labels = [{NODE_ID: node} if node else {} for node in nodes]
    group: PlacementGroup = ray.util.placement_group(bundles, strategy="PACK", bundle_label_selector=labels)
    ray.get(group.ready())
    return group


def place_on_gpus(num_gpus: int, *, share: float, env_vars: dict[str, str]) -> WorkerPlacement:
    """Workers that take ``share`` of a GPU each, in turns on ``num_gpus``; without any they are anywhere."""
    if not num_gpus:
        return WorkerPlacement(env_vars=env_vars)
    group = reserve_gpus([None] * num_gpus)
    return WorkerPlacement(num_gpus=share, group=group, bundles=range(num_gpus), env_vars=env_vars)


class _KeepsRefusal:
    """Mixed into a worker's class: what a user can mend in the constructor's arguments is raised by ``constructed``.

    Ray gives the caller only the text of what an actor's constructor raises, so nobody could tell it from a bug.
    """

    def __init__(self, *arguments: Any) -> None:
        self._refusal: ValueError | OSError | None = None
        try:
            super().__init__(*arguments)
        except (ValueError, OSError) as error:
            self._refusal = error

    def constructed(self) -> None:
        """Raises ValueError, OSError: what the constructor raised."""
        if self._refusal is not None:
            raise self._refusal

    def renew(self, *arguments: Any) -> None:
        """Construct again in the same process: its modules and compiled code stay, and nothing else does."""
        vars(self).clear()
        gc.collect()  # policies are full of cycles, and two may not fit beside each other
        type(self).__init__(self, *arguments)


def _numbered(refs: "Sequence[ray.ObjectRef[Any]]") -> "dict[ray.ObjectRef[Any], int]":
    """A call of each worker, and which."""
    return {ref: index for index, ref in enumerate(refs)}


class _Progress:
    """How far workers are with a call, as they say in their second thread while the first works."""

    def __init__(self, workers: "Sequence[ActorHandle[Any]]", show: Show) -> None:
        self._workers, self._show = workers, show
        self._asked: dict[ray.ObjectRef[Any], int] = {}
        self._said: dict[int, Any] = {}

    def look(self) -> set[int]:
        """Ask all that owe no answer, and show what they have said once all have. Returns which have got on."""
        answered = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0] if self._asked else []
        before = dict(self._said)
        for ref in answered:
            index = self._asked.pop(ref)
            try:
                self._said[index] = ray.get(ref)
            except RayActorError:  # its call fails likewise, which is where it is dealt with
                continue
        moved = {index for index, said in self._said.items() if index not in before or before[index] != said}
        if moved and len(self._said) == len(self._workers):
            self._show([self._said[index] for index in range(len(self._workers))])
        owing = set(self._asked.values())
        for index, worker in enumerate(self._workers):
            if index not in owing:
                self._asked[worker.progress.options(concurrency_group=WATCH).remote()] = index
        return moved


class WorkerGroup:
    """``count`` actors of one class; worker ``i`` is constructed with ``arguments(i)``."""

    def __init__(
        self,
        name: str,
        worker_class: type,
        count: int,
        arguments: Callable[[int], tuple[Any, ...]],
        *,
        placement: WorkerPlacement = WorkerPlacement(),
        timeout_s: float,
        stall_s: float = math.inf,
        watched: bool = False,
        restarted: bool = False,
        max_replaced: int = 0,
    ) -> None:
        """Returns before the workers are ready.

        timeout_s: deadline of a call; stall_s: of a call that shows progress, without any.
        watched: they have a second thread, in which they are asked for progress while the first works; a simulator must
            not, since OpenGL contexts belong to one thread.
        restarted: Ray starts another in the place of one that dies, under the same name for those who call it, whose
            running calls fail; on another node where its own is lost.
        max_replaced: how many that die or hang may be replaced during one call, which is repeated on the new ones.
        """
        self.name = name
        self.timeout_s, self.stall_s, self.max_replaced = timeout_s, stall_s, max_replaced
        # Ray's types know neither concurrency groups nor classes that are not literals.
        remote: Any = ray.remote(concurrency_groups={WATCH: 1}) if watched else ray.remote  # type: ignore[call-overload]
        self._actor_class = remote(type(worker_class.__name__, (_KeepsRefusal, worker_class), {}))
        self._placement, self._restarted = placement, restarted
        self._arguments = arguments
        self._told: dict[str, Sequence[tuple[Any, ...]]] = {}
        self.workers = [self._start(index, movable=restarted) for index in range(count)]
        self._preparing = _numbered(self.submit("constructed"))

    def _start(self, index: int, *, movable: bool) -> ActorHandle[Any]:
        """movable: it may be elsewhere where its node is lost."""
        placement = self._placement
        options: dict[str, Any] = {
            "num_cpus": placement.num_cpus,
            "num_gpus": placement.num_gpus,
            "max_restarts": -1 if self._restarted else 0,
        }
        if placement.env_vars:
            options["runtime_env"] = {"env_vars": placement.env_vars}
        if (strategy := placement.strategy(index, movable=movable)) is not None:
            options["scheduling_strategy"] = strategy
        worker: ActorHandle[Any] = self._actor_class.options(**options).remote(*self._arguments(index))
        return worker

    def __len__(self) -> int:
        return len(self.workers)

    def renew(self, arguments: Callable[[int], tuple[Any, ...]]) -> None:
        """Construct every worker again, in its process: as good as new ones, but started at once. Returns before they
        are ready, as the constructor does."""
        self._arguments = arguments
        self._told.clear()
        renewed = self.submit_each("renew", [arguments(index) for index in range(len(self))])
        self._preparing = _numbered(renewed) | _numbered(self.submit("constructed"))

    def _replace(self, index: int) -> None:
        """Another worker in the place of one, constructed and told the same."""
        ray.kill(self.workers[index])
        self.workers[index] = worker = self._start(index, movable=True)
        told = {method: arguments[index] for method, arguments in self._told.items()}
        calls = [getattr(worker, method).remote(*given) for method, given in ({"constructed": ()} | told).items()]
        others = {ref: other for ref, other in self._preparing.items() if other != index}
        self._preparing = others | dict.fromkeys(calls, index)

    def submit(self, method: str, *args: Any) -> "list[ray.ObjectRef[Any]]":
        """Call ``method`` with the same arguments on every worker; returns at once."""
        return [getattr(worker, method).remote(*args) for worker in self.workers]

    def submit_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> "list[ray.ObjectRef[Any]]":
        """Call ``method`` on worker ``i`` with ``arguments[i]``; returns at once."""
        pairs = zip(self.workers, arguments, strict=True)
        return [getattr(worker, method).remote(*args) for worker, args in pairs]

    def call(self, method: str, *args: Any) -> list[Any]:
        """Call ``method`` on every worker and wait for all results."""
        return self.call_each(method, [args] * len(self))

    def call_each(
        self, method: str, arguments: Sequence[tuple[Any, ...]], *, show: Show | None = None
    ) -> list[Any]:
        """Call ``method`` on worker ``i`` with ``arguments[i]`` and wait for all results, as ``wait`` does; of workers
        that die or hang meanwhile, ``max_replaced`` are replaced and called again."""
        refs, num_replaced = self.submit_each(method, arguments), 0
        while True:
            try:
                return self.wait(refs, show=show)
            except WorkerError as error:
                num_replaced += len(error.workers)
                if not error.workers or num_replaced > self.max_replaced:
                    raise
                log.warning("%s; replaced: %s", error, ", ".join(f"{self.name} {one}" for one in error.workers))
                for index in error.workers:
                    self._replace(index)
                    refs[index] = getattr(self.workers[index], method).remote(*arguments[index])

    def tell(self, method: str, *args: Any) -> None:
        """Call ``method`` on every worker, now and on one that takes the place of another; the last call counts."""
        self.tell_each(method, [args] * len(self))

    def tell_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        """The same with ``arguments[i]`` for worker ``i``."""
        self.call_each(method, arguments)
        self._told[method] = arguments

    def wait(self, refs: "Sequence[ray.ObjectRef[T]]", *, show: Show | None = None) -> list[T]:
        """Results of ``refs`` in order. Meanwhile ``show`` is given, about twice a second, what the workers' methods
        ``progress`` answer, which are not waited for.

        Raises:
            WorkerError: a worker died, or the deadline passed.
            Exception: what a worker raised, as it raised it.
        """
        self.finish(refs, show=show)
        try:
            return ray.get(list(refs))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None

    def ready(self) -> None:
        """Wait until all workers are constructed; raises like ``wait``."""
        self.finish([])

    def finish(self, refs: "Sequence[ray.ObjectRef[Any]]", *, show: Show | None = None) -> None:
        """Wait until all calls are done, fetching only what failed; the first failure ends the wait."""
        # Workers carry out calls in order: until these have returned, no other call counts.
        self._finish(self._preparing, None)
        self._preparing = {}
        self._finish(_numbered(refs), show)

    def _finish(self, calls: "Mapping[ray.ObjectRef[Any], int]", show: Show | None) -> None:
        limit, key = (self.timeout_s, "call_timeout_s") if show is None else (self.stall_s, "stall_timeout_s")
        progress = _Progress(self.workers, show) if show is not None else None
        pending, silent_s = list(calls), dict.fromkeys(calls.values(), 0.0)
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=_POLL_S, fetch_local=False)
            for ref in done:
                self._raise_failure(ref, calls[ref])
            moved = progress.look() if progress is not None else set()
            for index in silent_s:
                silent_s[index] = 0.0 if done or index in moved else silent_s[index] + _POLL_S
            if hung := sorted({calls[ref] for ref in pending if silent_s[calls[ref]] >= limit}):
                how = "did not return" if show is None else "made no progress"
                raise WorkerError(
                    f"{self.name}: {len(hung)} of {len(calls)} calls {how} within {limit:.0f} s (runner.{key})",
                    hung,
                )

    def _raise_failure(self, ref: "ray.ObjectRef[Any]", index: int) -> None:
        try:
            ray.get(ref, timeout=self.timeout_s)
        except RayTaskError as error:
            if has_lost_its_node(error):
                raise WorkerError(f"{self.name}: a worker lost its node: {error}", [index]) from error
            raise error.as_instanceof_cause() from None
        except (RayActorError, ObjectLostError) as error:  # ended, or its node with the result
            raise WorkerError(f"{self.name}: a worker died: {describe_death(error)}", [index]) from error
        except GetTimeoutError as error:
            raise WorkerError(f"{self.name}: a result could not be fetched within {self.timeout_s:.0f} s") from error

    def stop(self) -> None:
        """End the workers."""
        for worker in self.workers:
            ray.kill(worker)
