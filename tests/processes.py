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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
) -> Iterator[multiprocessing.process.BaseProcess]:
    """Start a script, or a module by its name, in a session of its own, and kill it at the end of the block.

    `streams` are files for its standard output and standard error.
    """
    context = forks() if sys.platform == "linux" else multiprocessing.get_context("spawn")
    options = [] if isinstance(script, Path) else ["-m"]
    what = [*options, str(script), *map(str, arguments)], cwd or Path.cwd(), dict(os.environ if env is None else env)
    process = context.Process(target=_main, args=(*what, streams))  # type: ignore[attr-defined]
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


def _main(command: list[str], cwd: Path, env: dict[str, str], streams: Sequence[Path]) -> None:
    """Run the arguments of a Python interpreter, `-m module` or a script, with its arguments, in this process."""
    if hasattr(os, "setsid"):
        os.setsid()
    for descriptor, stream in zip((1, 2), streams, strict=True):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(cwd)
    # As in a new interpreter; where tests run, some may be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
