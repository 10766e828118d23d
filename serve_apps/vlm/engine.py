"""The engine of the application `vlm`: vLLM through `ray.serve.llm`, behind a method that takes checked requests."""

# Annotations stay objects here, as in the other deployments.
import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import numpy as np
from pydantic import ValidationError
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest
from vllm.entrypoints.openai.models.protocol import LoRAModulePath
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.model_executor.models import ModelRegistry
from vllm.v1.engine.exceptions import EngineDeadError

from fer.errors import UserError
from fer.inference.vllm import CPU_ARGUMENTS, CPU_ENVIRONMENT, QUIET, cpu_dtype
from fer.vlm.model import load_config
from serve_apps.child_processes import end_children_with_this_process
from serve_apps.deployment import autoscaling
from serve_apps.vlm.models import ServedModels, fetch_models
from serve_apps.vlm.options import VlmServeConfig
from serve_apps.vlm.request import data_uri
from serve_apps.vlm.schema import Rejected


class VlmServer(LLMServer):
    """One replica of the model."""

    async def __init__(self, llm_config: LLMConfig, config: VlmServeConfig, use_gpu: bool) -> None:  # type: ignore[misc]
        """``llm_config`` is the driver's; the replica makes its own, with the folders on this node."""
        models = await asyncio.to_thread(fetch_models, config)
        self.control_tokens = models.control_tokens
        await super().__init__(engine_config(config, models, use_gpu), engine_cls=None if use_gpu else CpuEngine)
        self.watchdog = end_children_with_this_process()
        await self._warm_up(config)

    async def generate(self, body: dict[str, Any]) -> AsyncGenerator[str | Rejected, None]:
        """The response to one request: one JSON text, or server-sent events. A rejection comes first and alone."""
        try:
            request = ChatCompletionRequest.model_validate(body | {"request_id": uuid4().hex})
            if reason := self._reason_to_reject(body):
                yield Rejected(422, reason)
                return
            async for output in await self.chat(request):
                for part in output if isinstance(output, list) else [output]:
                    if isinstance(part, ErrorResponse):
                        yield Rejected(part.error.code, part.error.message)
                    else:
                        yield part if isinstance(part, str) else part.model_dump_json(exclude_none=True)
        except ValidationError as error:
            yield Rejected(422, error.errors(include_input=False, include_url=False)[0]["msg"])
        except EngineDeadError:
            yield Rejected(503, "the engine has stopped and is being restarted")

    async def _warm_up(self, config: VlmServeConfig) -> None:
        """Answer one request, so that the first client does not wait for imports and allocations."""
        gray = np.full((config.image_size or 224,) * 2 + (3,), 128, np.uint8)
        content = [{"type": "image_url", "image_url": {"url": data_uri(gray, config.image_size)}}]
        message = {"role": "user", "content": [*content, {"type": "text", "text": "Which expression?"}]}
        body = {"model": config.name, "messages": [message], "max_completion_tokens": 1}
        async for output in self.generate(body):
            assert not isinstance(output, Rejected), f"the model cannot answer: {output.reason}"

    def _reason_to_reject(self, body: dict[str, Any]) -> str | None:
        """Control tokens in a text could end the user's turn, or stand for an image that is not there."""
        texts = [part["text"] for message in body["messages"] for part in message["content"] if part["type"] == "text"]
        found = next((token for token in self.control_tokens if any(token in text for text in texts)), None)
        return f"a text contains {found!r}, a control token of the model" if found else None


class LocalFiles(CallbackBase):
    """Skips the download of the model to every node: `fetch_models` has done that, and vLLM loads hub models itself."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class CpuEngine(VLLMEngine):
    """vLLM on CPUs, with its worker in the engine's process instead of one more that imports all of vLLM."""

    def _start_async_llm_engine(self, args: Any, config: Any, placement_group: Any) -> Any:
        config.parallel_config.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(args, config, placement_group)


def engine_config(config: VlmServeConfig, models: ServedModels, use_gpu: bool) -> LLMConfig:
    """The engine of one replica, with the sampling defaults of a request instead of those of the model's files."""
    arguments: dict[str, Any] = {
        "max_model_len": config.max_context or -1,  # -1: what the model and the memory allow
        "max_num_seqs": config.max_batch_size,
        "limit_mm_per_prompt": {"image": config.max_images, "video": 0},
        "tensor_parallel_size": config.tensor_parallel,
        "trust_remote_code": config.trust_remote_code,
        "generation_config": "vllm",
        # A model that is free to write blanks between the fields of an object may write nothing else.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "use_tqdm_on_load": False,
    }
    if models.adapters:
        arguments |= {
            "enable_lora": True,
            "max_loras": len(models.adapters),
            "max_lora_rank": models.lora_rank,
            "enable_tower_connector_lora": models.adapts_vision,
            "lora_modules": [LoRAModulePath(name, folder) for name, folder in models.adapters.items()],
        }
    return LLMConfig(
        model_loading_config={"model_id": config.name, "model_source": models.base},
        engine_kwargs=arguments if use_gpu else arguments | CPU_ARGUMENTS | {"dtype": cpu_dtype()},
        callback_config={"callback_class": LocalFiles},
        # On CPUs, the engine works on those of its replica and needs no others.
        placement_group_config=None if use_gpu else {"bundles": [{"CPU": 0}]},
        deployment_config={"ray_actor_options": {"num_cpus": config.cpus_per_replica}},
        runtime_env={"env_vars": QUIET if use_gpu else CPU_ENVIRONMENT | QUIET | _threads(config)},
    )


def _threads(config: VlmServeConfig) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(max(1, int(config.cpus_per_replica)))}


def build_engine(config: VlmServeConfig, models: ServedModels, use_gpu: bool) -> Application:
    """The deployment of the model for a pinned ``config``. Raises UserError for adapters that vLLM can't switch."""
    if models.adapts_vision:
        _check_vision_adapters(config, models)
    return build_llm_deployment(
        engine_config(config, models, use_gpu),
        deployment_cls=VlmServer,
        bind_kwargs={"config": config, "use_gpu": use_gpu},
        override_serve_options={
            "name": "VlmServer",
            "autoscaling_config": autoscaling(
                config.min_replicas, config.max_replicas, max(1, config.max_batch_size // 2)
            ),
            "max_ongoing_requests": config.max_batch_size,
            "max_queued_requests": config.max_queued_requests,
        },
    )


def _check_vision_adapters(config: VlmServeConfig, models: ServedModels) -> None:
    """vLLM would leave out, with a log message only, what an adapter changes in the vision part of some models."""
    [architecture, *_] = load_config(models.base, config.trust_remote_code).architectures
    model = ModelRegistry.models.get(architecture)
    if model is None or not getattr(model.load_model_cls(), "supports_tower_connector_lora", False):
        raise UserError(
            f"vLLM can't switch adapters of the vision part of {architecture}; serve such an adapter as the model, "
            "which merges it"
        )
