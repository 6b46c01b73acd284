"""`aes ablate` as a person types it: a plan without data, a table that fills, and one line for every mistake."""

import csv
import sys

import made
import pytest

from aescli.ablation.page import page
from aescli.cli import main
from aescli.errors import AesError

SMALL = [word for change in made.SMALL for word in ("--set", change)]


def _aes(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code or 0


@pytest.fixture
def faces(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made.make_faces(tmp_path / "faces")


def test_dry_run_lists_the_runs_without_data(capsys):
    assert (
        _aes(
            "ablate", "--study", "top-k", "--preset", "momamba-frozen", *SMALL, "--folds", "2,4", "--dry-run"
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 8 + 1
    assert lines[-2].startswith("top-6/fold4: ")
    assert "parameters; " in lines[0]


def test_the_table_and_its_files(faces, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "ablate",
        "--study",
        "frequency",
        "--preset",
        "momamba-frozen",
        *SMALL,
        "--set",
        "train.epochs=1",
    ]
    words += ["--data", faces, "--folds", 1, "--out", out, "--device", "cpu"]
    assert _aes(*words) == 0
    printed = capsys.readouterr()
    assert "low and high" in printed.out
    assert "(78.36)" in printed.out
    assert "frequency-none/fold1: started" in printed.err
    with (out / "table.csv").open() as file:
        rows = {row["row"] for row in csv.DictReader(file)}
    assert rows == {"without frequency", "only low", "only high", "low and high"}
    assert _aes(*words, "--quiet") == 0  # everything is kept
    assert "low and high" in capsys.readouterr().out
    text = page([out])
    assert "aes ablate --study frequency --preset momamba-frozen --data faces --folds 1" in text
    assert str(tmp_path) not in text
    assert "| only high |" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--study", "modules", "--preset", "momamba-frozen"], 2, "--data is needed"),
        (["--study", "modules", "--preset", "momamba-frozen", "--data", "absent"], 2, "--out is needed"),
        (
            ["--study", "modules", "--preset", "momamba-frozen", "--data", "absent", "--out", "o"],
            1,
            "does not exist",
        ),
        (["--study", "mba", "--preset", "momamba-frozen", "--dry-run"], 2, "study mba is about aesmamba"),
        (
            ["--study", "modules", "--preset", "momamba-frosen", "--dry-run"],
            2,
            "did you mean 'momamba-frozen'",
        ),
        (["--study", "top-k", "--preset", "momamba-frozen", "--folds", "1,x", "--dry-run"], 2, "--folds 1,x"),
        (["--study", "top-k", "--preset", "momamba-frozen", "--folds", "1,1", "--dry-run"], 2, "--folds 1,1"),
        (["--study", "modul", "--preset", "momamba-frozen"], 2, "modul"),
    ],
)
def test_mistakes_get_one_line(words, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _aes("ablate", *words) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_no_plot_without_matplotlib_and_a_word_about_it(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["ablate", "--study", "groups", "--preset", "momamba-frozen", *SMALL, "--set", "train.epochs=1"]
    assert _aes(*words, "--data", faces, "--folds", 1, "--out", tmp_path / "out") == 0
    assert "pip install 'aescli[report]'" in capsys.readouterr().err
    assert (tmp_path / "out" / "table.md").is_file()
    assert not (tmp_path / "out" / "plot.png").exists()


def test_a_page_of_a_folder_without_a_study_says_so(tmp_path):
    with pytest.raises(AesError, match="holds no study"):
        page([tmp_path])
