"""`fer dynamics import-blendshapes`: convert MediaPipe's blendshape network to initial weights."""

from __future__ import annotations

from fer.dynamics.predict.options import ImportBlendshapesConfig

Config = ImportBlendshapesConfig


def main(config: ImportBlendshapesConfig) -> None:
    from pathlib import Path

    from fer.dynamics.import_blendshapes import import_blendshapes

    import_blendshapes(Path(config.file), Path(config.out))
    print(f"Weights: {config.out}")
    print(f"Next:    fer dynamics --blendshapes {config.out} --data FRAMES")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics import-blendshapes"))
