"""Executors: what a session asks for the predictions of phases, one implementation for each kind of memory."""

from engines.executors.base import Executor, LoadedFrame, PendingPhases
from engines.executors.host import RunnerExecutor

__all__ = ["Executor", "LoadedFrame", "PendingPhases", "RunnerExecutor"]
