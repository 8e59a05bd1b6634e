"""Tables for spreadsheets, which take some text for formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from engines.text import shown

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a formula begins, also in full width, by the list of OWASP."""


def csv_of(rows: Iterable[Sequence[object]]) -> bytes:
    """The rows as CSV in UTF-8, a line each; ``None`` is an empty cell.

    Text that a spreadsheet would compute gets an apostrophe in front and is shown as it is; numbers stay numbers.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return f"'{shown(value)}" if value.startswith(_FORMULA) else shown(value)
