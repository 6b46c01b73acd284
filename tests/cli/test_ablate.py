"""`aes ablate` as a person types it: a plan without data, a table that fills, and one line for every mistake."""

import csv
import subprocess
import sys
from dataclasses import asdict, replace

import made
import pytest

from aescli.ablation.page import command, page
from aescli.ablation.run import parameter_count, study_presets
from aescli.ablation.studies import STUDIES
from aescli.cli import main
from aescli.errors import AesError
from aescli.models.checkpoint import build_model

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


def test_the_page_is_asked_for_with_folders(tmp_path):
    with pytest.raises(AesError, match="there is no such folder"):
        page([tmp_path / "absent"])
    done = subprocess.run(
        [sys.executable, "-m", "aescli.ablation.page"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


def test_the_printed_command_names_the_images():
    values = {"study": "mba", "preset": "p", "data": ["labels.csv"], "folds": [None], "changes": []}
    assert "--images" not in command(values)
    assert "--data labels.csv --images pictures --out" in command({**values, "images": "pictures"})


def test_a_fold_that_is_not_there_is_said_in_this_commands_words(faces, tmp_path, capsys):
    words = ["ablate", "--study", "frequency", "--preset", "momamba-frozen", *SMALL, "--data", faces]
    assert _aes(*words, "--folds", "1,9", "--out", tmp_path / "out") == 2
    assert "--folds 9: the folds of" in capsys.readouterr().err


def test_an_interrupted_study_says_how_it_goes_on(faces, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("aescli.ablation.run.train_model", interrupted)
    words = ["ablate", "--study", "frequency", "--preset", "momamba-frozen", *SMALL, "--data", faces]
    assert _aes(*words, "--folds", 1, "--out", tmp_path / "out") == 130
    assert "interrupted; start the same command again to continue" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("study", "preset"),
    [("modules", "momamba-frozen"), ("mba", "aesmamba-f-para"), ("top-k", "momamba-lite")],
)
def test_counting_parameters_makes_none(study, preset):
    """The count is that of the model as it is built to be trained."""
    made = study_presets(STUDIES[study], preset, (), 1).popitem()[1]
    model = replace(made.model, encoder=made.model.encoder.without_weights())
    built = build_model({"architecture": made.architecture, "model": asdict(model)})
    assert parameter_count(made) == sum(p.numel() for p in built.parameters())
