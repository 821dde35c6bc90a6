import pickle

from vila_hd.errors import VilaHDError


def test_a_message_is_one_line_whatever_names_hold():
    assert str(VilaHDError("config.json.a\r\n b=1e+300: no model is that large")) == (
        "config.json.a b=1e+300: no model is that large"
    )


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(VilaHDError("one\ntwo")))
    assert (type(error), str(error)) == (VilaHDError, "one two")
