"""`fer export`: write a classifier in a form that runs without PyTorch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fer.tracking import TrackingOptions


class ExportConfig(TrackingOptions):
    """Export a classifier to ONNX: a model folder that prediction and serving run in ONNX Runtime on CPUs."""

    model: CliPositionalArg[str] = Field(description="Model: a folder, a run, runs:/ID/model or models:/NAME@ALIAS")
    out: str = Field(description="Output folder")
    precision: Literal["fp32", "fp16"] = Field(
        "fp32", description="Precision in which the weights are stored; the network computes in fp32"
    )


Config = ExportConfig


def main(config: ExportConfig) -> None:
    """Write the model folder with its graph, and compare the outputs."""
    from pathlib import Path

    from fer.classifier.export_onnx import export_onnx
    from fer.tracking import resolve_model

    out = Path(config.out)
    difference = export_onnx(resolve_model(config.model, config), out, half=config.precision == "fp16")
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(f"Model:      {out}  ({size:.1f} MB)")
    print(f"Outputs:    those of PyTorch, to within {difference:.1e}")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("export"))
