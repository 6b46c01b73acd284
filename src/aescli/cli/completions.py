"""Writes the completion scripts for bash, zsh and fish: `python -m aescli.cli.completions completions`.

The scripts ask the program itself at every Tab, so they change only when typer changes them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from typer.completion import get_completion_script

FILES = {"bash": "aes.bash", "zsh": "_aes", "fish": "aes.fish"}
"""shell → file name, as the shell's completion folder wants it."""


def script(shell: str) -> str:
    """The completion script of `aes` for bash, zsh or fish."""
    return get_completion_script(prog_name="aes", complete_var="_AES_COMPLETE", shell=shell) + "\n"


def write(folder: Path) -> None:
    """Write all scripts into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for shell, name in FILES.items():
        (folder / name).write_text(script(shell), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m aescli.cli.completions FOLDER")
    write(Path(sys.argv[1]))
