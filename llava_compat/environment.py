"""The environment variables of VILA's command lines. Read here and nowhere else, and only for ``infer``.

| variable | values | meaning |
|---|---|---|
| ``NUM_LOOK_CLOSE`` | whole number >= 0 or ``all`` | high-resolution passes |
| ``NUM_TOKEN_LOOK_CLOSE`` | whole number >= 0 or ``all`` | patches over all passes; wins |
| ``SELECT_NUM_EACH_SCALE`` | such as ``512+2048`` | patches of each scale in one pass |
| ``LOOK_CLOSE_MODE`` | ``after_prompt``, ``after_image`` | what steers the choice |
| ``SMOOTH_SELECTION_PROB`` | ``true``, ``false`` | average the score map over blocks |
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from vila_hd.errors import VilaHDError

from .look_settings import LOOK_MODES, LookSettings

VARIABLES = (
    "NUM_LOOK_CLOSE",
    "NUM_TOKEN_LOOK_CLOSE",
    "SELECT_NUM_EACH_SCALE",
    "LOOK_CLOSE_MODE",
    "SMOOTH_SELECTION_PROB",
)

MOST_DIGITS = 9
"""Digits of the largest number that a variable may hold."""


def read_environment(environment: Mapping[str, str], settings: LookSettings) -> LookSettings:
    """``settings`` with what the variables change.

    A variable that is unset or empty changes nothing. ``NUM_LOOK_CLOSE`` alone also takes the place of a
    checkpoint's own number of patches, which would win otherwise. (Differs from the reference, where it does
    nothing then.)

    Args:
        environment: such as ``os.environ``.
        settings: the checkpoint's own.

    Raises:
        VilaHDError: a value that means nothing; names the variable, the value and the fix.
    """
    given = {name: environment.get(name, "").strip() for name in VARIABLES}
    changes: dict[str, Any] = {}
    if given["NUM_LOOK_CLOSE"]:
        changes["num_look_close"] = _count("NUM_LOOK_CLOSE", given["NUM_LOOK_CLOSE"])
        changes["num_token_look_close"] = None
    if given["NUM_TOKEN_LOOK_CLOSE"]:
        changes["num_token_look_close"] = _count("NUM_TOKEN_LOOK_CLOSE", given["NUM_TOKEN_LOOK_CLOSE"])
    if given["SELECT_NUM_EACH_SCALE"]:
        changes["max_select_num_each_scale"] = _split(given["SELECT_NUM_EACH_SCALE"])
    if given["LOOK_CLOSE_MODE"]:
        changes["look_close_mode"] = _mode(given["LOOK_CLOSE_MODE"])
    if given["SMOOTH_SELECTION_PROB"]:
        changes["smooth_selection_prob"] = _flag(given["SMOOTH_SELECTION_PROB"])
    return replace(settings, **changes)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS


def _count(name: str, text: str) -> int | Literal["all"]:
    if text.lower() == "all":
        return "all"
    if not _is_whole(text):
        raise VilaHDError(f"{name}={text!r} (environment variable): use a whole number >= 0 or 'all'")
    return int(text)


def _split(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split("+")]
    if not all(map(_is_whole, parts)):
        raise VilaHDError(
            f"SELECT_NUM_EACH_SCALE={text!r} (environment variable): use whole numbers joined by '+', one "
            "per high-resolution scale, such as 512+2048"
        )
    return tuple(map(int, parts))


def _mode(text: str) -> str:
    if text not in LOOK_MODES:
        raise VilaHDError(
            f"LOOK_CLOSE_MODE={text!r} (environment variable): use one of {', '.join(LOOK_MODES)}"
        )
    return text


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise VilaHDError(f"SMOOTH_SELECTION_PROB={text!r} (environment variable): use true or false")
    return text.lower() == "true"
