"""Where pictures may come from. Everything here is what an attacker would write."""

import asyncio
import base64
import http.server
import os
import threading
import time

import pytest

from vila_hd import VilaHDError
from vila_hd.serving.sources import PictureSources, PublicOnly, SourceRules, is_public

PNG = b"\x89PNG\r\n\x1a\n and so on"


def read(address, rules=None, resolve=None):
    return asyncio.run(PictureSources(rules or SourceRules(), resolve=resolve).read(address, "picture 1"))


def refused(address, rules=None, resolve=None):
    with pytest.raises(VilaHDError) as caught:
        read(address, rules, resolve)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- data


def test_data_addresses_are_always_read():
    assert read("data:image/png;base64," + base64.b64encode(PNG).decode()) == PNG


@pytest.mark.parametrize(
    "address",
    [
        "data:image/png;base64,%%%",
        "data:image/png,plain",
        "data:text/html;base64,aGk=",
        "data:",
        "data:image/png;base64",
    ],
)
def test_damaged_data_addresses(address):
    assert refused(address).startswith("picture 1: ")


def test_large_data_addresses():
    assert "larger than the 5 bytes" in refused(
        "data:image/png;base64," + base64.b64encode(PNG).decode(), SourceRules(max_bytes=5)
    )


@pytest.mark.parametrize(
    "address", ["", "picture.png", "/etc/passwd", "ftp://host/a.png", "gopher://x", "\0"]
)
def test_other_addresses(address):
    assert "use an address that starts with" in refused(address)


# ---------------------------------------------------------------- files


@pytest.fixture
def shown(tmp_path):
    folder = tmp_path / "shown"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    return folder


def test_files_are_read_where_allowed_only(shown):
    rules = SourceRules(folders=(shown,))
    assert read((shown / "a.png").as_uri(), rules) == PNG
    assert read(f"file://localhost{shown}/a.png", rules) == PNG
    assert "not a file in a folder" in refused((shown / "a.png").as_uri())


def test_ways_out_of_a_folder(shown, tmp_path):
    rules = SourceRules(folders=(shown,))
    (shown / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "shown2").mkdir()
    (tmp_path / "shown2" / "a.png").write_bytes(PNG)
    os.mkfifo(shown / "pipe.png")
    ways = [
        f"file://{shown}/../secret.png",
        f"file://{shown}/%2e%2e/secret.png",
        f"file://{shown}/..%2fsecret.png",
        f"file://{shown}/link.png",
        f"file://{tmp_path}/shown2/a.png",
        f"file://{shown}/pipe.png",
        f"file://{shown}",
        f"file://{shown}/missing.png",
        f"file://{shown}/a.png%00.jpg",
        f"file://elsewhere{shown}/a.png",
        "file:///etc/passwd",
        "file:///dev/zero",
        "file://[bad/a.png",
    ]
    # All are refused in the same words, so that nobody learns which files exist.
    assert {refused(way, rules) for way in ways} == {
        "picture 1: not a file in a folder that this server may read (--allow-files)"
    }


def test_large_files(shown):
    assert "larger than" in refused((shown / "a.png").as_uri(), SourceRules(folders=(shown,), max_bytes=5))


# ---------------------------------------------------------------- the network


class Host(http.server.BaseHTTPRequestHandler):
    """Answers by path."""

    seen: list

    def do_GET(self):
        type(self).seen.append((self.path, self.headers["Host"]))
        if self.path == "/picture":
            self.answer(200, PNG)
        elif self.path == "/hop":
            self.answer(302, b"", "/picture")
        elif self.path == "/loop":
            self.answer(302, b"", "/loop")
        elif self.path.startswith("/to/"):
            self.answer(302, b"", self.path.removeprefix("/to/"))
        elif self.path == "/endless":
            self.answer(200, None)
            with self.wfile as file:
                while True:
                    file.write(b"x" * 65536)
        elif self.path == "/slow":
            self.answer(200, None)
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        else:
            self.answer(404, b"")

    def answer(self, status, content, location=None):
        self.send_response(status)
        if location is not None:
            self.send_header("Location", location)
        if content is not None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content or b"")

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *args):
        """Nothing."""


@pytest.fixture
def host(monkeypatch):
    """A host that counts as public: 127.0.0.1, everywhere else addresses are judged as they are."""
    handler = type("Seen", (Host,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(
        "vila_hd.serving.sources.is_public", lambda address: address == "127.0.0.1" or is_public(address)
    )
    server.seen = handler.seen
    yield server
    server.shutdown()
    server.server_close()


URLS = SourceRules(urls=True, max_bytes=1_000_000, seconds=5.0)


def resolver(**hosts):
    async def resolve(host, port):
        return hosts.get(host.replace(".", "_"), [host])

    return resolve


def address_of(host, path):
    return f"http://pictures.example:{host.server_port}{path}"


KNOWN = resolver(pictures_example=["127.0.0.1"])


def test_pictures_are_fetched_by_name_from_the_checked_address(host):
    assert read(address_of(host, "/picture"), URLS, KNOWN) == PNG
    assert read(address_of(host, "/hop"), URLS, KNOWN) == PNG
    assert {name for _, name in host.seen} == {f"pictures.example:{host.server_port}"}


def test_nothing_is_fetched_unless_allowed(host):
    assert "fetches no addresses" in refused(address_of(host, "/picture"), SourceRules(), KNOWN)
    only = SourceRules(urls=True, hosts=frozenset({"other.example"}))
    assert "not among those" in refused(address_of(host, "/picture"), only, KNOWN)
    assert host.seen == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)  # fmt: skip
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://2130706433/", "http://0x7f.1/", "http://[::1]/",
        "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/latest/meta-data/", "http://0/", "http://127.1/",
    ],
)  # fmt: skip
def test_requests_to_this_machine_and_its_network(url):
    """With the resolver of the system, which reads more spellings than one would think."""
    assert "picture 1: cannot be fetched" in refused(url, URLS)


def test_a_name_of_which_one_address_is_private(host):
    mixed = resolver(pictures_example=["127.0.0.1", "10.0.0.1"])
    assert "not a public address" in refused(address_of(host, "/picture"), URLS, mixed)
    assert host.seen == []


def test_a_name_that_changes_its_meaning_is_resolved_once(host):
    """DNS rebinding: public when checked, private when connected to."""
    asked = []

    async def rebinding(name, port):
        asked.append(name)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    assert read(address_of(host, "/picture"), URLS, rebinding) == PNG
    assert asked == ["pictures.example"]


@pytest.mark.parametrize(
    "target",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "ftp://pictures.example/",
        "http://a:b@pictures.example/",
    ],
)
def test_redirects_keep_to_the_rules(host, target):
    refused(address_of(host, "/to/" + target), URLS, KNOWN)
    assert len(host.seen) == 1


def test_redirects_end(host):
    assert "more than 3 redirects" in refused(address_of(host, "/loop"), URLS, KNOWN)
    assert len(host.seen) == 4


def test_large_and_slow_answers_and_errors(host):
    assert "larger than" in refused(address_of(host, "/endless"), URLS, KNOWN)
    brief = SourceRules(urls=True, seconds=0.3)
    assert "not there within 0.3 s" in refused(address_of(host, "/slow"), brief, KNOWN)
    assert "status 404" in refused(address_of(host, "/missing"), URLS, KNOWN)
    assert "cannot be fetched" in refused("http://pictures.example:1/", URLS, KNOWN)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a.png",
        "https://host:99999/",
        "http://user:pw@pictures.example/",
        "http://ä.example/",
    ],
)
def test_strange_addresses(url):
    assert refused(url, URLS, KNOWN).startswith("picture 1: ")


def test_certificates_are_checked_for_the_name():
    """The connection goes to an address, TLS still to the name: httpcore starts it above our backend."""
    backend = PublicOnly(KNOWN)
    assert not hasattr(backend, "start_tls")
