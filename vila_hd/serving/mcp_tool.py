"""``look_close``: a tool for agents (MCP) that answers questions about a picture and says where it looked."""

from pathlib import Path
from typing import Annotated, Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from ..errors import VilaHDError
from ..version import __version__
from .engine import ClosingError, FullError
from .errors import ApiError
from .protocol import ChatRequest, HighRes, explain
from .questions import Failed, Finished, Piece
from .service import ChatService

INSTRUCTIONS = (
    "look_close reads fine details of large pictures (small print, signs, far objects) that are lost when a "
    "picture is reduced. Ask one concrete question per call."
)


class CloseBox(BaseModel):
    """A part of the picture that was looked at closely."""

    box: list[int] = Field(description="x1, y1, x2, y2 in pixels of the original picture")
    scale: int = Field(description="resolution at which it was read, in pixels")
    score: float = Field(description="how much it interests the question, 0 to 1")


class CloseLook(BaseModel):
    """What ``look_close`` returns."""

    answer: str
    boxes: list[CloseBox] = Field(description="where was looked, the most interesting part first")
    width: int = Field(description="width of the picture in pixels")
    height: int = Field(description="height of the picture in pixels")
    visual_tokens: int
    coverage: float = Field(description="share of the picture's area that was looked at closely")


def build_mcp(service: ChatService) -> MCPServer:
    """The MCP server of a service; it has one tool."""
    server = MCPServer("vila-hd", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True))
    async def look_close(
        image: Annotated[
            str, Field(description="data:image/...;base64,... or, where the server allows it, a URL or file")
        ],
        question: Annotated[str, Field(description="what to find out, in one sentence")],
        budget: Annotated[
            int | Literal["auto", "all"], Field(description="patches to look at; 'auto' is right mostly")
        ] = "auto",
        regions: Annotated[
            list[list[float]] | None,
            Field(description="boxes x1, y1, x2, y2 in pixels that must be looked at"),
        ] = None,
    ) -> CloseLook:
        """Look closely at a large picture to answer a question about it; tells where it looked."""
        try:
            look = HighRes(budget=budget, regions=regions or [], explain=True)
            return await _look(service, _address(image), question, look)
        except (VilaHDError, ApiError, FullError, ClosingError) as error:
            raise ToolError(str(error)) from error

    return server


async def _look(service: ChatService, address: str, question: str, look: HighRes) -> CloseLook:
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
    request = ChatRequest.model_validate(
        {"model": service.name, "messages": [{"role": "user", "content": content}], "high_res": look}
    )
    text = ""
    async with service.ask(request, _never) as (asked, events):
        async for event in events:
            if isinstance(event, Piece):
                text += event.text
            elif isinstance(event, Failed):
                raise event.error
            else:
                return _result(text.strip(), event, asked.pictures[0].size, explain(event, asked.pictures))
    raise AssertionError("an answer without an end")


def _result(answer: str, end: Finished, size: tuple[int, int], found: dict) -> CloseLook:
    return CloseLook(
        answer=answer,
        boxes=[CloseBox(**box) for box in found["boxes"][0]],
        width=size[0],
        height=size[1],
        visual_tokens=end.visual_tokens,
        coverage=end.looks[0].coverage,
    )


def _address(image: str) -> str:
    """Agents often give plain file names."""
    return Path(image).as_uri() if image.startswith("/") else image


async def _never() -> bool:
    """Cancelling a call cancels the task that waits, so nobody needs to ask."""
    return False
