"""Several potentials asked at once: their mean, and how far they disagree."""

from collections.abc import Collection, Sequence
from os import PathLike
from typing import Any

import numpy as np

from physnet_ase.checkpoint import symbols
from physnet_ase.evaluation import MEMBERS, PROPERTIES, Batch, Result, spread
from physnet_ase.familiarity import Familiarity
from physnet_ase.molecules import Molecules
from physnet_ase.parts import evaluate_again
from physnet_ase.potential import Potential, load_potential
from physnet_ase.state import ElectronicState

Model = Potential | str | PathLike[str]
"""A potential, a model directory, or the name of a pretrained model."""


class Committee:
    """Potentials that answer together; one alone answers as it would by itself.

    Results are means over the potentials. With two or more they also hold the spread
    of energy, forces and charges, see :class:`~physnet_ase.evaluation.Result`. Heads of
    a potential are members of the committee like any other; forces of each of them are
    computed only where ``forces_std`` is asked for. Only what every potential has seen
    is accepted.

    Raises:
        ValueError: No member, or no element or state that all have seen.
    """

    def __init__(self, members: Sequence[Potential]) -> None:
        self.members = tuple(members)
        if not self.members:
            raise ValueError("a committee needs at least one potential, got none")
        first = self.members[0]
        self.elements = tuple(
            z for z in first.elements if all(z in m.elements for m in self.members)
        )
        self.states = tuple(
            state
            for state in first.states
            if all(state in member.states for member in self.members)
        )
        if not self.elements or not self.states:
            raise ValueError(
                "the potentials of a committee must share elements and states; they "
                f"have seen: {'; '.join(_seen(member) for member in self.members)}"
            )
        self.num_members = sum(member.num_members for member in self.members)
        self.cutoff = max(member.config.cutoff for member in self.members)
        self.finest = min(member.config.cutoff for member in self.members)
        self.spin_populations = all(m.config.spin_populations for m in self.members)

    @classmethod
    def of(cls, sources: "Model | Sequence[Model]") -> "Committee":
        """Load one source, or a list of them; float64 when any of them is.

        Raises:
            FileNotFoundError: No such model.
            ValueError: A damaged model, or models that have nothing in common.
        """
        listed = sources if isinstance(sources, (list, tuple)) else [sources]
        members = [
            source if isinstance(source, Potential) else load_potential(str(source))
            for source in listed
        ]
        double = any(member.dtype == np.float64 for member in members)
        return cls(members).astype("float64") if double else cls(members)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the members."""
        return self.members[0].dtype

    @property
    def num_compilations(self) -> int:
        """Compiled programs so far, of all members."""
        return sum(member.num_compilations for member in set(self.members))

    def astype(self, dtype: Any) -> "Committee":
        """Return this committee computing in ``dtype``."""
        return Committee([member.astype(dtype) for member in self.members])

    def check(
        self,
        numbers: Any,
        state: ElectronicState,
        *,
        allow_unseen_states: bool = False,
        periodic: bool = False,
    ) -> None:
        """Raise unless every member accepts these atoms in this state.

        Raises:
            ValueError: See ``Potential.check``; the member is named.
        """
        for index, member in enumerate(self.members):
            try:
                member.check(
                    numbers,
                    state,
                    allow_unseen_states=allow_unseen_states,
                    periodic=periodic,
                )
            except ValueError as error:
                if len(self.members) == 1:
                    raise
                place = f"model {index + 1} of {len(self.members)}"
                raise ValueError(f"{place}: {error}") from error

    def known(self, molecules: Molecules) -> list[Familiarity]:
        """Familiarity of each molecule by the member that knows it least."""
        verdicts = [found for m in self.members if (found := m.known(molecules))]
        return [
            max(each, key=lambda v: v.score) for each in zip(*verdicts, strict=True)
        ]

    def run(self, batch: Batch, wanted: Collection[str]) -> Result:
        """Mean results of a batch of one that is evaluated again and again."""
        found = [
            evaluate_again(
                member.programs,
                member.references,
                batch,
                self._asked_of(member, wanted),
            )
            for member in self.members
        ]
        mean: Result = _combine(found, self._shared(wanted))
        return mean

    def evaluate(
        self,
        atoms: Any,
        states: Sequence[Any] | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        dtype: Any = None,
        *,
        allow_unseen_states: bool = False,
    ) -> Any:
        """Evaluate as ``Potential.evaluate`` does; results are means.

        Raises:
            ValueError: What a member refuses, or ``features``, which mean something
                else in every model.
        """
        if "features" in properties and len(self.members) > 1:
            raise ValueError(
                "the features of different models cannot be averaged; ask the members"
            )
        found = [
            member.evaluate(
                atoms,
                states,
                self._asked_of(member, properties),
                dtype,
                allow_unseen_states=allow_unseen_states,
            )
            for member in self.members
        ]
        return _combine(found, self._shared(properties))

    def _asked_of(self, member: Potential, wanted: Collection[str]) -> list[str]:
        """What one potential has to compute: one of one head is its own only member."""
        if len(self.members) == 1 or member.config.num_heads > 1:
            return list(wanted)
        alone = ["forces" if name == "forces_std" else name for name in wanted]
        return list(dict.fromkeys(alone))

    def _shared(self, wanted: Collection[str]) -> list[str]:
        """Properties of which results hold what every member says."""
        costly = self.num_members > len(self.members) and "forces_std" not in wanted
        return [name for name in MEMBERS if name != "forces" or not costly]


def _seen(member: Potential) -> str:
    states = ", ".join(str(state) for state in sorted(member.states))
    return f"{symbols(member.elements)} in {states}"


def _combine(found: Sequence[Any], shared: Collection[str]) -> Any:
    """Mean over potentials of results, or of lists of them of any depth."""
    if isinstance(found[0], list):
        return [_combine(one, shared) for one in zip(*found, strict=True)]
    return found[0] if len(found) == 1 else _mean(found, shared)


def _mean(results: Sequence[Result], shared: Collection[str]) -> Result:
    known = [vars(result).keys() for result in results]
    values: dict[str, Any] = {
        name: np.mean([getattr(result, name) for result in results], axis=0)
        for name in known[0] & set(PROPERTIES)
        if all(name in each for each in known) and not name.endswith("_std")
    }
    members = {
        name: np.concatenate([result.members(name) for result in results])
        for name in shared
        if all(name in each or MEMBERS[name] in each for each in known)
    }
    return Result(results[0].state, values | spread(members), results[0].fragments)
