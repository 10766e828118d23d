"""`fer dynamics predict`: score videos and folders of frames."""

from __future__ import annotations

from fer.dynamics.predict.options import DynamicsPredictConfig

Config = DynamicsPredictConfig


def main(config: DynamicsPredictConfig) -> None:
    """Score every path; errors are reported at the end."""
    from contextlib import nullcontext
    from pathlib import Path

    import pyarrow.csv

    from fer.data.video import is_video
    from fer.dynamics.extract import check_unique_stems
    from fer.dynamics.frames import summarize_rejected
    from fer.dynamics.landmarker import open_landmarker
    from fer.dynamics.plots import score_curve
    from fer.dynamics.predict.reader import score_frames, score_video, video_table
    from fer.dynamics.predictor import DynamicsPredictor
    from fer.dynamics.scores import DISCLAIMER
    from fer.errors import UserError
    from fer.evaluation.plots import to_png
    from fer.registry import resolve_model

    videos = [path for path in config.paths if is_video(Path(path))]
    check_unique_stems(config.paths)
    predictor = DynamicsPredictor(resolve_model(config.model, config), config.device)
    out, errors = Path(config.out), []
    out.mkdir(parents=True, exist_ok=True)
    with open_landmarker(config.landmarker) if videos else nullcontext() as landmarker:
        for path in config.paths:
            stem = Path(path).stem  # which may have a dot itself
            scores_file = out / f"{stem}.csv"
            try:
                if landmarker is not None and path in videos:
                    frames, _, scores = score_video(Path(path), predictor, landmarker, config)
                    table = video_table(frames, scores)
                    plot = score_curve([frame.seconds for frame in frames], scores, Path(path).name)
                    (out / f"{stem}.png").write_bytes(to_png(plot))
                else:
                    table, rejected = score_frames(path, predictor)
                    errors += [f"{path}: rejected frames: {summarize_rejected(rejected)}"] if rejected else []
            except UserError as error:
                errors.append(str(error))
                continue
            pyarrow.csv.write_csv(table, scores_file)
            print(f"{path}: scores of {len(table):,} frames in {scores_file}")
    print(DISCLAIMER)
    if errors:
        raise UserError("; ".join(errors))


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics predict"))
