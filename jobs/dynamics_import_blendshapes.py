"""`fer dynamics import-blendshapes`: MediaPipe's blendshape network as weights to start from."""

from __future__ import annotations

from fer.dynamics.predict.options import ImportConfig

Config = ImportConfig


def main(config: ImportConfig) -> None:
    from pathlib import Path

    from fer.dynamics.import_blendshapes import import_blendshapes

    import_blendshapes(Path(config.file), Path(config.out))
    print(f"Weights: {config.out}")
    print(f"Next:    fer dynamics --blendshapes {config.out} --data FRAMES")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics import-blendshapes"))
