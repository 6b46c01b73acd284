"""Which rows of a run are wanted, and what happens to their files: `--where`, `--copy-to`, `--link-to`, `--xmp`.

It puts the condition, the folder and the sidecars together; each of them has its own module. It prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from aescli.data.finding import Found, printable
from aescli.errors import UsageError
from aescli.scoring.collector import Collector
from aescli.scoring.rows import ImageResult, Layout, Row
from aescli.scoring.sidecar import Sidecars
from aescli.scoring.where import Where


class Picks:
    """The wanted rows and their files. Without a condition every row is wanted, and every scored file picked."""

    def __init__(
        self,
        layout: Layout,
        *,
        where: str | None = None,
        copy_to: str | None = None,
        link_to: str | None = None,
        xmp: bool = False,
    ):
        """Raises UsageError for a wrong condition, AesError for a folder that cannot be used."""
        if copy_to and link_to:
            raise UsageError("--copy-to and --link-to exclude each other; give one of them")
        self._where = Where(where, layout) if where is not None else None
        folder = copy_to or link_to
        self._collector = Collector(folder, link=bool(link_to)) if folder else None
        self._sidecars = Sidecars(layout.scale) if xmp else None
        self.images = 0

    @property
    def keep(self) -> Callable[[Row], bool] | None:
        """The condition on a row; None where every row is wanted."""
        return self._where

    def rows(self, result: ImageResult) -> list[Row]:
        return result.rows if self._where is None else [row for row in result.rows if self._where(row)]

    def source(self, images: Iterable[Found]) -> Iterator[Found]:
        """`images` without those that earlier runs brought into the folder."""
        return iter(images) if self._collector is None else self._collector.without_own(images)

    def take(self, result: ImageResult) -> None:
        """Bring the file of a result, if it has a wanted row, and rate it by the best of these rows."""
        rows = self.rows(result)
        scores = [row.score for row in rows if row.score is not None]
        if not (rows if self._where is not None else scores):
            return
        self.images += 1
        place = result.path if self._collector is None else self._collector.bring(result.path)
        if self._sidecars is not None and place is not None and scores:
            self._sidecars.rate(place, max(scores))

    @property
    def passed_over(self) -> int:
        """How many images were left out since they lie in the folder of --copy-to or --link-to itself."""
        return 0 if self._collector is None else self._collector.passed_over

    def nothing_else(self) -> str:
        """One line for a run that found no image but those."""
        c = self._collector
        return (
            f"all {_counted(c.passed_over, 'image')} found lie in {c.option} {printable(str(c.folder))} itself, "
            "where picks go and are not scored again; give another folder"
        )

    def report(self) -> list[str]:
        """What was done, a line each, for people."""
        lines = []
        if self._where is not None:
            verb = "matches" if self.images == 1 else "match"
            lines.append(f"{_counted(self.images, 'image')} {verb} {self._where.text!r}")
        if (c := self._collector) is not None:
            done = "linked in" if c.option == "--link-to" else "copied to"
            lines.append(f"{c.brought} {done} {printable(str(c.folder))}")
            if c.passed_over:
                lines.append(f"{_counted(c.passed_over, 'image')} in that folder itself passed over")
        if (s := self._sidecars) is not None:
            lines.append(f"{_counted(s.written, 'sidecar')} written")
            if s.kept:
                lines.append(
                    f"{_counted(s.kept, 'sidecar')} that others wrote or changed left alone, the first: {s.first_kept}"
                )
        return lines

    def failure(self) -> str:
        """One line on what could not be brought or rated; empty where everything was."""
        if (c := self._collector) is not None and c.failed:
            return (
                f"{c.option}: {_counted(c.failed, 'file')} could not be brought; the first: {c.first_error}"
            )
        if (s := self._sidecars) is not None and s.failed:
            return f"--xmp: {_counted(s.failed, 'sidecar')} could not be written; the first: {s.first_error}"
        return ""


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
