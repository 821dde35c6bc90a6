"""``vila-hd serve``: the model behind an HTTP API; ``vila-hd mcp``: behind a tool for agents."""

import argparse
from typing import TYPE_CHECKING

from ..errors import VilaHDError
from ..utils.imports import import_optional
from .terminal import Steps, print_lines

if TYPE_CHECKING:
    from ..serving.server import ServerSettings

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "httpcore2", "mcp")


def run(args: argparse.Namespace) -> int:
    """Load the model and serve it until told to end."""
    settings = settings_of(args)
    with Steps(2) as steps:
        with steps.step("importing libraries"):
            from ..serving.server import run as run_one
            from ..serving.workers import run_workers
            from .models import load_for
        with steps.step(f"loading {args.model}"):
            model, processor = load_for(args)
    answers = f"{settings.engine.max_batch} answers at once"
    if settings.workers > 1:
        answers = f"{settings.workers} workers of {answers}"
    print_lines([f"model {settings.name} on {model.device}, {answers}"])
    (run_workers if settings.workers > 1 else run_one)(model, processor, settings)
    return 0


def settings_of(args: argparse.Namespace) -> "ServerSettings":
    """What was typed, checked. Loads no model.

    Raises:
        VilaHDError: the extra ``serve`` is missing, or an option does not fit.
    """
    for package in NEEDED:
        import_optional(package, extra="serve", purpose="vila-hd serve")
    from ..serving.engine import EngineSettings
    from ..serving.server import LOOPBACK, ServerSettings, read_keys
    from ..serving.service import ServiceLimits
    from ..serving.sources import SourceRules

    for folder in args.allow_files:
        if not folder.is_dir():
            raise VilaHDError(f"--allow-files {folder}: no such folder")
    keys = read_keys(args.api_key_file)
    if args.host not in LOOPBACK and not keys:
        print_lines([f"warning: everybody who reaches {args.host} may use this server; set a key"], indent="")
    return ServerSettings(
        name=args.served_name or args.model,
        host=args.host,
        port=args.port,
        keys=keys,
        hosts=frozenset(args.allow_hosts),
        engine=EngineSettings(max_batch=args.max_batch, max_waiting=args.max_waiting),
        limits=ServiceLimits(max_new_tokens=args.max_new_tokens, max_pictures=args.max_pictures),
        sources=SourceRules(
            urls=args.allow_urls or bool(args.url_hosts),
            hosts=frozenset(args.url_hosts),
            folders=tuple(args.allow_files),
            max_bytes=args.max_body_mb * 1_000_000,
        ),
        max_pixels=args.max_megapixels * 1_000_000,
        picture_cache=args.picture_cache_mb * 1_000_000,
        max_body=args.max_body_mb * 1_000_000,
        grace=args.grace,
        workers=args.workers,
    )
