"""`aes personalize --suggest`: which photos to rate next, as a table to fill in and a page to rate on.

It knows the command line and where the two files lie. Which photos tell most is `aescli.personalization.selection`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aescli.cli.common import note
from aescli.errors import AesError

if TYPE_CHECKING:
    from aescli.data.profiles import Profile
    from aescli.personalization.images import ImageFeatures
    from aescli.personalization.prior import TastePrior


def suggest(
    profile: Profile,
    number: int,
    images: Path,
    out: Path,
    rated: ImageFeatures,
    extract: Callable[[Sequence[str]], ImageFeatures],
    prior_for: Callable[[ImageFeatures], TastePrior],
    *,
    quiet: bool,
) -> None:
    """Write a table and a page of `number` photos of `images` into the folder `out`."""
    from aescli.personalization.folder import safe_name
    from aescli.personalization.selection import most_informative
    from aescli.personalization.sheet import write_sheet

    names = _candidates(profile, images, quiet=quiet)
    pool = extract(list(names))
    if not pool.paths:
        path, reason = next(iter(pool.errors.items()))
        raise AesError(f"none of the {len(names)} photos can be used; the first: {path}: {reason}")
    seen = (rated.features, rated.scores) if rated.paths else None
    order = most_informative(prior_for(pool), pool.features, pool.scores, number, rated=seen)
    files = [pool.paths[i] for i in order]
    out.mkdir(parents=True, exist_ok=True)
    sheet = _free(out, f"{safe_name(profile.user)}-ratings")
    page = sheet.with_suffix(".html")
    write_sheet(sheet, page, profile.user, profile.scale, [(names[file], Path(file)) for file in files])
    note(f"aes: {len(files)} of {len(pool.paths)} photos proposed, the most telling first", quiet=quiet)
    if pool.errors:
        note(f"aes: {len(pool.errors)} photos could not be used", quiet=quiet)
    note(
        f"aes: rate them in {page} (or fill in {sheet}) and {_naming(profile, sheet)}",
        quiet=quiet,
    )
    typer.echo(sheet)
    typer.echo(page)


def _candidates(profile: Profile, images: Path, *, quiet: bool) -> dict[str, str]:
    """Photo → what the table calls it: as the profile will find it, from its own folder. Rated ones are left out."""
    from aescli.data.finding import find_images

    known = {rating.path.resolve() for rating in profile.ratings}
    found = [f.path for f in find_images([images]) if not f.error and Path(f.path).resolve() not in known]
    if not found:
        raise AesError(f"--images {images}: holds no photo that {profile.user} has not rated yet")
    names = {path: _relative(Path(path), profile.source.parent) for path in found}
    writable = {path: name for path, name in names.items() if _is_text(name)}
    if len(writable) < len(names):
        left = f"{len(names) - len(writable)} photos left out: their names are no UTF-8 text; rename them"
        if not writable:
            raise AesError(left)
        note(f"aes: {left}", quiet=quiet)
    return writable


def _naming(profile: Profile, sheet: Path) -> str:
    """How the profile comes to name the new table."""
    name = _relative(sheet, profile.source.parent)
    named = [_relative(old.path, profile.source.parent) for old in profile.sheets]
    if not profile.ratings and not named:
        return f"name the table in the profile: ratings: {name}"
    if len(profile.ratings) == sum(len(old.rated) for old in profile.sheets):
        return f"name the tables in the profile: ratings: [{', '.join([*named, name])}]"
    return f"name the table in the profile's list, as one more line under ratings: - {name}"


def _free(folder: Path, stem: str) -> Path:
    """A table's name that is not taken, nor the page's beside it: a filled-in table is never overwritten."""
    number = 1
    while True:
        path = folder / (f"{stem}.csv" if number == 1 else f"{stem}-{number}.csv")
        if not path.exists() and not path.with_suffix(".html").exists():
            return path
        number += 1


def _relative(file: Path, folder: Path) -> str:
    file, folder = file.resolve(), folder.resolve()
    if file.drive != folder.drive:
        return str(file)
    name = Path(os.path.relpath(file, folder)).as_posix()
    return f"./{name}" if name != name.lstrip() else name  # who reads a table strips its cells


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
