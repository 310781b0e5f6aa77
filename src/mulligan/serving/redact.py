"""Secrets are taken out of what users and models wrote before any of it is stored."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mulligan.errors import MulliganError

REDACTED = "[redacted]"

PATTERNS: Mapping[str, str] = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    "OpenAI, Anthropic and others": r"\bsk-[A-Za-z0-9_-]{16,}",
    "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "GitLab": r"\bglpat-[A-Za-z0-9_-]{16,}",
    "Slack": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
    "Google": r"\bAIza[0-9A-Za-z_-]{35}",
    "Stripe": r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    "JSON web token": r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}",
    "bearer token": r"(?i:(?<=bearer )[A-Za-z0-9._~+/=-]{16,})",
    "password in an address": r"(?<=://)[^/\s:@]{0,64}:[^/\s@]{1,256}(?=@)",
    "named password or key": (
        r"(?i:(?P<name>(?:password|passwd|secret|api[_-]?key|access[_-]?key|secret[_-]?key|"
        r"access[_-]?token|auth[_-]?token)\\?[\"']?\s{0,4}[:=]\s{0,4}\\?[\"']?)"
        r"(?!\[redacted\])[^\s\"',;}\]]{6,})"
    ),
}
"""What is taken for a secret: Python regular expressions, by what they find."""


class Redactor:
    """Puts ``[redacted]`` in place of secrets.

    Args:
        more: patterns besides the usual ones, as Python regular expressions.

    Raises:
        MulliganError: a pattern is not a regular expression, or finds a secret in empty text.
    """

    def __init__(self, more: Sequence[str] = ()) -> None:
        self._patterns = [re.compile(each, re.DOTALL) for each in PATTERNS.values()]
        for each in more:
            try:
                pattern = re.compile(each)
            except re.error as error:
                raise MulliganError(
                    f"--redact {each!r} is not a regular expression: {error}."
                ) from error
            if pattern.search(""):
                raise MulliganError(f"--redact {each!r} finds something in empty text.")
            self._patterns.append(pattern)

    def text(self, text: str) -> str:
        """Return a text without its secrets."""
        for pattern in self._patterns:
            text = pattern.sub(_replacement, text)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value with the secrets of every text in it taken out."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.value(each) for key, each in value.items()}
        if isinstance(value, Sequence):
            return [self.value(each) for each in value]
        return value


def _replacement(found: re.Match[str]) -> str:
    return found.groupdict().get("name", "") + REDACTED
