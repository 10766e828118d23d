"""`fer demo`: every step of Ferry on rendered faces, and the model that comes with Ferry on a portrait."""

from __future__ import annotations

import json
import time
from pathlib import Path

from pydantic import Field

from fer.registry import DEFAULT_MODEL
from fer.tracking import TrackingOptions

MODEL = "ferry-demo"
CHAMPION = f"models:/{MODEL}@champion"


class DemoConfig(TrackingOptions):
    """Train, evaluate, register and serve a classifier of rendered faces; then show the bundled model a portrait."""

    storage: str = Field("runs/demo", description="Output folder")
    faces_per_class: int = Field(250, ge=20, description="Rendered training faces of each of the seven expressions")
    epochs: int = Field(14, ge=1, description="Passes over the training faces")
    workers: int = Field(2, ge=1, description="Training workers")
    port: int = Field(0, ge=0, le=65535, description="Port of the server; 0: any free port")


Config = DemoConfig


def main(config: DemoConfig) -> None:
    """Run each step as its own command would, then print a summary."""
    from fer.classifier.evaluate.options import EvaluateConfig
    from fer.classifier.options import TrainConfig
    from fer.data.options import PrepareOptions
    from fer.data.synthetic import write_faces
    from jobs import evaluate, prepare, promote, train

    started = time.monotonic()
    out = Path(config.storage)
    tracking = {"storage": config.storage, "tracking_uri": config.tracking_uri}

    step(1, "Render faces: synthetic, only to try Ferry on")
    faces = out / "faces"
    for part, count, seed in (("train", config.faces_per_class, 0), ("test", config.faces_per_class // 4, 1)):
        write_faces(faces / part, per_class=count, size=64, seed=seed)
    print(f"{faces}: train and test show different people")

    step(2, "fer prepare: validated, shuffled Parquet shards")
    prepare.main(PrepareOptions(data=str(faces), out=str(out / "shards"), overwrite=True))

    step(3, f"fer train: {config.workers} Ray Train workers")
    train.main(
        TrainConfig(
            data=str(out / "shards"),
            backbone="resnet18",
            model_kwargs={"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
            img_size=64,
            in_chans=1,
            epochs=config.epochs,
            batch_size=16,
            lr=1e-3,
            weight_decay=0.05,
            workers=config.workers,
            register_as=MODEL,
            alias="challenger",
            **tracking,
        )
    )

    step(4, "fer evaluate: faces of people not seen in training")
    evaluate.main(
        EvaluateConfig(
            model=f"models:/{MODEL}@challenger", data=str(out / "shards"), out=str(out / "evaluation"), **tracking
        )
    )

    step(5, "fer promote: the challenger becomes the champion")
    promote.main(promote.Config(name=MODEL, alias="champion", **tracking))

    step(6, "fer serve: one request over HTTP")
    image = sorted((faces / "test").glob("surprise/*.png"))[0]
    response = request_prediction(config, image)

    step(7, f"fer predict: {DEFAULT_MODEL}, the model that comes with Ferry, on a portrait")
    portrait = predict_portrait(out)

    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    print_results(config, metrics, response, image, portrait, time.monotonic() - started)


def request_prediction(config: DemoConfig, image: Path) -> dict:
    """Start the server, send it one image, stop it; its response."""
    import httpx

    from cluster.ports import free_port
    from jobs import serve

    options = serve.Config(
        apps=["classifier"],
        model=CHAMPION,
        port=config.port or free_port(),
        detector="none",
        storage=config.storage,
        tracking_uri=config.tracking_uri,
    )
    with serve.running(options) as url, image.open("rb") as file:
        response = httpx.post(f"{url}/v1/predict", files={"files": file}, timeout=60)
    response.raise_for_status()
    return response.json()


def predict_portrait(out: Path) -> dict:
    """Predict for NASA's portrait of Eileen Collins (public domain), and draw the prediction; its row."""
    from PIL import Image
    from skimage import data

    from fer.classifier.predict.options import PredictConfig
    from jobs import predict

    Image.fromarray(data.astronaut()).save(out / "portrait.png")
    rows = out / "portrait.jsonl"
    predict.main(PredictConfig(paths=[str(out / "portrait.png")], out=str(rows), draw=str(out / "annotated")))
    return json.loads(rows.read_text().splitlines()[0])


def step(number: int, title: str) -> None:
    print(f"\n[{number}/7] {title}", flush=True)


def print_results(
    config: DemoConfig, metrics: dict, response: dict, image: Path, portrait: dict, seconds: float
) -> None:
    """The accuracy against chance, the outputs, and the next commands."""
    accuracy, classes = metrics["expression"]["accuracy"], metrics["expression"]["labels"]
    face = response["images"][0]["faces"][0]
    chance = 1 / len(classes)
    tracking = f" --tracking-uri {config.tracking_uri}" if config.tracking_uri else ""
    print(
        f"""
Done in {seconds / 60:.1f} minutes.

  Accuracy on unseen people  {accuracy["value"]:.1%}  (95% interval {accuracy["low"]:.1%} to {accuracy["high"]:.1%})
  Chance, {len(classes)} classes          {chance:.1%}
  The server's prediction    {face["label"]} ({face["confidence"]:.0%}) for a face rendered as {image.parent.name}
  {DEFAULT_MODEL} on the portrait   {portrait["label"]} ({portrait["confidence"]:.0%})

  Report      {config.storage}/evaluation/report.html
  Plots       {config.storage}/evaluation/*.png
  Portrait    {config.storage}/annotated/portrait.jpg
  MLflow      {config.storage}/mlflow.db  (mlflow ui --backend-store-uri sqlite:///{config.storage}/mlflow.db)
  Model       {CHAMPION}

Next:  fer serve --model {CHAMPION} --storage {config.storage}{tracking}
  or:  fer predict YOUR_PHOTO.jpg --draw annotated
  or:  fer train --data YOUR_FACES --backbone resnet18   (fer train --help)"""
    )


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("demo"))
