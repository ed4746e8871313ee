"""Reading and feeding at ten million molecules; writes ``data.json`` beside itself.

Each part runs in a fresh process, whose anonymous memory is watched from outside
(``RssAnon``: what the process holds beyond pages of files). The files are read once
before throughput is measured, so that all contestants find them in the page cache.

    python benchmarks/data.py --folder /somewhere/with/20/GB
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_baselines
import numpy as np
import synthetic
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset

from physnet_ase.references import without_references

BATCH = 32
RESULT = Path(__file__).with_name("data.json")
Report = dict[str, Any]


def opening(path: Path) -> Report:
    """Seconds to open, the best of three: the first one may read from the disk."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        dataset = PackedDataset.open(path)
        dataset.states, dataset.elements, dataset.labels  # noqa: B018
        seconds.append(time.perf_counter() - started)
    return {"molecules": len(dataset), "seconds": seconds}


def memory(path: Path) -> Report:
    """The order of an epoch and 100,000 batches of it; no JAX in this process."""
    loader = PackedMemmapLoader(path, BATCH)
    started = time.perf_counter()
    loader.molecules(0, 0)
    ordered = time.perf_counter() - started
    batches = loader.batches(physnet_format=False)
    for count, batch in enumerate(batches, start=1):
        data_baselines.touch(batch)
        if count == 100_000:
            break
    if "jax" in sys.modules:
        raise RuntimeError("reading imported JAX")
    return {"batches": count, "order_seconds": ordered}


def graph_memory(path: Path) -> Report:
    """As ``memory`` with 20,000 graphs of an unsorted order, as the trainer reads."""
    loader = PackedMemmapLoader(path, BATCH, bucket_size=1)
    for count, _ in enumerate(loader.graphs(10.0), start=1):
        if count == 20_000:
            break
    return {"batches": count}


def preparation(path: Path) -> Report:
    """What a training does before its first step: split, references, first batch."""
    from physnet_training.train.data import dataset_references
    from physnet_training.train.recipe import SplitConfig
    from physnet_training.train.split import make_split

    dataset = PackedDataset.open(path)
    report: Report = {}
    started = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        report[name], started = now - started, now

    split = make_split(dataset, SplitConfig())
    lap("split_seconds")
    split.save(path.with_name("split.npz"))
    split.load(path.with_name("split.npz"))
    lap("store_and_load_split_seconds")
    dataset_references(dataset, split.train)
    lap("references_seconds")
    loader = PackedMemmapLoader(dataset, BATCH, bucket_size=1).subset(split.train)
    next(loader.graphs(10.0))
    lap("first_batch_seconds")
    return report


def padding(path: Path) -> Report:
    """Padding of a whole epoch of dense batches, and of 50,000 graphs of one."""
    report: Report = {}
    for name, options, walk, count in (
        ("batches", {}, lambda loader: loader.batches(physnet_format=False), None),
        ("graphs", {}, lambda loader: loader.graphs(), 50_000),
        (
            "graphs_as_trained",
            {"bucket_size": 1},
            lambda loader: loader.graphs(10.0),
            50_000,
        ),
    ):
        loader = PackedMemmapLoader(path, BATCH, **options)
        for _ in itertools.islice(walk(loader), count):
            pass
        report[name] = loader.padding()._asdict()
    return report


def shards(path: Path, other: Path, repeats: int = 7, count: int = 1000) -> Report:
    """Molecules per second from one directory and from many shards."""
    walks = {
        p: PackedMemmapLoader(p, BATCH).batches(physnet_format=False)
        for p in (path, other)
    }
    rates: dict[Path, list[float]] = {p: [] for p in walks}
    for repeat in range(repeats + 1):
        for p in list(walks)[:: 1 if repeat % 2 else -1]:
            started = time.perf_counter()
            for batch in itertools.islice(walks[p], count):
                data_baselines.touch(batch)
            if repeat:
                rates[p].append(BATCH * count / (time.perf_counter() - started))
    one, many = (statistics.median(rates[p]) for p in (path, other))
    return {"one_directory": one, "many_shards": many, "ratio": many / one}


def training(path: Path, steps: int = 30) -> Report:
    """Waiting for data in steps of the default model, compilations left out."""
    import tempfile

    import jax
    from physnet_training.loading.prefetch import Feed
    from physnet_training.train.devices import Devices
    from physnet_training.train.recipe import Recipe
    from physnet_training.train.split import Split
    from physnet_training.train.trainer import Trainer

    dataset = PackedDataset.open(path)
    rows = np.arange(min(len(dataset), 1_000_000))
    with tempfile.TemporaryDirectory() as out:
        split = Split(rows[BATCH:], rows[:BATCH], rows[:0])
        trainer = Trainer(Recipe(), dataset, Path(out), split, Devices(1))

    def prepare(graphs: Any) -> Any:
        [graph] = graphs
        return jax.device_put(without_references(graph, trainer.references))

    seen, waited, total, counted = set(), 0.0, 0.0, 0
    state = trainer.state
    with Feed(trainer.loader, trainer.recipe.model.cutoff, prepare) as feed:
        while counted < steps:
            started, before = time.perf_counter(), feed.waited
            graph = feed.take(lambda: False).graph
            state, metrics = trainer.functions.step(state, graph, np.float32(1.0))
            jax.block_until_ready(metrics)
            shape = (len(graph.atom_mask), len(graph.pair_mask))
            if shape in seen:
                counted += 1
                waited += feed.waited - before
                total += time.perf_counter() - started
            seen.add(shape)
    loader = trainer.loader
    started = time.perf_counter()
    for _, graph in zip(range(50), loader.graphs(10.0), strict=False):
        jax.block_until_ready(prepare([graph]))
    alone = (time.perf_counter() - started) / 50
    return {
        "steps": counted,
        "milliseconds_per_step": 1000 * total / counted,
        "milliseconds_to_make_a_batch": 1000 * alone,
        "wait_fraction": waited / total,
    }


PARTS: dict[str, Callable[..., Report]] = {
    f.__name__: f
    for f in (
        opening,
        memory,
        graph_memory,
        preparation,
        padding,
        data_baselines.reading,
        shards,
        training,
    )
}


def anonymous_megabytes(process: int) -> float:
    """RssAnon of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith("RssAnon")]
    return int(found[0]) / 1024 if found else 0.0


def measure(part: str, *paths: Path) -> Report:
    """Run a part in its own process; add its peak of anonymous memory."""
    command = [sys.executable, __file__, "--part", part, *map(str, paths)]
    started, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_megabytes(process.pid))
            time.sleep(0.005)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{part} failed")
    report = json.loads(output.splitlines()[-1])
    report |= {"peak_anonymous_mb": peak, "total_seconds": time.monotonic() - started}
    print(
        part, *(path.name for path in paths), json.dumps(report, indent=1), flush=True
    )
    return report


def main() -> None:
    """Make the sets, measure all parts, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the sets are or go")
    parser.add_argument("--molecules", type=int, default=10_000_000)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, *paths = options.part
        print(json.dumps(PARTS[name](*map(Path, paths))))
        return
    if options.folder is None:
        parser.error("--folder is needed")
    whole = synthetic.ensure(options.folder, options.molecules)
    small = options.molecules // 10
    result: Report = {"molecules": options.molecules}
    if RESULT.exists():
        result = json.loads(RESULT.read_text())
    for part in options.only:
        paths = [whole]
        if part == "shards":
            paths = [synthetic.ensure(options.folder, small, n) for n in (1, 100)]
        result[part] = measure(part, *paths)
        if part == "opening":
            ten = synthetic.ensure(options.folder, options.molecules, 10)
            result["opening_ten_shards"] = measure(part, ten)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
