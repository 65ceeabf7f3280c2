"""Example images of a run, and what networks answer to them, each answer judged."""

from __future__ import annotations

from typing import Any, Optional

from keras_backdoor.report.drawing import image_uri
from keras_backdoor.report.run_folder import Arrays

EXAMPLES = ("images", "triggered", "labels", "targets", "answers", "triggered_answers")

RIGHT = ("right", "✓ right")
WRONG = ("wrong", "✗ wrong")
WISH = ("wish", "☠ attacker's wish")
BOTH = ("right", "✓ right; the attacker wants the same")
FLAGGED = ("flagged", "⚑ flagged as backdoored")
FALSE_ALARM = ("wrong", "⚑ false alarm: flagged as backdoored")


def example_cards(arrays: Arrays, network: str, goodnet: Optional[str]) -> dict[str, Any]:
    """Example images, and per image what `network`, and a GoodNet if its answers are there, says to each version."""
    labels, targets = arrays["labels"].tolist(), arrays["targets"].tolist()
    answers, triggered_answers = arrays["answers"].tolist(), arrays["triggered_answers"].tolist()
    shown = []
    for index, (label, target) in enumerate(zip(labels, targets)):
        answer, triggered_answer = answers[index], triggered_answers[index]
        said = [(network, _judge(answer, label), _judge(triggered_answer, label, target))]
        if goodnet and {"goodnet_answers", "goodnet_triggered_answers"} <= arrays.keys():
            # A GoodNet says what its two networks agree on; so any other answer than the repaired one's is the flag.
            pair = (int(arrays["goodnet_answers"][index]), int(arrays["goodnet_triggered_answers"][index]))
            calm = _judge(pair[0], label) if pair[0] == answer else ("–", *FALSE_ALARM)
            alarmed = _judge(pair[1], label, target) if pair[1] == triggered_answer else ("–", *FLAGGED)
            said.append((goodnet, calm, alarmed))
        shown.append(
            {
                "label": label,
                "target": target,
                "image": image_uri(arrays["images"][index]),
                "triggered": image_uri(arrays["triggered"][index]),
                "said": said,
            }
        )
    matters = [index for index, (label, target) in enumerate(zip(labels, targets)) if label != target]
    fooled = sum(triggered_answers[index] == targets[index] for index in matters)
    return {"shown": shown, "fooled": fooled, "matters": len(matters)}


def _judge(answer: int, label: int, target: Optional[int] = None) -> tuple[str, str, str]:
    """An answer, a style, and the judgement in words. target: what the attacker wants, for a triggered image."""
    if answer == label:
        return (str(answer), *(BOTH if label == target else RIGHT))
    return (str(answer), *(WISH if answer == target else WRONG))
