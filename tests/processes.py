"""Processes that begin with PyTorch imported; a new interpreter needs 2 to 4 s for it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

# Imported once, by the process that is forked.
_PRELOADED = ["dac_codec.training.trainer", "dac_codec.codec", "librosa.filters", "torchaudio.functional", "hydra"]


def forks() -> multiprocessing.context.ForkServerContext:
    """A context that starts processes by forking one that has only imported modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def python(
    script: Path | str, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script, or a module by its name, in a process of its own for up to 5 minutes, and capture its output."""
    command = [str(script), *map(str, arguments)]
    if sys.platform != "linux":
        options = ["-m"] if isinstance(script, str) else []
        command = [sys.executable, *options, *command]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        what = script, command, cwd or Path.cwd(), dict(os.environ if env is None else env), streams
        process = forks().Process(target=_run, args=what)
        process.start()
        process.join(300)
        process.kill()
        assert process.exitcode is not None, "timeout"
        return subprocess.CompletedProcess(command, process.exitcode, *(stream.read_text() for stream in streams))


def _run(script: Path | str, command: list[str], cwd: Path, env: dict[str, str], streams: list[Path]) -> None:
    """Run a script in this process."""
    for descriptor, stream in zip((1, 2), streams, strict=True):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = command
    sys.path.insert(0, str(cwd if isinstance(script, str) else script.parent))
    if isinstance(script, str):
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(script), run_name="__main__")
