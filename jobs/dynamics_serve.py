"""`fer dynamics serve`: serve a facial dynamics model over HTTP."""

from __future__ import annotations

from jobs.serve import resolve_paths, serve_until_stopped, start_app
from serve_apps.options import DynamicsServeConfig as Config

APP = "dynamics"


def main(config: Config) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    serve_until_stopped(start(config), APP)


def start(config: Config) -> str:
    """Start the server on the cluster, or on an embedded Ray; return its URL once it is ready.

    Raises UserError if there is no such model or landmarker, or if the port is taken.
    """
    from pathlib import Path

    from fer.dynamics.landmarker import open_landmarker
    from serve_apps.dynamics import build_app

    config = resolve_paths(config)
    if config.landmarker:
        open_landmarker(config.landmarker).close()
        config = config.model_copy(update={"landmarker": str(Path(config.landmarker).absolute())})
    example = "-F video=@smile.mp4" if config.landmarker else "-H 'Content-Type: application/json' -d @frame.json"
    return start_app(APP, build_app, config, example, path="/v1/dynamics")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics serve"))
