"""`fer dynamics predict`: score videos and folders of frames."""

from __future__ import annotations

from fer.dynamics.predict.options import ScorePredictConfig

Config = ScorePredictConfig


def main(config: ScorePredictConfig) -> None:
    """Score every path; what can't be scored is named at the end."""
    from contextlib import nullcontext
    from pathlib import Path

    import pyarrow.csv

    from fer.data.video import is_video
    from fer.dynamics.extract import check_names
    from fer.dynamics.landmarker import open_landmarker
    from fer.dynamics.plots import curve
    from fer.dynamics.predict.reader import score_frames, score_video, video_table
    from fer.dynamics.predictor import Scorer
    from fer.dynamics.preflight import describe
    from fer.dynamics.scores import NOTICE
    from fer.errors import UserError
    from fer.evaluation.plots import to_png
    from fer.tracking import resolve_model

    videos = [path for path in config.paths if is_video(Path(path))]
    check_names(config.paths)
    scorer = Scorer(resolve_model(config.model, config), config.device)
    out, faults = Path(config.out), []
    out.mkdir(parents=True, exist_ok=True)
    with open_landmarker(config.landmarker) if videos else nullcontext() as landmarker:
        for path in config.paths:
            target = out / Path(path).stem
            try:
                if landmarker is not None and path in videos:
                    seen, _, scores = score_video(Path(path), scorer, landmarker, config)
                    table = video_table(seen, scores)
                    picture = curve([each.seconds for each in seen], scores, Path(path).name)
                    target.with_suffix(".png").write_bytes(to_png(picture))
                else:
                    table, set_aside = score_frames(path, scorer)
                    faults += [f"{path}: not scored: {describe(set_aside)}"] if set_aside else []
            except UserError as error:
                faults.append(str(error))
                continue
            pyarrow.csv.write_csv(table, target.with_suffix(".csv"))
            print(f"{path}: {len(table):,} frames, in {target.with_suffix('.csv')}")
    print(NOTICE)
    if faults:
        raise UserError("; ".join(faults))


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics predict"))
