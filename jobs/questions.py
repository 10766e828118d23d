"""`fer questions`: build questions from any data set of faces."""

from __future__ import annotations

from fer.data.vqa.options import QuestionsConfig

Config = QuestionsConfig


def main(config: QuestionsConfig) -> None:
    from fer.data.vqa.build import BUILDERS, load_faces, write_jsonl

    space, rows = load_faces(config)
    if config.teacher:
        from fer.inference.rejection_sampling import sample_from_teacher

        accepted, rejected = sample_from_teacher(config, space, rows)
        print(f"Accepted {accepted:,} of {accepted + rejected:,} faces; {rejected:,} rejected, see {config.rejected}")
    else:
        builder = BUILDERS[config.kind]
        count = write_jsonl((builder(row, space) for row in rows), config.out)
        print(f"Wrote {count:,} questions ({config.kind}, label space {space.name}) to {config.out}")
    print(f"Next:    fer prepare --format vqa --data {config.out} --image-root {config.data} --out DIR")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("questions"))
