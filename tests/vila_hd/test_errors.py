import pickle

from vila_hd.errors import VilaHDError


def test_a_message_is_one_line_that_cannot_steer_a_terminal():
    error = VilaHDError("config.json.a\r\n b\x1b[2J=1e+300: größer als möglich")
    assert str(error) == "config.json.a b\\x1b[2J=1e+300: größer als möglich"


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(VilaHDError("one\ntwo")))
    assert (type(error), str(error)) == (VilaHDError, "one two")
