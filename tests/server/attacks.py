"""Attacks on the server and their expected results, as data for the tests and the docs."""

from typing import Final

from attrs import frozen

#: A chat request's body, and the heads that are put before it.
BODY: Final = b'{"model":"Milo","messages":[{"role":"user","content":"hi"}],"stream":false}'
CHAT: Final = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
_CHUNKS: Final = CHAT + b"transfer-encoding: chunked\r\n\r\n"
#: A second request, hidden in the first: it must not be answered where the framing is in doubt.
HIDDEN: Final = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _sized(body: bytes, head: bytes = CHAT) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def _get(target: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers or (b"host: localhost",))
    return b"GET " + target + b" HTTP/1.1\r\n" + lines + b"\r\n"


def _ask(content: bytes) -> bytes:
    return _sized(b'{"model":"Milo","messages":[{"role":"user","content":' + content + b"}]}")


def _image(url: bytes) -> bytes:
    return _ask(b'[{"type":"image_url","image_url":{"url":"' + url + b'"}}]')


@frozen(kw_only=True)
class Attack:
    """One attack, on one connection.

    :param what: in one line.
    :param sent: the client's bytes.
    :param status: of the first answer.
    :param code: of its error.
    :param closes: no second answer follows, and the connection ends.
    :param targets: what Letta is asked, request line by request line.
    """

    kind: str
    what: str
    sent: bytes
    status: int
    code: str | None = None
    closes: bool = False
    targets: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """In one line."""
        error = f" `{self.code}`" if self.code else ""
        asked = f"; Letta gets `{', '.join(self.targets)}`" if self.targets else "; nothing reaches Letta"
        return f"{self.status}{error}{asked}{'; the connection ends' if self.closes else ''}"


def _refused(what: str, sent: bytes) -> Attack:
    return Attack(kind="request smuggling", what=what, sent=sent, status=400, code="invalid_http", closes=True)


def _find(name: str) -> str:
    """What Letta is asked for a model of this name, as a client wrote it."""
    return f"GET /v1/agents/?name={name}&include=agent.tools"


SMUGGLING: Final = (
    _refused(
        "both Content-Length and Transfer-Encoding",
        CHAT + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    ),
    _refused(
        "the same in reverse order",
        CHAT + b"transfer-encoding: chunked\r\ncontent-length: 300\r\n\r\n" + _chunked(BODY) + HIDDEN,
    ),
    _refused(
        "Transfer-Encoding in HTTP/1.0",
        CHAT.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n" + _chunked(BODY) + HIDDEN,
    ),
    _refused(
        "two different lengths", CHAT + b"content-length: 5\r\ncontent-length: 6\r\n\r\n" + b"x" * 6 + HIDDEN
    ),
    _refused("a length with a sign", CHAT + b"content-length: +%d\r\n\r\n" % len(BODY) + BODY),
    _refused("a negative length", CHAT + b"content-length: -1\r\n\r\n" + HIDDEN),
    _refused("a length with an underscore", CHAT + b"content-length: 1_0\r\n\r\n" + HIDDEN),
    _refused("a transfer coding that means none", CHAT + b"transfer-encoding: identity\r\n\r\n" + HIDDEN),
    _refused("two transfer codings", CHAT + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN),
    _refused(
        "the same transfer coding twice",
        CHAT + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    ),
    _refused(
        "an almost valid transfer coding", CHAT + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN
    ),
    _refused(
        "a transfer coding after a control character", CHAT + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n"
    ),
    _refused("a space before a colon", CHAT + b"content-length : 3\r\n\r\nabc" + HIDDEN),
    _refused("a chunk size followed by garbage", _CHUNKS + b"5 junk\r\nhello\r\n0\r\n\r\n"),
    _refused("a chunk size in C notation", _CHUNKS + b"0x5\r\nhello\r\n0\r\n\r\n"),
    _refused("a chunk size with a sign", _CHUNKS + b"-2\r\nhi\r\n0\r\n\r\n"),
    _refused("an overlong chunk size", _CHUNKS + b"F" * 21 + b"\r\nhi"),
    _refused("a chunk longer than its size", _CHUNKS + b"2\r\nhello\r\n0\r\n\r\n"),
    _refused("a line break in a chunk extension", _CHUNKS + b"2;a\nb\r\nhi\r\n"),
    _refused("a bare CR in the request line", b"GET /health HTTP/1.1\rhost: localhost\r\n\r\n"),
    _refused("a zero byte in a header", _get(b"/health", b"host: localhost", b"x: a\0b")),
    _refused("two `Host` headers", _get(b"/health", b"host: localhost", b"host: evil.example")),
    _refused("no `Host` header", b"GET /health HTTP/1.1\r\n\r\n"),
    Attack(
        kind="request smuggling",
        what="the same length twice: treated as one request",
        sent=_sized(BODY, CHAT + b"content-length: %d\r\n" % len(BODY)),
        status=404,
        code="model_not_found",
        targets=(_find("Milo"),),
    ),
    Attack(
        kind="request smuggling",
        what="a folded line that looks like a length: treated as part of the header before it",
        sent=_sized(BODY, CHAT + b"x: a\r\n content-length: 3\r\n"),
        status=404,
        code="model_not_found",
        targets=(_find("Milo"),),
    ),
    Attack(
        kind="request smuggling",
        what="bare LF in the head: treated as line endings of one request",
        sent=_sized(BODY, CHAT).replace(b"\r\n", b"\n"),
        status=404,
        code="model_not_found",
        targets=(_find("Milo"),),
    ),
    Attack(
        kind="request smuggling",
        what="a request in the body of a GET: treated as its body",
        sent=_sized(HIDDEN, b"GET /health HTTP/1.1\r\nhost: localhost\r\n"),
        status=200,
    ),
    Attack(
        kind="request smuggling",
        what="a key in a trailer: ignored",
        sent=_CHUNKS + b"0\r\nauthorization: Bearer x\r\n\r\n",
        status=400,
        code="invalid_json",
    ),
    Attack(
        kind="request smuggling",
        what="an upgrade to HTTP/2: answered as HTTP/1.1",
        sent=_get(b"/health", b"host: localhost", b"connection: upgrade", b"upgrade: h2c"),
        status=200,
    ),
)


def _path(what: str, target: bytes, asked: str) -> Attack:
    return Attack(
        kind="paths",
        what=what,
        sent=_get(target),
        status=404,
        code="model_not_found",
        targets=(_find(asked),),
    )


PATHS: Final = (
    _path("`..`, encoded", b"/v1/models/..%2f..%2fadmin", "..%2F..%2Fadmin"),
    _path("`..`, plain", b"/v1/models/../../admin", "..%2F..%2Fadmin"),
    _path("`..`, encoded twice", b"/v1/models/..%252fadmin", "..%252fadmin"),
    _path("a zero byte", b"/v1/models/a%00b", "a%00b"),
    _path("a line break", b"/v1/models/a%0d%0ax-evil:%201", "a%0D%0Ax-evil%3A%201"),
    _path("a query for Letta", b"/v1/models/a%3finclude=x%26limit=9%23", "a%3Finclude%3Dx%26limit%3D9%23"),
    _path("two slashes", b"/v1/models//health", "%2Fhealth"),
    _path("bytes that are not UTF-8", b"/v1/models/%ff%fe", "%EF%BF%BD%EF%BF%BD"),
    Attack(
        kind="paths",
        what="an absolute target on another host",
        sent=_get(b"http://169.254.169.254/v1/models"),
        status=403,
        code="host_not_allowed",
        closes=True,
    ),
    Attack(
        kind="paths",
        what="a tunnel to another host",
        sent=b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        status=404,
        code="unknown_url",
    ),
    Attack(kind="paths", what="out of the API", sent=_get(b"/v1/../health"), status=404, code="unknown_url"),
    Attack(
        kind="paths", what="one of Letta's own paths", sent=_get(b"/v1/agents/"), status=404, code="unknown_url"
    ),
)


def _model(what: str, model: bytes, asked: str) -> Attack:
    return Attack(
        kind="headers",
        what=what,
        sent=_sized(BODY.replace(b"Milo", model)),
        status=404,
        code="model_not_found",
        targets=(_find(asked),),
    )


HEADERS: Final = (
    _model(
        "line breaks in the model name",
        rb"a\r\nx-evil: 1\r\n\r\nGET /",
        "a%0D%0Ax-evil%3A%201%0D%0A%0D%0AGET%20%2F",
    ),
    _model("a zero byte in the model name", rb"a\u0000b", "a%00b"),
    _model(
        "an invalid agent id",
        rb"agent-11111111-1111-4111-8111-111111111111/../x",
        "agent-11111111-1111-4111-8111-111111111111%2F..%2Fx",
    ),
    Attack(
        kind="headers",
        what="line breaks in the name of an ignored field, which is reported in a header",
        sent=_sized(BODY[:-1] + rb',"a\r\nx-evil: 1":1}'),
        status=404,
        code="model_not_found",
        targets=(_find("Milo"),),
    ),
)


def _json(what: str, body: bytes, code: str, status: int = 400) -> Attack:
    return Attack(kind="JSON", what=what, sent=_sized(body), status=status, code=code)


JSON: Final = (
    _json("deep nesting", b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    _json("a number of a million digits", b'{"model":' + b"9" * 1_000_000 + b"}", "invalid_json"),
    _json("an overlong exponent", BODY[:-1] + b',"temperature":1e999999}', "invalid_json"),
    _json("NaN", BODY[:-1] + b',"temperature":NaN}', "invalid_json"),
    Attack(
        kind="JSON",
        what="half a surrogate pair: replaced",
        sent=_sized(BODY.replace(b"hi", rb"\ud800")),
        status=404,
        code="model_not_found",
        targets=(_find("Milo"),),
    ),
    Attack(
        kind="JSON",
        what="a duplicate key: the last one is used",
        sent=_sized(b'{"model":"Otto",' + BODY[1:]),
        status=404,
        code="model_not_found",
        targets=(_find("Milo"),),
    ),
)

SIZES: Final = (
    Attack(
        kind="sizes",
        what="a body that decompresses to a thousand times its size",
        sent=_sized(b"\x1f\x8b" + b"\0" * 100, CHAT + b"content-encoding: gzip\r\n"),
        status=415,
        code="unsupported_media_type",
        closes=True,
    ),
    Attack(
        kind="sizes",
        what="a length of a thousand digits",
        sent=CHAT + b"content-length: " + b"9" * 1000 + b"\r\n\r\n",
        status=400,
        code="invalid_http",
        closes=True,
    ),
    Attack(
        kind="sizes",
        what="a length above the limit",
        sent=CHAT + b"content-length: 99999999999\r\n\r\n",
        status=413,
        code="request_too_large",
        closes=True,
    ),
    Attack(
        kind="sizes",
        what="a head that never ends",
        sent=b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 200_000,
        status=431,
        code="invalid_http",
        closes=True,
    ),
    Attack(
        kind="sizes",
        what="a hundred and one headers",
        sent=_get(b"/health", b"host: localhost", *(b"x: 1",) * 100),
        status=431,
        code="invalid_http",
        closes=True,
    ),
)


def _url(what: str, url: bytes) -> Attack:
    return Attack(
        kind="addresses that Letta would fetch",
        what=what,
        sent=_image(url),
        status=400,
        code="invalid_value",
    )


IMAGES: Final = (
    _url("an image of a cloud's metadata service", b"http://169.254.169.254/latest/meta-data/"),
    _url("the same behind a name and a port", b"http://a@169.254.169.254:80/latest/meta-data/"),
    _url("the same by its IPv6 address", b"http://[fe80::a9fe:a9fe]/latest/meta-data/"),
    _url("an image of Letta's disk", b"file:///etc/passwd"),
    _url("an image over FTP", b"ftp://10.0.0.1/x.png"),
    _url("an image of another protocol", b"gopher://127.0.0.1:6379/_FLUSHALL"),
    _url("an image without a scheme", b"//169.254.169.254/"),
    _url("a page in place of an image", b"data:text/html;base64,PGI+"),
)

REBINDING: Final = (
    Attack(
        kind="web pages",
        what="a page whose own host name points to this machine (DNS rebinding)",
        sent=_get(b"/v1/models", b"host: evil.example:8284"),
        status=403,
        code="host_not_allowed",
        closes=True,
    ),
    Attack(
        kind="web pages",
        what="a page of another origin that uses localhost",
        sent=_get(b"/v1/models", b"host: localhost", b"origin: https://evil.example"),
        status=403,
        code="origin_not_allowed",
        closes=True,
    ),
    Attack(
        kind="web pages",
        what="the same from a frame without an origin",
        sent=_sized(BODY, CHAT + b"origin: null\r\ncontent-type: text/plain\r\n"),
        status=403,
        code="origin_not_allowed",
        closes=True,
    ),
)


def _near(what: str, origin: bytes) -> Attack:
    return Attack(
        kind="web pages",
        what=f"a page that {what}, where `--cors-origin https://*.example.com` lets subdomains in",
        sent=_get(b"/v1/models", b"host: localhost", b"origin: " + origin),
        status=403,
        code="origin_not_allowed",
        closes=True,
    )


#: On a server with `SUBDOMAINS` for its pages.
SUBDOMAINS: Final = "https://*.example.com"
NEAR_PAGES: Final = (
    _near("ends in the name without its dot", b"https://evil-example.com"),
    _near("has the name in front", b"https://a.example.com.evil.example"),
    _near("has the name behind a login", b"https://evil.example@a.example.com"),
    _near("has the name in its path", b"https://evil.example/a.example.com"),
    _near("is of another scheme", b"http://a.example.com"),
    _near("is of another port", b"https://a.example.com:8443"),
    _near("has an empty part", b"https://.example.com"),
    _near("is the name itself", b"https://example.com"),
    _near("has no origin, as in a frame", b"null"),
)

ATTACKS: Final = (*SMUGGLING, *PATHS, *HEADERS, *JSON, *SIZES, *IMAGES, *REBINDING, *NEAR_PAGES)


@frozen
class Trial:
    """An attack that takes more than one request: what, and its outcome, each in one line."""

    kind: str
    what: str
    outcome: str


#: By the name of the test that tries it.
TRIALS: Final = {
    "an_agents_id_is_one_segment": Trial(
        "paths",
        "an agent whose id, as Letta tells it, holds slashes, dots, a query and line ends",
        "one segment of Letta's path, all of it encoded",
    ),
    "an_agents_name_ends_no_line": Trial(
        "headers",
        "an agent whose name holds line ends",
        "a chat with it goes on; no header, no event and no line of ours ends early",
    ),
    "guessing_a_key": Trial(
        "keys",
        "guessing a key by the time of the answer",
        "every key is compared, in constant time, over digests of one length",
    ),
    "two_keys_that_differ": Trial(
        "keys",
        "a good key beside a bad one, in one header or in two (`Authorization`, `api-key`, `x-api-key`)",
        "401 `invalid_api_key`, in any order",
    ),
    "another_clients_answer": Trial(
        "keys",
        "another client's request sent again, with a key of one's own in any of these headers",
        "a turn of its own: no key hears what another was told",
    ),
    "a_key_in_another_case": Trial(
        "keys", "a key with other case, a blank, a zero byte, cut short or doubled", "401 `invalid_api_key`"
    ),
    "another_keys_agent": Trial(
        "keys",
        "an agent of another key, by name, by id, by a name that looks like the id",
        "404 `model_not_found`, word for word that of an agent that does not exist",
    ),
    "a_clients_key_of_two_lines": Trial(
        "keys", "a key passed on to Letta that holds a line end or a blank", "400 or 401; nothing reaches Letta"
    ),
    "a_forged_log_line": Trial(
        "logs",
        "line ends, escapes and a megabyte in path, model and User-Agent",
        "one line, printable, short; in JSON and on the console",
    ),
    "a_secret_in_the_log": Trial(
        "logs", "a defect of ours while a key is in use", "the traceback has no variables: no key, no text"
    ),
    "escapes_in_inspect": Trial(
        "logs",
        "terminal escapes and markup in a recording that is inspected",
        "shown as text, on the terminal and in the page",
    ),
    "an_image_is_not_fetched_here": Trial(
        "addresses that Letta would fetch",
        "an https: image of an inner network",
        "passed on: this server opens no connection for it; Letta fetches it, or not",
    ),
}
