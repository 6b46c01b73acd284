import io
import os

import pytest

from aescli.data.finding import Found
from aescli.errors import AesError
from aescli.scoring.output import FileOutput, StreamOutput
from aescli.scoring.rows import ImageResult, Layout, Row, scored_row
from aescli.scoring.writers import open_writer

OPTIONS = {"model": "m"}


def result(path) -> ImageResult:
    stat = os.stat(path)
    score = 1 + stat.st_size % 40 / 10
    return ImageResult(
        str(path), [scored_row(str(path), 0, None, score, [1.0])], stat.st_size, stat.st_mtime_ns
    )


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    paths = [folder / f"{k}.jpg" for k in range(8)]
    for k, path in enumerate(paths):
        path.write_bytes(b"x" * (k + 1))
    return paths


def score(output, files, *, stop: int | None = None) -> list[str]:
    """Score in batches of two; break off after `stop` images. What had to be scored."""
    asked = []
    pending = []
    for found in output.remaining([Found(str(p)) for p in files], lambda known: None):
        asked.append(found.path)
        pending.append(result(found.path))
        if len(pending) == 2:
            output.add(pending)
            pending = []
        if len(asked) == stop:
            output.abort()
            return asked
    output.add(pending)
    output.finish(scored=True)
    return asked


@pytest.fixture
def expected(tmp_path, files):
    path = tmp_path / "expected.csv"
    score(FileOutput(str(path), "csv", Layout(), OPTIONS), files)
    return path.read_bytes()


def test_the_file_appears_whole_and_alone(tmp_path, files):
    out = tmp_path / "out.csv"
    output = FileOutput(str(out), "csv", Layout(), OPTIONS)
    assert sorted(os.listdir(tmp_path)) == ["in", "out.csv.journal"]
    score(output, files)
    assert sorted(os.listdir(tmp_path)) == ["in", "out.csv"]
    assert out.read_text().count("\n") == 9


def test_an_existing_output_stays_until_the_end_and_keeps_its_mode(tmp_path, files):
    out = tmp_path / "out.csv"
    out.write_text("old")
    out.chmod(0o640)
    score(FileOutput(str(out), "csv", Layout(), OPTIONS), files, stop=5)
    assert out.read_text() == "old"
    score(FileOutput(str(out), "csv", Layout(), OPTIONS, resume=True), files)
    assert out.read_text().startswith("path,")
    assert out.stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_stays_one(tmp_path, files):
    (tmp_path / "real").mkdir()
    link = tmp_path / "out.csv"
    link.symlink_to(tmp_path / "real" / "data.csv")
    score(FileOutput(str(link), "csv", Layout(), OPTIONS), files)
    assert link.is_symlink()
    assert (tmp_path / "real" / "data.csv").read_text().startswith("path,")


def test_resume_asks_for_nothing_twice_and_gives_the_same_bytes(tmp_path, files, expected):
    out = tmp_path / "out.csv"
    first = score(FileOutput(str(out), "csv", Layout(), OPTIONS), files, stop=5)
    rest = score(FileOutput(str(out), "csv", Layout(), OPTIONS, resume=True), files)
    assert first == [str(p) for p in files[:5]]
    assert rest == [str(p) for p in files[4:]]  # the fifth was in no whole batch
    assert out.read_bytes() == expected


def test_resume_after_images_came_went_and_changed(tmp_path, files):
    out = tmp_path / "out.csv"
    score(FileOutput(str(out), "csv", Layout(), OPTIONS), files, stop=6)
    files[1].write_bytes(b"y" * 30)
    files[2].unlink()
    new = files[0].with_name("00.jpg")
    new.write_bytes(b"new")
    now = [new, *files[:2], *files[3:]]
    asked = score(FileOutput(str(out), "csv", Layout(), OPTIONS, resume=True), now)
    assert asked == [str(p) for p in (new, files[1], files[6], files[7])]
    again = tmp_path / "again.csv"
    score(FileOutput(str(again), "csv", Layout(), OPTIONS), now)
    assert out.read_bytes() == again.read_bytes()


def test_an_interrupted_run_can_end_in_another_format(tmp_path, files):
    out = tmp_path / "out.csv"
    score(FileOutput(str(out), "csv", Layout(), OPTIONS), files, stop=4)
    layout = Layout(normalize=True)
    assert len(score(FileOutput(str(out), "jsonl", layout, OPTIONS, resume=True), files)) == 4
    assert out.read_text().count('"score_100"') == 8


def test_no_clobber(tmp_path, files):
    out = tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(AesError, match="exists and --no-clobber"):
        FileOutput(str(out), "csv", Layout(), OPTIONS, no_clobber=True)
    out.unlink()
    output = FileOutput(str(out), "csv", Layout(), OPTIONS, no_clobber=True)
    out.write_text("somebody was faster")
    with pytest.raises(AesError, match="exists and --no-clobber"):
        score(output, files)
    assert out.read_text() == "somebody was faster"
    output.abort()
    assert len(score(FileOutput(str(out), "csv", Layout(), OPTIONS, resume=True), files)) == 0


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_full_disk_at_the_end_leaves_the_old_output_and_the_work(
    tmp_path, files, expected, monkeypatch, format
):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / "out.csv"
    out.write_text("old")
    output = FileOutput(str(out), format, Layout(), OPTIONS)
    real = os.fsync

    def full(descriptor):
        if os.path.samestat(os.fstat(descriptor), os.stat(tmp_path / "out.csv.partial")):
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AesError, match=r"cannot write .*out\.csv: no space left on the device.*--resume"):
            score(output, files)
        output.abort()
    assert out.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["expected.csv", "in", "out.csv", "out.csv.journal"]
    assert score(FileOutput(str(out), "csv", Layout(), OPTIONS, resume=True), files) == []
    assert out.read_bytes() == expected


def test_a_full_disk_in_between_is_one_line(tmp_path, files, monkeypatch):
    output = FileOutput(str(tmp_path / "out.csv"), "csv", Layout(), OPTIONS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(AesError, match=r"out\.csv\.journal: no space left on the device"):
        score(output, files)
    output.abort()
    assert os.listdir(tmp_path) == ["in"]  # not one image was done: nothing to keep


@pytest.mark.parametrize(
    ("name", "why"), [("gone/out.csv", "does not exist; create it"), ("x" * 300, "too long")]
)
def test_places_that_cannot_be_written(tmp_path, name, why):
    with pytest.raises(AesError, match=why):
        FileOutput(str(tmp_path / name), "csv", Layout(), OPTIONS)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AesError, match="no permission to write"):
        FileOutput(str(tmp_path / "out.csv"), "csv", Layout(), OPTIONS)


@pytest.mark.parametrize("code", [13, 30])
def test_a_read_only_place_for_everybody(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AesError, match=r"no permission to write|read-only file system"):
        FileOutput(str(tmp_path / "out.csv"), "csv", Layout(), OPTIONS)


def test_a_folder_is_no_output(tmp_path):
    with pytest.raises(AesError, match="is a folder; give a file name"):
        FileOutput(str(tmp_path), "csv", Layout(), OPTIONS)


def test_a_folder_where_the_journal_should_be_is_named(tmp_path):
    (tmp_path / "out.csv.journal").mkdir()
    with pytest.raises(AesError, match="it or its journal is a folder"):
        FileOutput(str(tmp_path / "out.csv"), "csv", Layout(), OPTIONS)


def test_a_run_without_a_score_replaces_nothing(tmp_path, files):
    out = tmp_path / "out.csv"
    bad = ImageResult(str(files[0]), [Row(str(files[0]), error="broken")])
    for before in (None, "old"):
        if before:
            out.write_text(before)
        output = FileOutput(str(out), "csv", Layout(), OPTIONS)
        list(output.remaining([Found(str(files[0]))], lambda known: None))
        output.add([bad])
        output.finish(scored=False)
        assert output.replaced is (before is None)
        assert not output.journal.path.exists()
        assert "broken" in out.read_text() if before is None else out.read_text() == before


def test_a_stream_gets_rows_as_they_come(files):
    file = io.BytesIO()
    output = StreamOutput(file, open_writer("jsonl", file, Layout()))
    output.add([result(files[0])])
    assert file.getvalue().count(b"\n") == 1
    output.add([result(files[1])])
    output.finish(scored=True)
    assert file.getvalue().count(b"\n") == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_stream_is_one_line(files):
    with open("/dev/full", "wb") as file:
        output = StreamOutput(file, open_writer("csv", file, Layout()), "/dev/full", close=True)
        with pytest.raises(AesError, match="cannot write to /dev/full: No space left"):
            output.add([result(files[0])])
        output.abort()
