"""Which unit a quantity of one file is in, and how that is known."""

from collections.abc import Mapping

from physnet_training.sources.molecules import ReadOptions
from physnet_training.sources.naming import factor_to_internal, unit_suffix

_ASSUMED = {"positions": "angstrom", "dipole": "e*angstrom"}
_FIXED = {"charges": "e", "spin_populations": "electrons"}


class UnitChoice:
    """Resolves units: what the file declares, the key's suffix, option, format.

    Args:
        options: What the user says.
        record: Receives quantity -> unit and how it is known, for the report.
        declared: Key -> unit as the file itself declares it.
        defaults: Key -> unit by definition of the file's format.
    """

    def __init__(
        self,
        options: ReadOptions,
        record: dict[str, str],
        *,
        declared: Mapping[str, str],
        defaults: Mapping[str, str],
    ) -> None:
        self.options = options
        self.record = record
        self.declared = declared
        self.defaults = defaults

    def factor(self, quantity: str, key: str) -> float:
        """Factor to the internal unit; negative for a gradient, which is -force.

        Raises:
            ValueError: The unit is missing or unknown, or file and option disagree.
        """
        unit, why = self._choose(quantity, key)
        self.record[quantity] = f"{unit} ({why})"
        factor = factor_to_internal(quantity, unit)
        return -factor if quantity == "gradient" else factor

    def _choose(self, quantity: str, key: str) -> tuple[str, str]:
        option = self._option(quantity)
        if quantity in _FIXED:
            return _FIXED[quantity], "always"
        stated = self.declared.get(key) or unit_suffix(quantity, key)[0]
        if stated:
            if option and factor_to_internal(quantity, stated) != factor_to_internal(
                quantity, option
            ):
                raise ValueError(
                    f"{key} is in {stated} by the file, in {option} by the options; "
                    "drop the option or correct the file"
                )
            return stated, f"the file says so of {key}"
        if option:
            return option, "by option"
        if key in self.defaults:
            return self.defaults[key], f"{key} is so by the file's format"
        if quantity in _ASSUMED:
            return _ASSUMED[quantity], "assumed, neither file nor option says"
        raise ValueError(
            f"units missing: {key} ({quantity}) carries none; give --energy-unit (and "
            "--length-unit if lengths are not in angstrom)"
        )

    def _option(self, quantity: str) -> str | None:
        options = self.options
        if quantity in ("energy", "virial"):
            return options.energy_unit
        if quantity == "positions":
            return options.length_unit
        if quantity == "dipole":
            return options.dipole_unit
        if quantity in ("forces", "gradient"):
            if options.force_unit or not options.energy_unit:
                return options.force_unit
            return f"{options.energy_unit}/{options.length_unit or 'angstrom'}"
        if quantity == "stress" and options.energy_unit:
            return f"{options.energy_unit}/{options.length_unit or 'angstrom'}^3"
        return None
