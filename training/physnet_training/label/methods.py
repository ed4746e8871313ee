"""Methods that label: named ones and any ASE calculator by its import path."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ase.calculators.calculator import BaseCalculator
from ase.data import chemical_symbols

from physnet_ase.state import ElectronicState
from physnet_training.label.calculators import DensityFunctional, TightBinding

TIGHT_BINDING = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}
"""Name on the command line -> tblite's."""
FUNCTIONAL = "wb97x"
"""Default functional of the method pyscf: that of the pretrained model."""
BASIS = "def2-svpd"
"""Default basis set of the method pyscf: that of the pretrained model."""
GRID_LEVEL = 3


@dataclass(frozen=True)
class Method:
    """How labels are calculated.

    Attributes:
        name: ``gfn2-xtb``, ``gfn1-xtb``, ``pyscf`` or ``package.module:factory``.
        functional: PySCF's name of the functional; only for ``pyscf``.
        basis: Basis set; only for ``pyscf``.
        grid_level: Integration grids, 0 to 9; only for ``pyscf``.
        density_fit: Fit the density; only for ``pyscf``.
        stability: Leave unstable solutions; only for ``pyscf``.
        level: Level of theory to store; empty: what the method is called.

    Raises:
        ValueError: The name is unknown, or an option does not belong to the method.
        ImportError: What calculates is not installed.
    """

    name: str = "gfn2-xtb"
    functional: str | None = None
    basis: str | None = None
    grid_level: int | None = None
    density_fit: bool | None = None
    stability: bool | None = None
    level: str = ""

    def __post_init__(self) -> None:
        """Fill in defaults and check that the method is there."""
        options = [f"--{name.replace('_', '-')}" for name in self._options()]
        if self.name == "pyscf":
            _require("pyscf", self.name)
            self._set(functional=(self.functional or FUNCTIONAL).lower())
            self._set(basis=(self.basis or BASIS).lower())
            self._set(grid_level=_grid_level(self.grid_level))
            self._set(density_fit=self.density_fit is not False)
            self._set(stability=self.stability is not False)
            self._check_functional()
        elif options:
            raise ValueError(
                f"{' and '.join(options)} belong to --method pyscf, not to {self.name}"
            )
        elif self.name in TIGHT_BINDING:
            _require("tblite", self.name)
        elif ":" in self.name:
            load_factory(self.name)
        else:
            raise ValueError(
                f"unknown method {self.name!r}; use gfn2-xtb, gfn1-xtb, pyscf, or "
                "package.module:factory of an ASE calculator"
            )
        if not self.level:
            self._set(level=self._default_level())

    def calculator(self, state: ElectronicState) -> BaseCalculator:
        """A new ASE calculator for one charge and multiplicity.

        Raises:
            TypeError: A factory returned something else.
        """
        if self.name in TIGHT_BINDING:
            return TightBinding(TIGHT_BINDING[self.name], state)
        if self.name == "pyscf":
            return DensityFunctional(state, **self._options())
        made = load_factory(self.name)(
            charge=state.charge, multiplicity=state.multiplicity
        )
        if not isinstance(made, BaseCalculator):
            raise TypeError(
                f"{self.name} must return an ASE calculator, it returned "
                f"{type(made).__name__}"
            )
        return made

    def check_elements(self, numbers: Iterable[int]) -> None:
        """Raise where it is known in advance that elements cannot be calculated.

        Raises:
            ValueError: The basis set lacks an element; the message names both.
        """
        if self.name != "pyscf":
            return
        from pyscf import gto

        for number in sorted(set(numbers)):
            symbol = chemical_symbols[number]
            try:
                gto.basis.load(self.basis, symbol)
            # PySCF's own exceptions, and KeyError or IndexError by the basis' format.
            except Exception as error:
                raise ValueError(
                    f"--basis {self.basis}: PySCF has no such basis set for {symbol}"
                ) from error

    def settings(self) -> dict[str, Any]:
        """Name and options, which labels must share to belong together."""
        return {"method": self.name, "level": self.level, **self._options()}

    def _options(self) -> dict[str, Any]:
        """Those of PySCF that are given."""
        names = ("functional", "basis", "grid_level", "density_fit", "stability")
        options = {name: getattr(self, name) for name in names}
        return {name: value for name, value in options.items() if value is not None}

    def versions(self) -> dict[str, str]:
        """Versions of what calculates."""
        packages = {"pyscf": "pyscf"} | dict.fromkeys(TIGHT_BINDING, "tblite")
        root = packages.get(self.name, self.name.split(".")[0].split(":")[0])
        versions = {}
        for package in (root, "ase", "physnet-ase"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "unknown"
        return versions

    def _default_level(self) -> str:
        if self.name in TIGHT_BINDING:
            return f"sp{TIGHT_BINDING[self.name]}"
        return f"{self.functional}/{self.basis}" if self.functional else self.name

    def _check_functional(self) -> None:
        """Try the functional on a hydrogen atom: names and packages it needs."""
        from pyscf import dft, gto

        atom = gto.M(atom="H", basis="sto-3g", spin=1, verbose=0)
        field = dft.UKS(atom)
        try:
            field.xc = self.functional
            field.grids.level = 0
            field.kernel()
        # PySCF raises KeyError, ValueError, RuntimeError, … by what is wrong.
        except Exception as error:
            raise ValueError(
                f"--functional {self.functional}: PySCF cannot calculate it "
                f"({type(error).__name__}: {error})"
            ) from error

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)


def load_factory(path: str) -> Callable[..., Any]:
    """What ``package.module:factory`` names; the current folder is searched last.

    Raises:
        ValueError: There is no such module, or nothing callable of this name in it.
    """
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"--method {path}: {module_name} cannot be imported ({error})"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(
            f"--method {path}: {module_name} has no function or class {name!r}"
        )
    return factory


def _grid_level(level: int | None) -> int:
    level = GRID_LEVEL if level is None else level
    if not 0 <= level <= 9:
        raise ValueError(f"--grid-level must be 0 to 9, got {level}")
    return level


def _require(package: str, method: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"--method {method} needs {package}, which is not installed; install "
            "physnet-ase[qm]"
        )
