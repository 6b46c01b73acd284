"""Rows, spreads, paired intervals and the words about them, against numbers worked out by hand and by scipy."""

import csv
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from aescli.ablation.categories import Change
from aescli.ablation.results import Row, difference, rows_of, run_figures, summarise
from aescli.ablation.studies import STUDIES
from aescli.ablation.table import as_csv, as_markdown, as_rich, differences, footnote, number, spread, verdict

STUDY = STUDIES["modules"]


def _row(label, values, metric="PLCC"):
    return Row(label, {str(i + 1): {metric: v} for i, v in enumerate(values)}, parameters=7)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_summaries_are_numpys(values):
    found = summarise(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert found.n == len(values)


def test_the_interval_is_students_with_the_corrected_variance():
    a, b = np.array([0.90, 0.91, 0.89, 0.92, 0.90]), np.array([0.88, 0.90, 0.885, 0.89, 0.885])
    found = difference(_row("x", a), _row("y", b), "PLCC")
    d = a - b
    scale = d.std(ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    low, high = stats.t.interval(0.95, 4, loc=d.mean(), scale=scale)
    assert (found.mean, found.low, found.high) == pytest.approx((d.mean(), low, high))
    naive = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.low < naive.low  # wider than folds taken for independent


def test_differences_are_paired_by_fold_not_by_place():
    a = Row("x", {"1": {"MAE": 0.5}, "3": {"MAE": 0.7}})
    b = Row("y", {"3": {"MAE": 0.6}, "1": {"MAE": 0.45}, "2": {"MAE": 9.0}})
    found = difference(a, b, "MAE")
    assert found.n == 2
    assert found.mean == pytest.approx(0.075)


def test_one_fold_gives_no_interval_and_is_never_clear():
    found = difference(_row("x", [0.9]), _row("y", [0.1]), "PLCC")
    assert math.isnan(found.low)
    assert not found.clear
    assert differences(STUDY, [_row("multi-task B", [0.9]), _row("multi-task B+D", [0.8])]) == []


def test_words_know_that_errors_are_better_when_lower():
    reference = Row(
        "multi-task B", {str(k): {"PLCC": 0.8 + k / 1000, "MAE": 0.3, "R2": 0.5 + k / 10} for k in (1, 2, 3)}
    )
    row = Row(
        "multi-task B+D",
        {str(k): {"PLCC": 0.7 + k / 999, "MAE": 0.2 + k / 1e4, "R2": 0.6 + k / 20} for k in (1, 2, 3)},
    )
    ((_, found),) = differences(STUDY, [reference, row])
    assert verdict(STUDY, row, found) == (
        "multi-task B+D against multi-task B: better in MAE; worse in PC; undecided in R²."
    )
    text = as_markdown(STUDY, [reference, row])
    assert "**-0.0998**" in text  # MAE
    assert "3 folds." in text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("ACC", 0.78364, "78.36"), ("PLCC", 0.91089, "0.9109"), ("delta_m", 2.114, "+2.11"),
     ("delta_m", -4.0, "-4.00"), ("R2", math.nan, "–")],
)  # fmt: skip
def test_numbers_are_in_the_papers_units(metric, value, text):
    assert number(metric, value) == text


def test_spreads():
    assert spread("ACC", summarise([0.7, 0.8])) == "75.00 ± 7.07"
    assert spread("delta_m", summarise([1.0, 3.0])) == "+2.00 ± 1.41"
    assert spread("MAE", summarise([0.25])) == "0.2500"
    assert spread("MAE", summarise([])) == "–"


def test_rows_hold_several_models_parameters_and_cited_rows_have_none():
    runs = {
        ("single-classification", "1"): {"t": {"ACC": 0.7}},
        ("single-regression", "1"): {"t": {"MAE": 0.3}},
    }
    rows = rows_of(
        STUDY,
        runs,
        STUDY.paper_rows("fbp", "scut-fbp5500"),
        {"single-classification": 3, "single-regression": 4},
    )
    assert rows[0].folds["1"] == {"ACC": 0.7, "MAE": 0.3}
    assert rows[0].parameters == 7
    cited = rows_of(STUDIES["baselines"], {}, STUDIES["baselines"].paper_rows("fbp", "scut-fbp5500"))
    assert [row.label for row in cited[-4:]] == ["P-AaNet", "EN-CNN", "AaNet", "E-BLS"]
    assert "| EN-CNN | – | – | – | – (0.9350) | – | – | – | cited |" in as_markdown(
        STUDIES["baselines"], cited
    )


def test_csv_has_a_line_for_every_known_metric_and_full_precision():
    rows = [_row("multi-task B", [0.1 + 0.2, 0.4])]
    (line,) = csv.DictReader(io.StringIO(as_csv(STUDY, rows)))
    assert float(line["fold_1"]) == 0.1 + 0.2
    assert line["folds"] == "2"
    assert line["paper"] == ""
    assert line["parameters"] == "7"


def test_a_run_without_attributes_or_classes_reports_what_it_has():
    assert run_figures({"n": 3, "classes": {"ACC": 0.5}}) == {"ACC": 0.5}
    found = run_figures(
        {"score": {"PLCC": 0.9, "SRCC": 0.8}, "attributes": {"dof": {"PLCC": 0.5, "SRCC": 0.4}}}
    )
    assert found["PLCC_mean"] == pytest.approx(0.7)
    assert found["SRCC aesthetic"] == 0.8


def test_the_footnote_speaks_of_what_the_table_has_only():
    values = {"ACC": 0.7, "F1": 0.7, "AP": 0.7, "PLCC": 0.8, "MAE": 0.3, "RMSE": 0.4, "R2": 0.5}
    single = Row("single-task B", {"1": dict(values)})
    assert footnote(STUDY, [single]) == (
        "1 fold. No ΔM: it takes every one of ACC, F1, AP, PC, MAE, RMSE, R² of “single-task B” and of another row in "
        "the same fold."
    )
    other = Row("multi-task B", {k: {**values, "delta_m": 1.0} for k in "12"}, paper={"PLCC": 0.9})
    assert footnote(STUDY, [single, other]) == (
        "2 folds. Mean ± standard deviation over the folds; in brackets the paper's own figure. ΔM: against the "
        "single-task row, fold by fold."
    )


def test_a_terminal_says_the_number_of_folds_once():
    rows = [_row(f"multi-task {m}", [0.8, 0.9]) for m in ("B", "B+D")] + [_row("multi-task B+S", [0.8])]
    console = Console(file=io.StringIO(), width=160)
    console.print(as_rich(STUDY, rows))
    assert console.file.getvalue().count("2 folds") == 2, "the caption, and the row that lacks one"
    assert "1 of 2 folds" in console.file.getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("study", "label"), [("modules", "multi-task B"), ("top-k", "2"), ("top-k", "2+")])
def test_a_plot_of_what_there_is_has_its_legend_outside(tmp_path, study, label):
    pytest.importorskip("matplotlib", reason="the report extra (matplotlib) is not installed")
    from aescli.ablation import plots
    from aescli.evaluation.report.style import styled

    rows = [_row(label, [0.8, 0.9])]
    plots.write_plot(STUDIES[study], rows, tmp_path)
    assert (tmp_path / "plot.png").is_file()
    plots.write_trend({"x": [], "y": [Change("a", 0, 9, 0.2, 0.5, 0.6)]}, tmp_path)
    if STUDIES[study].axis:
        with styled():
            figure = plots._over_a_number(STUDIES[study], rows, ["PLCC"])
        assert not any(axes.get_legend() for axes in figure.axes)
        assert len(figure.legends) == label.isdigit(), "without a line there is nothing to explain"
