"""A service on a tiny random model: pictures of 128 px, answers in milliseconds."""

import pytest

from demo.pictures import Limits
from demo.service import Service
from demo.sessions import Settings
from vila_hd.testing import tiny_model, tiny_picture, tiny_processor


@pytest.fixture(scope="session")
def tiny():
    return tiny_model(), tiny_processor()


@pytest.fixture
def service(tiny, tmp_path):
    return Service(
        *tiny, tmp_path / "service", name="tiny", limits=Limits(new_tokens=12, pictures=3, pages=2)
    )


@pytest.fixture
def session(service):
    return service.sessions.open()


@pytest.fixture
def upload(tmp_path):
    """Writes pictures as a browser would upload them."""

    def write(name="street.png", size=(128, 96), seed=0, **options):
        path = tmp_path / "uploads" / name
        path.parent.mkdir(exist_ok=True)
        tiny_picture(*size, seed=seed).save(path, **options)
        return path

    return write


@pytest.fixture
def ask(service, session, upload):
    """Asks, by default about a new picture; returns the finished turn."""

    def call(question="what is here?", *paths, budget=20, new=True, **settings):
        if new:
            service.attach(session, list(paths) or [upload(f"{session.asked}.png", seed=session.asked)])
        *_, turn = service.ask(session, question, Settings(budget, **settings))
        return turn

    return call
