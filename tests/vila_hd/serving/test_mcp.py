"""``look_close`` through the client of the MCP library, over HTTP and over standard input and output."""

import asyncio
import sys

import pytest

import vila_hd
from vila_hd import HighResOptions

from .conftest import ROOT, data_url, serve_in_thread

mcp = pytest.importorskip("mcp")


async def call(target, **arguments):
    async with mcp.Client(target) as client:
        tools = (await client.list_tools()).tools
        return tools, await client.call_tool("look_close", arguments)


@pytest.fixture(scope="module")
def http(model, processor):
    with serve_in_thread(model, processor) as server:
        yield server.url + "/mcp"


def stdio(folder, shown):
    words = ["-m", "vila_hd.cli", "mcp", "--model", str(folder), "--allow-files", str(shown)]
    return mcp.StdioServerParameters(command=sys.executable, args=words, cwd=str(ROOT))


def check(result, model, processor, picture, **look):
    assert not result.is_error, result.content
    alone = vila_hd.ask(
        model, processor, [picture], "what is written there?", high_res=HighResOptions(**look)
    )
    found = result.structured_content
    assert found["answer"] == alone.text
    assert (found["width"], found["height"]) == picture.size
    assert found["visual_tokens"] == alone.receipt.visual_tokens
    assert found["coverage"] == pytest.approx(alone.looks[0].coverage)
    assert found["boxes"]
    for part in found["boxes"]:
        x1, y1, x2, y2 = part["box"]
        assert 0 <= x1 < x2 <= picture.width
        assert 0 <= y1 < y2 <= picture.height
    return found


def test_over_http(http, model, processor, picture):
    tools, result = asyncio.run(
        call(http, image=data_url(picture), question="what is written there?", budget=30)
    )
    (tool,) = tools
    assert tool.name == "look_close"
    assert set(tool.input_schema["required"]) == {"image", "question"}
    check(result, model, processor, picture, budget=30)


def test_boxes_that_must_be_looked_at(http, model, processor, picture):
    box = [0.0, 0.0, 20.0, 20.0]
    arguments = {"question": "what is written there?", "budget": 4, "regions": [box]}
    _, result = asyncio.run(call(http, image=data_url(picture), **arguments))
    look = {"budget": 4, "guided_by": "regions", "regions": ((tuple(box),),)}
    found = check(result, model, processor, picture, **look)
    assert all(part["box"][0] < 60 and part["box"][1] < 60 for part in found["boxes"])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("file:///etc/passwd", "not a file in a folder"),
        ("/etc/passwd", "not a file in a folder"),
        ("http://127.0.0.1/a.png", "fetches no addresses"),
        ("nothing", "use an address that starts with"),
    ],
)
def test_errors_reach_the_agent(http, image, words):
    _, result = asyncio.run(call(http, image=image, question="what?"))
    assert result.is_error
    assert words in result.content[0].text


@pytest.mark.slow
def test_over_standard_input_and_output(folder, tmp_path, model, processor, picture):
    """As an agent on the same machine starts it, with a file by its plain name."""
    picture.save(tmp_path / "a.png")
    server = mcp.client.stdio.stdio_client(stdio(folder, tmp_path))
    _, result = asyncio.run(call(server, image=str(tmp_path / "a.png"), question="what is written there?"))
    check(result, model, processor, picture)
