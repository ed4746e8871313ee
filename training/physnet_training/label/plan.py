"""Which labels there are, in a fixed order: structures, geometries, states."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from physnet_ase.state import ElectronicState, is_possible
from physnet_training.label.methods import Method
from physnet_training.label.sampling import Kind, Sampling
from physnet_training.label.structures import Structure


@dataclass(frozen=True)
class Chain:
    """Geometries of one structure that are sampled on one surface.

    Attributes:
        structure: What is labelled.
        surface: The state that relaxes, vibrates or moves.
        states: The states in which every geometry is labelled.
        kind: How geometries are made.
        temperature: K, where it matters.
        samples: Number of geometries.
    """

    structure: Structure
    surface: ElectronicState
    states: tuple[ElectronicState, ...]
    kind: Kind = "none"
    temperature: float | None = None
    samples: int = 1

    @property
    def key(self) -> str:
        """Tells it from all others of any plan."""
        warmth = "" if self.temperature is None else f" {self.temperature:g} K"
        return f"{self.start_key} {self.kind}{warmth}"

    @property
    def start_key(self) -> str:
        """Its relaxed structure, which other chains may share."""
        return f"{self.structure.key} {_short(self.surface)}"

    def geometry_key(self, sample: int) -> str:
        """One of its geometries."""
        return f"{self.key} {sample}"

    def label_key(self, sample: int, state: ElectronicState) -> str:
        """One of its labels."""
        return f"{self.key} {sample} {_short(state)}"

    def labels(self) -> Iterator[tuple[int, ElectronicState]]:
        """Sample and state of each label, in order."""
        for sample in range(self.samples):
            for state in self.states:
                yield sample, state


@dataclass(frozen=True)
class Plan:
    """All labels of a run, and their order.

    Attributes:
        chains: In the order in which they are worked at and stored.
        method: What calculates labels.
        sampling: Which geometries.
        sampling_method: What relaxes, vibrates and moves; None: ``method``.
        skipped: State -> structures whose electron count forbids it.
        impossible: Structures for which no state is possible, in words.

    Raises:
        ValueError: The method lacks an element.
    """

    chains: Sequence[Chain]
    method: Method = field(default_factory=Method)
    sampling: Sampling = field(default_factory=Sampling)
    sampling_method: Method | None = None
    skipped: Counter[ElectronicState] = field(default_factory=Counter)
    impossible: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Ask the methods for all elements."""
        elements = {z for c in self.chains for z in c.structure.numbers.tolist()}
        self.method.check_elements(elements)
        self.surface_method.check_elements(elements)

    @classmethod
    def of(
        cls,
        structures: Sequence[Structure],
        method: Method | None = None,
        states: Sequence[ElectronicState] | None = None,
        sampling: Sampling | None = None,
        sampling_method: Method | None = None,
    ) -> "Plan":
        """The same sampling and states for all structures, as far as they can be.

        Args:
            structures: What is labelled.
            method: What calculates labels.
            states: The states asked for; None: each structure's own.
            sampling: Which geometries.
            sampling_method: What relaxes, vibrates and moves; None: ``method``.

        Raises:
            ValueError: Nothing can be labelled, or the method lacks an element.
        """
        method, sampling = method or Method(), sampling or Sampling()
        chains: list[Chain] = []
        skipped: Counter[ElectronicState] = Counter()
        impossible = []
        for structure in structures:
            wanted = (structure.state,) if structure.state else tuple(states or ())
            possible = tuple(s for s in wanted if is_possible(structure.numbers, s))
            skipped.update(state for state in wanted if state not in possible)
            if possible:
                chains += _chains(structure, possible, sampling)
            else:
                impossible.append(str(structure))
        if not chains:
            raise ValueError(
                f"none of the states {' '.join(map(_short, states or ()))} is possible "
                f"for any structure: {'; '.join(impossible[:5])}"
            )
        return cls(chains, method, sampling, sampling_method, skipped, impossible)

    @property
    def surface_method(self) -> Method:
        """What relaxes, vibrates and moves."""
        return self.sampling_method or self.method

    def settings(self) -> dict[str, Any]:
        """What must be equal for labels to belong together; JSON-serialisable.

        Structures, states and the number of samples may grow: labels have keys.
        """
        return {
            "method": self.method.settings(),
            "sampling method": self.surface_method.settings(),
            "sampling": self.sampling.model_dump(
                mode="json", exclude={"kind", "samples", "temperatures", "vertical"}
            ),
        }


def parse_states(text: str) -> tuple[ElectronicState, ...]:
    """States out of ``"0,1 1,2 -1,2"``: charge and multiplicity 2S+1.

    Raises:
        ValueError: It is no list of pairs of whole numbers, or one stands twice.
    """
    states = []
    for word in text.split():
        charge, _, multiplicity = word.partition(",")
        try:
            states.append(ElectronicState(int(charge), int(multiplicity)))
        except ValueError as error:
            raise ValueError(
                f"--states takes pairs of charge,multiplicity such as '0,1 1,2', got "
                f"{word!r}"
            ) from error
    repeated = [state for state, count in Counter(states).items() if count > 1]
    if repeated or not states:
        what = f"{repeated[0]} twice" if repeated else "none"
        raise ValueError(f"--states must name each state once, got {what}")
    return tuple(states)


def _chains(
    structure: Structure, states: tuple[ElectronicState, ...], sampling: Sampling
) -> Iterator[Chain]:
    single = structure.is_atom
    kind: Kind = "none" if single else sampling.kind
    samples = 1 if kind == "none" else sampling.samples
    thermal = kind in ("modes", "dynamics")
    surfaces = [states] if sampling.shared or single else [(s,) for s in states]
    for temperature in sampling.temperatures if thermal else (None,):
        for mine in surfaces:
            yield Chain(structure, mine[0], mine, kind, temperature, samples)


def _short(state: ElectronicState) -> str:
    return f"{state.charge},{state.multiplicity}"
