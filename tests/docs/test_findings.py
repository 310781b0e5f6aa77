"""The page of findings: computed from committed files, and honest about what is not there."""

import json

import pytest

from findings_page import DOCS, load_findings


@pytest.fixture(scope="module")
def findings():
    return load_findings()


def estimate(arm, outcome, quantity, mean, answer=None):
    return {
        "arm": arm,
        "outcome": outcome,
        "quantity": quantity,
        "mean": mean,
        "low": mean - 0.02,
        "high": mean + 0.03,
        "per_run": {"1": mean - 0.01, "2": mean + 0.01},
        "answer": answer,
    }


STUDY = {
    "base": "verdict",
    "primary": "reflection_over_nothing",
    "secondary": ["first_try"],
    "finished": {"verdict": 2, "retry": 2},
    "costs": [
        {"arm": "retry", "steps": 60.0, "generated_tokens": 98000.0, "against_base": 0.98},
    ],
    "reasons": [
        {
            "arm": "verdict",
            "column": "first_try",
            "reason": "wrong_numbers",
            "per_run": [-0.1, -0.2],
            "low": -0.3,
            "high": -0.05,
        }
    ],
    "estimates": [
        estimate("retry", "reflection_over_nothing", "against_base", -0.04, "lower: interval [a]"),
        estimate("retry", "first_try", "against_base", 0.01, "undecided: interval [b]"),
        estimate("verdict", "reflection_over_nothing", "change", 0.05, "higher: interval [c]"),
    ],
}


def quantity(name, when, mean, smallest=0.04):
    return {
        "name": name,
        "when": when,
        "says": f"says {name}",
        "mean": mean,
        "low": mean - 0.02,
        "high": mean + 0.02,
        "per_run": {"a": mean},
        "smallest": smallest,
    }


@pytest.fixture
def results(tmp_path):
    (tmp_path / "findings_tokens.json").write_text(json.dumps(STUDY))
    answers = {
        "runs": ["a", "b"],
        "quantities": [
            quantity("spoilt", "after", 0.3),
            quantity("gain", "after", 0.01),
            quantity("without_verifier", "after", -0.1),
        ],
    }
    (tmp_path / "right_answers.json").write_text(json.dumps(answers))
    (tmp_path / "sentences.json").write_text(json.dumps({"both": "unused", "retry": "A surprise."}))
    return tmp_path


def section(page, asks):
    return page.partition(f"## {asks}\n")[2].partition("\n## ")[0]


def test_an_answer_is_that_of_the_study_with_its_numbers_costs_and_seeds(findings, results):
    found = section(findings.page(results), "Should the retry learn instead of the reflection?")
    assert "what reflection adds lower: interval [a]; first try undecided: interval [b]" in found
    assert "| What reflection adds | −4.0 [−6.0, −1.0] |" in found
    assert "60 steps, 98,000 generated tokens, 98% of verdict's." in found
    assert "A surprise." in found
    assert "2 seeds." in found


def test_what_is_undecided_says_what_could_have_been_seen(findings, results):
    found = section(findings.page(results), "What if no verifier says when to retry?")
    assert "less first try, undecided: +1.0 [−1.0, +3.0], smallest detectable effect 4.0" in found
    assert "−10.0 [−12.0, −8.0], lower" in found
    assert "| after: says spoilt | 30.0% [28.0, 32.0] |" in found


def test_what_was_not_measured_says_so_with_its_command(findings, results):
    page = findings.page(results)
    found = section(page, "Does a long run level off, and does it fall again?")
    assert "Nothing has been measured yet." in found
    assert "    mulligan examine curve runs/findings_long/runs/*" in found
    row = next(r for r in page.splitlines() if r.startswith("| [Does a long run level off"))
    assert "| not measured yet | | |" in row


def test_every_file_that_is_there_has_its_figures(findings, results):
    made = dict(findings.figures(results))
    assert {"retry.svg", "method.svg", "errors.svg", "right_answers.svg"} <= set(made)
    assert all(svg.startswith("<svg xmlns=") for svg in made.values())


def test_every_row_of_the_table_leads_to_its_section(findings, results):
    page = findings.page(results)
    headings = [row.removeprefix("## ") for row in page.splitlines() if row.startswith("## ")]
    assert headings == [question.asks for question in findings.QUESTIONS]
    for question in findings.QUESTIONS:
        assert f"[{question.asks}](#{findings._anchor(question)})" in page


def test_the_committed_page_is_what_the_committed_results_say(findings):
    assert (DOCS / "findings.md").read_text(encoding="utf-8") == findings.page(findings.RESULTS)
