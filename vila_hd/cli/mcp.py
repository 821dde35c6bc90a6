"""``vila-hd mcp``: the tool ``look_close`` for an agent on this machine, over standard input and output."""

import argparse
import contextlib
import sys

from .serve import settings_of
from .terminal import Steps


def run(args: argparse.Namespace) -> int:
    """Load the model and answer until the agent leaves."""
    settings = settings_of(args)
    # Standard output belongs to the protocol; libraries greet there.
    with contextlib.redirect_stdout(sys.stderr), Steps(2) as steps:
        with steps.step("importing libraries"):
            from ..serving.mcp_tool import build_mcp
            from ..serving.metrics import Metrics
            from ..serving.server import build_service
            from .models import load_for
        with steps.step(f"loading {args.model}"):
            model, processor = load_for(args)
    service = build_service(model, processor, settings, Metrics())
    service.engine.start()
    try:
        build_mcp(service).run("stdio")
    finally:
        service.engine.close()
        service.store.close()
    return 0
