"""The orchestrator: places tasks with agents over NATS, follows each to one final state, keeps all of it in Postgres.

`create_orchestrator` embeds it in a program; `callboard serve` and `callboard dev` run it as a process; `Client` talks
to a running one.

The orchestrator itself is imported on first use: configuration, errors and `Client` need none of the server's
dependencies.
"""

from typing import TYPE_CHECKING, Any

from callboard.bus.client import Client
from callboard.orchestrator.config import OrchestratorConfig, OrchestratorMode
from callboard.schemas.errors import (
    AgentNotFoundError,
    ConfigurationError,
    DatabaseOperationError,
    OrchestratorError,
    ResourceLimitError,
    TaskDelegationError,
    TaskNotFoundError,
)
from callboard.schemas.vocabulary import AgentRole, TaskAssignmentStrategy, TaskPriority, TaskState

if TYPE_CHECKING:
    from callboard.orchestrator.service import Orchestrator, create_orchestrator

__all__ = [
    "AgentNotFoundError",
    "AgentRole",
    "Client",
    "ConfigurationError",
    "DatabaseOperationError",
    "Orchestrator",
    "OrchestratorConfig",
    "OrchestratorError",
    "OrchestratorMode",
    "ResourceLimitError",
    "TaskAssignmentStrategy",
    "TaskDelegationError",
    "TaskNotFoundError",
    "TaskPriority",
    "TaskState",
    "create_orchestrator",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type is told above, to type checkers
    if name in {"Orchestrator", "create_orchestrator"}:
        from callboard.orchestrator import service  # noqa: PLC0415 - see the docstring

        return getattr(service, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
