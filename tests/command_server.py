"""Runs ``smp-deploy`` in processes of its own that are forked where all is imported: importing torch takes seconds.

    python -m tests.command_server

Reads requests on stdin, a JSON line each, and answers with the process's number and then its exit status. What a
command prints goes into the files of its request.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def serve() -> None:
    """Answer requests; returns in the process of a command, which is about to run it."""
    # The answers' stream is taken out of reach of what is imported and of the commands.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            answers.close()
            become(request)
            return
        print(process, file=answers, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
    sys.exit(0)


def become(request: dict[str, Any]) -> None:
    """The process that the request describes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["arguments"]
    # As the console script starts: its own folder, not the working directory, is where modules are found first.
    sys.path[0] = os.path.dirname(request["arguments"][0])  # noqa: PTH120 - a text, as Python's own
    asked = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [folder for folder in asked if folder and folder not in sys.path]
    for stream, path in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        opened = os.open(path, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, stream)
        os.close(opened)


if __name__ == "__main__":
    # What takes long to import and starts no threads, which a fork would not have. Onnxruntime starts some.
    import torch  # noqa: F401

    import converters.exporting
    import converters.verification  # noqa: F401
    import smp_deploy.cli.app  # noqa: F401
    from smp_deploy.cli.entry import main

    serve()
    main()
