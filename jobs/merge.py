"""`fer merge`: merge an adapter into its base model."""

from __future__ import annotations

from fer.vlm.options import MergeConfig

Config = MergeConfig


def main(config: MergeConfig) -> None:
    """Merge and save the model."""
    from fer.vlm.merge import merge_adapter

    print(f"Merged model: {merge_adapter(config)}")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("merge"))
