"""Text that models and users wrote, made safe to show: on a page, and in a terminal.

Markup is built by ``element``, which escapes every plain string it is given; only ``Html``, which
``element`` itself returns, passes as it is. So nothing reaches a page unescaped by being forgotten.
"""

import html
import unicodedata

_KEPT = frozenset("\n\t")
_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Unicode categories without a glyph: controls, formats (bidi marks, zero-width characters),
unassigned, private, surrogates, line and paragraph separators."""
_VOID = frozenset({"meta", "br", "hr"})
_CONTROL_PICTURES = 0x2400


class Html(str):
    """Markup that is safe as it is."""

    __slots__ = ()


def visible(text: str) -> str:
    """Return the text with every character that cannot be seen shown as a sign.

    Controls become their pictures (escape is ``␛``, NUL is ``␀``); other characters without a
    glyph, such as those that reverse the direction of text, become their code point
    (``⟦U+202E⟧``). Line feeds and tabs stay. The result encodes as UTF-8 and moves no cursor.
    """
    return "".join(map(_visible_character, text.replace("\r\n", "\n")))


def element(name: str, /, *children: str, **attributes: str) -> Html:
    """Return an HTML element; children that are not ``Html`` are made visible and escaped.

    A trailing underscore of an attribute's name is dropped and others become hyphens: ``class_``,
    ``aria_label``.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Html(f"<{name}{pairs}>")
    return Html(f"<{name}{pairs}>{together(*children)}</{name}>")


def together(*children: str) -> Html:
    """Return the children one after another, escaped where they are not ``Html``."""
    return Html(
        "".join(child if isinstance(child, Html) else _escaped(child) for child in children)
    )


def _escaped(text: str) -> str:
    return html.escape(visible(text), quote=True)


def _visible_character(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    return "␡" if code == 0x7F else f"⟦U+{code:04X}⟧"
