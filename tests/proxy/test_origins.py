"""Web pages of other origins, and host names that point to this machine."""

import re

import pytest

from sansio_letta.proxy.origins import OriginRules, normal_origin

LOCAL = OriginRules(hosts=("proxy.lan",))
CHAT = OriginRules(origins=("https://chat.example",), hosts=())


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8284",
        "localhost.",
        "app.localhost:1",
        "127.0.0.1:8284",
        "127.8.9.10",
        "[::1]:8284",
        "[::1]",
        "proxy.lan:8284",
        "Proxy.LAN",
    ],
)
def test_names_of_this_machine(host: str) -> None:
    assert LOCAL.refuse("GET", "/v1/models", [("host", host)]) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8284",
        "127.0.0.1.evil.example",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "0.0.0.0",
        "192.168.1.7",
        "[::2]",
        "[::1",
        "::1",
        "localhost.evil.example",
        "notlocalhost",
        "localhost:80:80",
        "localhost@evil.example",
        "localhost/evil",
        "evil.example\\@localhost",
        "proxy.lan.evil.example",
    ],
)
def test_names_that_are_not_ours(host: str) -> None:
    refused = LOCAL.refuse("GET", "/v1/models", [("host", host)])
    assert refused is not None
    assert (refused.status_hint, refused.code) == (403, "host_not_allowed")
    assert "--allowed-host" in refused.message


def test_an_absolute_target_is_a_name_too() -> None:
    assert LOCAL.refuse("GET", "http://evil.example/v1/models", [("host", "localhost")]) is not None
    assert LOCAL.refuse("GET", "http://evil.example?", [("host", "localhost")]) is not None
    assert LOCAL.refuse("GET", "http://localhost@evil.example/", [("host", "localhost")]) is not None
    assert LOCAL.refuse("GET", "http://localhost:8284/v1/models", [("host", "localhost")]) is None


def test_http_1_0_needs_no_name() -> None:
    assert LOCAL.refuse("GET", "/health", []) is None


def test_a_server_for_other_machines_may_be_called_anything() -> None:
    headers = [("host", "evil.example"), ("origin", "https://evil.example")]
    assert OriginRules().refuse("GET", "http://x/", headers) is None


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1", True),
        ("https://chat.example", True),
        ("https://CHAT.example", True),
        ("http://chat.example", False),
        ("https://chat.example:8443", False),
        ("https://evil.example", False),
        ("null", False),
        ("", False),
        ("file://", False),
        ("chrome-extension://abcdef", False),
    ],
)
def test_pages(origin: str, good: bool) -> None:
    refused = CHAT.refuse("GET", "/v1/models", [("host", "localhost"), ("origin", origin)])
    assert (refused is None) is good
    if refused is not None:
        assert (refused.status_hint, refused.code) == (403, "origin_not_allowed")


def test_a_question_of_a_page_is_answered_without_a_word_of_it() -> None:
    asked = [
        ("host", "localhost"),
        ("origin", "https://evil.example"),
        ("access-control-request-method", "POST"),
    ]
    assert CHAT.refuse("OPTIONS", "/v1/models", asked) is None
    assert CHAT.headers("OPTIONS", asked) == (("vary", "origin"),)


def test_what_a_message_repeats_cannot_end_a_line() -> None:
    refused = LOCAL.refuse("GET", "/", [("host", "a\x1b[2J\r\nb")])
    assert refused is not None
    assert refused.message.isprintable()


# --- CORS


def test_without_origins_there_is_no_word_of_them() -> None:
    assert LOCAL.headers("GET", [("origin", "https://chat.example")]) == ()


def test_an_answer_for_a_page() -> None:
    assert dict(CHAT.headers("POST", [("origin", "https://chat.example")])) == {
        "vary": "origin",
        "access-control-allow-origin": "https://chat.example",
        "access-control-expose-headers": "x-request-id, retry-after, x-should-retry",
    }
    assert CHAT.headers("POST", [("origin", "https://evil.example")]) == (("vary", "origin"),)
    assert CHAT.headers("POST", []) == (("vary", "origin"),)


def test_a_preflight_gets_what_it_asks_for() -> None:
    asked = [
        ("origin", "https://chat.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-stainless-os"),
    ]
    answer = dict(CHAT.headers("OPTIONS", asked))
    assert answer["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    assert answer["access-control-allow-methods"] == "GET, HEAD, POST, OPTIONS"
    assert "access-control-allow-private-network" not in answer
    private = CHAT.headers("OPTIONS", [*asked, ("access-control-request-private-network", "true")])
    assert ("access-control-allow-private-network", "true") in private


@pytest.mark.parametrize("names", ["a\tb", "\u00e9", "x" * 2000, '"quoted"'], ids=repr)
def test_a_preflight_is_not_an_echo_of_anything(names: str) -> None:
    asked = [
        ("origin", "https://chat.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", names),
    ]
    assert "access-control-allow-headers" not in dict(CHAT.headers("OPTIONS", asked))


def test_a_star_is_for_every_page() -> None:
    everyone = OriginRules(origins=("*",), hosts=())
    asked = [("host", "localhost"), ("origin", "https://evil.example")]
    assert everyone.refuse("GET", "/", asked) is None
    assert dict(everyone.headers("GET", asked))["access-control-allow-origin"] == "https://evil.example"


def allows(entry: str, origin: str) -> bool:
    """Whether a page of this origin gets in by this entry, as CORS and the guard of a local server have it."""
    rules = OriginRules(origins=(entry,), hosts=())
    asked = [("host", "localhost"), ("origin", origin)]
    refused = rules.refuse("GET", "/v1/models", asked)
    told = dict(rules.headers("GET", asked)).get("access-control-allow-origin")
    assert (refused is None) is (told is not None)
    assert told in (None, origin)
    return told is not None


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("https://*.example.com", "https://a.example.com"),
        ("https://*.example.com", "https://a.b.example.com"),
        ("https://*.Example.com", "https://A.EXAMPLE.com"),
        ("https://*.example.com:443", "https://a.example.com"),
        ("http://*.example.com:8080", "http://a.example.com:8080"),
        ("https://*.b.example.com", "https://a.b.example.com"),
        ("https://*.localhost", "https://a.localhost"),
        ("https://chat.example:443", "https://chat.example"),
        ("http://chat.example:80", "http://chat.example"),
        ("http://[2001:db8::1]:3000", "http://[2001:db8::1]:3000"),
        ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop"),
        ("moz-extension://0b1c2d3e-0000-4000-8000-123456789abc", "moz-extension://0b1c2d3e-0000-4000-8000-123456789abc"),
        ("moz-extension://*", "moz-extension://0b1c2d3e-0000-4000-8000-123456789abc"),
        ("safari-web-extension://*", "safari-web-extension://0B1C2D3E-0000-4000-8000-123456789ABC"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("vscode-webview://*", "vscode-webview://1a2b3c"),
        ("null", "null"),
        ("file://", "file://"),
        ("*", "null"),
        ("*", "chrome-extension://abcdef"),
    ],
)  # fmt: skip
def test_what_an_entry_lets_in(entry: str, origin: str) -> None:
    assert allows(entry, origin)


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://evil-example.com"),
        ("https://*.example.com", "https://evilexample.com"),
        ("https://*.example.com", "https://.example.com"),
        ("https://*.example.com", "https://a..example.com"),
        ("https://*.example.com", "https://a.example.com.evil.test"),
        ("https://*.example.com", "https://a.example.com:8443"),
        ("https://*.example.com", "https://a.example.com:443"),
        ("https://*.example.com", "https://evil.test:1/.example.com"),
        ("https://*.example.com", "https://evil.test/a.example.com"),
        ("https://*.example.com", "https://evil.test#a.example.com"),
        ("https://*.example.com", "https://evil.test@a.example.com"),
        ("https://*.example.com", "https://evil.test\\.example.com"),
        ("https://*.example.com", "http://a.example.com"),
        ("https://*.example.com", "ahttps://a.example.com"),
        ("https://*.example.com", "https://*.example.com.evil.test"),
        ("https://*.example.com", "null"),
        ("https://*.example.com:8443", "https://a.example.com"),
        ("https://*.example.com:8443", "https://a.example.com:84430"),
        ("https://*.b.example.com", "https://a.example.com"),
        ("chrome-extension://abc", "chrome-extension://abcd"),
        ("moz-extension://*", "chrome-extension://abc"),
        ("moz-extension://*", "moz-extension://"),
        ("moz-extension://*", "moz-extension://a/b"),
        ("null", "file://"),
        ("null", "https://evil.test"),
        ("file://", "null"),
        ("file://", "file://evil.test"),
    ],
)
def test_what_an_entry_does_not_let_in(entry: str, origin: str) -> None:
    assert not allows(entry, origin)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("chat.example", "https://NAME"),
        ("https://chat.example/", "without a path"),
        ("https://chat.example/chat", "without a path"),
        ("https://user@chat.example", "https://NAME"),
        ("https://chat.example:", "https://NAME"),
        ("https://chat.example:70000", "a port up to 65535"),
        ("https://chat..example", "https://NAME"),
        ("https://", "https://NAME"),
        ("https://*", "https://NAME"),
        ("https://*.com", "at least two parts"),
        ("https://*.[::1]", "at least two parts"),
        ("https://chat.*", "https://NAME"),
        ("https://ch*t.example", "https://NAME"),
        ("https://*chat.example", "https://NAME"),
        ("https://*.*.example.com", "https://NAME"),
        ("https://a.*.example.com", "https://NAME"),
        ("*.example.com", "https://NAME"),
        ("*://chat.example", "https://NAME"),
        ("https://chat.example:*", "https://NAME"),
        ("chrome-extension://*.abc", "https://NAME"),
        ("https://gr\u00fc\u00dfe.example", "in ASCII"),
        ("", "https://NAME"),
        ("https://a b.example", "https://NAME"),
    ],
)
def test_an_entry_that_could_match_nothing_is_told(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        normal_origin(text)
    with pytest.raises(ValueError, match=re.escape(why)):
        OriginRules(origins=(text,))
