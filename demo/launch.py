"""Command line, and the server that the page runs on."""

import argparse
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_hd import VilaHDError
from vila_hd.cli.models import load_for
from vila_hd.cli.parsers import Parser, add_model, port_number
from vila_hd.cli.terminal import Steps, run_command
from vila_hd.utils.imports import import_optional

from .pictures import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .service import Service

NUM_EXAMPLES = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m demo``; see ``--help``."""
    return run_command(lambda: run(make_parser().parse_args(argv)))


def make_parser() -> Parser:
    """The options of ``python -m demo``."""
    parser = Parser(prog="python -m demo", description="Talk about large pictures in the browser.")
    add_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (there is no password)"
    )
    parser.add_argument("--port", type=port_number, default=7860, help="0: any free one (%(default)s)")
    parser.add_argument(
        "--parallel", type=int, default=2, metavar="N", help="answers that are written at once"
    )
    for name, text in LIMITS.items():
        default = getattr(Limits, name.replace("-", "_"))
        parser.add_argument(
            f"--max-{name}", type=int, default=default, metavar="N", help=f"{text} ({default})"
        )
    return parser


LIMITS = {
    "file-megabytes": "size of one uploaded file",
    "pictures": "pictures of one conversation",
    "pages": "pages of one PDF that are read",
    "sessions": "conversations that are kept",
    "idle-minutes": "a conversation that was idle longer is forgotten",
    "new-tokens": "longest answer",
    "waiting": "questions that may wait in line",
}


def run(args: argparse.Namespace) -> int:
    """Load, draw the examples, measure, serve until Ctrl-C; then remove all files."""
    limits = Limits(
        **{name.replace("-", "_"): getattr(args, f"max_{name}".replace("-", "_")) for name in LIMITS}
    )
    address = bind(args.host, args.port)
    # uvicorn raises the signal again once it has shut down: unhandled, that would leave the files behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with address, tempfile.TemporaryDirectory(prefix="vila-hd-demo-") as folder:
        be_quiet(Path(folder))
        with Steps(4) as steps:
            with steps.step("importing libraries"):
                uvicorn = import_optional("uvicorn", extra="demo", purpose="the demo")
                import_optional("gradio", extra="demo", purpose="the demo")
                from .examples import draw_examples
                from .service import Service
            with steps.step("drawing examples"):
                examples = draw_examples(Path(folder) / "examples", NUM_EXAMPLES)
            with steps.step(f"loading {args.model}"):
                model, processor = load_for(args)
            with steps.step("first answers"):
                service = Service(
                    model, processor, Path(folder), name=args.model, limits=limits, examples=examples
                )
                service.prepare()
        port = address.getsockname()[1]
        print(f"Open http://{args.host}:{port}/ in a browser. Ctrl-C ends the demo.", flush=True)
        config = uvicorn.Config(make_server(service, parallel=args.parallel), log_level="warning")
        uvicorn.Server(config).run(sockets=[address])
    return 0


def bind(host: str, port: int) -> socket.socket:
    """The address to listen on, taken before anything slow happens.

    Raises:
        VilaHDError: somebody else has it, or it is none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise VilaHDError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); use --port"
        ) from error


def be_quiet(folder: Path) -> None:
    """Keep Gradio's files in ``folder`` and Gradio from calling home. Before it is imported."""
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(folder / "uploads"),
        HF_HUB_DISABLE_TELEMETRY="1",
    )


def make_server(service: "Service", *, parallel: int = 1) -> "FastAPI":
    """The ASGI application: the page, the viewer and its images."""
    import gradio as gr
    from fastapi import FastAPI

    from .app import HERE, build_app
    from .routes import OnlyThisMachine, add_routes
    from .theme import make_theme

    blocks = build_app(service)
    blocks.queue(default_concurrency_limit=parallel, max_size=service.limits.waiting, api_open=False)
    app = FastAPI(openapi_url=None)
    app.add_middleware(OnlyThisMachine)
    add_routes(app, service)
    settings: dict[str, Any] = {
        "max_file_size": service.limits.file_megabytes * 2**20,
        "footer_links": [],
        "ssr_mode": False,
        "enable_monitoring": False,
        "pwa": False,
        "mcp_server": False,
        "theme": make_theme(),
        "css_paths": [HERE / "style.css"],
    }
    return gr.mount_gradio_app(app, blocks, path="/", **settings)
