"""`fer dynamics extract`: videos to frames that can be labelled."""

from __future__ import annotations

from fer.dynamics.predict.options import ExtractConfig

Config = ExtractConfig


def main(config: ExtractConfig) -> None:
    """Extract every video; those that can't be used are named at the end."""
    from pathlib import Path

    from fer.dynamics.extract import check_names, frame_pairs, look
    from fer.dynamics.frames import LABELS, write_frame
    from fer.dynamics.landmarker import open_landmarker
    from fer.errors import UserError

    check_names(config.videos)
    root, faults = Path(config.out) / config.expression, []
    with open_landmarker(config.landmarker) as landmarker:
        for name in config.videos:
            video = Path(name)
            try:
                seen, rest = look(video, landmarker, config)
                written = 0
                for _, pair in frame_pairs(video, seen, rest, config):
                    write_frame(root / pair.path, pair)
                    written += 1
            except UserError as error:
                faults.append(str(error))
                continue
            without = [str(each.number) for each in seen if each.landmarks is None]
            print(f"{video}: {written} frames to {root}, baseline frame {rest.number}")
            if without:
                print(f"  no face in {len(without)} frames: {', '.join(without)}")
    if faults:
        raise UserError("; ".join(faults))
    print(f'Next: write {LABELS} into each folder, such as {{"dynamics": 3, "synkinesis": 1}}')


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("dynamics extract"))
