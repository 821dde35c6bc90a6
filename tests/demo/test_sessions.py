"""Conversations go away with their files."""

import time

import pytest

from demo.pictures import Limits
from demo.sessions import Sessions
from vila_hd import VilaHDError


def test_closing_stops_the_answer_and_removes_the_files(service, session, ask):
    ask()
    assert list(session.folder.iterdir())
    service.sessions.close(session.token)
    assert not session.folder.exists()
    assert session.stop.is_set()
    with pytest.raises(VilaHDError, match="reload the page"):
        service.sessions.find(session.token)
    service.sessions.close(session.token)  # a browser tells so twice


def test_the_idlest_goes_first_and_the_pinned_one_never(tmp_path):
    sessions = Sessions(tmp_path, Limits(sessions=3))
    pinned = sessions.open(forever=True)
    first, second = sessions.open(), sessions.open()
    sessions.find(first.token)
    sessions.open()
    assert not second.folder.exists()
    assert first.folder.exists()
    assert sessions.find(pinned.token) is pinned
    sessions.open()
    assert pinned.folder.exists()


def test_what_was_idle_too_long_goes(tmp_path, monkeypatch):
    sessions = Sessions(tmp_path, Limits(idle_minutes=10))
    old = sessions.open()
    now = time.monotonic()
    monkeypatch.setattr("demo.sessions.time.monotonic", lambda: now + 601)
    sessions.open()
    assert len(sessions) == 1
    assert not old.folder.exists()


def test_tokens_cannot_be_guessed(tmp_path):
    sessions = Sessions(tmp_path, Limits())
    tokens = {sessions.open().token for _ in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 24
    with pytest.raises(VilaHDError):
        sessions.find(None)
