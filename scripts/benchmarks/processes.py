"""Worker processes of the benchmarks. They answer requests, one JSON object per line of standard input and output.

Workers run in other environments, so this module needs the standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class LeftOutError(Exception):
    """A request that cannot be answered here; others may be."""


class WorkerError(Exception):
    """A worker cannot be started, or has ended."""


class Remote:
    """A worker, as seen by the process that started it."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self._process, self._name = process, name

    def ask(self, do: str, **request: Any) -> Any:
        """Return the result of the worker's method `do`.

        Raises:
            LeftOutError: the method failed.
            WorkerError: the worker has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            raise WorkerError(f"the process of {self._name} ended with status {self._process.wait()}")
        answer = json.loads(reply)
        if "error" in answer:
            raise LeftOutError(answer["error"])
        return answer["result"]


@contextmanager
def remote(
    command: Sequence[object], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[Remote]:
    """Start a worker that ends with the block. `environment` is added to that of this process.

    Raises:
        WorkerError: the command cannot be started.
    """
    parts = [str(part) for part in command]
    variables = {**os.environ, **(environment or {})}
    try:
        process = subprocess.Popen(
            parts, cwd=folder, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise WorkerError(f"{parts[0]} can't be started: {error.strerror}") from error
    assert process.stdin is not None
    with process:
        try:
            yield Remote(process, parts[0])
        except BaseException:
            process.kill()
            raise
        finally:
            with suppress(BrokenPipeError):  # of a request that an ended process did not read
                process.stdin.close()


def serve(worker: object) -> None:
    """Answer requests with the public methods of `worker` until standard input ends."""
    # What libraries print must not get between the answers.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with suppress(KeyboardInterrupt):
        for text in sys.stdin:
            request = json.loads(text)
            print(json.dumps(_answer(worker, request.pop("do"), request)), file=replies, flush=True)


def _answer(worker: object, method: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": getattr(worker, method)(**request)}
    except ModuleNotFoundError as error:
        return {"error": f"{sys.executable} has no module {error.name}"}
    except Exception as error:  # whatever a codec may raise
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def seconds_of(
    command: Sequence[object], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> float:
    """Return the seconds that a whole process takes, its start included.

    Raises:
        LeftOutError: it fails.
    """
    parts = [str(part) for part in command]
    variables = {**os.environ, **(environment or {})}
    started = time.perf_counter()
    done = subprocess.run(parts, cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise LeftOutError((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
    return seconds
