"""Pictures are prepared once, also for requests that come at the same time, and kept within bounds."""

import asyncio
import hashlib

import pytest
import torch

from vila_hd import VilaHDError
from vila_hd.serving.pictures import PictureCache, PictureStore
from vila_hd.serving.questions import Picture
from vila_hd.serving.sources import PictureSources, SourceRules

from .conftest import data_url


def make_store(processor, **options):
    options = {"max_pixels": 100_000, "cache_bytes": 10_000_000, **options}
    return PictureStore(processor, PictureSources(SourceRules()), **options)


def test_requests_at_the_same_time_share_a_picture(processor, picture, monkeypatch):
    seen = []
    store = make_store(processor, look_ahead=seen.append)
    prepared = []
    prepare = store._prepare
    monkeypatch.setattr(store, "_prepare", lambda *args: prepared.append(args) or prepare(*args))

    async def ask():
        return await asyncio.gather(*[store.get(data_url(picture), f"picture {i}") for i in range(5)])

    first, *others = asyncio.run(ask())
    assert all(other is first for other in others)
    assert len(prepared) == 1
    assert seen == [first]
    assert asyncio.run(store.get(data_url(picture), "again")) is first
    store.close()


def test_nothing_is_kept_without_memory(processor, picture):
    store = make_store(processor, cache_bytes=0)
    one, two = (asyncio.run(store.get(data_url(picture), "picture")) for _ in range(2))
    assert one is not two
    assert store.cache.nbytes == 0
    store.close()


def test_a_picture_that_cannot_be_read_fails_every_time(processor):
    store = make_store(processor)
    for _ in range(2):
        with pytest.raises(VilaHDError, match=r"damaged|not a picture"):
            asyncio.run(store.get("data:image/png;base64,aGVsbG8gd29ybGQh", "picture"))
    store.close()


def kept(number, side=10):
    key = hashlib.sha256(bytes([number])).digest()
    return Picture(key, torch.zeros(3, side, side, dtype=torch.uint8), (side, side), (side, side), (0, 0))


def test_what_was_not_used_for_longest_goes_first():
    cache = PictureCache(700)
    first, second, third = map(kept, range(3))
    cache.put(first)
    cache.put(second)
    assert cache.get(first.key) is first
    cache.put(third)
    assert cache.get(second.key) is None
    assert cache.get(first.key) is first
    assert cache.nbytes == 600
    cache.put(kept(9, side=100))  # larger than all memory
    assert cache.nbytes == 0
