"""Every clip through every codec at every setting, in several processes; what is done stays done."""

from __future__ import annotations

import base64
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch
from tqdm import tqdm

import dac_codec
from dac_codec.common.errors import DacError
from dac_codec.evaluation.clips import Clip
from dac_codec.evaluation.codecs import Codec, Setting
from dac_codec.evaluation.metrics import METRICS, METRICS_VERSION, Metric
from dac_codec.evaluation.results import Result, defined, flac, key

SHOWN_PER_DOMAIN = 2
"""Clips of each domain that can be heard on the page, as long as there are few domains."""

SHOWN = 12
"""Clips in all that can be heard: each is in the page with every version and its spectrogram."""

_WARM_UP_SECONDS = 1

_warm: set[str] = set()
"""Fingerprints of the codecs that this process of a pool has warmed up."""


@dataclass(frozen=True)
class Task:
    """One clip, one codec, one setting, and where the result goes; `metrics` are names, which any process knows."""

    clip: Clip
    sample_rate: int
    codec: Codec
    fingerprint: str
    setting: Setting
    metrics: tuple[str, ...]
    with_sound: bool
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the results in the order of their tasks, and a line for everything that failed."""

    results: list[Result]
    failures: list[str]


def shown(clips: Sequence[Clip]) -> list[Clip]:
    """The clips that can be heard, by domain: the first and the middle one of each.

    Where that would be more than `SHOWN`, first as many domains as possible get one, evenly spread, and then a second.
    """
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.domain, []).append(clip)
    halves = [group[:: max(1, len(group) // SHOWN_PER_DOMAIN)][:SHOWN_PER_DOMAIN] for group in groups.values()]
    places: list[tuple[int, int]] = []
    for turn in range(SHOWN_PER_DOMAIN):
        possible = [(domain, turn) for domain, half in enumerate(halves) if turn < len(half)]
        n_chosen = min(len(possible), SHOWN - len(places))
        places += [possible[i * len(possible) // n_chosen] for i in range(n_chosen)]
    return [halves[domain][turn] for domain, turn in sorted(places)]


def run(
    clips: Sequence[Clip],
    sample_rate: int,
    codecs: Sequence[tuple[Codec, Sequence[Setting]]],
    metrics: Sequence[Metric],
    cache: Path,
    workers: int | None = None,
    progress: bool = True,
) -> Outcome:
    """Code and measure, but for what an earlier run has done.

    Args:
        clips: all at one sample rate.
        sample_rate: in Hz.
        codecs: with their settings.
        metrics: to take.
        cache: folder for the results; it is there.
        workers: processes; None: one for each CPU. 1: no other process than this one. Whatever it is, codecs work with
            one thread of PyTorch's.
        progress: whether to show a progress bar (on a terminal).

    Raises:
        DacError: a process was killed.
        MemoryError: there is not enough memory.
    """
    tasks = list(_tasks(clips, sample_rate, codecs, metrics, cache))
    todo = [task for task in tasks if Result.load(task.path) is None]
    failures = []
    with tqdm(total=len(tasks), initial=len(tasks) - len(todo), desc="evaluating", disable=_hidden(progress)) as bar:
        for task, failure in _work(todo, min(workers or _cpus(), len(todo))):
            bar.update()
            if failure is not None:
                failures.append(f"{task.clip.name}, {task.codec.name} {task.setting.name}: {failure}")
    results = [Result.load(task.path) for task in tasks]
    return Outcome([one for one in results if one is not None], failures)


def evaluate_clip(task: Task, warm: set[str]) -> None:
    """Do one task.

    Args:
        task: to do.
        warm: fingerprints of the codecs that this process has used before; the task's is among them afterwards.

    Raises:
        DacError: the codec or a metric failed, or the result can't be written.
        MemoryError: there is not enough memory.
    """
    original = task.clip.waveform
    with _one_thread(), _blamed("the codec"):
        _warm_up(task, warm)
        coded = task.codec.code(original, task.sample_rate, task.setting)
    if coded.decoded.shape != original.shape:
        raise DacError(f"the codec gave {coded.decoded.shape} samples for {original.shape}")
    if not np.isfinite(coded.decoded).all():
        raise DacError("the codec gave samples that are not finite")
    measures = {}
    for metric in METRICS:
        if metric.name in task.metrics and metric.domain in (None, task.clip.domain):
            with _blamed(metric.label):
                measures[metric.name] = defined(metric.measure(coded.decoded, original, task.sample_rate))
    codes = None if coded.codes is None else base64.b64encode(coded.codes.astype("<u2").tobytes()).decode()
    Result(
        clip=task.clip.name,
        domain=task.clip.domain,
        seconds=original.shape[-1] / task.sample_rate,
        codec=task.codec.name,
        setting=task.setting.name,
        n_bytes=coded.n_bytes,
        payload_bytes=coded.payload_bytes,
        encode_seconds=coded.encode_seconds,
        decode_seconds=coded.decode_seconds,
        measures=measures,
        codes=codes,
        n_codebooks=0 if coded.codes is None else len(coded.codes),
        codebook_size=coded.codebook_size,
        sound=flac(coded.decoded, task.sample_rate) if task.with_sound else None,
        sources=list(task.clip.sources),
    ).save(task.path)


def _warm_up(task: Task, warm: set[str]) -> None:
    """Code a second of the task's clip, once for each codec, since a first call pays for what is set up once.

    Raises:
        DacError: the codec is not what it was when the evaluation began, as a folder of weights may be that a training
            run has written to since: its results would be taken for those of the other.
    """
    if task.fingerprint in warm:
        return
    if task.codec.fingerprint != task.fingerprint:
        raise DacError("the codec has changed since the evaluation began; start it again")
    try:
        task.codec.code(task.clip.waveform[:, : _WARM_UP_SECONDS * task.sample_rate], task.sample_rate, task.setting)
    except MemoryError:
        raise
    except Exception:
        return  # the clip itself will show whether that is a failure, and the next one warms up
    warm.add(task.fingerprint)


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch computes with one thread, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    """What goes wrong becomes a DacError of one line that says where; want of memory ends the evaluation."""
    try:
        yield
    except (DacError, MemoryError):
        raise
    except Exception as error:
        why = (str(error).strip() or "without a word").splitlines()[0]
        raise DacError(f"{name} failed with {type(error).__name__}: {why}") from error


def _tasks(
    clips: Sequence[Clip],
    sample_rate: int,
    codecs: Sequence[tuple[Codec, Sequence[Setting]]],
    metrics: Sequence[Metric],
    cache: Path,
) -> Iterator[Task]:
    names = tuple(metric.name for metric in metrics)
    measures = "; ".join(metric.fingerprint for metric in metrics)
    common = f"dac_codec {dac_codec.__version__}, metrics {METRICS_VERSION}"
    heard = {clip.name for clip in shown(clips)}
    fingerprints = [codec.fingerprint for codec, _ in codecs]
    for clip in clips:
        with_sound = clip.name in heard
        for (codec, settings), fingerprint in zip(codecs, fingerprints, strict=True):
            for setting in settings:
                name = key(clip, sample_rate, common, fingerprint, setting.name, measures, with_sound)
                path = cache / f"{name}.json"
                yield Task(clip, sample_rate, codec, fingerprint, setting, names, with_sound, path)


def _work(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, str | None]]:
    """Do tasks in any order; yields each when it is done, with what went wrong if something did."""
    if workers <= 1:
        warm: set[str] = set()
        for task in tasks:
            yield task, _failure_of(task, warm)
        return
    # Forked processes would share PyTorch's threads, and hang.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _begin)
    try:
        yield from _in_processes(tasks, executor)
    except BrokenProcessPool as error:
        raise DacError("a process of the evaluation was killed, perhaps for want of memory; start it again") from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _in_processes(tasks: Sequence[Task], executor: Executor) -> Iterator[tuple[Task, str | None]]:
    done: SimpleQueue[Future[str | None]] = SimpleQueue()
    with _undisturbed():
        futures: dict[Future[str | None], Task] = {executor.submit(_in_a_process, task): task for task in tasks}
        for future in futures:
            future.add_done_callback(done.put)
    for _ in futures:  # not as_completed: Ctrl-C could leave it with locks that the executor waits for
        future = done.get()
        yield futures[future], future.result()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C is heard at the end of this.

    In the middle of handing out tasks it would leave the executor with a lock that nobody gives back. Processes that
    are begun meanwhile never hear it: until `_begin`, they would say a lot about it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    heard: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    # A thread that blocks a signal still runs its handler, in Python, if another thread of the process takes it.
    defers = callable(handler) and threading.current_thread() is threading.main_thread()
    if defers:
        signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if defers:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


def _in_a_process(task: Task) -> str | None:
    return _failure_of(task, _warm)


def _failure_of(task: Task, warm: set[str]) -> str | None:
    try:
        with _blamed("the evaluation"):
            evaluate_clip(task, warm)
    except DacError as error:
        return str(error)
    return None


def _begin() -> None:
    """A process begins: with one thread, deaf to Ctrl-C, which its parent hears, and gone when its parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _hidden(progress: bool) -> bool | None:
    """For tqdm, where None means: unless it is a terminal."""
    return None if progress else True
