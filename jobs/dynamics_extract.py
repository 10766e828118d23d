"""`fer dynamics extract`: extract frames to be labelled from videos."""

from __future__ import annotations

from fer.dynamics.predict.options import ExtractConfig

Config = ExtractConfig


def main(config: ExtractConfig) -> None:
    """Extract the frames of every video; errors are reported at the end."""
    from pathlib import Path

    from fer.dynamics.extract import check_unique_stems, detect_landmarks, frame_pairs
    from fer.dynamics.frames import LABELS, write_frame
    from fer.dynamics.landmarker import open_landmarker
    from fer.errors import UserError

    check_unique_stems(config.videos)
    root, errors = Path(config.out) / config.expression, []
    with open_landmarker(config.landmarker) as landmarker:
        for name in config.videos:
            video = Path(name)
            try:
                frames, baseline = detect_landmarks(video, landmarker, config)
                written = 0
                for pair in frame_pairs(video, frames, baseline, config):
                    write_frame(root / pair.path, pair)
                    written += 1
            except UserError as error:
                errors.append(str(error))
                continue
            print(f"{video}: {written} frames written to {root}, baseline frame {baseline.number}")
            missing = [str(frame.number) for frame in frames if frame.landmarks is None]
            if missing:
                print(f"  no face in {len(missing)} frames: {', '.join(missing)}")
    if errors:
        raise UserError("; ".join(errors))
    print(f'Next: add the labels to each folder as {LABELS}, such as {{"dynamics": 3, "synkinesis": 1}}')


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics extract"))
