"""`fer dynamics serve`: score frames and short videos over HTTP."""

from __future__ import annotations

from jobs.serve import checked, run, wait
from serve_apps.options import DynamicsServeConfig as Config

APP = "dynamics"


def main(config: Config) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    wait(start(config), APP)


def start(config: Config) -> str:
    """Start the server on the cluster, or on an embedded Ray; return its URL when it answers.

    Raises UserError if there is no such model or landmarker, or if the port is taken.
    """
    from pathlib import Path

    from fer.dynamics.landmarker import open_landmarker
    from serve_apps.dynamics import build_app

    config = checked(config)
    if config.landmarker:
        open_landmarker(config.landmarker).close()
        config = config.model_copy(update={"landmarker": str(Path(config.landmarker).absolute())})
    form = "-F video=@smile.mp4" if config.landmarker else "-H 'Content-Type: application/json' -d @frame.json"
    return run(config, build_app, APP, form, "/v1/dynamics")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics serve"))
