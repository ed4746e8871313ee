"""Names of the functional groups that atoms belong to, from what they are bonded to.

For messages: bonds come from distances, and nothing here needs bond orders. What fits
no rule has no name.
"""

from collections.abc import Sequence

H, C, N, O, S = 1, 6, 7, 8, 16  # noqa: E741 (symbols of elements)
_LARGEST_RING = 6
_SATURATED = {C: "carbon", N: "amine nitrogen", O: "oxygen", S: "sulfur"}


class Groups:
    """The functional groups of a structure.

    Args:
        numbers: [atoms] atomic numbers.
        bonded: [atoms] the atoms that each is bonded to.
    """

    def __init__(self, numbers: Sequence[int], bonded: Sequence[Sequence[int]]) -> None:
        self._numbers = numbers
        self._bonded = bonded

    def name(self, atom: int) -> str:
        """What a chemist calls an atom, such as "nitro nitrogen"; empty: no name."""
        rules = {C: self._carbon, N: self._nitrogen, O: self._oxygen, S: self._sulfur}
        rule = rules.get(self._numbers[atom])
        if rule is None:
            return ""
        ring = self._ring(atom)
        if ring and all(map(self._is_flat, ring)) and len(ring) >= 5:
            return f"aromatic {_SATURATED[self._numbers[atom]].split()[-1]}"
        name = rule(atom)
        if ring and len(ring) < 5 and name:
            return f"{name} of a ring of {len(ring)}"
        return name

    def _carbon(self, atom: int) -> str:
        around = self._bonded[atom]
        if len(around) == 4:
            return "saturated carbon"
        if any(self._is_end(j, N) for j in around) and len(around) == 2:
            return "nitrile carbon"
        if any(self._is_end(j, O) for j in around):
            return f"{self._carbonyl(atom)} carbon"
        return {3: "alkene carbon", 2: "alkyne carbon"}.get(len(around), "")

    def _carbonyl(self, carbon: int) -> str:
        """The kind of a carbon that an oxygen ends at."""
        around = self._bonded[carbon]
        if len(around) != 3:
            return "cumulated"
        others = [j for j in around if not self._is_end(j, O)]
        kinds = [self._numbers[j] for j in others]
        if len(others) == 1:
            return "carboxylate"
        if O in kinds:
            hydroxyl = any(self._has(j, H) for j in others if self._numbers[j] == O)
            return "carboxyl" if hydroxyl else "ester"
        if N in kinds:
            return "amide"
        return "aldehyde" if H in kinds else "ketone"

    def _nitrogen(self, atom: int) -> str:
        around = self._bonded[atom]
        if sum(self._is_end(j, O) for j in around) == 2:
            return "nitro nitrogen"
        if len(around) == 4:
            return "ammonium nitrogen"
        if self._has(atom, N):
            return "nitrogen bonded to nitrogen"
        if self._has(atom, O):
            return "nitrogen bonded to oxygen"
        if len(around) == 1:
            return "nitrile nitrogen"
        if len(around) == 2:
            return "imine nitrogen"
        if any(self._has_end(j, O) for j in around if self._numbers[j] == C):
            return "amide nitrogen"
        return "amine nitrogen"

    def _oxygen(self, atom: int) -> str:
        around = self._bonded[atom]
        if self._has(atom, O):
            return "peroxide oxygen"
        if len(around) == 1:
            [other] = around
            if self._numbers[other] == C:
                return f"{self._carbonyl(other)} oxygen"
            return self._nitrogen(other).replace("nitrogen", "oxygen")
        if len(around) == 3:
            return "oxonium oxygen"
        carbonyls = [j for j in around if self._numbers[j] == C and self._has_end(j, O)]
        if carbonyls:
            return f"{self._carbonyl(carbonyls[0])} oxygen"
        return "hydroxyl oxygen" if self._has(atom, H) else "ether oxygen"

    def _sulfur(self, atom: int) -> str:
        ends = sum(self._is_end(j, O) for j in self._bonded[atom])
        if ends:
            return {1: "sulfoxide sulfur", 2: "sulfone sulfur"}.get(ends, "sulfur")
        if self._has(atom, S):
            return "disulfide sulfur"
        if len(self._bonded[atom]) == 1:
            return "thiocarbonyl sulfur"
        return "thiol sulfur" if self._has(atom, H) else "thioether sulfur"

    def _has(self, atom: int, number: int) -> bool:
        return any(self._numbers[j] == number for j in self._bonded[atom])

    def _has_end(self, atom: int, number: int) -> bool:
        return any(self._is_end(j, number) for j in self._bonded[atom])

    def _is_end(self, atom: int, number: int) -> bool:
        """Whether an atom of this element has one bond only."""
        return self._numbers[atom] == number and len(self._bonded[atom]) == 1

    def _is_flat(self, atom: int) -> bool:
        """Whether an atom can be part of an aromatic ring, by its number of bonds."""
        allowed = {C: (3,), N: (2, 3), O: (2,), S: (2,)}
        return len(self._bonded[atom]) in allowed.get(self._numbers[atom], ())

    def _ring(self, atom: int) -> tuple[int, ...]:
        """A smallest ring of up to six atoms that holds an atom; empty: none."""
        paths: list[tuple[int, ...]] = [(atom,)]
        for size in range(1, _LARGEST_RING + 1):
            closed = [p for p in paths if size > 2 and atom in self._bonded[p[-1]]]
            if closed:
                return min(closed, key=lambda p: not all(map(self._is_flat, p)))
            paths = [
                (*path, j)
                for path in paths
                for j in self._bonded[path[-1]]
                if j not in path and len(self._bonded[j]) > 1
            ]
        return ()
