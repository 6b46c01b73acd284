"""Writes a page of results from the folders of finished studies: `python -m aescli.ablation.page OUT… > RESULTS.md`.

Knows what a study's folder holds (study.json, table.md). Computes nothing.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from aescli.ablation.run import STUDY
from aescli.ablation.table import MARKDOWN
from aescli.errors import AesError

_HEAD = """# Results

Made by `python -m aescli.ablation.page` from the folders that the commands below wrote; nothing here is typed by hand.
"""


def page(folders: Sequence[Path]) -> str:
    """The page of all studies, in the order given. Raises AesError for a folder that holds none."""
    parts = [_HEAD]
    for folder in folders:
        try:
            values = json.loads((folder / STUDY).read_text(encoding="utf-8"))
            table = (folder / MARKDOWN).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            why = (
                "there is no such folder"
                if not folder.is_dir()
                else getattr(error, "strerror", None) or error
            )
            raise AesError(f"{folder} holds no study ({why}); give the --out of `aes ablate`") from None
        title, _, body = table.partition("\n")
        made = ", ".join(f"{name} ({n:,} images)" for name, n in values["datasets"].items())
        parts.append(
            f"## {title.lstrip('# ')}\n\n{made}; aescli {values['version']}.\n\n"
            f"```sh\n{command(values)}\n```\n{body}"
        )
    return "\n".join(parts)


def command(values: dict) -> str:
    """The command that made the study; files and folders by their last part."""
    words = ["aes", "ablate", "--study", values["study"], "--preset", values["preset"]]
    for name in values["data"]:
        words += ["--data", name]
    if values.get("images"):
        words += ["--images", values["images"]]
    if values["folds"] != [None]:
        words += ["--folds", ",".join(map(str, values["folds"]))]
    for change in values["changes"]:
        key, _, value = change.partition("=")
        words += ["--set", f"{key}={Path(value).name if Path(value).is_absolute() else value}"]
    return shlex.join([*words, "--out", f"runs/{values['study']}"])


if __name__ == "__main__":
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        sys.stderr.write(
            "usage: python -m aescli.ablation.page OUT… (folders of `aes ablate`) > RESULTS.md\n"
        )
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    try:
        sys.stdout.write(page([Path(word) for word in sys.argv[1:]]))
    except AesError as error:
        sys.exit(f"aescli.ablation.page: {error}")
