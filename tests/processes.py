"""Processes that begin with PyTorch imported; a new interpreter needs 2 to 5 s of processor time for it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# Imported once, by the process that is forked.
_PRELOADED = [
    "dac_codec.training.trainer",
    "dac_codec.codec",
    "librosa.filters",
    "torchaudio.functional",
    "torch._dynamo",
    "hydra",
]


def forks() -> multiprocessing.context.ForkServerContext:
    """A context that starts processes by forking one that has only imported modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


@contextmanager
def started(
    script: Path | str,
    *arguments: object,
    streams: Sequence[Path],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    fork_children: bool = False,
) -> Iterator[multiprocessing.process.BaseProcess]:
    """Start a script, or a module by its name, in a session of its own, and kill it at the end of the block.

    Args:
        streams: files for its standard output and standard error.
        fork_children: whether the Python interpreters that it starts are forks of it, which must have only imported
            modules by then.
    """
    context = forks() if sys.platform == "linux" else multiprocessing.get_context("spawn")
    options = [] if isinstance(script, Path) else ["-m"]
    what = [*options, str(script), *map(str, arguments)], cwd or Path.cwd(), dict(os.environ if env is None else env)
    process = context.Process(target=_main, args=(*what, streams, fork_children))  # type: ignore[attr-defined]
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def python(script: Path | str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script, or a module by its name, for up to 5 minutes with the options of `started`; capture its output."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        with started(script, *arguments, streams=streams, **options) as process:
            process.join(300)
            assert process.exitcode is not None, "timeout"
        texts = (stream.read_text() for stream in streams)
        return subprocess.CompletedProcess([str(script), *map(str, arguments)], process.exitcode, *texts)


def _main(command: list[str], cwd: Path, env: dict[str, str], streams: Sequence[Path], fork_children: bool) -> None:
    """Run a Python command in this process."""
    if hasattr(os, "setsid"):
        os.setsid()
    for descriptor, stream in zip((1, 2), streams, strict=True):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(cwd)
    # As in a new interpreter; where tests run, some may be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    if fork_children and sys.platform == "linux":
        subprocess.Popen = _Fork  # type: ignore[misc]
    _execute(command, env)


class _Fork(subprocess.Popen[Any]):
    """A process that runs Python by forking this one."""

    def __init__(self, args: Any, **options: Any) -> None:
        if not isinstance(args, (str, bytes)) and args[0] == sys.executable:
            env = os.environ if options.get("env") is None else options["env"]
            options["preexec_fn"] = partial(_instead_of_exec, list(map(str, args[1:])), dict(env))
        super().__init__(args, **options)


def _instead_of_exec(command: list[str], env: dict[str, str]) -> None:
    """Run a Python command to its end in a process that was forked to start it."""
    status: object = 1
    try:
        os.closerange(3, 1 << 16)  # one of them tells the parent that the process has started
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: PTH123, SIM115
        _execute(command, env)
        status = 0
    except SystemExit as error:
        status = error.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def _execute(command: list[str], env: dict[str, str]) -> None:
    """Run the arguments of a Python interpreter: `[-W filter] -m module` or a script, with its arguments."""
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    if command[0] == "-W":
        warnings.simplefilter(command[1])  # type: ignore[arg-type]
        command = command[2:]
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
