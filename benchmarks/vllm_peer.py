"""vLLM's side of the rollout benchmark; runs in vLLM's own environment.

Reads one JSON object a line: first the job, then a seed for each repeat. Answers each on a line
that begins with ``answer``: nothing for the job, tokens kept for a repeat.
"""

import json
import sys
from typing import Any

from vllm import LLM, SamplingParams


def main() -> None:
    """Load the model, then serve repeats until the input ends."""
    job = json.loads(sys.stdin.readline())
    llm = LLM(
        job["model"],
        dtype="bfloat16",
        enforce_eager=job["eager"],
        enable_prefix_caching=True,
        max_model_len=1024,
        max_num_seqs=64,
    )
    rollout(llm, job, seed=0)
    print("answer null", flush=True)
    for line in sys.stdin:
        kept = rollout(llm, job, json.loads(line)["seed"])
        print("answer", json.dumps(kept), flush=True)


def rollout(llm: Any, job: dict[str, Any], seed: int) -> list[int]:
    """Reflect n times on each prompt, then retry once after each reflection."""
    llm.reset_prefix_cache()
    limit_of_reflection, limit_of_retry = job["limits"]
    groups = generate(llm, job, job["prompts"], job["samples"], limit_of_reflection, seed)
    longer = [
        [*prompt, *reflection, *job["turn"]]
        for prompt, group in zip(job["prompts"], groups, strict=True)
        for reflection in group
    ]
    retries = generate(llm, job, longer, 1, limit_of_retry, seed + 1)
    return [sum(len(ids) for group in some for ids in group) for some in (groups, retries)]


def generate(
    llm: Any, job: dict[str, Any], prompts: list[list[int]], n: int, limit: int, seed: int
) -> list[list[list[int]]]:
    """Return the token ids of n completions for each prompt."""
    params = SamplingParams(
        n=n,
        temperature=job["temperature"],
        max_tokens=limit,
        stop_token_ids=job["stops"],
        ignore_eos=True,
        detokenize=False,
        seed=seed,
    )
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    return [[list(o.token_ids) for o in output.outputs] for output in outputs]


if __name__ == "__main__":
    main()
