"""Texts that a model, a task or a recipe might hold to break out of a page or a terminal."""

from dataclasses import replace
from itertools import cycle, islice

import yaml
from synthetic_run import SETTINGS, make_run, make_trials, write_trials

from mulligan.types import Answer, Verdict

BEACON = "http://127.0.0.1:1/beacon"


def hostile_texts(url: str = BEACON) -> list[str]:
    return [
        "<script>document.title = 'owned'</script>",
        f"<script>fetch('{url}/fetch')</script>",
        f"</script><script src='{url}/script.js'></script>",
        f"</pre></section></article><img src='{url}/img.png' onerror=\"document.title='owned'\">",
        f'"><iframe src="{url}/frame"></iframe>',
        f"<svg onload=\"document.title='owned'\"><image href='{url}/svg.png'/></svg>",
        f"</style><style>@import url('{url}/style.css'); * {{ background: url({url}/bg) }}</style>",
        f"<link rel='stylesheet' href='{url}/link.css'><base href='{url}/'>",
        f"<meta http-equiv='refresh' content='0;url={url}/refresh'>",
        f"![]({url}/markdown.png) [click](javascript:document.title='owned')",
        "javascript:document.title='owned'",
        "<!-- --><![CDATA[ ]]><?xml ?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>",
        "&lt;script&gt; &amp;#60; &#x3C;b&#x3E;",
        "NUL \x00 bell \x07 backspace \x08 delete \x7f next line \x85",
        "\x1b[31mred\x1b[0m \x1b]8;;http://127.0.0.1\x07link\x1b]8;;\x07 \x1b[2J\x1b]0;owned\x07",
        "bidi \u202eevil\u202c \u2066isolate\u2069 mark \u200f zero\u200bwidth \ufeff",
        "separators \u2028 \u2029 noncharacters \ufffe \uffff \U0010ffff private \ue000",
        "$\\frac{1}{0}$ $$ \\input{/etc/passwd} ${HOME} {0} %s",
        "a" * 20_000,
        "\u0301" * 500,
    ]


def with_texts(trial, texts):
    """Return the trial with hostile texts wherever a model or a task writes; needs six texts."""
    question, first, reflection, *seconds = texts
    said = [Answer(text, Verdict.wrong(text, text), 9, "length") for text in (first, *seconds)]
    return replace(
        trial,
        question=question,
        first_try=said[0],
        reflection=reflection,
        leaked=True,
        after_reflection=said[1],
        second_tries={"nothing": said[2], "other_reflection": said[3]},
    )


def make_hostile_run(folder, texts):
    """Write a run of eight problems, all of whose texts, reasons and settings are hostile."""
    run = make_run(folder, problems=8)
    for when in ("before", "after"):
        supply = cycle(texts)
        trials = make_trials(when, 8)
        write_trials(run, [with_texts(trial, islice(supply, 6)) for trial in trials])
    settings = {**SETTINGS, "name": texts[0], "task": texts[3], "task_options": {texts[4]: texts}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    return run
