"""LitServe with batches of up to 8."""

import sys
from typing import Any

import litserve
import litserve.server
from fastapi import Request

from benchmarks.serving.peer import decode_rgb, open_predictor, predict

litserve.server._MCP_AVAILABLE = False  # an MCP server is not compared, and its import fails beside newer mcp packages


class FaceAPI(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.predictor = open_predictor()

    def decode_request(self, request: Request) -> Any:
        return decode_rgb(request["files"].file.read())

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, images: list) -> list[dict]:
        return predict(self.predictor, images)

    def unbatch(self, output: list) -> list:
        return output

    def encode_response(self, output: dict) -> dict:
        return output


if __name__ == "__main__":
    api = FaceAPI(max_batch_size=8, batch_timeout=0.005, api_path="/v1/predict")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False
    )
