"""A Ray cluster of two nodes gives the bytes of one process, also if a worker or a node is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from dac_codec.common.errors import DacError
from dac_codec.corpus import Plan, Settings, Totals, engines, on_ray
from dac_codec.corpus.encoding import Failure
from dac_codec.corpus.engines import run
from dac_codec.corpus.sources import Files
from tests.corpus.conftest import N_QUANTIZERS, Inline, Tokenize, content
from tests.corpus.test_engines import same

pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc"),
]


NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}


class DeadlyPath(type(Path())):  # type: ignore[misc]
    """A sound file whose decoder crashes, in workers of Ray."""

    def __fspath__(self) -> str:
        if is_worker(os.getpid()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__fspath__()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a core each, on the loopback interface."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # else the driver expects another address
    found = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        found.add_node(**NODE)
        found.wait_for_nodes()
        yield found
    finally:
        found.shutdown()
        patch.undo()


def workers() -> list[int]:
    """Processes below this one in which Ray encodes, or waits for a group."""
    found = []
    below = [os.getpid()]
    while below:
        pid = below.pop()
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                below.extend(int(child) for child in (task / "children").read_text().split())
            if is_worker(pid):
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found


def is_worker(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_Worker")


@pytest.mark.parametrize("loss", ["worker", "node"])
def test_two_nodes_and_a_loss(
    loss: str, cluster: Any, sounds: Path, model: str, tokenize: Tokenize, tmp_path: Path
) -> None:
    sources = [sounds] * 6
    tokenize(*sources)
    settings = Settings(model, N_QUANTIZERS, "auto")
    plan = Plan(map(str, sources), tmp_path / "ray", settings, shard_size=4)
    lost: list[int] = []

    def lose_one(done: Totals) -> None:
        if lost:
            return
        lost.extend(workers()[:1])
        if loss == "worker":
            os.kill(lost[0], signal.SIGKILL)
        else:
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    try:
        with on_ray(settings, cluster.address) as engine:
            assert engine.n_workers == 2
            assert len({node["NodeID"] for node in ray.nodes() if node["Alive"]}) == 2
            totals = plan.run(engine, lose_one)
    finally:
        if len(cluster.list_all_nodes()) == 1:
            cluster.add_node(**NODE)
            cluster.wait_for_nodes()
    assert len(lost) == 1
    assert (totals.sounds, totals.failed) == (66, 0)
    assert content(tmp_path / "ray") == content(tmp_path / "out")


def test_workers_that_are_lost_while_they_wait(cluster: Any, sounds: Path, model: str) -> None:
    settings = Settings(model, N_QUANTIZERS, "cpu")
    groups = [Files("s", ((path.name, path),)) for path in sorted(sounds.glob("*.wav"))[:2]]
    with on_ray(settings, cluster.address) as engine:
        found = list(run(engine, groups[:1]))
        while len(workers()) < 2:
            time.sleep(0.1)
        time.sleep(1.0)  # both have answered that they are ready
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
        found += run(engine, groups[1:])
    expected = run(Inline(settings), groups)
    assert same([*chain(*found)], [*chain(*expected)])


def test_a_sound_that_ends_its_worker_is_a_failure(cluster: Any, sounds: Path, model: str) -> None:
    settings = Settings(model, N_QUANTIZERS, "cpu")
    paths = sorted(sounds.glob("*.wav"))
    groups = [Files("s", ((path.name, path),)) for path in paths]
    expected = [outcome for group in run(Inline(settings), groups) for outcome in group]
    groups[1] = Files("s", ((paths[1].name, DeadlyPath(paths[1])),))
    with on_ray(settings, cluster.address) as engine:
        found = [outcome for group in run(engine, groups) for outcome in group]
    reason = "its process ended twice: a crash of the decoder, or not enough memory"
    assert found.pop(1) == Failure(expected.pop(1).id, reason)
    assert same(found, expected)


def test_an_error_of_a_worker_ends_the_run(cluster: Any, sounds: Path, model: str, tmp_path: Path) -> None:
    settings = Settings(model, N_QUANTIZERS, "cpu")
    plan = Plan([str(sounds)], tmp_path / "ray", settings)
    broken: Any = Settings(str(tmp_path / "none"), N_QUANTIZERS, "cpu")
    with on_ray(broken, cluster.address) as engine, pytest.raises(DacError, match="none"):
        plan.run(engine)


class NoWorker:
    def __init__(self, settings: Settings) -> None:
        raise ImportError("no such package")


def test_workers_that_cannot_start_end_the_run(
    cluster: Any, sounds: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(model, N_QUANTIZERS, "cpu")
    plan = Plan([str(sounds)], tmp_path / "ray", settings)
    monkeypatch.setattr(engines, "_Worker", NoWorker)
    with on_ray(settings, cluster.address) as engine, pytest.raises(DacError, match=r"can't start: .*no such package$"):
        plan.run(engine)


def test_no_cluster() -> None:
    for address in ("127.0.0.1:9", "nowhere"):
        with pytest.raises(DacError, match=f"no Ray cluster at '{address}'"), on_ray(Settings("m"), address):
            pass
