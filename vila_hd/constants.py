"""Strings and numbers that several modules must agree on."""

IGNORE_INDEX = -100
"""Label of positions that carry no loss, as in ``torch.nn.functional.cross_entropy``."""

IMAGE_TOKEN = "<image>"
"""The special token that stands for one picture in a prompt."""

IMAGE_END_TEXT = "\n"
"""Text whose embedding closes the visual tokens of each picture (the published models' ``end_tokens``)."""
