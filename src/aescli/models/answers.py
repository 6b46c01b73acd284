"""What a model's output holds, for whoever turns outputs into rows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answers:
    """probabilities: how many `output.probabilities` has (0 = none). distribution: they are those of the ratings that
    people would give, lowest first, not of classes.

    attributes: names of `output.attribute_scores`, each on its own scale; empty where the score is all there is.
    reads_text: the model wants tokens of what people wrote about the picture.
    """

    probabilities: int = 0
    distribution: bool = False
    attributes: tuple[str, ...] = ()
    reads_text: bool = False
