"""What models and verifiers said, as markup for the page."""

from mulligan.report.markup import Html, element, visible
from mulligan.types import Verdict

LONGEST = 2000
"""Characters of one text that are shown; the rest is counted."""
_LONGEST_REASON = 32


def said(text: str, kind: str, **attributes: str) -> Html:
    """Return what someone wrote, as it is: never read as markup, never longer than a page."""
    if not text.strip():
        blank = "(nothing)" if not text else "(blank)"
        return element("p", blank, class_=f"said {kind} empty", **attributes)
    rest = len(text) - LONGEST
    more = element("span", f" … {rest:,} more characters", class_="note") if rest > 0 else ""
    return element("pre", text[:LONGEST], more, class_=f"said {kind}", dir="auto", **attributes)


def badge(verdict: Verdict, *, cut_off: bool = False) -> Html:
    """Return a verdict's reason in the colour of its status."""
    name = reason_name(verdict.reason)
    text = f"{name}, cut off" if cut_off else name
    return element("span", text, class_=f"badge {verdict.status}")


def reason_name(reason: str) -> str:
    """Return a verifier's reason as a person reads it: ``missed target``; cut where it is long."""
    name = visible(reason).replace("_", " ")
    return name if len(name) <= _LONGEST_REASON else f"{name[: _LONGEST_REASON - 1]}…"
