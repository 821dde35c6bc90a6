"""Addresses beside Gradio's own: the viewer, its images, and reports. All behind a session's secret token."""

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vila_hd import VilaHDError
from vila_hd.lens.page import render_viewer

from .service import Service
from .viewing import image_file, report_file

POLICY = "; ".join(
    [
        "default-src 'self'",
        # Gradio compiles templates and keeps its configuration in scripts of its page.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
"""What pages of the demo may load: nothing from anywhere else."""


class OnlyThisMachine:
    """Tells browsers to load nothing from elsewhere, and to tell nobody the secret addresses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to every response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def add_routes(app: FastAPI, service: Service) -> None:
    """Serve the viewer, its images and the reports."""
    page = render_viewer()

    @app.exception_handler(VilaHDError)
    def refuse(request: Request, error: VilaHDError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=404)

    @app.get("/lens/view", include_in_schema=False)
    def view() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/lens/{token}/report-{number}.html", include_in_schema=False)
    def report(token: str, number: int) -> FileResponse:
        path = report_file(service.sessions.find(token), number)
        return FileResponse(
            path, filename=f"selection-lens-{number}.html", headers={"Cache-Control": "no-store"}
        )

    @app.get("/lens/{token}/{name}", include_in_schema=False)
    def image(token: str, name: str) -> FileResponse:
        if "/" in name or "\\" in name:
            raise HTTPException(404)
        path = image_file(service.sessions.find(token), name)
        return FileResponse(path, headers={"Cache-Control": "private, max-age=3600"})
