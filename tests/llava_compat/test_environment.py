"""The environment variables of VILA's command lines."""

import contextlib
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_compat.environment import VARIABLES, read_environment
from llava_compat.look_settings import LookSettings
from vila_hd import VilaHDError

CHECKPOINT = LookSettings(num_look_close=6, num_token_look_close=None, look_close_mode="after_prompt")


def read(**environment: str) -> LookSettings:
    return read_environment(environment, CHECKPOINT)


def test_nothing_set_changes_nothing():
    assert read() == CHECKPOINT
    assert read(**dict.fromkeys(VARIABLES, "")) == CHECKPOINT
    assert read(PATH="/bin", NUM_LOOK="3") == CHECKPOINT


def test_every_variable_changes_its_setting():
    assert read(
        NUM_LOOK_CLOSE="2",
        NUM_TOKEN_LOOK_CLOSE="3000",
        SELECT_NUM_EACH_SCALE="85+340+2125",
        LOOK_CLOSE_MODE="after_image",
        SMOOTH_SELECTION_PROB="True",
    ) == LookSettings(
        num_look_close=2,
        num_token_look_close=3000,
        max_select_num_each_scale=(85, 340, 2125),
        look_close_mode="after_image",
        smooth_selection_prob=True,
    )


def test_all_is_accepted():
    """Differs from the published code, which reads whole numbers only."""
    assert read(NUM_LOOK_CLOSE="all").num_look_close == "all"
    assert read(NUM_TOKEN_LOOK_CLOSE="ALL").num_token_look_close == "all"
    assert read(NUM_LOOK_CLOSE="0").num_look_close == 0


def test_passes_take_the_place_of_a_checkpoint_s_patches():
    checkpoint = LookSettings(num_look_close=1, num_token_look_close=500)
    assert read_environment({"NUM_LOOK_CLOSE": "3"}, checkpoint) == LookSettings(
        num_look_close=3, num_token_look_close=None
    )
    both = {"NUM_LOOK_CLOSE": "3", "NUM_TOKEN_LOOK_CLOSE": "7"}
    assert read_environment(both, checkpoint).num_token_look_close == 7


def test_options_of_the_environment():
    options = read(NUM_LOOK_CLOSE="2", SELECT_NUM_EACH_SCALE="10+30").to_options((512, 2048))
    assert (options.budget, options.per_scale) == (80, (10, 30))


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("NUM_LOOK_CLOSE", "-1", "use a whole number >= 0 or 'all'"),
        ("NUM_LOOK_CLOSE", "1.5", "use a whole number >= 0 or 'all'"),
        ("NUM_LOOK_CLOSE", "\N{SUPERSCRIPT TWO}", "use a whole number >= 0 or 'all'"),
        ("NUM_LOOK_CLOSE", "9" * 5000, "use a whole number >= 0 or 'all'"),
        ("NUM_TOKEN_LOOK_CLOSE", "many", "use a whole number >= 0 or 'all'"),
        ("SELECT_NUM_EACH_SCALE", "85,340", "joined by '+'"),
        ("SELECT_NUM_EACH_SCALE", "85+", "joined by '+'"),
        ("LOOK_CLOSE_MODE", "prompt", "use one of after_prompt, after_image"),
        ("SMOOTH_SELECTION_PROB", "1", "use true or false"),
    ],
)
def test_errors_name_the_variable_the_value_and_the_fix(name, value, fix):
    with pytest.raises(VilaHDError, match=rf"^{name}='{re.escape(value)}' .*{re.escape(fix)}"):
        read(**{name: value})


def test_a_split_of_the_wrong_length_is_refused_with_both_numbers():
    """The published code takes it without a word."""
    with pytest.raises(VilaHDError, match=r"\[1, 2, 3\] has 3 number\(s\): use 2"):
        read(SELECT_NUM_EACH_SCALE="1+2+3").to_options((512, 2048))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VARIABLES), st.text(alphabet=string.printable + "ä²٣", max_size=12))
def test_any_text_gives_settings_or_our_error(name, text):
    with contextlib.suppress(VilaHDError):
        read(**{name: text}).to_options((512, 2048))
