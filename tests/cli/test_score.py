"""`aes score` from the command line to the files, with a stand-in for the model (see
tests/scoring/fake_model.py)."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "scoring"), str(TESTS / "data")]

from fake_model import FakePredictor, load_fake  # noqa: E402
from hostile import BAD, GOOD  # noqa: E402

from aescli.cli import main  # noqa: E402
from aescli.cli.common import count  # noqa: E402

PROGRAM = [sys.executable, str(TESTS / "scoring" / "fake_model.py"), "score"]
PHOTOS = TESTS / "photos"


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr("aescli.scoring.predictor.load_predictor", load_fake)


@pytest.fixture
def aes(capfdbinary):
    """Run `aes score` in this process: (exit code, standard output, standard error)."""

    def run(*args: object) -> tuple[int, bytes, str]:
        with pytest.raises(SystemExit) as stop:
            main(["score", *map(str, args)])
        captured = capfdbinary.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err.decode("utf-8", "surrogateescape")

    return run


@pytest.fixture
def folder(tmp_path):
    """40 grey pictures, each of its own brightness."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(40):
        Image.new("L", (40, 40), 6 * k).save(folder / f"{k:02d}.png")
    return folder


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")))


# -- what comes out --------------------


def test_rows_on_standard_output_and_words_on_standard_error(aes, folder):
    code, out, err = aes(folder, "--faces", "none")
    assert code == 0
    table = rows(out)
    assert [Path(r["path"]).name for r in table] == [f"{k:02d}.png" for k in range(40)]
    assert [r["score"] for r in table] == [f"{1 + 4 * 6 * k / 255:.4f}" for k in range(40)]
    assert all(r["face"] == r["face_index"] == r["error"] == "" for r in table)
    assert err.startswith("aes: 40 images: 40 scored (")
    assert err.count("\n") == 1


def test_quiet_and_extra_columns(aes, folder):
    code, out, err = aes(
        folder, "--faces", "none", "--quiet", "--probabilities", "--normalize", "-f", "jsonl"
    )
    assert (code, err) == (0, "")
    first = json.loads(out.splitlines()[-1])
    assert abs(first["score_100"] - 100 * 234 / 255) < 0.02
    assert abs(sum(first[f"p_{k}"] for k in range(1, 6)) - 1) < 1e-3
    assert first["class_prob"] == max(first[f"p_{k}"] for k in range(1, 6))


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_formats_by_suffix_hold_the_same(aes, folder, tmp_path, suffix):
    out = tmp_path / f"scores.{suffix}"
    assert aes(folder, "--faces", "none", "-o", out)[0] == 0
    if suffix == "csv":
        scores = [float(r["score"]) for r in rows(out.read_bytes())]
    elif suffix == "json":
        scores = [r["score"] for r in json.loads(out.read_text())]
    elif suffix == "jsonl":
        scores = [json.loads(line)["score"] for line in out.read_text().splitlines()]
    else:
        scores = pytest.importorskip("pyarrow.parquet").read_table(out)["score"].to_pylist()
    assert scores == [round(1 + 4 * 6 * k / 255, 4) for k in range(40)]
    assert os.listdir(tmp_path) == ["in", out.name] or sorted(os.listdir(tmp_path)) == ["in", out.name]


def test_the_same_bytes_for_every_batch_size_and_worker_count(aes, folder):
    for k, build in enumerate(BAD.values()):
        if k % 3 == 0:
            build(folder)
    first = aes(folder, "--faces", "none", "--batch-size", 1, "--workers", 1)[1]
    assert first.count(b"\n") > 41
    for batch_size, workers in [(3, 4), ("auto", "auto"), (100, 2)]:
        assert aes(folder, "--faces", "none", "--batch-size", batch_size, "--workers", workers)[1] == first


def test_a_table_of_the_best(aes, folder, tmp_path):
    code, out, err = aes(folder, "--faces", "none", "--format", "table", "--top", 3)
    assert code == 0
    lines = out.decode().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert [line.split()[-1][-6:] for line in lines[1:]] == ["39.png", "38.png", "37.png"]
    code, out, err = aes(folder, "--faces", "none", "--out", tmp_path / "s.csv", "--top", 2)
    assert out == b""
    assert "39.png" in err
    assert "37.png" not in err


def test_a_gallery_of_a_run(aes, folder, tmp_path):
    page = tmp_path / "g.html"
    (folder / "bad.png").write_bytes(b"")
    code, _, err = aes(folder, "--faces", "none", "--gallery", page)
    assert code == 0
    assert "aes: gallery: " in err
    text = page.read_text()
    assert text.count('"score":') == 41
    assert text.index("39.png") < text.index("00.png") < text.index("bad.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.html", "in"]
    assert (
        "--no-clobber"
        in aes(folder, "--faces", "none", "--gallery", page, "-o", tmp_path / "s.csv", "--no-clobber")[2]
    )
    assert "is a folder" in aes(folder, "--gallery", tmp_path)[2]


def test_a_gallery_of_failures_only_is_written_too(aes, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    code, _, err = aes(tmp_path / "bad.png", "--gallery", tmp_path / "g.html")
    assert code == 1
    assert "aes: gallery: " in err
    assert "no image could be scored" in err
    assert (tmp_path / "g.html").read_text().count('"score":') == 1


def test_where_picks_rows_files_and_stars(aes, folder, tmp_path):
    out, best = tmp_path / "s.csv", tmp_path / "best"
    words = [folder, "--faces", "none", "--where", "score > 4.2", "--copy-to", best, "--xmp", "-o", out]
    code, _, err = aes(*words, "--gallery", tmp_path / "g.html", "--top", 2)
    assert code == 0
    names = [f"{k:02d}.png" for k in range(40) if round(1 + 24 * k / 255, 4) > 4.2]
    assert [Path(r["path"]).name for r in rows(out.read_bytes())] == names
    assert sorted(os.listdir(best)) == sorted(n + s for n in names for s in ("", ".xmp"))
    assert len(os.listdir(folder)) == 40
    assert (tmp_path / "g.html").read_text().count('"score":') == len(names)
    assert f"aes: {len(names)} images match 'score > 4.2'" in err
    assert "aes: 40 images: 40 scored" in err
    assert aes(*words)[0] == 0  # again: nothing twice
    assert len(os.listdir(best)) == 2 * len(names)
    code, piped, _ = aes(folder, "--faces", "none", "--where", "score > 4.2", "--quiet")
    assert [r["path"] for r in rows(piped)] == [r["path"] for r in rows(out.read_bytes())]


def test_a_condition_changes_nothing_of_what_is_resumed(aes, folder, tmp_path):
    from aescli.scoring.journal import Journal, journal_path

    out = tmp_path / "s.csv"
    words = [folder, "--faces", "none", "-o", out, "--batch-size", 4]
    aes(*words)
    whole = out.read_bytes()
    discard, Journal.discard = Journal.discard, Journal.close
    try:
        aes(*words, "--where", "score > 4")
    finally:
        Journal.discard = discard
    assert journal_path(out).exists()
    assert out.read_bytes() != whole
    _, _, err = aes(*words, "--resume")
    assert "40 of them in an earlier run" in err
    assert out.read_bytes() == whole


def test_wrong_conditions_exit_2_before_anything_is_scored(aes, folder, tmp_path):
    code, out, err = aes(folder, "--where", "scor >= 4", "--copy-to", tmp_path / "best")
    assert (code, out) == (2, b"")
    assert "is it score?" in err
    assert not (tmp_path / "best").exists()


def test_parts_of_a_folder_together_are_the_folder(aes, folder, tmp_path):
    whole = rows(aes(folder, "--faces", "none")[1])
    parts = []
    for k in (1, 2, 3):
        out = tmp_path / f"{k}.csv"
        assert aes(folder, "--faces", "none", "--shard", f"{k}/3", "-o", out)[0] == 0
        parts += rows(out.read_bytes())
    assert sorted(parts, key=lambda r: r["path"]) == whole
    code, out, err = aes(folder / "00.png", "--faces", "none", "--shard", "1/2")
    other = aes(folder / "00.png", "--faces", "none", "--shard", "2/2")
    assert {code, other[0]} == {0}
    assert sum("has no images" in text for text in (err, other[2])) == 1
    assert aes(folder, "--shard", "0/3")[0] == 2


def test_every_option_states_the_default_it_has():
    from aescli.cli import load_command

    shown = {None: None, False: "off", True: "on"}
    for option in load_command("score").params:
        if option.param_type_name == "option" and option.name != "help":
            stated = option.help.rpartition("(default: ")[2].rstrip(").").split(",")[0]
            default = getattr(option.default, "value", option.default)
            expected = shown.get(default, default)
            if expected is not None:
                assert stated == expected, option.name
    assert (count("auto", 3), count("5", 3)) == (3, 5)


# -- real photos --------------------


@pytest.mark.skipif(not PHOTOS.is_dir() or not any(PHOTOS.iterdir()), reason="tests/photos is missing")
def test_faces_in_whole_photos(aes):
    code, out, err = aes(PHOTOS)
    assert code == 0
    table = rows(out)
    with_face = [r for r in table if not r["error"]]
    without = [r for r in table if r["error"]]
    assert with_face
    assert {r["error"] for r in without} == {"no face found"}
    for r in with_face:
        x1, y1, x2, y2 = map(int, r["face"].split(";"))
        with Image.open(r["path"]) as image:
            assert 0 <= x1 < x2 <= max(image.size)
            assert 0 <= y1 < y2 <= max(image.size)
        assert r["face_index"] == "0"
    assert f"{len(without)} without a face" in err


def test_a_portrait_among_others_fails_only_with_strict(aes, folder):
    """Grey squares have no face: rows that say so, not scores."""
    code, out, err = aes(folder)
    assert code == 1  # not one score
    assert {r["error"] for r in rows(out)} == {"no face found"}
    assert "no image could be scored; the first: " in err
    assert "--faces none" in err


# -- files that are odd --------------------


@pytest.fixture
def hostile(tmp_path):
    """A folder with every odd file; (folder, paths that must have a score, paths that must have an error)."""
    good, bad = [], []
    for name, build in GOOD.items():
        place = tmp_path / "hostile" / f"good-{name}"
        place.mkdir(parents=True)
        good.append(build(place))
    for name, build in BAD.items():
        place = tmp_path / "hostile" / f"bad-{name}"
        place.mkdir()
        bad.append(build(place))
    return tmp_path / "hostile", good, bad


def test_every_odd_file_has_its_row_and_all_others_their_score(aes, hostile, tmp_path):
    _, good, bad = hostile
    bad = [path for path in bad if not path.is_dir()]
    listing = tmp_path / "list.txt"
    mixed = [path for pair in zip(good, bad, strict=False) for path in pair]
    mixed += [*good[len(bad) :], *bad[len(good) :]]
    listing.write_bytes(b"\0".join(os.fsencode(p) for p in mixed) + b"\0")
    out = tmp_path / "scores.csv"
    code, _, err = aes(f"@{listing}", "--faces", "none", "-o", out)
    assert code == 0
    table = rows(out.read_bytes())
    assert [r["path"] for r in table] == [str(p) for p in mixed]
    by_path = {r["path"]: r for r in table}
    for path in good:
        assert by_path[str(path)]["error"] == "", path
        assert 1 <= float(by_path[str(path)]["score"]) <= 5, path
    for path in bad:
        assert by_path[str(path)]["score"] == "", path
        assert len(by_path[str(path)]["error"]) > 10, path
    assert f"{len(good)} scored, {len(bad)} failed" in err


def test_strict_counts_a_bad_file_as_failure_but_writes_all(aes, folder, tmp_path):
    BAD["empty"](folder)
    out = tmp_path / "s.csv"
    code, _, err = aes(folder, "--faces", "none", "-o", out, "--strict")
    assert code == 1
    assert "--strict: 1 of 41 images without a score; the first: " in err
    assert "0 bytes" in err
    assert len(rows(out.read_bytes())) == 41


def test_all_failed_is_1_and_replaces_nothing(aes, tmp_path):
    bad = BAD["empty"](tmp_path)
    out = tmp_path / "s.csv"
    out.write_text("old")
    code, _, err = aes(bad, "-o", out)
    assert code == 1
    assert out.read_text() == "old"
    assert "was left as it was" in err
    assert sorted(os.listdir(tmp_path)) == ["empty.jpg", "s.csv"]


def test_an_empty_folder_and_a_missing_one(aes, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = aes(tmp_path / "empty", "-o", tmp_path / "s.csv")
    assert code == 1
    assert "no images were found" in err
    assert os.listdir(tmp_path) == ["empty"]
    code, out, err = aes(tmp_path / "missing")
    assert (code, out) == (1, b"")
    assert err.startswith("aes: error: ")
    assert err.count("\n") == 1


def test_names_of_every_kind(aes, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [b"caf\xc3\xa9.png", b"latin-\xe9.png", b"line\nbreak.png", b"cr\rret.png", b'quo"te,comma.png']
    names += ["日本🙂.png".encode(), b"-dash.png", b" space .png", b"n" * 250 + b".png"]
    for k, name in enumerate(names):
        Image.new("L", (8, 8), 20 * k).save(folder / "x.png")
        os.rename(folder / "x.png", os.path.join(os.fsencode(folder), name))
    out = tmp_path / "s.csv"
    code, _, _ = aes(folder, "--faces", "none", "-o", out)
    assert code == 0
    found = {os.fsencode(os.path.basename(r["path"])): float(r["score"]) for r in rows(out.read_bytes())}
    assert found == {name: round(1 + 4 * 20 * k / 255, 4) for k, name in enumerate(names)}
    code, data, _ = aes(folder, "--faces", "none", "-f", "json")
    assert {os.fsencode(os.path.basename(r["path"])) for r in json.loads(data)} == set(names)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folders_and_files(aes, folder):
    (folder / "closed").mkdir(mode=0)
    (folder / "00.png").chmod(0)
    code, _, err = aes(folder, "--faces", "none")
    assert code == 0
    assert "39 scored, 2 failed" in err


# -- outputs that refuse --------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(aes, folder):
    code, _, err = aes(folder, "--faces", "none", "-o", "/dev/full")
    assert code == 1
    assert err == "aes: error: cannot write to /dev/full: No space left on device\n"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, folder, "--faces", "none"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"aes: error: cannot write to standard output: No space left on device\n"


def test_a_disk_that_fills_up_leaves_nothing_half_written(aes, folder, tmp_path, monkeypatch):
    out = tmp_path / "s.csv"
    out.write_text("old")
    real, written = os.pwrite, 0

    def filling(descriptor, data, offset):
        nonlocal written
        if written + len(data) > 4000:
            raise OSError(28, "No space left on device")
        written += len(data)
        return real(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", filling)
        code, _, err = aes(folder, "--faces", "none", "-o", out)
    assert code == 1
    assert err.count("\n") == 1
    assert "no space left on the device; make room and run again with --resume" in err
    assert out.read_text() == "old"
    code, _, err = aes(folder, "--faces", "none", "-o", out, "--resume")
    assert code == 0
    assert "of them in an earlier run" in err
    assert len(rows(out.read_bytes())) == 40


@pytest.mark.parametrize(
    ("out", "code", "why"),
    [
        ("nowhere/s.csv", 1, "does not exist; create it first"),
        ("", 1, "is a folder"),
        ("s.txt", 2, "--format"),
    ],
)
def test_outputs_that_cannot_be(aes, folder, tmp_path, out, code, why):
    before = sorted(os.listdir(tmp_path))
    got, _, err = aes(folder, "-o", f"{tmp_path}/{out}", *(["-f", "csv"] if out == "" else []))
    assert got == code
    assert why in err
    assert err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_no_photo_and_nothing_that_is_read_is_ever_replaced(aes, folder, tmp_path, monkeypatch):
    """Every way to name what must stay as an output: exit 2, one line, and nothing has changed."""
    monkeypatch.chdir(tmp_path)
    photo, hidden = folder / "00.png", tmp_path / "photo without suffix"
    hidden.write_bytes(photo.read_bytes())
    (tmp_path / "link.csv").symlink_to(photo)
    (tmp_path / "page.html").symlink_to(hidden)
    (tmp_path / "list.txt").write_text(f"{photo}\n")
    (tmp_path / "c.csv").write_text("image,comment\n00.png,fine\n")
    before = {p: p.read_bytes() for p in [*folder.iterdir(), *tmp_path.iterdir()] if p.is_file()}
    an_image = "an image is never replaced by results"
    for words, why in (
        (["--out", photo, "-f", "csv"], an_image),
        (["--out", "new.JPG", "-f", "csv"], an_image),
        (["--out", hidden, "-f", "csv"], an_image),
        (["--out", "link.csv"], an_image),
        (["--gallery", photo], "give a name that ends in .html"),
        (["--gallery", "page.html"], an_image),
        (["--gallery", "-"], "a page needs a file"),
        (["--out", "list.txt", "-f", "csv"], "this file is read by the run"),
        (["--out", "c.csv", "--comments", "c.csv"], "this file is read by the run"),
        (["--out", "x.html", "-f", "csv", "--gallery", "./x.html"], "name the same file"),
        (["--out", "s3://bucket/s.csv"], "--out s3://bucket/s.csv: cannot be an address"),
        (
            ["--out", "s3://bucket/scores", "--engine", "ray"],
            "cannot be an address; write to a file and copy",
        ),
        (["--gallery", "s3://bucket/g.html"], "--gallery s3://bucket/g.html: cannot be an address"),
    ):
        code, out, err = aes(folder, "@list.txt", "--faces", "none", *words)
        assert (code, out, err.count("\n")) == (2, b"", 1), err
        assert why in err
        assert {p: p.read_bytes() for p in [*folder.iterdir(), *tmp_path.iterdir()] if p.is_file()} == before


def test_files_in_a_store_are_neither_linked_to_nor_rated_in_place(aes):
    code, _, err = aes("memory://b/a.png", "--xmp")
    assert (code, "--xmp: nothing is written beside memory://b/a.png; add --copy-to" in err) == (2, True)
    code, _, err = aes("memory://b/a.png", "--link-to", "links")
    assert (code, "cannot be linked to; use --copy-to" in err) == (2, True)


def test_picks_that_lie_among_the_input_are_counted(aes, folder):
    code, _, err = aes(folder, "--faces", "none", "--copy-to", folder / "best", "--where", "score > 4.5")
    assert (code, "40 images" in err, "passed over" in err) == (0, True, False)
    code, out, err = aes(folder, "--faces", "none", "--copy-to", folder / "best", "--where", "score > 4.5")
    picked = len(os.listdir(folder / "best"))
    assert (code, len(rows(out))) == (0, picked)
    assert f"aes: {picked} images in that folder itself passed over" in err
    code, out, err = aes(folder / "00.png", "--faces", "none", "--copy-to", folder)
    assert code == 1
    assert f"all 1 image found lie in --copy-to {folder} itself" in err


def test_an_interrupted_run_that_is_not_continued_is_named(aes, folder, tmp_path, monkeypatch):
    out = tmp_path / "s.csv"
    with monkeypatch.context() as patch:
        patch.setattr("fake_model.FakePredictor.predict", _interrupted_after(5))
        assert aes(folder, "--faces", "none", "-o", out, "--workers", 1)[0] == 130
    kept = (tmp_path / "s.csv.journal").read_bytes().count(b"\n") - 1
    code, _, err = aes(folder, "--faces", "none", "-o", out)
    assert code == 0
    assert kept > 0
    assert f"aes: starting again; {kept} images of an interrupted run are given up" in err
    assert "given up" not in aes(folder, "--faces", "none", "-o", out)[2]


def _interrupted_after(batches: int):
    predict, seen = FakePredictor.predict, []

    def predict_or_stop(self, images, texts=()):
        seen.append(len(images))
        if len(seen) > batches:
            raise KeyboardInterrupt
        return predict(self, images, texts)

    return predict_or_stop


def test_options_that_need_a_file(aes, folder):
    for option in ("--resume", "--no-clobber"):
        code, _, err = aes(folder, option)
        assert code == 2
        assert f"{option} needs --out FILE" in err
    assert aes(folder, "-o", "x.csv", "-f", "table")[0] == 2


def test_no_clobber(aes, folder, tmp_path):
    out = tmp_path / "s.csv"
    assert aes(folder, "--faces", "none", "-o", out, "--no-clobber")[0] == 0
    before = out.read_bytes()
    code, _, err = aes(folder, "--faces", "none", "-o", out, "--no-clobber")
    assert code == 1
    assert "--no-clobber" in err
    assert out.read_bytes() == before


def test_a_reader_that_has_seen_enough(folder):
    for k in range(40, 400):
        os.link(folder / "00.png", folder / f"{k}.png")
    with subprocess.Popen(
        [*PROGRAM, folder, "--faces", "none"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as p:
        p.stdout.readline()
        p.stdout.close()
        err = p.stderr.read()
    assert (p.returncode, err) == (0, b"")


# -- runs that are broken off --------------------


def start(folder: Path, out: Path, *more: str, delay: float = 0.1) -> subprocess.Popen:
    """A run in a process of its own that has finished a few batches and is not near its end."""
    command = [*PROGRAM, folder, "--faces", "none", "-o", out, "--workers", "1", *more]
    environment = {**os.environ, "AES_FAKE_DELAY": str(delay)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal = out.with_name(out.name + ".journal")
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 9:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.fixture
def expected(aes, folder, tmp_path):
    """The output of an unbroken run."""
    (tmp_path / "whole").mkdir()
    assert aes(folder, "--faces", "none", "-o", tmp_path / "whole" / "s.csv")[0] == 0
    return (tmp_path / "whole" / "s.csv").read_bytes()


def test_kill_9_then_resume_gives_the_same_bytes(aes, folder, tmp_path, expected):
    out = tmp_path / "s.csv"
    out.write_text("old")
    process = start(folder, out)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert out.read_text() == "old"
    # The rename that ends a run is what a kill could hit worst: a torn line at the end, as if it had just
    # been written.
    with open(f"{out}.journal", "ab") as journal:
        journal.write(b'0badc0de {"path":"torn')
    code, _, err = aes(folder, "--faces", "none", "-o", out, "--resume")
    assert code == 0
    assert "of them in an earlier run" in err
    earlier = int(err.split(" of them in an earlier run")[0].split()[-1])
    assert 8 <= earlier < 40
    assert out.read_bytes() == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "s.csv", "whole"]


def test_kill_9_again_and_again(folder, tmp_path, expected):
    out = tmp_path / "s.csv"
    for _ in range(2):
        process = start(folder, out, "--resume")
        time.sleep(0.25)
        process.kill()
        process.communicate()
    done = subprocess.run(
        [*PROGRAM, folder, "--faces", "none", "-o", out, "--resume"], capture_output=True, check=True
    )
    assert b"of them in an earlier run" in done.stderr
    assert out.read_bytes() == expected


def test_ctrl_c_is_130_and_says_how_to_go_on(aes, folder, tmp_path, expected):
    out = tmp_path / "s.csv"
    process = start(folder, out)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b"aes: stopped; the same command with --resume continues\n"
    assert not out.exists()
    assert aes(folder, "--faces", "none", "-o", out, "--resume")[0] == 0
    assert out.read_bytes() == expected


def test_ctrl_c_without_a_file(folder):
    environment = {**os.environ, "AES_FAKE_DELAY": "0.1"}
    command = [*PROGRAM, folder, "--faces", "none", "--workers", "1"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b"aes: stopped\n"


def test_two_runs_on_one_file(aes, folder, tmp_path, expected):
    out = tmp_path / "s.csv"
    first = start(folder, out, delay=0.15)
    for option in ([], ["--resume"]):
        code, _, err = aes(folder, "--faces", "none", "-o", out, *option)
        assert code == 1
        assert err == f"aes: error: another run is writing {out}; wait until it ends or give another --out\n"
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert out.read_bytes() == expected


def test_resume_with_other_options_explains(aes, folder, tmp_path):
    out = tmp_path / "s.csv"
    process = start(folder, out)
    process.kill()
    process.communicate()
    for option, words in [
        (["--faces", "all"], "it was begun with --faces none, this run has all"),
        (["--faces", "none", "--model", "other"], "it was begun with model fake-1, this run has fake-other"),
    ]:
        code, _, err = aes(folder, "-o", out, "--resume", *option)
        assert code == 1
        assert words in err
        assert err.count("\n") == 1


def test_resume_of_nothing_starts_and_says_so(aes, folder, tmp_path):
    code, _, err = aes(folder, "--faces", "none", "-o", tmp_path / "s.csv", "--resume")
    assert code == 0
    assert "nothing to resume" in err
    assert len(rows((tmp_path / "s.csv").read_bytes())) == 40


def test_the_list_of_paths_on_standard_input(folder):
    paths = b"\n".join(os.fsencode(p) for p in sorted(folder.iterdir())[:3])
    done = subprocess.run([*PROGRAM, "-", "--faces", "none"], input=paths, capture_output=True, check=True)
    assert done.stdout.count(b"\n") == 4


def test_a_model_for_whole_images_needs_no_faces(aes, folder, monkeypatch):
    monkeypatch.setattr("fake_model.FakePredictor.preprocessing.faces", False)
    code, out, _ = aes(folder)
    assert code == 0
    assert len(rows(out)) == 40
    code, _, err = aes(folder, "--faces", "all")
    assert code == 2
    assert "scores whole images" in err


def test_decoding_agrees_with_the_pixels(aes, tmp_path):
    """A picture large enough to be reduced while decoding has the score of its full pixels."""
    ramp = np.tile(np.linspace(0, 255, 1200, dtype=np.uint8), (900, 1))
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "ramp.jpg", quality=95)
    code, out, _ = aes(tmp_path / "ramp.jpg", "--faces", "none")
    assert code == 0
    letterboxed = (24 * ramp.mean() + 8 * 127) / 32
    assert abs(float(rows(out)[0]["score"]) - (1 + 4 * letterboxed / 255)) < 0.02
