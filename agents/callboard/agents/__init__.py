"""The agent SDK: sign in, take tasks, report what came of them (see `callboard.agents.agent`)."""

from callboard.agents.agent import Agent
from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskCancelled, TaskFailed
from callboard.agents.exec import ExecAgent

__all__ = ["Agent", "ExecAgent", "TaskCancelled", "TaskContext", "TaskFailed"]
