"""A bench whose model follows a script, and whose verifier knows a few words."""

from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.conversation import Conversations
from mulligan.study.examine.bench import Bench
from mulligan.types import Problem, Verdict
from tiny import tiny_recipe

PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(4)]
REQUEST = "Why?<|im_end|>\n<|im_start|>assistant\n"
VERDICTS = {
    "yes": Verdict.right(),
    "no": Verdict.wrong(),
    "eh": Verdict.unparseable(),
    "crash": Verdict.error("broke"),
}


def make_bench(tokenizer, script, likelihood=None, **changes):
    """``script(asked, turn, reflecting, text, j)`` answers: problem, turn of the user from 1."""

    def say(prompt, i, j):
        text = tokenizer.decode(prompt)
        asked = int(text.split("question ")[1][0])
        turn = text.count("<|im_start|>user")
        return script(asked, turn, text.endswith(REQUEST), text, j)

    generate = {"answer_tokens": 30, "reflection_tokens": 40, "problems_at_once": 8}
    return Bench(
        "test",
        "after",
        tiny_recipe(generate=generate, **changes),
        ScriptedEngine(say, tokenizer),
        Conversations(tokenizer, "Why?"),
        lambda pairs: [VERDICTS[text] for _, text in pairs],
        lambda pairs: ["yes" in text for _, text in pairs],
        likelihood,
    )
