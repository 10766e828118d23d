"""`fer train`: train an expression classifier on Ray Train, keep its best or last weights, and register it."""

from __future__ import annotations

from fer.classifier.options import TrainConfig

Config = TrainConfig


def main(config: TrainConfig) -> None:
    """Train as ``config`` says; a stopped run of the same name is continued."""
    from cluster.preflight import connect_for
    from fer.data.prepare import open_dataset, open_unlabelled

    dataset = open_dataset(config, cache=f"{config.storage}/data")
    unlabelled = open_unlabelled(config.unlabelled, cache=f"{config.storage}/data") if config.unlabelled else None
    connect_for(config, meanwhile=["fer.classifier.preflight", "mlflow.tracking"])

    from fer.classifier.export.model import export_model, training_history
    from fer.classifier.model import new_spec
    from fer.classifier.preflight import preflight_check
    from fer.classifier.pretrained import share_pretrained
    from fer.classifier.teacher import locate_teachers
    from fer.classifier.train import train_classifier
    from fer.data.training_data import record_data
    from fer.training.launch import launch, loop_settings, use_gpu
    from fer.training.run import open_run
    from jobs.summary import print_summary

    device = "GPUs" if use_gpu(config) else "CPUs"
    spec = new_spec(config, dataset.manifest.space, record_data(dataset), dataset.manifest.preprocessing)
    model = preflight_check(config, spec, dataset, unlabelled)
    teachers = locate_teachers(config, spec)
    hashes = [each.manifest.content_hash for each in (dataset, unlabelled) if each]
    run, tracking = open_run(config, "train", default_name=config.backbone, data_hash="+".join(hashes))
    rows = {name: split.rows for name, split in dataset.manifest.splits.items()}
    workers = f"{config.min_workers} to {config.workers}" if config.min_workers else config.workers
    if unlabelled:
        rows["unlabelled"] = unlabelled.split("train").rows
    print(f"run {run.name}: {config.backbone} on {rows}, {workers} worker(s) on {device}", flush=True)

    pretrained = share_pretrained(config, model)
    own = {"spec": spec.model_dump(), "pretrained": pretrained, "teachers": teachers}
    others = unlabelled.root if unlabelled else None
    settings = loop_settings(config, dataset.root, tracking, unlabelled=others, **own)
    result = launch(train_classifier, settings, config, run)

    folder, metrics, version = export_model(config, spec, run, result, tracking)
    print(f"\nTrained {len(training_history(result))} epochs; the model is that of epoch {metrics['epoch']:.0f}.")
    for name in ("val_accuracy", "val_macro_f1", "val_uar", "val_ccc_valence", "val_ccc_arousal"):
        if name in metrics:
            print(f"  {name:<16} {metrics[name]:.4f}")
    evaluate = f"fer evaluate {folder} --data {config.data}"
    print_summary(config, run, tracking, model=folder, version=version, next_command=evaluate)


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("train"))
