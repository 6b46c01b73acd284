"""What encoders made of a chain of blocks share: which levels they give, and two halves with a cut between them.

Knows `net.blocks`; knows nothing about what a block is.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from aescli.errors import AesError


def checked_levels(levels: Sequence[int], count: int, what: str) -> tuple[int, ...]:
    """The levels as they are. Raises AesError unless they ascend within 1..count; `what` they number."""
    if any(not 1 <= level <= count for level in levels) or list(levels) != sorted(set(levels)):
        raise AesError(f"encoder.levels: {list(levels)} must be ascending {what}")
    return tuple(levels)


class BlocksEncoder(nn.Module):
    """Features after the chosen blocks; `cut` blocks and the stem form the lower half.

    A subclass sets `net` (with `blocks`), `levels` and `channels`, and has `stem` and `stem_modules`.
    """

    net: nn.Module
    levels: tuple[int, ...]
    channels: list[int]
    cut = 0
    whole = False

    def stem(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def stem_modules(self) -> list[nn.Module]:
        raise NotImplementedError

    def tap(self, x: Tensor) -> Tensor:
        """A block's output as the decoder gets it."""
        return x

    def set_cut(self, blocks: int) -> None:
        """Freeze the stem and the first `blocks` blocks; they become the lower half."""
        self.cut = min(blocks, len(self.net.blocks))
        if blocks:
            for module in (*self.stem_modules(), *self.net.blocks[:blocks]):
                module.requires_grad_(False)

    def _run(self, x: Tensor, start: int, stop: int) -> tuple[Tensor, list[Tensor]]:
        taps = []
        for number in range(start + 1, stop + 1):
            x = self.net.blocks[number - 1](x)
            if number in self.levels:
                taps.append(self.tap(x))
        return x, taps

    def lower(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) → [state, taps of the frozen blocks below it…]; a tap that is the state is not repeated."""
        x, taps = self._run(self.stem(images), 0, self.cut)
        return [x, *(taps[:-1] if self.cut in self.levels else taps)]

    def upper(self, state: list[Tensor]) -> list[Tensor]:
        _, taps = self._run(state[0], self.cut, max(self.levels))
        return [*state[1:], *state[: int(self.cut in self.levels)], *taps]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.upper(self.lower(images))
