"""Parts of a list of images for the jobs of an array: `--shard 3/10`.

An image's part is decided by its path alone, so every image is scored by exactly one job, also while files come and
go. It knows nothing about what is done with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from aescli.data.finding import Found
from aescli.errors import UsageError


def parse_shard(text: str) -> tuple[int, int]:
    """`3/10` → (3, 10): the third of ten. Raises UsageError for anything else."""
    number, slash, count = text.partition("/")
    if slash and all(part.isascii() and part.isdigit() for part in (number, count)):
        k, n = int(number), int(count)
        if 1 <= k <= n:
            return k, n
    raise UsageError(f"--shard {text}: K/N is the K-th of N parts, 1 ≤ K ≤ N, such as 1/10 to 10/10")


def shard(images: Iterable[Found], k: int, n: int) -> Iterator[Found]:
    """The images of part `k` of `n`, in their order."""
    return (image for image in images if _part(image.path, n) == k - 1)


def _part(path: str, n: int) -> int:
    digest = hashlib.blake2b(
        path.encode("utf-8", "surrogatepass"), digest_size=8, person=b"aes-shard"
    ).digest()
    return int.from_bytes(digest, "little") % n
