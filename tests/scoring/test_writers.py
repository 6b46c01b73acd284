import csv
import io
import json
import os

import pytest

from aescli.errors import UsageError
from aescli.scoring.rows import Layout, Row, scored_row
from aescli.scoring.writers import TopTable, format_for, open_writer

NAMES = [
    "plain.jpg",
    "comma, quote\" and 'more'.jpg",
    "line\nbreak.jpg",
    "carriage\rreturn.jpg",
    "both\r\n.jpg",
    " spaces .jpg",
    "日本語 ünïcode 🙂.jpg",
    os.fsdecode(b"latin-\xe9\xff.jpg"),
    "x" * 4000 + ".jpg",
    "[bold]markup[/bold].jpg",
]
ROWS = [scored_row(name, 0, (1, 2, 3, 4), 1 + k / 3, [0.2] * 5) for k, name in enumerate(NAMES)]
ROWS.append(Row("broken.jpg", error='the file, it says "empty"'))


def written(format: str, rows=ROWS, layout=None) -> bytes:
    file = io.BytesIO()
    writer = open_writer(format, file, layout or Layout())
    for start in range(0, len(rows), 3):
        writer.write(rows[start : start + 3])
    writer.close()
    return file.getvalue()


def test_csv_gives_every_path_back():
    text = io.StringIO(written("csv").decode("utf-8", "surrogateescape"), newline="")
    records = list(csv.DictReader(text))
    assert [r["path"] for r in records] == [row.path for row in ROWS]
    assert records[-1]["error"] == ROWS[-1].error
    assert records[-1]["score"] == ""
    assert os.fsencode(NAMES[7]) in written("csv")  # the very bytes of the file system


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_json_gives_every_path_back(format):
    data = written(format).decode("utf-8")  # strict: the document itself is valid UTF-8
    records = json.loads(data) if format == "json" else [json.loads(line) for line in data.splitlines()]
    assert [r["path"] for r in records] == [row.path for row in ROWS]
    assert records[1]["score"] == 1.3333
    assert records[-1]["score"] is None
    assert list(records[0]) == list(Layout().columns)


def test_parquet_has_typed_columns_and_several_groups(monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("aescli.scoring.writers.ParquetWriter.GROUP", 4)
    file = pq.ParquetFile(io.BytesIO(written("parquet", layout=Layout(probabilities=True))))
    assert file.num_row_groups == 3
    records = file.read().to_pylist()
    assert [r["path"] for r in records[:7]] == NAMES[:7]
    assert records[7]["path"] == r"latin-\udce9\udcff.jpg"
    assert records[1]["score"] == 1.3333
    assert records[-1]["class"] is None
    assert str(file.schema_arrow.field("class").type) == "int8"


@pytest.mark.parametrize("format", ["csv", "json", "jsonl", "parquet"])
def test_no_rows_is_a_complete_document(format):
    if format == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        assert pq.read_table(io.BytesIO(written(format, []))).num_rows == 0
    elif format == "json":
        assert json.loads(written(format, [])) == []
    else:
        assert written(format, []).decode() == (
            "" if format == "jsonl" else ",".join(Layout().columns) + "\n"
        )


def test_format_by_suffix_and_terminal():
    assert format_for("a/B.CSV", None, terminal=True) == "csv"
    assert format_for("x.ndjson", None, terminal=False) == "jsonl"
    assert format_for("x.txt", "json", terminal=False) == "json"
    assert format_for(None, None, terminal=True) == "table"
    assert format_for(None, None, terminal=False) == "csv"
    assert format_for("/dev/null", None, terminal=False) == "csv"
    with pytest.raises(UsageError, match=r"scores\.txt.*--format"):
        format_for("scores.txt", None, terminal=True)


def test_table_keeps_the_best_and_prints_names_as_they_are():
    table = TopTable(4, Layout())
    table.write(ROWS)
    assert [row.path for row in table.rows()] == NAMES[:-5:-1]
    out = io.StringIO()
    table.print(out)
    assert "[bold]markup[/bold].jpg" in out.getvalue()
    assert r"latin-\udce9\udcff.jpg" in out.getvalue()
    assert "4.0000" in out.getvalue()


def test_table_takes_the_earlier_of_equals():
    table = TopTable(2, Layout())
    table.write([scored_row(n, 0, None, 3.0, [1.0]) for n in "abcd"])
    assert [row.path for row in table.rows()] == ["a", "b"]
