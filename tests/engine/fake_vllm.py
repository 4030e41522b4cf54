"""What this project uses of vLLM and no more: an unknown argument, a wrong prompt, a call out of turn is an error."""

from __future__ import annotations

import hashlib
import json
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARGUMENTS = {
    "model",
    "dtype",
    "seed",
    "trust_remote_code",
    "max_model_len",
    "gpu_memory_utilization",
    "enable_prefix_caching",
    "limit_mm_per_prompt",
    "mm_processor_kwargs",
    "generation_config",
    "disable_log_stats",
}


class RequestOutputKind:
    FINAL_ONLY = "final only"


@dataclass
class SamplingParams:
    """The arguments that are used; any other is refused."""

    temperature: float
    max_tokens: int
    ignore_eos: bool
    stop_token_ids: list[int]
    detokenize: bool
    logprobs: int
    output_kind: str


@dataclass
class Completion:
    token_ids: list[int]
    finish_reason: str = "length"
    cumulative_logprob: float = -1.0


@dataclass
class Output:
    request_id: str
    outputs: list[Completion]
    prompt_token_ids: list[int]
    num_cached_tokens: int = 1
    finished: bool = True


@dataclass
class Renderer:
    """Check what is asked, as the real one does; refuse prompts beyond ``longest`` tokens."""

    marker: int
    longest: int = 200

    def render_cmpl(self, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for prompt in prompts:
            assert set(prompt) <= {"prompt_token_ids", "multi_modal_data", "multi_modal_uuids"}
            ids = prompt["prompt_token_ids"]
            assert type(ids) is list and all(type(token) is int for token in ids)
            images = prompt.get("multi_modal_data", {"image": []})["image"]
            digests = prompt.get("multi_modal_uuids", {"image": []})["image"]
            assert len(images) == len(digests) == ids.count(self.marker), "a picture for each placeholder"
            assert all(image.mode == "RGB" for image in images)
            if len(ids) > self.longest:
                raise ValueError(f"the prompt is longer than {self.longest} tokens")
        return prompts


@dataclass
class LLMEngine:
    """Finish a few requests a step, the youngest first; an answer depends on prompt and image alone."""

    at_once: int = 3
    asked: list[tuple[str, dict[str, Any], SamplingParams]] = field(default_factory=list)
    running: dict[str, tuple[list[int], Completion]] = field(default_factory=dict)
    most: int = 0
    steps: int = 0
    aborted: list[str] = field(default_factory=list)
    answers: dict[str, Completion] = field(default_factory=dict)
    dies_at: int | None = None

    def add_request(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        assert request_id not in self.running
        self.asked.append((request_id, prompt, params))
        answer = self.answers.get(request_id) or self._answer(prompt, params)
        self.running[request_id] = (prompt["prompt_token_ids"], answer)
        self.most = max(self.most, len(self.running))
        return f"{request_id}-internal"

    def step(self) -> list[Output]:
        assert self.running, "nothing to wait for"
        self.steps += 1
        if self.dies_at == self.steps:
            raise RuntimeError("the core is gone")
        keys = list(self.running)[-self.at_once :]
        done = {key: self.running.pop(key) for key in keys}
        return [Output(key, [answer], prompt) for key, (prompt, answer) in done.items()]

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids
        for key in request_ids:
            del self.running[key]

    @staticmethod
    def _answer(prompt: dict[str, Any], params: SamplingParams) -> Completion:
        seen = f"{prompt['prompt_token_ids']} {prompt.get('multi_modal_uuids')}"
        digest = hashlib.sha256(seen.encode()).digest()
        tokens = [4 + byte % 40 for byte in digest * 9][: params.max_tokens]
        if digest[0] % 2 and len(tokens) > 2 and params.stop_token_ids:
            return Completion([*tokens[:2], params.stop_token_ids[0]], "stop")
        return Completion(tokens)


class LLM:
    """Made with the arguments that are used and no others."""

    def __init__(self, **arguments: Any) -> None:
        unknown = set(arguments) - ARGUMENTS
        if unknown:
            raise TypeError(f"unknown arguments: {unknown}")
        assert Path(arguments["model"]).is_dir()
        if arguments["gpu_memory_utilization"] < 0.01:
            raise ValueError("no room for the cache")
        self.arguments = arguments
        configuration = json.loads((Path(arguments["model"]) / "config.json").read_text(encoding="utf-8"))
        self.renderer = Renderer(configuration["image_token_index"])
        self.llm_engine = LLMEngine()


class MeasuredLLM(LLM):
    """For measurements: random weights, and caches that can be emptied."""

    def __init__(self, load_format: str, **arguments: Any) -> None:
        assert load_format == "dummy"
        super().__init__(**arguments)
        self.renderer.longest = 700
        for name in ("reset_mm_cache", "reset_encoder_cache", "reset_prefix_cache"):
            setattr(self.llm_engine, name, lambda: None)


def fake_modules(is_cpu: bool = True, measured: bool = False) -> dict[str, types.ModuleType]:
    """Return the modules by name, to be put into ``sys.modules``."""
    vllm: Any = types.ModuleType("vllm")
    platforms: Any = types.ModuleType("vllm.platforms")
    sampling: Any = types.ModuleType("vllm.sampling_params")
    platforms.current_platform = types.SimpleNamespace(is_cpu=lambda: is_cpu)
    sampling.RequestOutputKind = RequestOutputKind
    vllm.__version__, vllm.__path__ = "0.0.fake", []
    vllm.LLM, vllm.SamplingParams = MeasuredLLM if measured else LLM, SamplingParams
    vllm.platforms, vllm.sampling_params = platforms, sampling
    return {"vllm": vllm, "vllm.platforms": platforms, "vllm.sampling_params": sampling}
