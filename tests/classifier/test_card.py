"""The README.md of a model folder."""

from __future__ import annotations

import pytest

from fer.classifier.card import model_card
from fer.classifier.model import new_spec
from fer.classifier.options import ModelOptions
from fer.classifier.spec import ModelSpec
from fer.labels import get_space


def spec(head: str = "classification", **training: object) -> ModelSpec:
    made = new_spec(ModelOptions(backbone="resnet18", img_size=48, in_chans=1, head=head), get_space("fer2013"))
    return made.model_copy(update={"training": training})


def test_the_card_describes_the_model_and_its_training() -> None:
    card = model_card(spec(run="first", data="faces.zip"), None)
    for text in (
        "resnet18",
        "48x48 pixels, grey",
        "fer2013: angry, disgust",
        "`faces.zip`",
        "`first`",
        "| initial weights | random |",
    ):
        assert text in card


@pytest.mark.parametrize("head", ["classification", "valence-arousal", "both"])
def test_every_card_states_intended_use_and_limitations(head: str) -> None:
    card = model_card(spec(head), None)
    for text in ("## Intended use", "## Out of scope", "## Limitations", "Art. 5(1)(f)", "apparent", "None recorded"):
        assert text in card
    assert ("label space" in card) == (head != "valence-arousal")


def test_metrics_of_a_training_epoch_have_no_interval() -> None:
    card = model_card(spec(), {"epoch": 3, "lr": 0.1, "val_accuracy": 0.6612, "val_ccc_valence": 0.5})
    assert "| validation accuracy | 0.661 | not known | fraction of correct labels |" in card
    assert "| validation ccc valence | 0.500 | not known |" in card
    assert "epoch" not in card
    assert "None recorded" not in card


def test_metrics_of_an_evaluation_have_an_interval() -> None:
    metric = {"value": 0.7, "low": 0.65, "high": 0.74}
    card = model_card(
        spec(), {"expression": {"labels": ["a"], "uar": metric, "classes": [{"f1": metric}]}, "affect": None}
    )
    assert "| expression uar | 0.700 | 0.650 to 0.740 | mean recall of the classes |" in card
    assert card.count("0.700") == 1
