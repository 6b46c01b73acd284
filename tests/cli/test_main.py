import importlib
import os
import subprocess
import sys
import time

import pytest
import typer

from aescli import __version__
from aescli.cli import COMMANDS, build, load_command, main
from aescli.errors import AesError, UsageError


def aes(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return int(stop.value.code or 0)


def python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["score", "--help"]])
def test_help_loads_nothing_heavy_and_is_quick(arguments):
    heavy = [
        "torch",
        "numpy",
        "cv2",
        "PIL",
        "timm",
        "torchvision",
        "scipy",
        "sklearn",
        "pandas",
        "tqdm",
    ]
    code = f"""
import sys
from aescli.cli import main
try:
    main({arguments!r})
except SystemExit as stop:
    assert not stop.code, stop.code
print("HEAVY:", *(m for m in {heavy!r} if m in sys.modules), file=sys.stderr)
"""
    best = 9.0
    for _ in range(3):
        before = os.times()
        done = python(code)
        after = os.times()
        # Processor time: other work on the machine must not fail the test.
        used = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, used)
        assert done.returncode == 0, done.stderr
        assert "Usage: aes" in done.stdout
        assert done.stderr.strip() == "HEAVY:"
    assert best < 0.5


def test_help_lists_the_commands_without_importing_them(capsys):
    assert aes("--help") == 0
    text = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert f"{name} " in text
        assert summary in " ".join(text.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_states_its_default_and_the_help_ends_with_two_examples(name, capsys):
    command = load_command(name)
    for parameter in command.params:
        if parameter.name != "help" and parameter.param_type_name == "option" and not parameter.required:
            assert "default" in (parameter.help or ""), f"{name} {parameter.opts[-1]}: {parameter.help}"
    assert aes(name, "-h") == 0
    help_text = capsys.readouterr().out
    examples = help_text.rstrip().rpartition("Examples:")[2].strip().splitlines()
    assert len(examples) == 2
    assert all(line.strip().startswith(f"aes {name} ") for line in examples)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_points_at_functions_with_a_first_sentence(name):
    module, _, function = COMMANDS[name][0].partition(":")
    assert getattr(importlib.import_module(module), function).__doc__


def test_version(capsys):
    assert aes("--version") == 0
    assert capsys.readouterr().out == f"aes {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["nonsense"], "nonsense"), (["score"], "PATH"), (["score", "x", "--batch-size", "0"], "--batch-size"),
     (["score", "x", "--faces", "some"], "--faces"), (["score", "--no-such-option"], "--no-such-option")],
)  # fmt: skip
def test_wrong_usage_is_2(arguments, word, capsys):
    assert aes(*arguments) == 2
    captured = capsys.readouterr()
    assert word in captured.err
    assert captured.out == ""


def with_command(monkeypatch, function):
    """The program with one command `boom` that is `function`."""
    module = type(sys)("boom")
    module.boom = function
    monkeypatch.setitem(sys.modules, "boom", module)
    monkeypatch.setitem(COMMANDS, "boom", ("boom:boom", "Fails."))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (AesError("the disk is full;\nmake room"), 1, "aes: error: the disk is full; make room"),
        (UsageError("--a needs --b"), 2, "aes: error: --a needs --b"),
        (
            PermissionError(13, "Permission denied", "/x"),
            1,
            "aes: error: /x: Permission denied; check the path",
        ),
        (MemoryError(), 1, "aes: error: not enough memory; use a smaller --batch-size"),
        (KeyError("k"), 1, "aes: error: KeyError: 'k'; this is a fault of aes, --debug shows"),
        (ZeroDivisionError("division"), 1, "aes: error: ZeroDivisionError: division; this is a fault of aes"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
        (typer.Exit(7), 7, ""),
    ],
)
def test_failures_are_one_line(error, code, line, monkeypatch, capsys):
    def boom() -> None:
        """Fails."""
        raise error

    with_command(monkeypatch, boom)
    assert aes("boom") == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == (1 if line else 0)


@pytest.mark.parametrize("arguments", [["--debug", "boom"], ["boom", "--debug"]])
def test_debug_shows_the_traceback(arguments, monkeypatch):
    def boom() -> None:
        """Fails."""
        raise AesError("why")

    with_command(monkeypatch, boom)
    with pytest.raises(AesError, match="why"):
        main(arguments)


def test_an_argument_called_debug_stays_one(monkeypatch, capsys):
    def boom(path: str) -> None:
        """Prints."""
        typer.echo(path)

    with_command(monkeypatch, boom)
    assert aes("boom", "--", "--debug") == 0
    assert capsys.readouterr().out == "--debug\n"


def test_no_color_is_honoured():
    """No escape sequence reaches a pipe or a NO_COLOR terminal."""
    code = "from aescli.cli import main; main(['score'])"
    done = python(code, env={**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"})
    assert done.returncode == 2
    assert "\x1b" not in done.stderr + done.stdout


def test_the_program_is_built_afresh_each_time():
    assert build() is not build()
    started = time.process_time()
    build()
    assert time.process_time() - started < 0.2
