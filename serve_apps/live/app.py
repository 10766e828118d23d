"""Faces in live video: a WebSocket that takes encoded frames and answers with the faces in the newest one.

A client sends each frame as a binary message, as often as it likes. While one is classified, the newest of those that
arrive waits, and the others are dropped and counted. The server keeps nothing from one frame to the next: a client
links the faces and smooths over time. A connection without the token or a key is closed with code 1008, with a key that
is for something else 4403, and one too many 1013. A key's rate counts frames: those beyond it wait, and newer ones win.
"""

# Annotations stay objects here, and what the routes use stands before them: Serve ships them as they are defined.
import asyncio
import json
import time
from contextlib import suppress

from fastapi import HTTPException, WebSocket, WebSocketDisconnect
from pydantic import Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette import status

from serve_apps.access.api_keys import ApiKey
from serve_apps.access.auth import Gate, accepted_keys
from serve_apps.live.options import LiveConfig
from serve_apps.responses import new_api
from serve_apps.schema import ClassifierInfo, FacePrediction, InvalidInput, PredictResponse, Schema, Timing

TOKEN_SECONDS = 10  # within which the token must arrive
FORBIDDEN = 4403  # close code, from the range for private use
MAX_REPLICAS = 4
SPARE_CONNECTIONS = 16  # that are accepted only to close them with the reason: there are too many


class LiveAnswer(Schema):
    """The answer to one frame."""

    frame: int = Field(description="Number of the frame in this connection, from 1")
    dropped: int = Field(description="Frames of this connection that were replaced by newer ones so far")
    faces: list[FacePrediction] = Field(default_factory=list)
    model: ClassifierInfo | None = None
    error: str | None = Field(None, description="Why this frame has no faces and no model")
    timing: Timing | None = Field(None, description="Time by stage in the classifier")
    waited: float = Field(description="Milliseconds from the frame's arrival until the frame before was answered")
    age: float = Field(description="Milliseconds from the frame's arrival to this answer")


class LatestFrame:
    """The newest frame of a connection, until it is taken."""

    def __init__(self) -> None:
        self.count, self.dropped = 0, 0
        self._frame: tuple[int, bytes, float] | None = None
        self._arrived = asyncio.Event()
        self.answered = 0
        """The last frame with an answer."""

    def put(self, frame: bytes) -> None:
        self.count += 1
        self.dropped += self._frame is not None
        self._frame = self.count, frame, time.perf_counter()
        self._arrived.set()

    async def take(self) -> tuple[int, bytes, float]:
        """The number of the newest frame, its bytes, and when it arrived. Waits for one."""
        await self._arrived.wait()
        self._arrived.clear()
        assert self._frame is not None
        taken, self._frame = self._frame, None
        return taken


def same_origin(socket: WebSocket) -> bool:
    """Whether the page that opened the connection is this server's. Clients other than browsers name no page."""
    origin = socket.headers.get("origin")
    return origin is None or origin.partition("://")[2] == socket.headers.get("host")


api = new_api("Ferry: live", "Faces in live video")


@serve.deployment
@serve.ingress(api)
class Live:
    """Connections to clients that send frames."""

    async def __init__(self, config: LiveConfig, keys: list[ApiKey]) -> None:  # type: ignore[misc]
        self.config, self.gate = config, Gate(keys)
        self.following = asyncio.create_task(self.gate.follow_replicas())
        self.connections = 0
        self.classifier: DeploymentHandle | None = None

    @api.get("/healthz")
    async def health(self) -> dict[str, int]:
        """Return 200, and the number of connections. Needs no token."""
        return {"connections": self.connections}

    @api.websocket("/stream")
    async def stream(self, socket: WebSocket) -> None:
        """Answer frames until the client goes away, or breaks a rule."""
        if not (same_origin(socket) and self.gate.is_addressed(socket)):
            await socket.close(status.WS_1008_POLICY_VIOLATION)  # before it is accepted: HTTP 403
            return
        await socket.accept()
        if self.connections >= self.config.max_connections:
            await socket.close(status.WS_1013_TRY_AGAIN_LATER, "the server has too many connections")
            return
        self.connections += 1
        try:
            key = await self.authenticate(socket)
            await self.answer_frames(socket, key, socket.query_params.get("model") or None)
        except HTTPException as refused:
            if refused.status_code == 403:
                await socket.close(FORBIDDEN, refused.detail)
            else:
                await socket.close(status.WS_1008_POLICY_VIOLATION, 'send the token first: {"token": "TOKEN"}')
        except WebSocketDisconnect:
            pass  # the client went away
        finally:
            self.connections -= 1

    async def authenticate(self, socket: WebSocket) -> ApiKey | None:
        """The key in the first message, if one is needed. Raises HTTPException 401 or 403."""
        secret = ""
        if self.gate.keys:
            with suppress(TimeoutError, ValueError, KeyError, TypeError, RecursionError):
                message = json.loads(await asyncio.wait_for(socket.receive_text(), TOKEN_SECONDS))
                secret = str(message["token"])
        return self.gate.identify(secret, "live")

    async def answer_frames(self, socket: WebSocket, key: ApiKey | None, model: str | None) -> None:
        """Receive and answer at the same time, until one of both ends."""
        frames = LatestFrame()
        both = self.receive(socket, frames), self.answer(socket, frames, key, model)
        tasks = [asyncio.create_task(each) for each in both]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()

    async def receive(self, socket: WebSocket, frames: LatestFrame) -> None:
        """Take frames until the client goes away, sends anything else, or nothing for a while."""
        while True:
            try:
                message = await asyncio.wait_for(socket.receive(), self.config.idle_seconds)
            except TimeoutError:
                if frames.answered < frames.count:
                    continue  # the server is slow, or the key's rate is
                return await socket.close(status.WS_1000_NORMAL_CLOSURE, "idle")
            if message["type"] == "websocket.disconnect":
                return None
            frame = message.get("bytes")
            if frame is None:
                return await socket.close(status.WS_1003_UNSUPPORTED_DATA, "frames are binary messages")
            if len(frame) > self.config.max_frame_bytes:
                reason = f"a frame of {len(frame)} bytes, more than {self.config.max_frame_bytes}"
                return await socket.close(status.WS_1009_MESSAGE_TOO_BIG, reason)
            frames.put(frame)

    async def answer(self, socket: WebSocket, frames: LatestFrame, key: ApiKey | None, model: str | None) -> None:
        """Answer the newest frame, again and again, as often as the key allows."""
        while True:
            while key and (seconds := self.gate.seconds_to_wait(key)):
                await asyncio.sleep(seconds)
            number, frame, arrived = await frames.take()
            started = time.perf_counter()
            result = await self.classify(frame, model)
            waited, age = 1000 * (started - arrived), 1000 * (time.perf_counter() - arrived)
            answer = LiveAnswer(frame=number, dropped=frames.dropped, waited=waited, age=age)
            if isinstance(result, InvalidInput):
                answer.error = result.reason
            else:
                answer.faces, answer.model, answer.timing = result.images[0].faces, result.model, result.timing
            await socket.send_text(answer.model_dump_json())
            frames.answered = number

    async def classify(self, frame: bytes, model: str | None) -> PredictResponse | InvalidInput:
        """The faces in one encoded image, from the application `classifier`."""
        try:
            if self.classifier is None:
                self.classifier = await asyncio.to_thread(serve.get_app_handle, "classifier")
            return await self.classifier.predict.remote([frame], model=model)
        except BackPressureError:
            return InvalidInput(reason="the server is busy; try again")
        except (DeploymentUnavailableError, RayActorError, RayServeException):
            return InvalidInput(reason="the model is not available; try again")


def build_app(args: LiveConfig) -> Application:
    """The application for ``args``; the application `classifier` must run on the same cluster."""
    keys = accepted_keys(args.token, args.api_keys)
    deployment = Live.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": 0.1},
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": MAX_REPLICAS,
            "target_ongoing_requests": max(1, args.max_connections // 2),
        },
        max_ongoing_requests=args.max_connections + SPARE_CONNECTIONS,
    )
    return deployment.bind(args.model_copy(update={"token": None}), keys)
