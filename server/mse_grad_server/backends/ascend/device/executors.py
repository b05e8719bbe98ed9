"""Cache of executors, each planned once for a kind of launch and run many times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mse_grad_server.backends.ascend.acl.error_codes import AclError, PlanError
from mse_grad_server.backends.ascend.acl.operator import OpApi
from mse_grad_server.backends.ascend.acl.runtime import Acl
from mse_grad_server.backends.ascend.device.blocks import LaunchKey, Layout

__all__ = ["ExecutorCache"]


@dataclass
class _Executor:
    handle: int
    workspace: int = 0
    workspace_bytes: int = 0


@dataclass
class _Plan:
    tensors: list[int]
    executors: list[_Executor]


class ExecutorCache:
    """Executors by kind of launch; evicts the least recently used kind. Only the device thread uses it.

    Each kind has one executor for each slot. They are planned together, each bound to the memory of its slot. So a
    launch sets nothing, and a queued executor is never changed. An address is set only if it changes, which is the rule
    of aclSetInputTensorAddr.

    Args:
        acl: Makes tensors and memory.
        opapi: The operator.
        memories: Device address of each slot's memory.
        most_kinds: Kinds kept at a time. The cache keeps more kinds than there are slots, so one is always idle.
    """

    def __init__(self, acl: Acl, opapi: OpApi, *, memories: Sequence[int], most_kinds: int) -> None:
        self._acl = acl
        self._opapi = opapi
        self._memories = memories
        self._most_kinds = max(most_kinds, len(memories) + 1)
        self._plans: OrderedDict[LaunchKey, _Plan] = OrderedDict()

    @property
    def workspace_bytes(self) -> int:
        """Device memory that the workspaces of the planned kinds hold."""
        return sum(one.workspace_bytes for plan in self._plans.values() for one in plan.executors)

    def prepare(self, key: LaunchKey, *, queued: Callable[[], set[LaunchKey]]) -> bool:
        """Plans `key` unless it is planned, and returns whether it had to; evicts the least recently used kind.

        Args:
            key: The kind of launch.
            queued: Returns the kinds that are in the streams, which are not evicted.

        Raises:
            PlanError: The operator refused, or memory ran out; nothing was queued.
        """
        if key in self._plans:
            self._plans.move_to_end(key)
            return False
        if len(self._plans) >= self._most_kinds:
            staying = queued()
            self._destroy(self._plans.pop(next(kind for kind in self._plans if kind not in staying)))
        self._plans[key] = self._plan(key)
        return True

    def launch(self, key: LaunchKey, slot: int, stream: int) -> None:
        """Queues a launch of a prepared kind on the memory of slot `slot`; raises AclError."""
        executor = self._plans[key].executors[slot]
        self._opapi.launch(
            executor.handle, stream, workspace=executor.workspace, workspace_bytes=executor.workspace_bytes
        )

    def evict_idle(self, *, queued: Callable[[], set[LaunchKey]]) -> None:
        """Destroys every kind that is not in the streams; raises AclError."""
        for key in set(self._plans) - queued():
            self._destroy(self._plans.pop(key))

    def clear(self, *, workspaces_are_gone: bool = False) -> list[AclError]:
        """Destroys every kind, none of which may still run; returns the errors.

        Args:
            workspaces_are_gone: Whether a reset of the device has freed the workspaces already.
        """
        errors = []
        while self._plans:
            _, plan = self._plans.popitem(last=False)
            errors += self._attempt_destroy(plan, workspaces=not workspaces_are_gone)
        return errors

    def _plan(self, key: LaunchKey) -> _Plan:
        plan = _Plan([], [])
        try:
            for elements in (key.elements, key.elements, 1 if key.scalar_dout else key.elements, key.elements):
                plan.tensors.append(self._acl.create_tensor(elements, key.data_type))
            for memory in self._memories:
                self._plan_executor(plan, key, memory)
        except AclError as error:
            self._attempt_destroy(plan)
            raise PlanError(error.function, error.code, error.words) from error
        return plan

    def _plan_executor(self, plan: _Plan, key: LaunchKey, memory: int) -> None:
        predict, label, dout, y = plan.tensors
        handle, workspace_bytes = self._opapi.plan((predict, label, dout, y), key.reduction, key.numel)
        executor = _Executor(handle, workspace_bytes=workspace_bytes)
        plan.executors.append(executor)
        # Must precede the first run, which would destroy the executor otherwise.
        self._acl.call("aclSetAclOpExecutorRepeatable", handle)
        if workspace_bytes:
            executor.workspace = self._acl.malloc(workspace_bytes)
        layout = Layout.of(key)
        for index, offset in enumerate((0, layout.label, layout.dout)):
            self._acl.call("aclSetInputTensorAddr", handle, index, plan.tensors[index], memory + offset)
        self._acl.call("aclSetOutputTensorAddr", handle, 0, y, memory + layout.y)

    def _destroy(self, plan: _Plan) -> None:
        errors = self._attempt_destroy(plan)
        if errors:
            raise errors[0]

    def _attempt_destroy(self, plan: _Plan, *, workspaces: bool = True) -> list[AclError]:
        calls = []
        for executor in plan.executors:
            calls.append(("aclDestroyAclOpExecutor", executor.handle))
            if workspaces and executor.workspace:
                calls.append(("aclrtFree", executor.workspace))
        calls += [("aclDestroyTensor", tensor) for tensor in plan.tensors]
        errors = []
        for function, handle in calls:
            try:
                self._acl.call(function, handle)
            except AclError as error:
                errors.append(error)
        return errors
