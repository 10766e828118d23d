"""A reward of your own for `fer grpo`, tried out on made completions.

    python examples/custom_reward.py

A reward is a pure function of one completion. With this file in the current folder, it is named on the command line:

    fer grpo --data QUESTIONS --model MODEL --rewards '{"accuracy": 1, "custom_reward:names_face_parts": 0.2}'
"""

from __future__ import annotations

from fer.grpo.rewards import RewardInput, RewardScorer

PARTS = ("brow", "cheek", "eye", "lip", "mouth", "nose")
WEIGHTS = {"accuracy": 1.0, "format": 0.5, "custom_reward:names_face_parts": 0.2}
COMPLETIONS = {
    "right, with a reason": "<think>The corners of the mouth are raised.</think><answer>happiness</answer>",
    "right, without a reason": "<answer>happiness</answer>",
    "wrong, with a reason": "<think>The brows are lowered.</think><answer>anger</answer>",
    "no answer": "I see a person.",
}


def names_face_parts(completion: RewardInput) -> float:
    """1 if the reasoning names at least two different parts of the face, 0.5 for one, else 0."""
    reasoning = completion.text.partition("<answer>")[0].lower()
    return min(sum(part in reasoning for part in PARTS), 2) / 2


def main() -> None:
    scorer = RewardScorer(WEIGHTS)
    print(f"{'':<26}{'total':>7}  " + "  ".join(scorer.parts))
    for name, text in COMPLETIONS.items():
        score = scorer(RewardInput(text, answer="happiness", num_tokens=len(text.split()), max_tokens=64))
        parts = "  ".join(f"{value:>{len(part)}.1f}" for part, value in score.parts.items())
        print(f"{name:<26}{score.total:>7.2f}  {parts}")


if __name__ == "__main__":
    main()
