import pytest

from mulligan import MulliganError
from mulligan.serving.redact import REDACTED, Redactor

SECRETS = {
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAAAA\n-----END RSA PRIVATE KEY-----": REDACTED,
    "-----BEGIN PRIVATE KEY-----\ncut off": REDACTED,
    "sk-proj-abcdefghijklmnop1234": REDACTED,
    "AKIAIOSFODNN7EXAMPLE": REDACTED,
    "ghp_0123456789abcdefghijABCDEFGHIJ": REDACTED,
    "github_pat_0123456789abcdefghij_AB": REDACTED,
    "glpat-0123456789abcdefghij": REDACTED,
    "xoxb-123456789012-abcdef": REDACTED,
    "hf_abcdefghijklmnopqrstuv": REDACTED,
    "AIza" + "x" * 35: REDACTED,
    "sk_live_0123456789abcdefgh": REDACTED,
    "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeK": REDACTED,
    "Authorization: Bearer abcdef.0123456789": f"Authorization: Bearer {REDACTED}",
    "postgres://user:hunter22@host/db": f"postgres://{REDACTED}@host/db",
    '{"api_key": "hunter2hunter2"}': f'{{"api_key": "{REDACTED}"}}',
    "password=hunter2": f"password={REDACTED}",
    "DB_PASSWORD=hunter2": f"DB_PASSWORD={REDACTED}",
    "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG": f"AWS_SECRET_ACCESS_KEY={REDACTED}",
    "clientSecret: hunter2": f"clientSecret: {REDACTED}",
    "redis://:hunter22@host:6379": f"redis://{REDACTED}@host:6379",
    r"{\"api_key\": \"hunter2hunter2": rf"{{\"api_key\": \"{REDACTED}",
}


@pytest.mark.parametrize(("secret", "left"), SECRETS.items(), ids=range(len(SECRETS)))
def test_a_secret_is_taken_out_and_what_is_around_it_stays(secret, left):
    assert Redactor().text(f"before {secret} after") in (
        f"before {left} after",
        f"before {left}",  # of a key that was cut off, nobody knows the end
    )


@pytest.mark.parametrize("secret", [*SECRETS, "api_key=sk-abcdefghijklmnop1234"])
def test_what_was_taken_out_stays_as_it_is(secret):
    once = Redactor().text(secret)
    assert Redactor().text(once) == once
    assert "]]" not in once


@pytest.mark.parametrize(
    "text",
    [
        "The password is wrong.",
        "task-oriented sketch of a risk-averse desk-top",
        "https://example.com/a:b@c",
        "eyJ is how tokens begin",
        "the bearer of bad news, surprisingly",
        "secret: no",
    ],
)
def test_other_text_stays(text):
    assert Redactor().text(text) == text


def test_every_text_in_a_value_is_looked_at():
    value = {"a": ["sk-abcdefghijklmnop1234", 1, None, {"b": "hf_abcdefghijklmnopqrstuv"}]}
    assert Redactor().value(value) == {"a": [REDACTED, 1, None, {"b": REDACTED}]}


def test_patterns_of_ones_own_are_taken_out_too():
    assert Redactor([r"customer-\d+"]).text("customer-17 called") == f"{REDACTED} called"


@pytest.mark.parametrize(
    ("pattern", "says"), [("(", "not a regular expression"), ("x*", "finds something in empty")]
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern, says):
    with pytest.raises(MulliganError, match=says):
        Redactor([pattern])
