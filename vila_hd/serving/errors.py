"""Errors as the API of OpenAI words them."""

from typing import Any

from ..errors import VilaHDError
from .engine import ClosingError, FullError


class ApiError(Exception):
    """A request that is refused."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """What is answered."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told of an error. Nothing about the server's insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, VilaHDError):
        return ApiError(400, str(error))
    if isinstance(error, FullError):
        return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, ClosingError):
        return ApiError(503, str(error), headers={"Retry-After": "10"})
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return ApiError(503, "out of memory: use a smaller budget or fewer pictures", code="out_of_memory")
    return ApiError(500, "internal error; the server's log tells more")
