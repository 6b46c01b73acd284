import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aescli.cli.completions import FILES, script, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shell", FILES)
def test_the_files_are_what_the_program_generates(shell, tmp_path):
    write(tmp_path)
    generated = (tmp_path / FILES[shell]).read_text(encoding="utf-8")
    assert generated == script(shell)
    kept = (ROOT / "completions" / FILES[shell]).read_text(encoding="utf-8")
    assert kept == generated, "run: python -m aescli.cli.completions completions"


def complete(words: str) -> list[str]:
    """What bash would be offered at the end of the line."""
    index = len(words.split(" ")) - 1
    environment = {
        **os.environ,
        "_AES_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(index),
    }
    code = "from aescli.cli import main; main([])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_commands_options_and_choices_are_offered():
    assert "score" in complete("aes sc")
    assert "--format" in complete("aes score --for")
    assert complete("aes score --faces ") == ["auto", "largest", "all", "none"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_accepts_the_script():
    subprocess.run(["bash", "-n", ROOT / "completions" / FILES["bash"]], check=True)
