"""Blocks of steps under one jit, from one look at the numbers to the next."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


class BlockFns(NamedTuple):
    """What a block calls; ``neighbor`` and ``state`` are jax-md's."""

    step: Callable[[Any, Any], Any]  # (state, neighbor) → state
    update: Callable[[Any, Any], Any]  # (state, neighbor) → neighbor
    observe: Callable[
        [Any, Any], dict[str, Any]
    ]  # (state, neighbor) → a frame's arrays


class Block(NamedTuple):
    """Outcome of a block."""

    state: Any
    neighbor: Any
    bad_step: Int[Array, ""]  # first step with a number that is not finite, 0: none
    full: Bool[Array, ""]  # the neighbour list overflowed: redo the block
    num_frames: Int[Array, ""]  # frames that were saved
    steps: Int[Array, " frames"]  # the step of each frame
    frames: dict[str, Array]  # [frames, …] each; rows beyond num_frames hold zeros


def compile_block(fns: BlockFns, save_every: int, block_steps: int) -> Any:
    """Return a jitted ``block(state, neighbor, step, stop) -> Block``.

    Step numbers are traced: short last blocks and restarts run the same machine code,
    so that they cannot change a digit.
    """
    size = -(-block_steps // save_every) + 1

    def one_step(index: Any, carry: Any) -> Any:
        state, neighbor, bad = carry
        neighbor = fns.update(state, neighbor)
        state = fns.step(state, neighbor)
        finite = jnp.isfinite(jnp.sum(state.position) + jnp.sum(state.momentum))
        return state, neighbor, jnp.where((bad == 0) & ~finite, index + 1, bad)

    def one_frame(stop: Any, step: Any, block: Block) -> tuple[Any, Block]:
        target = jnp.minimum((step // save_every + 1) * save_every, stop)
        state, neighbor, bad = jax.lax.fori_loop(
            step, target, one_step, (block.state, block.neighbor, block.bad_step)
        )
        row = block.num_frames
        frames = jax.tree.map(
            lambda all_rows, new: all_rows.at[row].set(new),
            block.frames,
            fns.observe(state, neighbor),
        )
        steps = block.steps.at[row].set(target)
        return target, Block(state, neighbor, bad, block.full, row + 1, steps, frames)

    def block(state: Any, neighbor: Any, step: Any, stop: Any) -> Block:
        frames = jax.tree.map(
            lambda x: jnp.zeros((size, *x.shape), x.dtype),
            jax.eval_shape(fns.observe, state, neighbor),
        )
        none = jnp.zeros((), step.dtype)
        steps = jnp.zeros(size, step.dtype)
        start = Block(state, neighbor, none, jnp.asarray(False), none, steps, frames)
        _, end = jax.lax.while_loop(
            lambda carry: carry[0] < stop,
            lambda carry: one_frame(stop, *carry),
            (step, start),
        )
        neighbor = fns.update(end.state, end.neighbor)
        full = (neighbor.did_buffer_overflow | neighbor.cell_size_too_small) != 0
        return end._replace(neighbor=neighbor, full=full)

    return jax.jit(block)


def settle(state: Any, dtype: np.dtype[Any]) -> Any:
    """Give all floats of a state one dtype and no weak types.

    jax-md mixes them; a loop needs the same types before and after a step, and a
    restart those of the first run.
    """

    def cast(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return jnp.asarray(array, dtype if array.dtype.kind == "f" else None)

    return jax.tree.map(cast, state)


@contextmanager
def quiet_jax_md() -> Iterator[None]:
    """Hide what jax-md says about its own 64-bit sums and indices; nothing of ours."""
    with warnings.catch_warnings():
        for message in (
            "Explicitly requested dtype",
            "scatter inputs have incompatible types",
        ):
            warnings.filterwarnings("ignore", message=message, module=r"jax\b.*")
        yield
