"""`fer dynamics serve`: serve a facial dynamics model over HTTP."""

from __future__ import annotations

from cluster.serve import import_serve
from jobs.serve import started, wait
from serve_apps.options import DynamicsServeConfig as Config


def main(config: Config) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import_serve()
    from serve_apps.applications import App, ready_args
    from serve_apps.dynamics.app import build_app

    apps = [App("dynamics", "/", build_app, ready_args(config))]
    example = "-F video=@smile.mp4" if config.landmarker else "-H 'Content-Type: application/json' -d @frame.json"
    with started(apps, config) as url:
        print(f"Try: curl {example} {url}/v1/dynamics")
        wait(url)


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics serve"))
