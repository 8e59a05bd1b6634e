"""What is not to be seen is written out, and all else is left alone."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InputError
from engines.text import check_name, encodable, shown, shown_lines

HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs")

anything = st.text(st.characters())
visible = st.text(st.characters(exclude_categories=HIDDEN))
without_backslash = st.text(st.characters(exclude_characters="\\") | st.sampled_from("\x1b\x9b\u202e\u2066\udc80\n"))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\x1b]8;;http://a\x1b\\x", r"\x1b]8;;http://a\x1b\x"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("\u202eabc\u2066\u200f", r"\u202eabc\u2066\u200f"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("a\u2028b\u2029c\ufeff\u00ad\U000e0041", r"a\u2028b\u2029c\ufeff\xad\U000e0041"),
        ("\udc80.png", r"\udc80.png"),
    ],
)
def test_what_is_not_to_be_seen_is_written_out(text: str, written: str) -> None:
    assert shown(text) == written


@pytest.mark.parametrize(
    "text", ["Straße, piéton", "道路", "дорога", "طريق", "शहर", "🚗 🚸", "a\u00a0b", r"C:\x1b", ":car: [bold]$x^{$"]
)
def test_text_of_every_script_stays(text: str) -> None:
    assert shown(text) == text
    check_name(text, "here")


def test_lines_and_tabs_stay_where_several_lines_are_meant() -> None:
    assert shown_lines("a\tb\n\x1b[31mc\r\n") == "a\tb\n\\x1b[31mc\\r\n"


@given(visible)
def test_visible_text_is_left_alone(text: str) -> None:
    assert shown(text) == text


@given(anything)
def test_nothing_hidden_is_left_and_showing_twice_changes_nothing(text: str) -> None:
    written = shown(text)
    assert not {unicodedata.category(character) for character in written} & set(HIDDEN)
    assert shown(written) == written
    assert not {unicodedata.category(character) for character in shown_lines(text)} & {"Cf", "Zl", "Zp", "Cs"}
    written.encode()


@given(without_backslash)
def test_no_information_is_lost(text: str) -> None:
    escape = r"\\(?:[ntr]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
    assert re.sub(escape, lambda found: found[0].encode().decode("unicode_escape"), shown(text)) == text


@given(anything)
def test_only_surrogates_have_no_form_in_utf_8(text: str) -> None:
    plain = "".join(character for character in text if unicodedata.category(character) != "Cs")
    assert encodable(plain) == plain
    encodable(text).encode()


def test_a_name_that_is_given_has_nothing_hidden() -> None:
    check_name("می\u200cروم 👩\u200d🚒", "here")
    with pytest.raises(InputError) as caught:
        check_name("road\u202egnp", "classes.txt, line 3")
    assert str(caught.value) == (
        "classes.txt, line 3: a name has no control characters, marks of direction or other characters that are not "
        "seen; received road\\u202egnp"
    )
