"""What people wrote about the images of a scoring run, looked up by the images' paths.

Knows tables and the ways in which a table may spell an image's name; knows nothing about tokens or models.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from aescli.data.datasets.generic import guess_image_column
from aescli.data.datasets.index import NameIndex, normal_name
from aescli.data.datasets.tables import Table, read_table
from aescli.errors import AesError

_COLUMNS = ("comment", "comments", "caption", "captions", "text")


class Comments:
    """The comments of a table with an image column and a column `comment`; several of one image are joined.

    problems: sentences about rows that cannot be used. Raises AesError where there is no such table or column, or
    not one comment.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise AesError(f"--comments {path}: no such file; give a CSV with the columns image and comment")
        table = read_table(path)
        folded = {column.casefold(): column for column in table.columns}
        column = next((folded[name] for name in _COLUMNS if name in folded), None)
        if column is None:
            raise AesError(
                f"--comments {path}: no column comment; it has: {', '.join(table.columns)}. Name one of them comment"
            )
        image = self._image_column(table, path)
        self.problems = [str(problem) for problem in table.bad]
        self._texts: dict[str, str] = {}
        for _, cells in table.rows:
            name, text = cells[image], cells[column]
            if name and text:
                self._texts[name] = f"{self._texts[name]} {text}" if name in self._texts else text
        if not self._texts:
            why = f": {self.problems[0]}" if self.problems else ""
            raise AesError(f"--comments {path}: not one comment in the column '{column}'{why}")
        self.digest = hashlib.sha256(
            repr(sorted(self._texts.items())).encode("utf-8", "replace")
        ).hexdigest()[:16]
        """Tells whether an interrupted run has read the same comments."""
        self._index = NameIndex(self._texts, folders=True)
        self._asked: dict[str, str] = {}
        self._shared: dict[str, str] = {}

    @staticmethod
    def _image_column(table: Table, path: Path) -> str:
        try:
            return guess_image_column(table)
        except AesError:
            # As in the lists that AVA's captions are trained on.
            index = next((column for column in table.columns if column.casefold() == "index"), None)
            if index is None:
                raise AesError(
                    f"--comments {path}: cannot tell which column names the images; it has: "
                    f"{', '.join(table.columns)}. Name one of them image"
                ) from None
            return index

    def __len__(self) -> int:
        return len(self._texts)

    def __call__(self, path: str) -> str | None:
        """The comment on an image, by its path or by any unambiguous shorter spelling of it; None without one.

        Images come one at a time, so that a row `x.jpg` means both a/x.jpg and b/x.jpg shows with the second only:
        see `shared`.
        """
        name, _ = self._index.find((path, os.path.splitext(path)[0]))
        if name is None:
            return None
        path = normal_name(path)
        if self._asked.setdefault(name, path) != path:
            self._shared.setdefault(name, path)
        return self._texts[name]

    @property
    def unused(self) -> list[str]:
        """The images, as the table names them, that nobody asked for."""
        return [name for name in self._texts if name not in self._asked]

    @property
    def shared(self) -> list[str]:
        """Sentences about rows that were read for several images."""
        return [
            f"'{name}' was read for several images ({self._asked[name]}, {other}); name the file with folder and suffix"
            for name, other in self._shared.items()
        ]
