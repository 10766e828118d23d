"""Vision-language models as a Ray Serve application: OpenAI's chat API, with images, in front of vLLM.

The ingress is our own. That of `ray.serve.llm` allows every origin with credentials, has open routes for tokens, scores
and embeddings, queues without limit, and lets the engine open the URLs that clients send.
"""

# Annotations stay objects here: Serve ships the routes without this module's names, so strings could not be resolved.
import asyncio
import os
import time
from typing import Any

import ray
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState
from starlette.exceptions import HTTPException

from fer.errors import UserError
from fer.inference.vllm import QUIET
from serve_apps.access.api_keys import ApiKey
from serve_apps.access.auth import Gate, accepted_keys
from serve_apps.monitoring.request_log import open_request_log
from serve_apps.responses import new_api
from serve_apps.schema import ModelInfo
from serve_apps.vlm.options import VlmServeConfig
from serve_apps.vlm.request import parse_chat
from serve_apps.vlm.schema import ChatErrorResponse, ChatModelList, ChatRequest, ModelCard, VlmHealth
from serve_apps.vlm.stream import events, first_output, openai_error, unavailable

CHAT = "/v1/chat/completions"
_SCHEMA = f"#/paths/{CHAT.replace('/', '~1')}/post/requestBody/content/application~1json/schema/$defs/{{model}}"
_JSON = {"application/json": {"schema": ChatRequest.model_json_schema(ref_template=_SCHEMA)}}
CHAT_BODY = {"requestBody": {"required": True, "content": _JSON}}
"""FastAPI can't derive it: `parse_chat` reads the body, within the limits."""

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ChatErrorResponse} for code in (400, 401, 403, 404, 408, 413, 421, 422, 429, 503)
}

api = new_api("Ferry: vision-language models", "Questions about faces, in the form of OpenAI's chat API")
api.add_exception_handler(HTTPException, openai_error)  # type: ignore[arg-type]


@serve.deployment
@serve.ingress(api)
class VlmIngress:
    """The HTTP side: it checks requests, and passes on what the engine generates."""

    def __init__(
        self, engine: DeploymentHandle, config: VlmServeConfig, cards: list[ModelCard], keys: list[ApiKey]
    ) -> None:
        open_request_log(config)
        self.engine = engine.options(stream=True)
        self.config, self.cards, self.gate = config, cards, Gate(keys)
        self.started = time.monotonic()

    @api.post(CHAT, responses=ERRORS, openapi_extra=CHAT_BODY)
    async def chat(self, request: Request) -> Response:
        """Answer a conversation with images, as OpenAI's API does."""
        self.gate.admit(request, "vlm")
        body = await parse_chat(request, self.config, {card.id for card in self.cards})
        outputs: Any = self.engine.generate.remote(body)
        first = await first_output(outputs, self.running_engines)
        if body["stream"]:
            return StreamingResponse(events(first, outputs), media_type="text/event-stream")
        await anext(outputs, None)  # the end: the engine has a place for another request
        return Response(first, media_type="application/json")

    @api.get("/v1/models", responses={code: ERRORS[code] for code in (401, 403, 421, 429)})
    async def models(self, request: Request) -> ChatModelList:
        """List the model and its adapters."""
        self.gate.admit(request, "metadata")
        return ChatModelList(data=self.cards)

    @api.get("/healthz", responses={503: ERRORS[503]})
    async def health(self) -> VlmHealth:
        """Return 200 if a replica of the model is running, or one may be started by a request. Needs no token."""
        running = await self.running_engines()
        if not running and self.config.min_replicas:
            raise unavailable("no replica of the model is running")
        return VlmHealth(
            status="ok" if running else "idle",
            model=ModelInfo(name=self.cards[0].id, version=self.cards[0].version or ""),
            replicas=running,
            uptime_seconds=time.monotonic() - self.started,
        )

    async def running_engines(self) -> int:
        """From Serve's own checks: a request to the engine would wait behind those that it is generating."""
        status = await asyncio.to_thread(serve.status)
        engine = status.applications[self.engine.app_name].deployments[self.engine.deployment_name]
        return engine.replica_states.get(ReplicaState.RUNNING, 0)


def build_app(args: VlmServeConfig) -> Application:
    """The application for ``args``; pass it to `ray.serve.run`, or deploy it with `serve deploy`.

    The token is that of ``args``, else FER_SERVE_TOKEN. Raises UserError for an unusable model, if GPUs are required
    and the cluster has none, and if other machines can reach the server and there is neither a token nor a key.
    """
    os.environ.update(QUIET)
    from serve_apps.vlm.engine import build_engine
    from serve_apps.vlm.models import fetch_models, model_cards, pin_models

    keys = accepted_keys(args.token, args.api_keys)
    config = pin_models(args.model_copy(update={"token": None}))
    engine = build_engine(config, fetch_models(config), _use_gpu(config))
    capacity = config.max_batch_size * config.max_replicas + config.max_queued_requests
    ingress = VlmIngress.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=2 * capacity,  # more than the engine's queue holds, so that it is the one that fills up
    )
    return ingress.bind(engine, config, model_cards(config), keys)


def _use_gpu(config: VlmServeConfig) -> bool:
    available = ray.cluster_resources().get("GPU", 0) > 0
    if config.device == "gpu" and not available:
        raise UserError("--device gpu: the cluster has no GPU; use --device cpu or auto")
    return available and config.device != "cpu"
