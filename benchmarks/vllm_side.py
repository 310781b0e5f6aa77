"""vLLM's side of the rollout benchmark; runs in vLLM's own environment.

Reads one JSON object a line: first how to load the model, then what to sample. Answers each on a
line that begins with ``answer``: null when loaded, then the token ids of every sample.
"""

import json
import sys
from typing import Any

from vllm import LLM, SamplingParams


def main() -> None:
    """Load the model, then sample until the input ends."""
    how = json.loads(sys.stdin.readline())
    llm = LLM(
        how["model"],
        dtype="bfloat16",
        enforce_eager=how["eager"],
        enable_prefix_caching=True,
        max_model_len=how["context"],
        max_num_seqs=64,
        **({"gpu_memory_utilization": 0.5} if how["gpu"] else {}),  # the peers need the rest
    )
    print("answer null", flush=True)
    for line in sys.stdin:
        print("answer", json.dumps(generate(llm, how, json.loads(line))), flush=True)


def generate(llm: Any, how: dict[str, Any], job: dict[str, Any]) -> list[list[list[int]]]:
    """Return the token ids of a job's samples for each prompt."""
    if job["clear"]:
        llm.reset_prefix_cache()
    params = SamplingParams(
        n=job["samples"],
        temperature=how["temperature"],
        max_tokens=job["limit"],
        stop_token_ids=how["stops"],
        ignore_eos=True,
        detokenize=False,
        # No seed of a request's own: with chunked prefill vLLM 0.32 ends on CPU at "CPU Generator
        # does not use offset". The engine's own seed makes its draws.
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return [[list(o.token_ids) for o in output.outputs] for output in outputs]


if __name__ == "__main__":
    main()
