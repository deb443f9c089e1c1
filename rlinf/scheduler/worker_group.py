"""Groups of equal Ray actors, called together under a deadline."""

import gc
import logging
import math
import re
from collections.abc import Callable, Sequence
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
Show = Callable[[Sequence[Any]], None]


class WorkerError(RuntimeError):
    """A worker died, hung or failed; the message names it. Unlike after other errors, trying again may help."""


def describe_death(error: RayActorError | ObjectLostError) -> str:
    """What Ray says of an actor's death, and the last lines that the process wrote, where this machine has them."""
    text = str(error).partition("Some common causes")[0].strip()
    pid = re.search(r"\bpid: (\d+)", text)
    node: Any = ray._private.worker._global_node
    folder = Path(node.get_logs_dir_path()) if node else None
    logs = sorted(folder.glob(f"worker-*-{pid[1]}.*"), reverse=True) if folder and pid else []  # .out before .err
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-LAST_LINES:]]
    return "\n  ".join([f"{text}\nThe last lines of its log:", *lines]) if lines else text


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
        replaceable: bool = False,
    ) -> None:
        """Returns before the workers are ready.

        timeout_s: deadline of a call; stall_s: of a call that shows progress, without any.
        watched: they have a second thread, in which they are asked for progress while the first works; a simulator must
            not, since OpenGL contexts belong to one thread.
        replaceable: Ray starts another in the place of one that dies, whose running calls fail; on another node where
            its own is lost.
        """
        self.name = name
        self.timeout_s, self.stall_s = timeout_s, stall_s
        self._shown: Sequence[Any] = ()
        # Ray's types know neither concurrency groups nor classes that are not literals.
        remote: Any = ray.remote(concurrency_groups={WATCH: 1}) if watched else ray.remote  # type: ignore[call-overload]
        actor_class = remote(type(worker_class.__name__, (_KeepsRefusal, worker_class), {}))
        self.workers: list[ActorHandle[Any]] = []
        for index in range(count):
            options: dict[str, Any] = {
                "num_cpus": placement.num_cpus,
                "num_gpus": placement.num_gpus,
                "max_restarts": -1 if replaceable else 0,
            }
            if placement.env_vars:
                options["runtime_env"] = {"env_vars": placement.env_vars}
            if (strategy := placement.strategy(index, movable=replaceable)) is not None:
                options["scheduling_strategy"] = strategy
            self.workers.append(actor_class.options(**options).remote(*arguments(index)))
        # Actors carry out calls in order: until these have returned, no other call counts.
        self._constructed: list[ray.ObjectRef[Any]] = self.submit("constructed")

    def __len__(self) -> int:
        return len(self.workers)

    def renew(self, arguments: Callable[[int], tuple[Any, ...]]) -> None:
        """Construct every worker again, in its process: as good as new ones, but started at once. Returns before they
        are ready, as the constructor does."""
        renewed = self.submit_each("renew", [arguments(index) for index in range(len(self))])
        self._constructed = [*renewed, *self.submit("constructed")]

    def submit(self, method: str, *args: Any) -> "list[ray.ObjectRef[Any]]":
        """Call ``method`` with the same arguments on every worker; returns at once."""
        return [getattr(worker, method).remote(*args) for worker in self.workers]

    def submit_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> "list[ray.ObjectRef[Any]]":
        """Call ``method`` on worker ``i`` with ``arguments[i]``; returns at once."""
        pairs = zip(self.workers, arguments, strict=True)
        return [getattr(worker, method).remote(*args) for worker, args in pairs]

    def call(self, method: str, *args: Any) -> list[Any]:
        """Call ``method`` on every worker and wait for all results."""
        return self.wait(self.submit(method, *args))

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
        constructed, self._constructed = self._constructed, []
        for calls in (constructed, refs):
            self._finish(calls, show)

    def _finish(self, refs: "Sequence[ray.ObjectRef[Any]]", show: Show | None) -> None:
        limit, key = (self.timeout_s, "call_timeout_s") if show is None else (self.stall_s, "stall_timeout_s")
        pending, waited = list(refs), 0.0
        asked: list[ray.ObjectRef[Any]] = []
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=_POLL_S, fetch_local=False)
            shown = self._shown
            if show is not None:
                asked = self._show_progress(asked, show)
            waited = 0.0 if done or self._shown != shown else waited + _POLL_S
            if waited >= limit:
                how = "did not return" if show is None else "made no progress"
                raise WorkerError(
                    f"{self.name}: {len(pending)} of {len(refs)} calls {how} within {limit:.0f} s (runner.{key}); the "
                    "workers are stopped"
                )
            for ref in done:
                self._raise_failure(ref)

    def _show_progress(self, asked: "list[ray.ObjectRef[Any]]", show: Show) -> "list[ray.ObjectRef[Any]]":
        """Show what has been answered, and ask again, in the workers' second thread."""
        if asked:
            answered, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
            if len(answered) < len(asked):
                return asked
            self._shown = ray.get(asked)
            show(self._shown)
        return [worker.progress.options(concurrency_group=WATCH).remote() for worker in self.workers]

    def _raise_failure(self, ref: "ray.ObjectRef[Any]") -> None:
        try:
            ray.get(ref, timeout=self.timeout_s)
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except RayActorError as error:
            raise WorkerError(f"{self.name}: a worker died: {describe_death(error)}") from error
        except GetTimeoutError as error:
            raise WorkerError(f"{self.name}: a result could not be fetched within {self.timeout_s:.0f} s") from error

    def stop(self) -> None:
        """End the workers."""
        for worker in self.workers:
            ray.kill(worker)
