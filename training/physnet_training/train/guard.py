"""The guard of a run: when its loss has run away, and how much slower to go on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_RETREATS = 3
"""How often a run goes back before it gives up."""
_FEWEST = 10  # losses that say where a run stands
_EXPLODED = 10.0  # times the lowest level


class Diverged(FloatingPointError):
    """The loss is not finite, or has run away from what was reached."""


class Guard:
    """What a run has reached, and the factor on its learning rate.

    The level of a stretch of steps is the median of their losses. It has exploded when
    it is ten times the lowest one, and not below half of the first one: noise of small
    losses is no explosion.
    """

    def __init__(self) -> None:
        self.rate = 1.0
        self.retreats: list[dict[str, Any]] = []
        self._first: float | None = None
        self._lowest: float | None = None

    def exploded(self, losses: Sequence[float]) -> str:
        """Take a stretch of finite losses in; say what is wrong with it, or nothing."""
        if len(losses) < _FEWEST:
            return ""
        level = float(np.median(losses))
        if self._first is None or self._lowest is None:
            self._first = self._lowest = level
        if level > _EXPLODED * self._lowest and level > 0.5 * self._first:
            return f"the loss has risen from {self._lowest:.3g} to {level:.3g}"
        self._lowest = min(level, self._lowest)
        return ""

    def retreat(self, step: int, back_to: int, reason: str) -> None:
        """Halve the learning rate, and keep why."""
        self.rate *= 0.5
        self.retreats.append(
            {"step": step, "back_to": back_to, "rate": self.rate, "reason": reason}
        )

    def state(self) -> dict[str, Any]:
        """All of it, JSON-serialisable."""
        return {
            "rate": self.rate,
            "retreats": list(self.retreats),
            "levels": [self._first, self._lowest],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self.rate, self.retreats = state["rate"], list(state["retreats"])
        self._first, self._lowest = state["levels"]
