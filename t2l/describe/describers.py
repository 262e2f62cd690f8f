"""Who writes descriptions: a chat-completions endpoint, or a local causal LM. `build` makes the describer of a config."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import torch

from t2l.base_model import BaseModel, BaseModelConfig, load_base_model
from t2l.base_model.decoding import plain_decoding
from t2l.base_model.files import file_fingerprint, resolve_path
from t2l.checks import at_least, in_range, one_of, positive
from t2l.registry import component_of, register
from t2l.tasks import tokenize_prompts

log = logging.getLogger(__name__)
KEPT = "replies so far are kept, and the same command goes on from them"


@dataclass
class EndpointConfig:
    """An OpenAI-compatible chat-completions endpoint."""

    name: str = "endpoint"
    """fixed"""
    url: str = ""
    """address up to its version, like https://HOST/v1; requests go to URL/chat/completions"""
    model: str = ""
    """the endpoint's name for the model"""
    api_key_env: str | None = None
    """environment variable that holds the key, which is never written down; None for an endpoint that needs no key"""
    temperature: float | None = 1.0
    """sampling temperature; None leaves it to the endpoint"""
    max_tokens: int | None = 2048
    """most tokens of a reply; None leaves it to the endpoint"""
    send_seed: bool = True
    """whether each request carries a seed of its own; false for endpoints that refuse the field"""
    extra: dict[str, Any] = field(default_factory=dict)
    """further fields of every request, like {top_p: 0.95}; they are recorded, so no secret belongs here"""
    concurrency: int = 4
    """requests under way at once"""
    timeout_s: float = 120.0
    """seconds to wait for a connection, and for the endpoint to say anything"""
    retries: int = 6
    """times a request is repeated after a timeout, a lost connection, a broken answer, or status 408, 429 or 5xx"""
    backoff_s: float = 1.0
    """seconds before the first repetition; they double each time, with jitter, unless Retry-After says otherwise"""
    max_wait_s: float = 300.0
    """longest wait before a repetition in seconds; a Retry-After beyond it ends the run"""

    def __post_init__(self) -> None:
        one_of(self, ["endpoint"], "name", under="describer")
        if not self.url or not self.model:
            raise ValueError("describer.url and describer.model are needed, like https://HOST/v1 and the model's name")
        parts = urlsplit(self.url)
        if parts.username or parts.password or parts.query or parts.fragment:  # not repeated: it may hold a secret
            raise ValueError(
                "describer.url must be a bare address: no user, password, ? or #; see describer.api_key_env"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"describer.url must be like https://HOST/v1, not {self.url!r}")
        if self.api_key_env is not None and not (self.api_key_env.isidentifier() and self.api_key_env.isascii()):
            raise ValueError("describer.api_key_env must be the name of an environment variable, not the key itself")
        positive(self, "timeout_s", "backoff_s", "max_wait_s", under="describer")
        at_least(self, 1, "concurrency", "max_tokens", under="describer")
        at_least(self, 0, "retries", "temperature", under="describer")


@dataclass
class LocalModelConfig:
    """A causal LM in this process, asked through its chat template, one prompt at a time.

    For many tasks an inference server on the same machine, asked as an endpoint, is much faster.
    """

    name: str = "local_model"
    """fixed"""
    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """the model and how it is loaded"""
    temperature: float = 1.0
    """sampling temperature; 0 takes the likeliest token"""
    top_p: float = 0.95
    """probability mass that tokens are sampled from"""
    max_new_tokens: int = 1024
    """most tokens of a reply"""

    def __post_init__(self) -> None:
        one_of(self, ["local_model"], "name", under="describer")
        at_least(self, 0, "temperature", under="describer")
        at_least(self, 1, "max_new_tokens", under="describer")
        in_range(self, "(0, 1]", "top_p", under="describer")


class Describer(ABC):
    """Answers a prompt with a text.

    `model` names who answers, `origin` where from; both are recorded with each reply.
    """

    model: str
    origin: str
    concurrency: int = 1
    """calls of `reply` that may run at once"""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a reply depends on besides model, prompt and seed, without secrets, as JSON."""

    @abstractmethod
    def reply(self, prompt: str, seed: int) -> str:
        """The answer to a prompt. Raises ValueError if there will be none."""

    def stop(self) -> None:  # noqa: B027
        """Makes calls of `reply` that wait for their next attempt give up, now and later."""


class _PassingProblemError(Exception):
    """What may be gone when the request is repeated; `wait_s` is how long the endpoint asks to wait, if it does."""

    def __init__(self, problem: str, wait_s: float | None = None) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


@register("describer", "endpoint", EndpointConfig)
class Endpoint(Describer):
    """A chat-completions endpoint, asked until it answers."""

    def __init__(self, config: EndpointConfig) -> None:
        """Raises ValueError if the environment variable of the key is not set or holds no key."""
        self.config, self.model, self.origin = config, config.model, config.url.rstrip("/")
        self.concurrency = config.concurrency
        self._stopped = threading.Event()
        self._key = self._read_key(config.api_key_env)

    @staticmethod
    def _read_key(variable: str | None) -> str:
        if variable is None:
            return ""
        key = os.environ.get(variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError(
                f"describer.api_key_env={variable}: this environment variable holds no key; set it, or "
                "describer.api_key_env=null for an endpoint that needs none"
            )
        return key

    def _sampling(self) -> dict[str, Any]:
        sent = {"temperature": self.config.temperature, "max_tokens": self.config.max_tokens, **self.config.extra}
        return {k: v for k, v in sent.items() if v is not None}

    def settings(self) -> dict[str, Any]:
        """What every request is sent with beside its prompt, and whether its seed is."""
        return {**self._sampling(), "send_seed": self.config.send_seed}

    def stop(self) -> None:
        """Makes requests that wait for their next attempt give up, now and later."""
        self._stopped.set()

    def reply(self, prompt: str, seed: int) -> str:
        """The model's answer, empty if it gives none.

        Raises ValueError if the endpoint refuses the request, or fails it `retries` times more.
        """
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], **self._sampling()}
        if self.config.send_seed:
            body["seed"] = seed
        problem = ""
        for attempt in range(self.config.retries + 1):
            try:
                return self._hide_key(self._ask(body))
            except _PassingProblemError as error:
                problem, asked = self._hide_key(str(error)), error.wait_s
            if asked is not None and asked > self.config.max_wait_s:
                raise ValueError(
                    f"{self.origin} asks to wait {asked:.0f} s, longer than describer.max_wait_s="
                    f"{self.config.max_wait_s:g} ({problem}): {KEPT}"
                )
            if attempt < self.config.retries:
                wait = self._wait(attempt, asked)
                log.warning("%s: %s; repeated in %.1f s", self.origin, problem, wait)
                if self._stopped.wait(wait):
                    break
        raise ValueError(
            f"{self.origin} failed a request at attempt {attempt + 1} of {self.config.retries + 1}: {problem}; {KEPT}"
        )

    def _wait(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt: what the endpoint asks for, or exponential back-off, with jitter."""
        if asked is not None:
            return asked + random.uniform(0, 0.1 * self.config.backoff_s)
        return min(self.config.backoff_s * 2**attempt, self.config.max_wait_s) * random.uniform(0.5, 1)

    def _hide_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _sign(self, request: Any) -> Any:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _ask(self, body: dict[str, Any]) -> str:
        import requests

        broken = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)
        passing = (requests.ConnectionError, requests.Timeout, *broken)
        try:
            # A function as `auth` also keeps requests from putting a login of ~/.netrc in its place.
            response = requests.post(
                f"{self.origin}/chat/completions",
                json=body,
                auth=self._sign,
                timeout=self.config.timeout_s,
                allow_redirects=False,
            )
        except passing as error:
            raise _PassingProblemError(f"{type(error).__name__}: {str(error)[:200]}") from None
        except requests.RequestException as error:
            raise ValueError(f"{self.origin} cannot be asked: {self._hide_key(str(error))[:200]}") from None
        status, text = response.status_code, response.content.decode("utf-8", "replace")
        if status in (408, 429) or status >= 500:
            said = _retry_after(response.headers.get("Retry-After"))
            raise _PassingProblemError(f"status {status} {response.reason}", said)
        if not response.ok or status >= 300:
            hint = "; its key is read from describer.api_key_env" if status in (401, 403) else ""
            said_text = self._hide_key(_error_message(text))
            raise ValueError(f"{self.origin} refused the request: status {status} {response.reason}: {said_text}{hint}")
        return _content(text)


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as seconds or as a date; None if it says nothing."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return float(Retry().parse_retry_after(header)) if header else None
    except InvalidHeader:
        return None


def _error_message(text: str) -> str:
    """The message in an error's body, or its beginning."""
    try:
        return str(json.loads(text)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return text[:300]


def _content(text: str) -> str:
    """The first choice's message in the body of a chat completion; empty if the model said nothing."""
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, TypeError, IndexError):
        raise _PassingProblemError(f"the answer is no chat completion: {text[:200]!r}") from None
    if content is not None and not isinstance(content, str):
        raise _PassingProblemError(f"the answer's content is no text: {text[:200]!r}")
    return content or ""


@register("describer", "local_model", LocalModelConfig)
class LocalModel(Describer):
    """A causal LM in this process, loaded at the first prompt. The same seed gives the same reply."""

    def __init__(self, config: LocalModelConfig) -> None:
        """Raises ValueError if there is no such folder."""
        self.config, self.model, self.origin = config, config.base_model.path, "local"
        self._fingerprint = file_fingerprint(resolve_path(config.base_model.path))

    @cached_property
    def _base(self) -> BaseModel:
        return load_base_model(self.config.base_model)

    def settings(self) -> dict[str, Any]:
        """Sampling settings, and which weights in which precision."""
        return {
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            "max_new_tokens": self.config.max_new_tokens,
            "dtype": self.config.base_model.dtype,
            "quantization": str(self.config.base_model.quantization),
            "fingerprint": self._fingerprint,
        }

    def reply(self, prompt: str, seed: int) -> str:
        """What the model writes after the prompt. Raises ValueError if the two do not fit into its positions."""
        base, longest = self._base, self.config.max_new_tokens
        ids = torch.tensor([tokenize_prompts(base.tokenizer, [prompt])[0]], device=base.device)
        positions = getattr(base.model.config, "max_position_embeddings", None)
        if positions is not None and ids.shape[1] + longest > positions:
            raise ValueError(
                f"a prompt of {ids.shape[1]} tokens and describer.max_new_tokens={longest} exceed the {positions} "
                f"positions of {self.model}: lower describer.max_new_tokens, examples or example_characters"
            )
        sampling = {"do_sample": True, "temperature": self.config.temperature, "top_p": self.config.top_p, "top_k": 0}
        with torch.random.fork_rng(), plain_decoding(base.model):
            torch.manual_seed(seed)
            output = base.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=longest,
                pad_token_id=base.tokenizer.pad_token_id,
                eos_token_id=base.end_ids,
                **(sampling if self.config.temperature > 0 else {"do_sample": False}),
            )
        return base.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def build(config: Any) -> Describer:
    """The describer of a config. Raises ValueError if it is none, or of a kind that there is not."""
    return component_of("describer", config).make(config)
