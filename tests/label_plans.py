"""Plans of labelling by springs, and what comes out, for the tests of labelling."""

import csv

from physnet_training.label import (
    Method,
    Plan,
    Run,
    Sampling,
    parse_states,
    read_structures,
)

STATES = "0,1 1,2 -1,2 0,3 0,2"
SHIFTS = Sampling(kind="displace", samples=3, seed=5)
ONE = Run(workers=1)


def plan_for(names=("H2O", "CH3"), factory="springs", states=STATES, sampling=SHIFTS):
    return Plan.of(
        read_structures(names, own_states=False),
        Method(f"label_calculator:{factory}"),
        parse_states(states),
        sampling,
    )


def content(folder):
    """Bytes of every array of a dataset or of all its shards."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
