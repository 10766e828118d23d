"""`fer export`: write a classifier in a form that runs without PyTorch, and check it against the original."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg

from fer.tracking import TrackingOptions

if TYPE_CHECKING:
    from fer.data.manifest import ShardedDataset

LOSSLESS = ("fp32", "fp16")


class ExportConfig(TrackingOptions):
    """Export a classifier to ONNX or OpenVINO: a model folder that prediction and serving run on CPUs."""

    model: CliPositionalArg[str] = Field(description="Model: a folder, a run, runs:/ID/model or models:/NAME@ALIAS")
    format: Literal["onnx", "openvino"] = Field("onnx", description="Runtime of the graph: ONNX Runtime or OpenVINO")
    precision: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32",
        description="Precision: fp16 halves the file and computes in fp32; bf16 (OpenVINO) and int8 compute in it",
    )
    data: str | None = Field(
        None,
        description="Data set whose training split calibrates int8, and on whose validation split both models are "
        "evaluated; unset: for bf16 and int8 that of the training run",
    )
    max_loss: float = Field(0.3, ge=0, description="Largest loss of validation accuracy, in points")
    out: str | None = Field(
        None, description="Output folder; unset: beside the model (in --storage for a registered model)"
    )

    @model_validator(mode="after")
    def _check_precision(self) -> ExportConfig:
        if self.format == "onnx" and self.precision == "bf16":
            raise ValueError("--precision bf16 needs --format openvino: ONNX Runtime does not compute in it on CPUs")
        return self


Config = ExportConfig


def main(config: ExportConfig) -> None:
    """Write the model folder if it is as good as the original, and register it beside a registered original."""
    import tempfile

    from fer.classifier.export.check import check_scores, compare_outputs
    from fer.classifier.export.graph import export_graph
    from fer.classifier.predictor import Predictor
    from fer.classifier.spec import ModelSpec
    from fer.models.folder import update_spec
    from fer.registry import MODEL, locate_model, register_variant
    from fer.storage import fetch_folder, upload_folder

    model = locate_model(config.model, config)
    folder = fetch_folder(model)
    dataset = find_dataset(config, folder)
    out = output_folder(config, model)
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / MODEL
        export_graph(folder, exported, config.format, config.precision, dataset)
        predictors = Predictor([folder], "cpu"), Predictor([exported], "cpu")
        print(f"Outputs:    {compare_outputs(*predictors, dataset)}")
        if dataset is not None:
            scores, reference = check_scores(*predictors, dataset, config.max_loss)
            print(f"Accuracy:   {scores}")
            update_spec(exported, ModelSpec, reference=reference)
        upload_folder(exported, out)
        print(f"Model:      {out}  ({sum(file.stat().st_size for file in exported.iterdir()) / 1e6:.1f} MB)")
        if config.model.startswith("models:/"):
            tags = {"format": config.format, "precision": config.precision}
            version = register_variant(config.model, exported, tags, config)
            print(f"Registered: as version {version} of the same model; `fer promote` points an alias to it")


def find_dataset(config: ExportConfig, folder: Path) -> ShardedDataset | None:
    """The data set of ``--data``, else for a precision that changes the outputs, that of the training run."""
    from fer.classifier.spec import ModelSpec
    from fer.data.options import DataOptions
    from fer.data.prepare import open_dataset
    from fer.data.training_data import split_as_trained
    from fer.errors import UserError
    from fer.models.folder import read_spec

    data, spec = config.data, read_spec(folder, ModelSpec)
    if data is None and config.precision not in LOSSLESS:
        data = spec.training.get("data")
        if data is None:
            raise UserError(f"--precision {config.precision} is checked on a labelled data set: name one with --data")
    if not data:
        return None
    return open_dataset(split_as_trained(DataOptions(data=data), spec.data), cache=f"{config.storage}/data")


def output_folder(config: ExportConfig, model: str) -> str:
    """``--out``, else a folder named by format and precision: beside the model, or in ``--storage`` (no run)."""
    from fer.registry import BUNDLED

    if config.out is not None:
        return config.out
    variant = f"-{config.format}-{config.precision}"
    if config.model.startswith(("models:/", "runs:/")) or Path(model).parent == BUNDLED:
        name = re.sub(r"[^\w.]+", "-", config.model)
        return f"{config.storage}/{name}{variant}"
    return model + variant


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("export"))
