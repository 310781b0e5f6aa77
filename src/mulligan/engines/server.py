"""An engine over a server that speaks OpenAI's completions protocol, such as vLLM's.

Token ids travel: prompts are sent as ids, and the sampled ids are asked for by vLLM's extension
``return_token_ids`` (vLLM 0.10.2 and later). A server that gives none is refused, for text that
is encoded again is not always what was sampled.

What a server samples depends on what else it computes at the time, so its runs cannot be
promised to repeat bit for bit, seeds or not.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
from pydantic import BaseModel, NonNegativeInt, ValidationError

from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.types import Completion, FinishReason, Sampling, TokenIds

_RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
_LONGEST_WAIT_S = 60.0


class _Choice(BaseModel):
    text: str
    finish_reason: FinishReason
    token_ids: list[NonNegativeInt] | None = None
    prompt_token_ids: list[int] | None = None


class _Reply(BaseModel):
    choices: list[_Choice]


class _PassingTrouble(Exception):  # noqa: N818  (never leaves this file: it says "try again")
    """The server failed in a way that another try may mend."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class OpenAIEngine:
    """Generates by asking a server; knows no task and holds no model."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        tries: int = 5,
        backoff_s: float = 0.5,
        timeout_s: float = 600.0,
        parallel: int = 16,
    ) -> None:
        """Prepare to ask a server; nothing is sent yet.

        Args:
            base_url: up to and with ``/v1``.
            model: the server's name for the model.
            api_key_env: the environment variable that holds the key; None sends no real key.
            tries: how often a request is made before the server is given up.
            backoff_s: the wait after the first failure in seconds, doubled after each one more.
            timeout_s: how long one request may take, in seconds.
            parallel: how many requests are under way at a time.

        Raises:
            MulliganError: the URL is not one of http(s), or the variable is not set.
        """
        self._host = _checked_host(base_url)
        self._model = model
        self._tries = tries
        self._backoff_s = backoff_s
        self._parallel = parallel
        key = _key_from(api_key_env)
        self._hidden = key
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=key or "none",
            max_retries=0,  # ours are bounded over all kinds of failure together
            timeout=timeout_s,
            # A redirect would carry the key and the prompts to whom the user did not name.
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )

    def __repr__(self) -> str:
        return f"OpenAIEngine(host={self._host!r}, model={self._model!r})"

    def reset_cache(self) -> None:
        """Do nothing: the server keeps its caches to itself."""

    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in order: all of them, or an error.

        Raises:
            MulliganError: the server refuses a request, gives no token ids, points to another
                address, or still fails after the last try.
        """
        with ThreadPoolExecutor(self._parallel) as pool:
            groups = [
                pool.submit(self._group, prompt, n, sampling, number)
                for number, prompt in enumerate(prompts)
            ]
            try:
                return [group.result() for group in groups]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _group(self, prompt: TokenIds, n: int, sampling: Sampling, number: int) -> list[Completion]:
        """Ask until the group is whole; what a short reply lacks is asked for again."""
        group: list[Completion] = []
        failures: list[str] = []
        while len(group) < n:
            seed = derive_seed(sampling.seed, number, len(group)) % 2**31
            try:
                choices = self._ask(prompt, n - len(group), sampling, seed)
                group += [_completion(choice, prompt, sampling) for choice in choices]
                if not choices:
                    raise _PassingTrouble("its reply held no choices")
                failures.clear()
            except _PassingTrouble as trouble:
                failures.append(str(trouble))
                if len(failures) >= self._tries:
                    raise MulliganError(
                        f"The server {self._host} failed {len(failures)} times in a row, at last: "
                        f"{failures[-1]}. Check it, then continue with --resume."
                    ) from None
                time.sleep(max(trouble.wait_s, self._backoff_s * 2 ** (len(failures) - 1)))
        return group

    def _ask(self, prompt: TokenIds, n: int, sampling: Sampling, seed: int) -> list[_Choice]:
        try:
            reply = self._client.completions.with_raw_response.create(
                model=self._model,
                prompt=list(prompt),
                n=n,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=1.0,
                seed=seed,
                # Without these vLLM takes what the model's generation_config.json says.
                extra_body={
                    "return_token_ids": True,
                    "top_k": -1,
                    "min_p": 0.0,
                    "repetition_penalty": 1.0,
                },
            )
            return _Reply.model_validate_json(reply.http_response.content).choices[:n]
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:
            raise _PassingTrouble(type(error).__name__) from None
        except (ValidationError, ValueError):
            raise _PassingTrouble("its reply was cut off or not a completion") from None

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """Say what a reply other than 200 means; never quote headers, where the key is."""
        status, headers = error.status_code, error.response.headers
        if status in _RETRIED:
            return _PassingTrouble(f"status {status}", _retry_after(headers))
        if 300 <= status < 400:
            target = urlsplit(headers.get("location", "")).hostname or "another address"
            return MulliganError(
                f"The server {self._host} redirects to {target!r}. Redirects are not followed, "
                "for they would take the key and the prompts there. Give the final address."
            )
        advice = (
            "Check the key." if status in (401, 403) else "Check the model's name and the prompt."
        )
        said = self._shown(_server_message(error))
        return MulliganError(
            f"The server {self._host} refused the request with {status}: {said} {advice}"
        )

    def _shown(self, text: str) -> str:
        if self._hidden:
            text = text.replace(self._hidden, "[key]")
        return "".join(letter if letter.isprintable() else " " for letter in text)[:300]


def _completion(choice: _Choice, prompt: TokenIds, sampling: Sampling) -> Completion:
    if choice.token_ids is None:
        raise MulliganError(
            "The server gives no token ids, so what it sampled cannot be scored exactly. Use a "
            "server with vLLM's return_token_ids, such as vLLM 0.10.2 or later."
        )
    if choice.prompt_token_ids is not None and tuple(choice.prompt_token_ids) != prompt:
        raise MulliganError(
            f"The server read other token ids than the {len(prompt)} it was sent. Make sure that "
            "it serves the same model and adds no tokens of its own."
        )
    if len(choice.token_ids) > sampling.max_tokens:
        raise _PassingTrouble(f"{len(choice.token_ids)} tokens, but {sampling.max_tokens} allowed")
    return Completion(tuple(choice.token_ids), choice.text, choice.finish_reason)


def _checked_host(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MulliganError(
            "The server's address is not a URL of the form http://host:port/v1. Mend it."
        )
    if parts.username or parts.password:
        raise MulliganError(
            f"The address of {parts.hostname} holds a user name or password. Put the key into an "
            "environment variable and name that instead."
        )
    return parts.netloc


def _key_from(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise MulliganError(
            f"The environment variable {variable} is to hold the server's key, but it is not set. "
            f"Set it, for example with: read -rs {variable}; export {variable}"
        )
    if not (key.isascii() and key.isprintable()):
        raise MulliganError(
            f"The key in {variable} holds characters that no HTTP header can. Set it again."
        )
    return key


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        wait_s = float(headers.get("retry-after", "0"))
    except ValueError:  # a date: our own backoff will do
        return 0.0
    return min(wait_s, _LONGEST_WAIT_S) if wait_s > 0 else 0.0


def _server_message(error: openai.APIStatusError) -> str:
    body: Any = error.body
    if isinstance(body, dict):
        body = body.get("message", body)
    return body if isinstance(body, str) else json.dumps(body, default=str)
