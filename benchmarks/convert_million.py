"""Convert synthetic NPZ files of two lengths: molecules per second, peak memory.

Molecules of 8 to 40 atoms (24 on average) with energies, forces, charges and spins, in
PhysNet's padded layout and in the ragged one, uncompressed. Every conversion runs in a
fresh process, which is watched from outside; time includes validation, checksums, the
audit and flushing to the disk. The page cache is warm, since the file was just made.

    python benchmarks/convert_million.py --molecules 250000 1000000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LARGEST = 40
BLOCK = 50_000  # molecules made at once


def block(rng, count):
    """Ragged molecules on a jittered grid, hydrogen and heavier atoms, neutral."""
    sizes = rng.integers(8, LARGEST + 1, size=count).astype(np.int32)
    atoms = int(sizes.sum())
    first = np.cumsum(sizes) - sizes
    local = np.arange(atoms) - np.repeat(first, sizes)
    grid = np.stack([local % 4, local // 4 % 4, local // 16], axis=1)
    numbers = rng.choice([1, 6, 7, 8], size=atoms, p=[0.5, 0.3, 0.1, 0.1])
    electrons = np.add.reduceat(numbers, first)
    forces = rng.normal(size=(atoms, 3)).astype(np.float32)
    net = np.add.reduceat(forces, first) / sizes[:, None]
    per_element = np.zeros(9)
    per_element[[1, 6, 7, 8]] = -13.6, -1036.0, -1488.0, -2042.0
    energy = np.add.reduceat(per_element[numbers], first)
    return {
        "n_atoms": sizes,
        "Z": numbers.astype(np.int32),
        "R": (1.4 * grid + rng.uniform(-0.2, 0.2, (atoms, 3))).astype(np.float32),
        "F": forces - np.repeat(net, sizes, axis=0).astype(np.float32),
        "E": energy + rng.normal(size=count),
        "Q": np.zeros(count, np.int32),
        "S": (1 + electrons % 2).astype(np.int32),
    }


def padded(part):
    """The same with one row of ``LARGEST`` atoms per molecule."""
    mask = np.arange(LARGEST) < part["n_atoms"][:, None]
    result = {"N": part["n_atoms"], **{key: part[key] for key in "EQS"}}
    for key in "ZRF":
        array = np.zeros((*mask.shape, *part[key].shape[1:]), part[key].dtype)
        array[mask] = part[key]
        result[key] = array
    return result


def make(path, layout, molecules):
    """Write an NPZ file of any length: arrays grow on disk, then go into it."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        files = {}
        shapes = {}
        for start in range(0, molecules, BLOCK):
            part = block(rng, min(BLOCK, molecules - start))
            if layout == "padded":
                part = padded(part)
            for key, array in part.items():
                if key not in files:
                    files[key] = (Path(folder) / key).open("w+b")
                    shapes[key] = [0, *array.shape[1:]], array.dtype
                files[key].write(array.tobytes())
                shapes[key][0][0] += len(array)
        arrays = {}
        for key, file in files.items():
            file.close()
            shape, dtype = shapes[key]
            arrays[key] = np.memmap(Path(folder) / key, dtype, "r", shape=tuple(shape))
        np.savez(path, **arrays)


def anonymous_memory(process):
    """Anonymous resident memory of a process in MB, 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith("RssAnon")]
    return int(found[0]) / 1024 if found else 0.0


def convert(source, target):
    """Seconds of the conversion, of processors with imports, peak memory in MB."""
    code = (
        "import sys, time\n"
        "from physnet_training.convert import convert\n"
        "start = time.perf_counter()\n"
        "convert(sys.argv[1], sys.argv[2], energy_unit='eV')\n"
        "print(time.perf_counter() - start, time.process_time())\n"
    )
    command = [sys.executable, "-c", code, str(source), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, anonymous_memory(process))
        time.sleep(0.02)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the conversion of {source} failed")
    seconds, processor = map(float, output.split())
    return seconds, processor, peak


def main():
    """Measure, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--molecules", type=int, nargs="+", default=[250_000, 1_000_000]
    )
    parser.add_argument("--layouts", nargs="+", default=["padded", "ragged"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    rows = []
    for layout in chosen.layouts:
        for molecules in chosen.molecules:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / f"{layout}.npz"
                make(source, layout, molecules)
                seconds, processor, peak = convert(source, Path(folder) / "set")
                rows.append(
                    {
                        "layout": layout,
                        "molecules": molecules,
                        "input_mb": round(source.stat().st_size / 1e6),
                        "seconds": round(seconds, 2),
                        "processor_seconds": round(processor, 2),
                        "molecules_per_second": round(molecules / seconds),
                        "peak_anonymous_mb": round(peak),
                    }
                )
                print(json.dumps(rows[-1]))
    chosen.out.write_text(json.dumps({"conversions": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
