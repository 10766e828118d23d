"""The demo's own steps run as one; here with few faces and one short epoch, on the session's Ray."""

from pathlib import Path

import pytest

from jobs.demo import Config, main


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_demo_runs_and_says_what_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import serve

    monkeypatch.setattr("ray.shutdown", serve.shutdown)  # the demo ends its Ray; the suite goes on with its own
    monkeypatch.chdir(tmp_path)  # workers have another working directory: a relative path must still be the same one
    main(Config(out_dir="demo", faces_per_class=24, epochs=1, workers=1))
    said = capsys.readouterr().out
    for words in ("Accuracy on unseen people", "Chance, 7 classes", "The server's answer", "report.html", "mlflow.db"):
        assert words in said
    assert (tmp_path / "demo" / "evaluation" / "report.html").is_file()
