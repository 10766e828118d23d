"""`fer sft`: fine-tune a vision-language model on questions and answers about faces."""

from __future__ import annotations

from fer.vlm.options import SftConfig

Config = SftConfig


def main(config: SftConfig) -> None:
    """Run fine-tuning; an interrupted run of the same name is resumed."""
    from ray.train import CheckpointConfig

    from cluster.preflight import connect_for
    from fer.data.vqa.prepare import open_questions
    from fer.training.launch import launch, loop_settings, use_gpu
    from fer.training.run import open_run
    from fer.vlm.export import export_model
    from fer.vlm.model import for_workers, resolve_vlm
    from fer.vlm.preflight import preflight_check
    from fer.vlm.sft import train_sft
    from jobs.summary import print_summary

    dataset = open_questions(config, cache=f"{config.storage}/data")
    model = resolve_vlm(config.model, config)
    preflight_check(config, model, dataset)
    connect_for(config)
    use_gpu(config)

    run, tracking = open_run(config, "sft", default_name="sft", data_hash=dataset.manifest.content_hash)
    rows = {name: split.rows for name, split in dataset.manifest.splits.items()}
    print(f"run {run.name}: {config.model} on {rows}, {config.workers} worker(s), {config.deepspeed}", flush=True)

    settings = loop_settings(config, dataset.root, tracking, model=for_workers(config.model, model))
    result = launch(train_sft, settings, config, run, CheckpointConfig(num_to_keep=config.save_total_limit))

    folder, metrics, version = export_model(config, run, result, tracking)
    print("\nTrained.")
    for name, value in metrics.items():
        print(f"  {name:<16} {value:.4f}")
    merge = f"fer merge --adapter {folder} --out {run.root}/merged" if config.lora != "off" else None
    print_summary(config, run, tracking, model=folder, version=version, next_command=merge)


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("sft"))
