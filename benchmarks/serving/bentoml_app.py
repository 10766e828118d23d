"""BentoML with adaptive batching."""

from pathlib import Path

import bentoml

from benchmarks.serving.peer import decode_rgb, open_predictor, predict


@bentoml.service(traffic={"timeout": 60}, workers=1)
class Face:
    def __init__(self) -> None:
        self.predictor = open_predictor()

    @bentoml.api(route="/v1/predict", batchable=True, max_batch_size=8, max_latency_ms=10_000)
    def predict(self, files: list[Path]) -> list[dict]:
        return predict(self.predictor, [decode_rgb(Path(file).read_bytes()) for file in files])
