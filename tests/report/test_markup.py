import random
import unicodedata

import pytest
from hostile import hostile_texts
from html_reader import Reader

from mulligan.report.markup import Html, element, together, visible

FUZZED = 10_000


def fuzzed_texts(count):
    """Random mixes of markup, controls, surrogates and every other kind of character."""
    source = random.Random(0)
    pieces = ["<", ">", "&", '"', "'", "</pre>", "<script>", "<!--", "]]>", "&#0;", "\x1b[", "\r\n"]
    for _ in range(count):
        yield "".join(
            source.choice(pieces) if source.random() < 0.4 else chr(source.randrange(0x110000))
            for _ in range(source.randrange(30))
        )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, × and – and 漢字 and 🙂", "plain text, × and – and 漢字 and 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("carriage\r\nreturn\r", "carriage\nreturn␍"),
        ("\x1b[31m", "␛[31m"),
        ("\x00\x07\x7f", "␀␇␡"),
        ("\x85", "⟦U+0085⟧"),
        ("\u202eevil", "⟦U+202E⟧evil"),
        ("a\u200bb\ufeff", "a⟦U+200B⟧b⟦U+FEFF⟧"),
        ("\ud800", "⟦U+D800⟧"),
        ("\U000e0041", "⟦U+E0041⟧"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_a_sign(text, shown):
    assert visible(text) == shown


def test_text_is_escaped_unless_it_is_markup_already():
    bold = element("b", "<i>")

    assert element("p", bold, " & more", class_="x") == (
        '<p class="x"><b>&lt;i&gt;</b> &amp; more</p>'
    )
    assert together("<", Html("<br>")) == "&lt;<br>"


def test_attributes_cannot_be_broken_out_of():
    (tag,) = Reader(element("div", aria_label='"><script>')).tags

    assert tag == ("div", {"aria-label": '"><script>'})


@pytest.mark.parametrize("text", hostile_texts())
def test_hostile_text_is_read_back_as_text(text):
    read = Reader(element("pre", text, title=text))

    assert read.tags == [("pre", {"title": visible(text)})]
    assert read.text == visible(text)
    assert read.others == []


def test_ten_thousand_fuzzed_strings_are_text_and_nothing_else():
    hidden = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
    for text in fuzzed_texts(FUZZED):
        shown = visible(text)
        read = Reader(element("pre", text))

        assert [tag for tag, _ in read.tags] == ["pre"]
        assert (read.text, read.others) == (shown, [])
        assert not any(unicodedata.category(c) in hidden for c in shown if c not in "\n\t")
        shown.encode("utf-8")
