"""Files from the web, once: cached on disk, bounded in size and time, and from public addresses only.

A list of addresses comes from strangers. So only http and https are spoken, every name, also one that was
redirected to, must lead to public addresses, and the connection goes to the address that was checked, not to
what the name leads to a moment later. That is why this is written on http.client: the libraries look names up
themselves. Proxies are not used.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from guidance import __version__
from guidance.clip.pictures import Unusable
from guidance.errors import FULL_DISK
from guidance.media import replacing

#: Wikimedia, for one, refuses clients that do not say what they are.
AGENT = f"clip-guidance/{__version__} (training of CLIP models)"
REDIRECTS = 5
#: Seconds for a connection, and for each answer of a server's; the whole has a limit of its own.
PATIENCE = 10.0
#: The part of version 6 that is given out to the public (RFC 4291); what else looks global is old or local.
_GLOBAL = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Answers that may be others later.
PASSING = (408, 425, 429, 500, 502, 503, 504)


class _Passing(Exception):
    """What may work the next time; its text is the reason."""


@dataclass(frozen=True)
class Web:
    """Fetches files into a folder; `most` bytes and `seconds` at most for each, and `tries` if it fails.

    A file that is not there, too large or refused is remembered, and not asked for again.
    """

    folder: Path
    most: int = 32 * 2**20
    seconds: float = 60.0
    tries: int = 3
    pause: float = 0.5
    # Two threads that want the same file: one fetches it. By the first bits of its name.
    _locks: list[threading.Lock] = field(default_factory=lambda: [threading.Lock() for _ in range(256)])

    def file(self, address: str) -> Path:
        """The file at an address, fetched if it is not in the folder; raises Unusable."""
        digest = sha256(address.encode(errors="surrogatepass")).hexdigest()
        path = self.folder / digest[:2] / digest
        gone = path.with_suffix(".gone")
        with self._locks[int(digest[:2], 16)]:
            if path.is_file():
                return path
            if gone.is_file():
                raise Unusable(gone.read_text(encoding="utf-8"))
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with replacing(path) as temporary:
                    self._try(address, temporary)
            except Unusable as reason:
                if not isinstance(reason.__cause__, _Passing):
                    with replacing(gone) as temporary:
                        temporary.write_text(str(reason), encoding="utf-8")
                raise
        return path

    def read(self, address: str) -> bytes:
        """The content of the file at an address."""
        return self.file(address).read_bytes()

    def _try(self, address: str, file: Path) -> None:
        for attempt in range(self.tries):
            try:
                return self._fetch(address, file)
            except _Passing as reason:
                if attempt == self.tries - 1:
                    raise Unusable(f"{reason}, {self.tries} times") from reason
                time.sleep(self.pause * 2**attempt)
        return None

    def _fetch(self, address: str, file: Path) -> None:
        until = time.monotonic() + self.seconds
        for _ in range(REDIRECTS + 1):
            scheme, host, port, target = split(address)
            connection = _Connection(scheme, host, port, until)
            # A server that sends a byte now and then never times out otherwise.
            watch = threading.Timer(max(0.0, until - time.monotonic()), connection.abort)
            watch.daemon = True
            watch.start()
            try:
                connection.request(
                    "GET", target, headers={"User-Agent": AGENT, "Accept-Encoding": "identity"}
                )
                answer = connection.getresponse()
                if answer.status in (301, 302, 303, 307, 308) and (place := answer.getheader("Location")):
                    address = urljoin(address, place)
                    continue
                if answer.status in PASSING:
                    raise _Passing(f"status {answer.status}")
                if answer.status != 200:
                    raise Unusable(f"status {answer.status}")
                return self._save(answer, file, until)
            except (http.client.HTTPException, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in FULL_DISK:
                    raise
                # What is closed by the watch looks like any other broken connection.
                reason = "too slow" if time.monotonic() > until else type(error).__name__
                raise _Passing(reason) from error
            finally:
                watch.cancel()
                connection.close()
        raise Unusable("redirected too often")

    def _save(self, answer: http.client.HTTPResponse, file: Path, until: float) -> None:
        expected = answer.length
        if expected is not None and expected > self.most:
            raise Unusable(f"over {self.most} bytes")
        size = 0
        with open(file, "wb") as stream:
            while chunk := answer.read(min(2**16, self.most + 1 - size)):
                stream.write(chunk)
                size += len(chunk)
                if size > self.most:
                    raise Unusable(f"over {self.most} bytes")
        if time.monotonic() > until:  # what the watch cut off looks like an end
            raise _Passing("too slow")
        if expected is not None and size != expected:
            raise _Passing("cut short")


class _Connection(http.client.HTTPConnection):
    """A connection to a public address, encrypted or not, that is not opened after the time `until`."""

    def __init__(self, scheme: str, host: str, port: int, until: float) -> None:
        super().__init__(host, port)
        self._secure = scheme == "https"
        self._until = until
        self._opened: socket.socket | None = None
        self._aborted = False
        self.default_port = 443 if self._secure else 80  # so that the header Host is as browsers send it

    def connect(self) -> None:
        self.sock = _dial(self.host, self.port, self._until)
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
        self._opened = self.sock  # http.client forgets it when an answer ends with the connection
        if self._aborted:  # before there was anything to end
            raise TimeoutError

    def abort(self) -> None:
        """End all reading and writing, from another thread."""
        self._aborted = True
        if self._opened is not None:
            with suppress(OSError):
                # Not an SSL socket's own, which would pull the encryption from under the reader.
                socket.socket.shutdown(self._opened, socket.SHUT_RDWR)


def _dial(host: str, port: int, until: float) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not all(is_public(str(place[0])) for *_, place in found):
        raise Unusable("not a public address")
    failed: OSError = OSError("no address")
    for family, kind, protocol, _, place in found:
        left = until - time.monotonic()
        if left <= 0:  # a name may have any number of addresses where nobody answers
            raise TimeoutError
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(min(PATIENCE, left))
        try:
            connection.connect(place)
            return connection
        except OSError as error:
            connection.close()
            failed = error
    raise failed


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where it stands for one of version 4."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            parsed = inner
        elif parsed not in _GLOBAL:
            return False
    return parsed.is_global and not parsed.is_multicast


def split(address: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and what to ask for, escaped; raises Unusable for what is no address on the web."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unusable("no http(s) address")
        host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if not host.isprintable() or " " in host:
            raise Unusable("no http(s) address")
    except ValueError as error:
        raise Unusable("no http(s) address") from error
    # What is not ASCII is escaped, and what is escaped already stays.
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~", errors="replace")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?", errors="replace")
    return parts.scheme, host, port, f"{path}?{query}" if query else path
