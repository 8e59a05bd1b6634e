"""Executors: what a session asks for the predictions of phases, one implementation for each kind of memory."""

from engines.executors.base import Executor
from engines.executors.host import RunnerExecutor
from engines.executors.runner import Runner

__all__ = ["Executor", "Runner", "RunnerExecutor"]
