"""Many devices, or processes, take the steps of one: same molecules, same loss."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxlib
import numpy as np
import pytest
from physnet_training import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.devices import Devices, join

SCRIPT = Path(__file__).with_name("device_runs.py")
SIZES = tuple(np.random.default_rng(5).integers(2, 6, 58).tolist())


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(SIZES, labels=("energy", "forces", "charges"), seed=4)


def started(*arguments: Any, devices: int = 1) -> "subprocess.Popen[str]":
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(processes: "list[subprocess.Popen[str]]") -> None:
    complaints = [process.communicate(timeout=300)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(processes), complaints[0][-2000:]


def results(folder: Path) -> list[dict[str, Any]]:
    """What each process saw."""
    return [
        json.loads(file.read_text()) for file in sorted(folder.glob("losses_*.json"))
    ]


@pytest.fixture(scope="module")
def runs(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """A run on one of four devices, and one on all of them."""
    folder = tmp_path_factory.mktemp("runs")
    finished([started(dataset, folder, devices=4)])
    return {name: results(folder / name)[0] for name in ("one", "all")}


def check_same(found: dict[str, Any], single: dict[str, Any]) -> None:
    assert len(single["losses"]) == 50
    np.testing.assert_allclose(found["losses"], single["losses"], rtol=1e-5)
    assert found["best"] == pytest.approx(single["best"], rel=1e-5)
    for each in (found, single):
        assert each["compilations"] == each["shapes"]


def test_four_devices_take_the_steps_of_one(runs: dict[str, dict[str, Any]]) -> None:
    assert [runs[name]["devices"] for name in runs] == ["1 device", "4 devices"]
    check_same(runs["all"], runs["one"])


@pytest.mark.skipif(
    not hasattr(jaxlib.xla_client._xla, "make_gloo_tcp_collectives"),
    reason="this jaxlib has no gloo, by which processes on CPUs talk",
)
def test_two_processes_take_the_steps_of_one(
    dataset: Path, runs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    finished([started(dataset, tmp_path, index, port) for index in range(2)])
    first, second = results(tmp_path)
    assert first["devices"] == "2 devices of 2 processes"
    assert first["losses"] == second["losses"]
    check_same(first, runs["one"])
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


def test_batch_that_cannot_be_divided_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Devices, "count", 4)
    with pytest.raises(ValueError, match=r"batch_size = 30 .* 4 devices; .*--devices"):
        Devices().check(30)


def test_more_devices_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--devices must be in 1\.\.1, got 3"):
        Devices(3)


def test_options_of_several_processes_belong_together() -> None:
    with pytest.raises(ValueError, match="belong together"):
        join(False, "localhost:1", 2)


@pytest.mark.parametrize(("processes", "count"), [(1, 4), (2, 2)])
def test_shares_are_the_batch(dataset: Path, processes: int, count: int) -> None:
    packed = PackedDataset.open(dataset)
    whole = PackedMemmapLoader(packed, 16, bucket_size=1)
    parts = [
        PackedMemmapLoader(packed, 16 // processes, True, 1, 0, index, processes)
        for index in range(processes)
    ]
    divided = zip(*(part.shares(4.0, count) for part in parts), strict=True)
    for graph, shares in zip(whole.graphs(4.0), divided, strict=True):
        graphs = [graph for share in shares for graph in share]
        assert len({len(each.pair_mask) for each in graphs}) == 1
        expected = graph.labels.values["energy"][graph.molecule_mask]
        energies = [g.labels.values["energy"][g.molecule_mask] for g in graphs]
        np.testing.assert_array_equal(
            np.sort(np.concatenate(energies)), np.sort(expected)
        )
        assert sum(each.pair_mask.sum() for each in graphs) == graph.pair_mask.sum()


def test_molecules_from_elsewhere_are_divided_alike_in_all_processes(
    dataset: Path,
) -> None:
    from physnet_training.loading.batches import read_batches

    packed = PackedDataset.open(dataset)
    parts = [PackedMemmapLoader(packed, 4, True, 1, 0, p, 2) for p in range(2)]
    names = ("atomic_numbers", "positions", "energy")
    rows = np.argsort(packed.n_atoms)[-7:]  # more than the largest shape was made for
    some, _ = read_batches(packed, [rows], names, whole_states=True)
    graphs = [g for part in parts for g in part.shares_of(some, 4.0, 2)]
    assert [int(g.molecule_mask.sum()) for g in graphs] == [2, 2, 2, 1]
    assert len({len(g.pair_mask) for g in graphs}) == 1
