"""Text of others: shown, never acted upon.

Names of classes, networks, tools and files, and what runtimes and records say, may hold characters that do something
where they are shown: control codes and escape sequences drive a terminal, bidirectional marks reorder what is read,
others are not seen at all. Here such characters are written out. Letters, digits and signs of every script, and emoji,
stay as they are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from engines.errors import InputError

_CATEGORIES = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs"))
"""Unicode's control and format characters, separators of lines and paragraphs, and surrogates: a byte of a file's name
that is no UTF-8 is one of these in Python."""


def shown(text: str) -> str:
    r"""The text on one line, with what is not to be seen written as Python escapes it: ``\x1b``, ``\u202e``, ``\n``.

    Text without such characters is returned as it is, a backslash too, so that showing twice does no harm.
    """
    return escaped(text, _python_escape)


def shown_lines(text: str) -> str:
    """As :func:`shown`, where several lines are meant: line feeds and tabs stay."""
    return "\t".join("\n".join(map(shown, part.split("\n"))) for part in text.split("\t"))


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """The text with ``escape`` of every character that is not to be seen."""
    # Most text has none, and the quick test refuses little beside.
    if text.isprintable():
        return text
    return "".join(escape(one) if unicodedata.category(one) in _CATEGORIES else one for one in text)


def encodable(text: str) -> str:
    r"""The text with every lone surrogate written out, ``\udc80``: all else has a form in UTF-8, these have none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_name(name: str, where: str) -> None:
    """Raise :class:`InputError` for a name that is to be given and has characters that are not to be seen.

    The joiners of scripts and emoji (U+200C and U+200D) may be part of a name.
    """
    plain = name.replace("\u200c", "").replace("\u200d", "")
    if shown(plain) != plain:
        raise InputError(
            f"{where}: a name has no control characters, marks of direction or other characters that are not seen; "
            f"received {shown(name)}"
        )


def _python_escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
