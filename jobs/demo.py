"""`fer demo`: the whole of Ferry on rendered faces: prepare, train, evaluate, register, serve, ask."""

from __future__ import annotations

import json
import time
from pathlib import Path

from pydantic import Field

from fer.tracking import TrackingOptions

MODEL = "ferry-demo"


class DemoConfig(TrackingOptions):
    """Render a small labelled face set, train a classifier on it, judge it, register it, serve it and ask it."""

    out_dir: str = Field("runs/demo", description="Folder for everything that the demo makes")
    faces_per_class: int = Field(250, ge=20, description="Training faces rendered for each of the seven expressions")
    epochs: int = Field(14, ge=1, description="Passes over them")
    workers: int = Field(2, ge=1, description="Training workers")
    port: int = Field(0, ge=0, le=65535, description="Port to serve on; 0: any free one")


Config = DemoConfig


def main(config: DemoConfig) -> None:
    """Run every step as its own command would, then sum up."""
    from fer.classifier.evaluate.options import EvaluateConfig
    from fer.classifier.options import TrainConfig
    from fer.data.options import PrepareOptions
    from fer.data.synthetic import write_faces
    from jobs import evaluate, prepare, promote, train

    began = time.monotonic()
    out, champion = Path(config.out_dir), f"models:/{MODEL}@champion"
    tracking = {"out_dir": config.out_dir, "tracking_uri": config.tracking_uri}

    step(1, "Rendering faces: a test pattern, not data to draw conclusions from")
    faces = out / "faces"
    for part, count, seed in (("train", config.faces_per_class, 0), ("test", config.faces_per_class // 4, 1)):
        write_faces(faces / part, per_class=count, size=64, seed=seed)
    print(f"{faces}: other people in test than in train")

    step(2, "fer prepare: checked, shuffled Parquet shards")
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

    step(4, "fer evaluate: faces of people that it has not seen")
    judged = EvaluateConfig(
        model=f"models:/{MODEL}@challenger", data=str(out / "shards"), out=str(out / "evaluation"), **tracking
    )
    evaluate.main(judged)

    step(5, "fer promote: the challenger becomes the champion")
    promote.main(promote.Config(name=MODEL, alias="champion", **tracking))

    step(6, "fer serve: one request over HTTP")
    picture = sorted((faces / "test").glob("surprise/*.png"))[0]
    answer = ask(champion, config, picture)

    figures = json.loads((out / "evaluation" / "metrics.json").read_text())
    summarize(config, figures, answer, picture, time.monotonic() - began)


def ask(model: str, config: DemoConfig, picture: Path) -> dict:
    """Start the server, send it one image, stop it; the answer."""
    import httpx

    from jobs import serve
    from serve_apps.options import ServeConfig

    settings = ServeConfig(
        model=model, port=config.port or free_port(), out_dir=config.out_dir, tracking_uri=config.tracking_uri
    )
    url = serve.start(settings)
    try:
        with picture.open("rb") as file:
            reply = httpx.post(f"{url}/v1/predict", files={"files": file}, timeout=60)
        reply.raise_for_status()
        return reply.json()
    finally:
        serve.stop()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def step(number: int, title: str) -> None:
    print(f"\n[{number}/6] {title}", flush=True)


def summarize(config: DemoConfig, figures: dict, answer: dict, picture: Path, seconds: float) -> None:
    """What was made, how good it is against chance, and where to go on."""
    accuracy, classes = figures["expression"]["accuracy"], figures["expression"]["labels"]
    face = answer["images"][0]["faces"][0]
    chance = 1 / len(classes)
    times = accuracy["value"] / chance
    tracking = f" --tracking-uri {config.tracking_uri}" if config.tracking_uri else ""
    print(
        f"""
Done in {seconds / 60:.1f} minutes.

  Accuracy on unseen people   {accuracy["value"]:.1%}  (95% interval {accuracy["low"]:.1%} to {accuracy["high"]:.1%})
  Chance, {len(classes)} classes           {chance:.1%}: the model is right {times:.1f} times as often
  The server's answer         {face["label"]} ({face["confidence"]:.0%}) for a face drawn as {picture.parent.name}

  Report      {config.out_dir}/evaluation/report.html
  Plots       {config.out_dir}/evaluation/*.png
  MLflow      {config.out_dir}/mlflow.db  (mlflow ui --backend-store-uri sqlite:///{config.out_dir}/mlflow.db)
  Model       models:/{MODEL}@champion

Keep exploring:  fer serve models:/{MODEL}@champion --out-dir {config.out_dir}{tracking}
            or:  fer train --data YOUR_FACES --backbone resnet18   (fer train --help)"""
    )


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("demo"))
