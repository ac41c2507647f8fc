"""A Ray cluster of two nodes gives the bytes of one process, also if a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dac_codec.common.errors import DacError
from dac_codec.corpus import Plan, Settings, Totals, on_ray
from tests.corpus.conftest import N_QUANTIZERS, Tokenize, content

pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes with a core each, on the loopback interface."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
    patch = pytest.MonkeyPatch()
    patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # else the driver expects another address
    found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        found.add_node(**node)
        found.wait_for_nodes()
        yield found.address
    finally:
        found.shutdown()
        patch.undo()


def workers() -> list[int]:
    """Processes below this one in which Ray encodes at the moment."""
    found = []
    below = [os.getpid()]
    while below:
        pid = below.pop()
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                below.extend(int(child) for child in (task / "children").read_text().split())
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::encode"):
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found


def test_two_nodes_and_a_killed_worker(
    cluster: str, sounds: Path, model: str, tokenize: Tokenize, tmp_path: Path
) -> None:
    sources = [sounds] * 3
    tokenize(*sources)
    settings = Settings(model, N_QUANTIZERS, "auto")
    plan = Plan(map(str, sources), tmp_path / "ray", settings, shard_size=4)
    killed: list[int] = []

    def kill_one(done: Totals) -> None:
        if not killed and (found := workers()):
            killed.append(found[0])
            os.kill(found[0], signal.SIGKILL)

    with on_ray(settings, cluster) as engine:
        assert engine.n_workers == 2
        assert len({node["NodeID"] for node in ray.nodes() if node["Alive"]}) == 2
        totals = plan.run(engine, kill_one)
    assert len(killed) == 1
    assert (totals.sounds, totals.failed) == (33, 0)
    assert content(tmp_path / "ray") == content(tmp_path / "out")


def test_an_error_of_a_worker_ends_the_run(cluster: str, sounds: Path, model: str, tmp_path: Path) -> None:
    settings = Settings(model, N_QUANTIZERS, "cpu")
    plan = Plan([str(sounds)], tmp_path / "ray", settings)
    broken: Any = Settings(str(tmp_path / "none"), N_QUANTIZERS, "cpu")
    with on_ray(broken, cluster) as engine, pytest.raises(DacError, match="none"):
        plan.run(engine)


def test_no_cluster() -> None:
    for address in ("127.0.0.1:9", "nowhere"):
        with pytest.raises(DacError, match=f"no Ray cluster at '{address}'"), on_ray(Settings("m"), address):
            pass
