"""The promises of `rag.origins` on the web: against servers of our own, on this machine."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import ipaddress
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.engine import Engine
from rag.errors import FileTooLargeError, InputError, LoadError
from rag.ingest import Plan
from rag.load import load
from rag.origins import is_address, merged, plan_of, sitemap
from rag.origins.addresses import Guard, is_public, shown
from rag.origins.fetch import Fetcher, canonical
from rag.origins.kept import Kept
from rag.origins.remote import Limits
from rag.origins.web import Web, name_of, plan_web

# --- which addresses --------------------------------------------------------------------------

PRIVATE = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip
PRIVATE_V6 = (
    "::/96",
    "fe80::/10",
    "fc00::/7",
    "fec0::/10",
    "ff00::/8",
    "2001:db8::/32",
    "100::/64",
)
private_v4 = st.sampled_from(PRIVATE).flatmap(
    lambda net: st.ip_addresses(network=ipaddress.IPv4Network(net))
)


@settings(deadline=None)
@given(private_v4)
def test_no_address_of_a_private_range_is_public_in_any_disguise(
    address: ipaddress.IPv4Address,
) -> None:
    hexed = f"{int(address) >> 16:x}:{int(address) & 0xFFFF:x}"
    disguises = (f"{address}", f"::ffff:{address}", f"::{hexed}", f"64:ff9b::{hexed}",
                 f"64:ff9b:1::{hexed}", f"2002:{hexed}::1", f"::ffff:0:{hexed}")  # fmt: skip
    assert [d for d in disguises if is_public(d)] == []


@settings(deadline=None)
@given(
    st.sampled_from(PRIVATE_V6).flatmap(
        lambda net: st.ip_addresses(network=ipaddress.IPv6Network(net))
    )
)
def test_no_address_of_a_private_ipv6_range_is_public(address: ipaddress.IPv6Address) -> None:
    assert not is_public(str(address))
    assert not is_public(f"{address}%eth0")


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_ipv6(address: ipaddress.IPv4Address) -> None:
    assert is_public(f"::ffff:{address}") == is_public(str(address))
    assert is_public(str(ipaddress.IPv6Address((0x64FF9B << 96) + int(address)))) == is_public(
        str(address)
    )


@settings(deadline=None)
@given(st.ip_addresses())
def test_what_is_public_is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address in ipaddress.IPv6Network("64:ff9b::/96")
    )
    assert not is_public(str(address)) or address.is_global or mapped


@settings(deadline=None)
@given(st.text())
def test_no_text_upsets_the_check(text: str) -> None:
    assert is_public(text) in (True, False)


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/", "file:///etc/passwd", "https://", "https:///x", "http://a b/",
        "https://u:secret@example.org/", "https://user@example.org/", "http://example.org:22/",
        "http://example.org:99999/", "http://[::1/", "http://good.org\\@evil.org/", "gopher://a/",
    ],
)  # fmt: skip
def test_what_is_no_plain_web_address_is_refused_and_no_secret_is_shown(url: str) -> None:
    with pytest.raises(InputError) as refused:
        Guard().check(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "allowed", [("wiki.corp",), ("WIKI.corp",), ("10.1.0.0/16",), ("10.1.2.3",)]
)
def test_an_operator_can_trust_an_intranet_host(allowed: tuple[str, ...]) -> None:
    guard = Guard(allowed, lambda _host, _port: ["10.1.2.3"])
    assert guard.addresses("wiki.corp", 443) == ["10.1.2.3"]
    with pytest.raises(LoadError, match="private address"):
        Guard((), guard.resolve).addresses("wiki.corp", 443)


def test_to_trust_a_host_on_one_port_is_to_trust_no_other() -> None:
    guard = Guard(("wiki.corp:8080",), lambda _host, _port: ["10.1.2.3"])
    guard.check("http://wiki.corp:8080/")
    assert guard.addresses("wiki.corp", 8080)
    with pytest.raises(InputError, match="port 9090"):
        guard.check("http://wiki.corp:9090/")
    with pytest.raises(LoadError, match="private address"):
        guard.addresses("wiki.corp", 80)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    guard = Guard((), lambda _host, _port: ["1.1.1.1", "169.254.169.254"])
    with pytest.raises(LoadError, match="private address"):
        guard.addresses("rebind.example", 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f000001", "2130706433", "127.1", "[::1]", "0"])
def test_this_machine_is_not_asked_however_it_is_written(host: str, tmp_path: Path) -> None:
    plan = plan_of(f"http://{host}/", cache=tmp_path, max_bytes=1000)
    with pytest.raises(LoadError):
        plan.sources[0].read()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTPS://Example.ORG:443/a#part", "https://example.org/a"),
        ("http://example.org", "http://example.org/"),
        ("https://例子.中国/指南?问=答", "https://xn--fsqu00a.xn--fiqs8s/%E6%8C%87%E5%8D%97?%E9%97%AE=%E7%AD%94"),
        ("https://example.org:8443/%E6%8C%87", "https://example.org:8443/%E6%8C%87"),
    ],
)  # fmt: skip
def test_an_address_has_one_spelling(url: str, expected: str) -> None:
    assert canonical(url) == expected
    assert canonical(expected) == expected


def test_a_name_is_what_a_person_reads() -> None:
    assert name_of("https://example.org/") == "example.org"
    assert name_of("https://example.org/%E6%8C%87/a.pdf?p=1") == "example.org/指/a.pdf?p=1"
    assert shown("https://u:p@h/x?token=1") == "https://h/x"


# --- a site -----------------------------------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Site:
    """A server that says what it is told to, and remembers what it was asked."""

    port: int = 0
    pages: dict[str, Answer | Callable[[dict[str, str]], Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def url(self, path: str = "/", host: str = "site.test") -> str:
        return f"http://{host}:{self.port}{path}"

    def page(self, path: str, body: str | bytes, kind: str = "text/html", **headers: str) -> None:
        data = body if isinstance(body, bytes) else body.encode()
        said = {"Content-Type": kind} | {k.replace("_", "-"): v for k, v in headers.items()}
        self.pages[path] = (200, said, data)

    def sitemap(self, path: str, *pages: str) -> None:
        locs = "".join(f"<url><loc>{self.url(page)}</loc></url>" for page in pages)
        self.page(path, f"<urlset xmlns='http://www.sitemaps.org/x'>{locs}</urlset>", "text/xml")


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.hosts.add(self.headers["Host"])
            answer = state.pages.get(self.path, (404, {}, b""))
            if callable(answer):
                answer = answer({k.lower(): v for k, v in self.headers.items()})
            status, headers, body = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.block_on_close = True
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def waited() -> list[float]:
    return []


@pytest.fixture
def web(site: Site, tmp_path: Path, waited: list[float]) -> Web:
    return Web(
        kept=Kept(tmp_path / "kept"),
        max_bytes=100_000,
        loads=load,
        guard=Guard((f"site.test:{site.port}",), lambda _host, _port: ["127.0.0.1"]),
        limits=Limits(delay=0, seconds=5),
        clock=lambda: 0.0,
        sleep=waited.append,
    )


def read(plan: Plan) -> dict[str, bytes | str]:
    """What each source gives, by name: its bytes, or why not."""
    found: dict[str, bytes | str] = {}
    for source in plan.sources:
        try:
            found[source.name.partition("/")[2]] = source.read()  # type: ignore[union-attr]
        except LoadError as error:
            found[source.name.partition("/")[2]] = str(error)
    return found


def with_limits(web: Web, **limits: object) -> Web:
    return replace(web, limits=replace(web.limits, **limits))  # type: ignore[arg-type]


PAGE = "<html><head><title>指南</title></head><body><h1>请假</h1><p>年假十天。</p></body></html>"


def test_a_page_becomes_a_document(site: Site, web: Web) -> None:
    site.page("/guide", PAGE, "text/html; charset=utf-8")
    plan = plan_web(site.url("/guide#top"), web)
    (source,) = plan.sources
    assert source.uri == site.url("/guide")
    assert source.name == f"site.test:{site.port}/guide"
    content = source.load(source.read())  # type: ignore[union-attr]
    assert (content.type, content.title) == ("html", "请假")
    assert "年假十天。" in content.text
    assert site.hosts == {f"site.test:{site.port}"}
    assert not plan.covers(source.uri)


@pytest.mark.parametrize(
    ("path", "kind", "body", "expected"),
    [
        ("/a", "text/plain", b"words", "txt"),
        ("/a.md", "text/plain", b"# words", "md"),
        ("/a", "application/octet-stream", b"<!DOCTYPE html><p>words", "html"),
        ("/a.csv", "application/octet-stream", b"a,b\n1,2", "csv"),
        ("/a", "text/csv; charset=utf-8", b"a,b\n1,2", "csv"),
    ],
)
def test_the_type_is_what_server_name_and_bytes_say(
    site: Site, web: Web, path: str, kind: str, body: bytes, expected: str
) -> None:
    site.page(path, body, kind)
    (source,) = plan_web(site.url(path), web).sources
    assert source.load(source.read()).type == expected  # type: ignore[union-attr]


def test_a_redirect_gives_the_page_its_last_address(site: Site, web: Web) -> None:
    site.pages["/old"] = (301, {"Location": "/new"}, b"")
    site.page("/new", PAGE)
    (source,) = plan_web(site.url("/old"), web).sources
    assert source.uri == site.url("/new")
    site.pages["/old"] = (500, {}, b"")  # and keeps it when the server fails
    (source,) = plan_web(site.url("/old"), web).sources
    assert source.uri == site.url("/new")
    with pytest.raises(LoadError, match="status 500"):
        source.read()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/", "http://[::1]/", "http://metadata.test/", "file:///etc/passwd",
     "http://site.test:1/", "ftp://site.test/", "http://[/"],
)  # fmt: skip
def test_no_redirect_leads_to_where_nobody_may_ask(site: Site, web: Web, target: str) -> None:
    site.pages["/go"] = (302, {"Location": target}, b"")
    found = read(plan_web(site.url("/go"), web))
    assert "private address" in str(found["go"]) or "not an address" in str(found["go"]) or (
        "only 80 and 443" in str(found["go"]) or "what is no address" in str(found["go"])
    )  # fmt: skip


def test_redirects_in_a_circle_end(site: Site, web: Web) -> None:
    site.pages["/a"] = (302, {"Location": "/b"}, b"")
    site.pages["/b"] = (302, {"Location": "/a"}, b"")
    assert "redirected too often" in str(read(plan_web(site.url("/a"), web))["a"])
    assert len(site.asked) == 1 + 6  # robots.txt, the page, five redirects


def test_the_connection_goes_to_the_address_that_was_checked(site: Site, web: Web) -> None:
    """A name that means another machine the next time it is looked up."""
    site.page("/", PAGE)
    looked_up: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["192.0.2.1"]

    guard = Guard(("127.0.0.1/32", f"site.test:{site.port}"), resolve)
    fetcher = Fetcher(guard=guard, kept=web.kept, limits=web.limits)
    page = fetcher.get(site.url("/"), max_bytes=1000)
    fetcher.close()
    assert page.status == 200
    assert looked_up == ["site.test"]


@pytest.mark.parametrize("validator", ["ETag", "Last_Modified"])
def test_an_unchanged_page_is_not_sent_again(site: Site, web: Web, validator: str) -> None:
    sent: list[int] = []

    def answer(headers: dict[str, str]) -> Answer:
        asked = headers.get("if-none-match", headers.get("if-modified-since"))
        status = 304 if asked == "v1" else 200
        sent.append(status)
        said = {validator.replace("_", "-"): "v1", "Content-Type": "text/html"}
        return (status, said, b"" if status == 304 else PAGE.encode())

    site.pages["/"] = answer
    first, second = read(plan_web(site.url(), web)), read(plan_web(site.url(), web))
    assert first == second == {"": PAGE.encode()}
    assert sent == [200, 304]


def test_a_damaged_copy_is_fetched_anew(site: Site, web: Web, tmp_path: Path) -> None:
    site.page("/", PAGE, ETag="v1")
    read(plan_web(site.url(), web))
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(file.read_bytes()[:-5])
    assert read(plan_web(site.url(), web)) == {"": PAGE.encode()}


@pytest.mark.parametrize("packed", [False, True])
def test_a_page_beyond_the_limit_is_not_read_to_its_end(site: Site, web: Web, packed: bool) -> None:
    body = b"<p>" + b"0" * 5_000_000
    if packed:
        site.page("/", gzip.compress(body), Content_Encoding="gzip")
    else:
        site.page("/", b"<p>" + b"0" * 200_000)
    with pytest.raises(FileTooLargeError):
        plan_web(site.url(), web).sources[0].read()  # type: ignore[union-attr]


def test_all_pages_together_have_a_limit(site: Site, web: Web) -> None:
    for name in "abc":
        site.page(f"/{name}", f"<p>{name * 1000}")
    site.sitemap("/sitemap.xml", "/a", "/b", "/c")
    found = read(plan_web(site.url("/sitemap.xml"), with_limits(web, max_total_bytes=2_500)))
    assert sum(isinstance(data, bytes) for data in found.values()) in (1, 2)
    assert any("were fetched" in str(data) for data in found.values())


def test_a_server_that_drips_is_given_up(site: Site, web: Web) -> None:
    site.page("/", PAGE)
    ticks = iter(range(0, 100_000, 6))
    found = read(plan_web(site.url(), replace(web, clock=lambda: float(next(ticks)))))
    assert "did not answer in time" in str(found[""])


def test_packed_pages_are_unpacked_and_cut_off_ones_refused(site: Site, web: Web) -> None:
    site.page("/", gzip.compress(PAGE.encode()), Content_Encoding="gzip")
    assert read(plan_web(site.url(), web)) == {"": PAGE.encode()}
    site.page("/", gzip.compress(PAGE.encode())[:-20], Content_Encoding="gzip")
    assert "cut off" in str(read(plan_web(site.url(), web))[""])
    site.page("/", b"x", Content_Encoding="br")
    assert "not asked for (br)" in str(read(plan_web(site.url(), web))[""])


@pytest.mark.parametrize(
    ("href", "taken"),
    [("/p?id=1", True), ("http://elsewhere.test/p", False), ("/", False), ("http://[", False)],
)
def test_a_canonical_link_may_only_leave_out_parameters(
    site: Site, web: Web, href: str, taken: bool
) -> None:
    site.page("/p?id=1&utm=x", f'<head><link rel="canonical" href="{href}"></head><p>text')
    (source,) = plan_web(site.url("/p?id=1&utm=x"), web).sources
    assert source.uri == site.url("/p?id=1" if taken else "/p?id=1&utm=x")


# --- robots.txt -------------------------------------------------------------------------------


def test_what_robots_txt_forbids_is_not_fetched(site: Site, web: Web) -> None:
    site.page("/robots.txt", "User-agent: *\nDisallow: /private\nDisallow: /*.pdf$", "text/plain")
    for path in ("/open", "/private/a", "/b.pdf"):
        site.page(path, PAGE)
    site.sitemap("/sitemap.xml", "/open", "/private/a", "/b.pdf")
    found = read(plan_web(site.url("/sitemap.xml"), web))
    assert found["open"] == PAGE.encode()
    assert "robots.txt forbids" in str(found["private/a"])
    assert "robots.txt forbids" in str(found["b.pdf"])
    assert sorted(site.asked) == ["/open", "/robots.txt", "/sitemap.xml"]


def test_rules_for_our_name_count_before_those_for_all(site: Site, web: Web) -> None:
    rules = "User-agent: *\nDisallow:\n\nUser-agent: rag-server\nDisallow: /"
    site.page("/robots.txt", rules, "text/plain")
    site.page("/", PAGE)
    assert "robots.txt forbids" in str(read(plan_web(site.url(), web))[""])


@pytest.mark.parametrize(("status", "allowed"), [(404, True), (403, True), (500, False)])
def test_no_robots_txt_allows_all_and_a_failing_one_nothing(
    site: Site, web: Web, status: int, allowed: bool
) -> None:
    site.pages["/robots.txt"] = (status, {}, b"")
    site.page("/", PAGE)
    found = read(plan_web(site.url(), web))
    assert (found[""] == PAGE.encode()) is allowed


def test_a_crawl_delay_is_kept_and_one_of_an_hour_refused(
    site: Site, web: Web, waited: list[float]
) -> None:
    site.page("/robots.txt", "User-agent: *\nCrawl-delay: 4", "text/plain")
    site.page("/", PAGE)
    read(plan_web(site.url(), with_limits(web, delay=0.5)))
    assert waited == [0.5]  # after robots.txt itself, which told of the delay
    waited.clear()
    site.sitemap("/sitemap.xml", "/", "/a", "/b")
    plan_web(site.url("/sitemap.xml"), with_limits(web, delay=0.5, concurrency=1))
    assert waited == [0.5, 4.5, 8.5, 12.5]
    site.page("/robots.txt", "User-agent: *\nCrawl-delay: 3600", "text/plain")
    assert "3600 s" in str(read(plan_web(site.url(), web))[""])


# --- sitemaps ---------------------------------------------------------------------------------


def test_a_sitemap_brings_the_pages_of_its_host(site: Site, web: Web) -> None:
    site.page("/a", PAGE)
    site.page("/b", "<p>二")
    locs = [site.url("/a"), "/b", site.url("/a#x"), "https://elsewhere.test/c", "javascript:x"]
    body = "".join(f"<url><loc> {loc} </loc></url>" for loc in locs)
    site.page("/sitemap.xml", f"<?xml version='1.0'?><urlset>{body}</urlset>", "text/xml")
    plan = plan_web(site.url("/sitemap.xml"), web)
    assert read(plan) == {"a": PAGE.encode(), "b": "<p>二".encode()}
    assert any("2 pages of other hosts" in note for note in plan.notes)


def test_sitemaps_may_be_packed_and_nested_to_a_depth(site: Site, web: Web) -> None:
    def index(path: str, *maps: str) -> None:
        locs = "".join(f"<sitemap><loc>{site.url(m)}</loc></sitemap>" for m in maps)
        site.page(path, f"<sitemapindex>{locs}</sitemapindex>", "text/xml")

    site.page("/a", PAGE)
    packed = gzip.compress(f"<urlset><url><loc>{site.url('/a')}</loc></url></urlset>".encode())
    site.page("/maps/1.xml.gz", packed, "application/gzip")
    index("/sitemap.xml", "/maps/1.xml.gz", "/sitemap.xml", "/deep1")
    index("/deep1", "/deep2")
    index("/deep2", "/deep3")
    plan = plan_web(site.url("/sitemap.xml"), web)
    assert read(plan)["a"] == PAGE.encode()
    assert any("deeper than is followed" in note for note in plan.notes)
    assert "/deep3" not in site.asked
    assert not plan.covers(site.url("/a"))


def test_a_page_that_left_the_sitemap_is_covered_and_only_such(site: Site, web: Web) -> None:
    for path in ("/a", "/b", "/alone"):
        site.page(path, PAGE + path)
    site.sitemap("/sitemap.xml", "/a", "/b")
    plan_web(site.url("/sitemap.xml"), web)
    site.sitemap("/sitemap.xml", "/a")
    plan = plan_web(site.url("/sitemap.xml"), web)
    assert plan.covers(site.url("/b"))
    assert not plan.covers(site.url("/alone"))
    site.sitemap("/sitemap.xml", "/a", "/c", "/d")
    cut_off = plan_web(site.url("/sitemap.xml"), with_limits(web, max_documents=2))
    assert len(cut_off.sources) == 2
    assert not cut_off.covers(site.url("/b"))


@pytest.mark.parametrize(
    "text",
    [
        "<urlset><url>",
        "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/hostname'>]><urlset><url><loc>&a;</loc></url></urlset>",
        "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
            f"<!ENTITY a{n} '{f'&a{n - 1 if n else str()};' * 10}'>" for n in range(12)
        ) + "]><urlset><url><loc>&a11;</loc></url></urlset>",
    ],
)  # fmt: skip
def test_a_sitemap_that_means_harm_lists_nothing(text: str) -> None:
    data = text.encode()
    assert sitemap.is_sitemap(data) or "DOCTYPE" in text
    try:
        listing = sitemap.read_sitemap(data, "x")
    except LoadError:
        return
    assert listing.pages == ()


def test_a_sitemap_that_unpacks_to_too_much_is_refused() -> None:
    bomb = gzip.compress(b"<urlset>" + b" " * 100_000)
    with pytest.raises(FileTooLargeError):
        sitemap.read_sitemap(bomb, "x", max_bytes=10_000)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_upset_the_reader_of_sitemaps(data: bytes) -> None:
    sitemap.is_sitemap(data)
    with contextlib.suppress(LoadError):  # and nothing else
        sitemap.read_sitemap(b"<urlset>" + data, "x")


# --- TLS, the whole way, the front ------------------------------------------------------------


def certificate(tmp_path: Path, host: str) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, private


@pytest.mark.parametrize(("host", "trusted"), [("site.test", True), ("other.test", False)])
def test_tls_is_checked_against_the_name_not_the_address(
    tmp_path: Path, host: str, trusted: bool
) -> None:
    public, private = certificate(tmp_path, "site.test")
    names: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<p>safe")

        def log_message(self, *_: object) -> None:
            return

    class Quiet(ThreadingHTTPServer):
        block_on_close = True

        def handle_error(self, *_: object) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server = Quiet(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        web = Web(
            kept=Kept(tmp_path / "kept"), max_bytes=1000, loads=load,
            guard=Guard((f"{host}:{server.server_port}",), lambda _h, _p: ["127.0.0.1"]),
            limits=Limits(delay=0, seconds=5), tls=ssl.create_default_context(cafile=public),
        )  # fmt: skip
        found = read(plan_web(f"https://{host}:{server.server_port}/", web))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (found[""] == b"<p>safe") is trusted
    assert set(names) == {host}


def test_a_site_goes_the_whole_way_and_again_without_embedding(
    site: Site, web: Web, engine: Engine
) -> None:
    site.page("/a", PAGE)
    site.page("/b", "<h1>报销</h1><p>三十天内。</p>")
    site.sitemap("/sitemap.xml", "/a", "/b", "/gone")
    report = engine.ingest_plan(plan_web(site.url("/sitemap.xml"), web))
    prefix = f"site.test:{site.port}"
    assert report.added == [f"{prefix}/a", f"{prefix}/b"]
    assert [failure.name for failure in report.failed] == [f"{prefix}/gone"]
    site.sitemap("/sitemap.xml", "/a")
    again = engine.ingest_plan(plan_web(site.url("/sitemap.xml"), web))
    assert (again.unchanged, again.embedded, again.removed) == (
        [f"{prefix}/a"], 0, [f"{prefix}/b"],
    )  # fmt: skip


def test_plans_can_be_put_together(site: Site, web: Web) -> None:
    for path in ("/a", "/b"):
        site.page(path, PAGE)
    site.sitemap("/sitemap.xml", "/a")
    plans = [plan_web(site.url(path), web) for path in ("/sitemap.xml", "/a", "/b")]
    both = merged(plans)
    assert sorted(source.uri for source in both.sources) == [site.url("/a"), site.url("/b")]
    assert both.covers(site.url("/a"))
    assert not both.covers(site.url("/b"))


def test_other_addresses_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kind that is not read"):
        plan_of("ftp://example.org/x", cache=tmp_path, max_bytes=1)
    assert is_address("https://example.org")
    assert not is_address("./folder")
    assert not is_address("C:/folder")


def test_what_is_kept_has_a_limit(tmp_path: Path) -> None:
    kept = Kept(tmp_path, max_bytes=500)
    for age, name in enumerate(("new", "old")):
        kept.put(name, {"etag": name}, b"0" * 200)
        os.utime(kept._path(name), (1000 - age, 1000 - age))
    kept.prune()
    assert kept.get("old") is None
    item = kept.get("new")
    assert item is not None
    assert item.data == b"0" * 200


@pytest.mark.slow
def test_the_web_costs_nothing_until_it_is_asked() -> None:
    code = "import sys, rag.origins, rag.watch; print({'httpcore2', 'watchfiles', 'protego', 'fsspec', 'lxml', 's3fs'} & set(sys.modules))"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
