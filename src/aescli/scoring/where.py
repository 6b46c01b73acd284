"""`--where`: a small language of conditions on a row's columns, such as `score >= 4 and not class == 3`.

It knows comparison, and, or, not and parentheses, and parses them itself: nothing of an expression is ever executed
as code. It knows the columns from `Layout`; what happens to the rows that it picks is not its business.

    condition  = all { "or" all }
    all        = one { "and" one }
    one        = "not" one | comparison
    comparison = value { ("<" | "<=" | ">" | ">=" | "=" | "==" | "!=") value }
    value      = column | number | "text" | 'text' | "(" condition ")"

A chain such as `3 <= score < 4` means both comparisons. A column alone asks whether it holds anything: `error`. An
empty cell equals nothing, is neither above nor below anything, and differs from nothing.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

from aescli.errors import UsageError
from aescli.scoring.rows import Layout, Row

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_TEXT_COLUMNS = frozenset({"path", "face", "error"})
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|-(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<text>"[^"]*"|'[^']*')|(?P<name>[^\W\d]\w*)|(?P<sign><=|>=|==|!=|[<>=()]))""",
    re.VERBOSE,
)

_DEEPEST = 50  # parentheses and nots within each other

Cells = dict[str, Any]


class Where:
    """A parsed condition; call it with a row. Raises UsageError where the text is no condition."""

    def __init__(self, text: str, layout: Layout):
        self.text = text
        # Every column can be asked for, also those that the output leaves out.
        self._layout = replace(layout, probabilities=True, normalize=True)
        self._tokens = self._split()
        self._next = self._depth = 0
        self._test = self._any()
        if self._next < len(self._tokens):
            raise self._wrong(f"there is something left over at {self._tokens[self._next][1]!r}")

    def __call__(self, row: Row) -> bool:
        return bool(self._test(self._layout.values(row)))

    def _wrong(self, reason: str) -> UsageError:
        return UsageError(
            f"--where {self.text!r}: {reason}; write it like: score >= 4 and not error. "
            f"Columns: {', '.join(self._layout.columns)}"
        )

    def _split(self) -> list[tuple[str, str]]:
        tokens, at, text = [], 0, self.text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._wrong(f"{text[at:].split()[0]!r} cannot be understood")
            kind = match.lastgroup or ""
            tokens.append((kind, match[kind]))
            at = match.end()
        if not tokens:
            raise self._wrong("the condition is empty")
        return tokens

    def _take(self, *wanted: str) -> str | None:
        """The next token, if it is one of these words or signs."""
        if self._next < len(self._tokens):
            kind, token = self._tokens[self._next]
            if kind in ("name", "sign") and token.lower() in wanted:
                self._next += 1
                return token.lower()
        return None

    # Each of these gives a function from a row's cells to a value, or to yes or no.

    def _any(self) -> Callable[[Cells], Any]:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else lambda cells: any(part(cells) for part in parts)

    def _all(self) -> Callable[[Cells], Any]:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda cells: all(part(cells) for part in parts)

    def _one(self) -> Callable[[Cells], Any]:
        if self._take("not"):
            with self._deeper():
                part = self._one()
            return lambda cells: not part(cells)
        return self._comparison()

    def _comparison(self) -> Callable[[Cells], Any]:
        values, kinds, signs = [], [], []
        while True:
            value, kind = self._value()
            values.append(value)
            kinds.append(kind)
            sign = self._take(*_COMPARE)
            if sign is None:
                break
            signs.append(_COMPARE[sign])
        if not signs:
            if kinds[0] in ("number literal", "text literal"):
                raise self._wrong("a number or text alone is no condition")
            if kinds[0] == "condition":
                return values[0]
            return lambda cells: values[0](cells) is not None
        for left, right in pairwise(kinds):
            if left.split()[0] != right.split()[0] or "condition" in (left, right):
                raise self._wrong(f"a {left.split()[0]} cannot be compared with a {right.split()[0]}")

        def test(cells: Cells) -> bool:
            found = [value(cells) for value in values]
            return all(
                a is not None and b is not None and sign(a, b)
                for a, sign, b in zip(found, signs, found[1:], strict=False)
            )

        return test

    def _value(self) -> tuple[Callable[[Cells], Any], str]:
        """(function, kind): number, text, number literal, text literal or condition."""
        if self._take("("):
            with self._deeper():
                inner = self._any()
            if not self._take(")"):
                raise self._wrong("a closing parenthesis is missing")
            return inner, "condition"
        if self._next == len(self._tokens):
            raise self._wrong("it ends too early")
        kind, token = self._tokens[self._next]
        self._next += 1
        if kind == "number":
            number = float(token)
            return lambda cells: number, "number literal"
        if kind == "text":
            text = token[1:-1]
            return lambda cells: text, "text literal"
        if kind == "sign" or token.lower() in ("and", "or", "not"):
            raise self._wrong(f"a column or a number is missing before {token!r}")
        if token not in self._layout.columns:
            near = difflib.get_close_matches(token, self._layout.columns, 1)
            raise self._wrong(f"there is no column {token!r}{f', is it {near[0]}?' if near else ''}")
        if token in _TEXT_COLUMNS:
            return lambda cells: cells[token], "text"
        return lambda cells: cells[token], "number"

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong(f"more than {_DEEPEST} conditions lie within each other")
        yield
        self._depth -= 1
