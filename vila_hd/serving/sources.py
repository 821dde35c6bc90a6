"""Where pictures of a request may come from: the request itself, allowed folders, and public hosts.

What is asked for is what an attacker chose, so: hosts are resolved once, every address must be a public one,
and the connection goes to that address (a name cannot mean something else the second time); redirects are
followed by hand under the same rules; bytes and seconds are limited.
"""

import asyncio
import base64
import binascii
import ipaddress
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import httpcore2

from ..errors import VilaHDError
from ..utils.text import one_line

MAX_REDIRECTS = 3

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""``(host, port) -> addresses``"""


@dataclass(frozen=True, kw_only=True)
class SourceRules:
    """What a request may name."""

    urls: bool = False
    """Whether http and https addresses are fetched."""

    hosts: frozenset[str] = frozenset()
    """Only these; empty: any public host."""

    folders: tuple[Path, ...] = ()
    """Folders whose files may be named by ``file://`` addresses."""

    max_bytes: int = 32_000_000
    """Largest file."""

    seconds: float = 10.0
    """Longest time for one address, redirects included."""


class PictureSources:
    """Reads the files that requests name."""

    def __init__(self, rules: SourceRules, *, resolve: Resolver | None = None) -> None:
        """Prepare.

        Args:
            rules: what is allowed.
            resolve: finds the addresses of a host; None: the system does.
        """
        self._rules = rules
        self._folders = tuple(folder.resolve() for folder in rules.folders)
        self._backend = PublicOnly(resolve or _resolve)

    async def read(self, address: str, label: str) -> bytes:
        """The bytes of a file.

        Args:
            address: ``data:``, ``http:``, ``https:`` or ``file:``.
            label: what to call it in messages; the address itself may be long or secret.

        Raises:
            VilaHDError: it is not allowed, does not exist, is too large or too slow.
        """
        scheme = address[:8].partition(":")[0].lower()
        if scheme == "data":
            return self._check_size(await asyncio.to_thread(_decode, address, label), label)
        if scheme == "file":
            return await asyncio.to_thread(self._read_file, address, label)
        if scheme in ("http", "https"):
            return await self._fetch(address, label)
        raise VilaHDError(f"{label}: use an address that starts with data:, http://, https:// or file://")

    def _check_size(self, content: bytes, label: str) -> bytes:
        if len(content) > self._rules.max_bytes:
            raise VilaHDError(f"{label}: larger than the {self._rules.max_bytes:,} bytes allowed")
        return content

    # ------------------------------------------------------------------ files

    def _read_file(self, address: str, label: str) -> bytes:
        refused = VilaHDError(f"{label}: not a file in a folder that this server may read (--allow-files)")
        try:
            parts = urlsplit(address)
            path = Path(os.fsdecode(unquote_to_bytes(parts.path))).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            raise refused from None
        # One message for all that is not allowed: nobody learns which files exist.
        if parts.netloc not in ("", "localhost") or not any(path.is_relative_to(f) for f in self._folders):
            raise refused
        try:
            # A pipe would wait for a writer; a link may have appeared meanwhile.
            number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            raise refused from None
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise refused
        with os.fdopen(number, "rb") as file:
            return self._check_size(file.read(self._rules.max_bytes + 1), label)

    # ------------------------------------------------------------------ the network

    async def _fetch(self, address: str, label: str) -> bytes:
        if not self._rules.urls:
            raise VilaHDError(
                f"{label}: this server fetches no addresses; send the picture as a data: URL, or start the "
                "server with --allow-urls"
            )
        try:
            async with asyncio.timeout(self._rules.seconds):
                return await self._follow(address, label)
        except TimeoutError:
            raise VilaHDError(f"{label}: not there within {self._rules.seconds:g} s") from None
        except (httpcore2.ConnectError, httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            reason = one_line(error)[:100] or type(error).__name__
            raise VilaHDError(f"{label}: cannot be fetched ({reason})") from None

    async def _follow(self, address: str, label: str) -> bytes:
        async with httpcore2.AsyncConnectionPool(network_backend=self._backend, retries=0) as pool:
            for _ in range(MAX_REDIRECTS + 1):
                self._check_address(address, label)
                headers = [
                    ("Host", urlsplit(address).netloc),
                    ("Accept", "image/*"),
                    ("User-Agent", "vila-hd"),
                ]
                async with pool.stream("GET", address, headers=headers) as response:
                    target = _redirect(response)
                    if target is None:
                        return await self._receive(response, label)
                    address = urljoin(address, target)
        raise VilaHDError(f"{label}: more than {MAX_REDIRECTS} redirects")

    def _check_address(self, address: str, label: str) -> None:
        try:
            parts = urlsplit(address)
            host, _ = parts.hostname, parts.port
            address.encode("ascii")
        except ValueError:
            raise VilaHDError(f"{label}: not a valid address; percent-encode what is not ASCII") from None
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
            raise VilaHDError(f"{label}: only plain http:// and https:// addresses are fetched")
        if self._rules.hosts and host not in self._rules.hosts:
            raise VilaHDError(f"{label}: host {host!r} is not among those that this server fetches from")

    async def _receive(self, response: httpcore2.Response, label: str) -> bytes:
        if response.status != 200:
            raise VilaHDError(f"{label}: the host answers with status {response.status}")
        content = bytearray()
        async for chunk in response.aiter_stream():
            content += chunk
            if len(content) > self._rules.max_bytes:
                break
        return self._check_size(bytes(content), label)


class PublicOnly(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only, and to exactly the address that was checked."""

    def __init__(self, resolve: Resolver) -> None:
        self._resolve = resolve
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to ``host``. TLS above it still checks the certificate of the name."""
        addresses = await self._resolve(host, port)
        # Also when only one of several is private: a resolver may hand out a mixture to be tried in turn.
        if not addresses or not all(map(is_public, addresses)):
            raise httpcore2.ConnectError("not a public address")
        return await self._network.connect_tcp(
            addresses[0], port, timeout=timeout, local_address=local_address, socket_options=socket_options
        )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = [getattr(ip, name, None) for name in ("ipv4_mapped", "sixtofour")]
    teredo = getattr(ip, "teredo", None)
    inner += list(teredo) if teredo else []
    if ip in ipaddress.ip_network("64:ff9b::/96"):  # an IPv4 address behind a translator
        inner.append(ipaddress.ip_address(int(ip) & 0xFFFFFFFF))
    return all(one.is_global and not one.is_multicast for one in (ip, *inner) if one is not None)


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _redirect(response: httpcore2.Response) -> str | None:
    if response.status not in (301, 302, 303, 307, 308):
        return None
    return next(
        (value.decode("latin-1") for name, value in response.headers if name.lower() == b"location"), None
    )


def _decode(address: str, label: str) -> bytes:
    head, comma, content = address.partition(",")
    if not comma or not head.endswith(";base64") or not head.startswith("data:image/"):
        raise VilaHDError(f"{label}: write it as data:image/png;base64,... (or another kind of picture)")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise VilaHDError(f"{label}: the base64 text is damaged ({error}); encode the file again") from None
