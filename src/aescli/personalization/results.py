"""The protocol's results as text: a table for people, JSON, or CSV with a row per number of shots and metric.

It knows layout and number formats only.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aescli.personalization.measuring import Plan
from aescli.personalization.protocol import ProtocolResult

PUBLISHED = {
    "para": {
        10: {"model": "AesMamba-P", "PLCC": 0.749, "SRCC": 0.707},
        100: {"model": "AesMamba-P", "PLCC": 0.763, "SRCC": 0.723},
    }
}
"""data set → shots → what its paper reports (whole-model tuning, 40 users, 50 tests, 10 repeats)."""
LOSS = 0.02
"""A user whose SRCC falls by more than this has lost."""


@dataclass(frozen=True)
class Measured:
    """data: name of the data set. method: how a person is learned. trained_on: tested images known to the model.

    taught_by_them: the prior over tastes was learned from raters of this data set, the tested ones among them.
    """

    data: str
    model: str
    method: str
    plan: Plan
    results: tuple[ProtocolResult, ...]
    trained_on: int = 0
    taught_by_them: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """A row per number of shots and metric; numbers in full precision, None where not defined."""
        rows = []
        for result in self.results:
            for metric in ("PLCC", "SRCC"):
                row: dict[str, Any] = {"shots": result.shots, "users": len(result.raters), "metric": metric}
                for of in ("generic", "personal"):
                    found = result.interval(metric, of)
                    row |= {of: found.mean, f"{of}_sd": found.sd}
                gain = result.interval(metric, "difference")
                row |= {"difference": gain.mean, "low": gain.low, "high": gain.high}
                row["losers"] = result.losers(metric, LOSS)
                row["published"] = PUBLISHED.get(self.data, {}).get(result.shots, {}).get(metric)
                rows.append({key: _known(value) for key, value in row.items()})
        return rows


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def as_json(measured: Measured) -> str:
    values = {
        "data": measured.data,
        "model": measured.model,
        "method": measured.method,
        "protocol": asdict(measured.plan),
        "tested_images_in_training_data": measured.trained_on,
        "prior_learned_from_tested_raters": measured.taught_by_them,
        "results": measured.rows(),
    }
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(measured: Measured) -> str:
    """The columns of `Measured.rows`, empty where not defined."""
    out = io.StringIO(newline="")
    rows = measured.rows()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_table(measured: Measured) -> str:
    plan, rows = measured.plan, measured.rows()
    tests = "all other" if plan.tests is None else plan.tests
    times = "once" if plan.repeats == 1 else f"{plan.repeats} times"
    lines = [
        f"{measured.model} on the raters of {measured.data}, personal: {measured.method}",
        f"each user {times}: shots at random"
        if plan.select == "random"
        else f"each user {times}: telling shots",
    ]
    lines[-1] += f", {tests} images tested; mean over users ± deviation over repeats"
    cells = [["shots", "users", "", "generic", "personal", "difference [95 %]", f"lost > {LOSS}"]]
    published = any(row["published"] is not None for row in rows)
    if published:
        cells[0].append("published")
    for row in rows:
        interval = "" if row["low"] is None else f" [{_signed(row['low'])}, {_signed(row['high'])}]"
        cells.append([
            str(row["shots"]), str(row["users"]), row["metric"], _with_sd(row, "generic"),
            _with_sd(row, "personal"), _signed(row["difference"]) + interval, f"{100 * row['losers']:.1f} %",
        ])  # fmt: skip
        if published:
            cells[-1].append("" if row["published"] is None else f"{row['published']:.3f}")
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines += [_line(row, widths) for row in cells]
    if published:
        lines.append("published: AesMamba-P on PARA, the whole model tuned to each person")
    if measured.trained_on:
        lines.append(
            f"TRAINING DATA: the model was trained on {measured.trained_on} of these images, so both columns are "
            "better than on new ones and their difference is not to be trusted"
        )
    if measured.taught_by_them:
        lines.append(
            f"TRAINING DATA: the prior over tastes was learned from the raters of {measured.data}, so the difference "
            "is larger than it is for a new person"
        )
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _with_sd(row: dict[str, Any], of: str) -> str:
    sd = row[f"{of}_sd"]
    return f"{row[of]:.4f}" + ("" if sd is None else f" ± {sd:.4f}")


def _signed(value: float) -> str:
    return f"{value:+.4f}"
