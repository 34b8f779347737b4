"""The agent SDK: sign in, take tasks, report what came of them (see `callboard.agents.agent`)."""

from callboard.agents.agent import Agent
from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskCancelled, TaskFailed

__all__ = ["Agent", "TaskCancelled", "TaskContext", "TaskFailed"]
