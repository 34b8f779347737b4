"""The orchestrator: places tasks with agents over NATS, follows each to one final state, keeps all of it in Postgres.

`create_orchestrator` embeds it in a program; `callboard serve` and `callboard dev` run it as a process.
"""

from callboard.orchestrator.config import OrchestratorConfig, OrchestratorMode
from callboard.orchestrator.service import Orchestrator, create_orchestrator
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

__all__ = [
    "AgentNotFoundError",
    "AgentRole",
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
