"""`make book`: it builds without a warning, shows what results/ holds, and a browser that opens it asks nobody else."""

import functools
import html
import http.server
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def book(repository, tmp_path_factory) -> Path:
    """The site, built from the working tree as `make book` does it."""
    folder = tmp_path_factory.mktemp("book")
    options = ["-W", "--keep-going", "-E", "-q", "-b", "html", "-c", "docs", "-d", str(folder / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(folder / "site")],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def text(page: Path) -> str:
    """The visible text of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_front_door_leads_to_the_first_page(book):
    target = re.search(r"url=([^\"]+)", (book / "index.html").read_text(encoding="utf-8"))[1]
    assert "reproduced" in text(book / target)


def test_pages_load_nothing_from_another_host(book):
    loading = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>")
    for page in book.rglob("*.html"):
        assert not loading.findall(page.read_text(encoding="utf-8")), page
    for sheet in book.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_executed_notebook_says_what_made_it(book, repository):
    names = [path.stem for path in (repository / "results/notebooks").glob("*.ipynb")]
    assert len(names) >= 14
    for name in names:
        page = text(book / f"results/notebooks/{name}.html")
        assert re.search(r"Executed copy of\s+notebooks/\d\d_\w+\.ipynb; command\s+(dvc repro \w+|make \w+)", page), (
            name
        )
        assert not re.search(r"(?<!\d)\d{1,2}%\|", page), f"{name} shows unfinished progress bars"


def test_notebooks_follow_each_other_in_reading_order(book):
    contents = (book / "docs/index.html").read_text(encoding="utf-8")
    pages = re.findall(r"results/notebooks/(\d\d)_\w+\.html", contents)
    assert list(dict.fromkeys(pages)) == sorted(set(pages))
    assert len(set(pages)) == 14


def test_claims_are_judged_while_the_book_is_built(book, repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "docs")
    import claims

    page = " ".join(text(book / "docs/claims.html").split())
    for row in claims.judge_all(repository / "results").itertuples():
        assert f"{row.title} {row.verdict}" in page
        assert f"Verdict: {row.verdict}." in page


def test_results_are_shown(book):
    page = (book / "docs/results.html").read_text(encoding="utf-8")
    for figure in ("figure1", "figure2", "figure3", "boxplots", "training_curves", "ablation", "sweep"):
        assert re.search(rf'src="[^"]*{figure}\w*\.png"', page), figure
    assert page.count("<table") >= 3  # Table 1, further methods, Table 2
    assert "0.963 ± 0.007" in page


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(book):
    """Where a server of this machine shows the book."""
    handler = functools.partial(QuietHandler, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_browser_shows_it_without_another_host(book, address):
    from playwright.sync_api import expect, sync_playwright

    outside, errors = [], []

    def refuse_others(route):
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.route("**/*", refuse_others)
        page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
        equations = 0
        for file in sorted(set(book.rglob("*.html")) - {book / "index.html"}):  # which leads to another at any moment
            page.goto(address + file.relative_to(book).as_posix())
            written = page.locator("article .math").count()
            if written:
                expect(page.locator("article .math mjx-container")).to_have_count(written, timeout=30_000)
            assert page.locator("mjx-merror").count() == 0, f"{file}: an equation is wrong"
            pictures = page.locator("article img").evaluate_all(
                "all => all.filter(i => !i.naturalWidth).map(i => i.src)"
            )
            assert not pictures, f"{file}: pictures are missing"
            equations += written
        page.goto(f"{address}search.html?q=shuffled")
        expect(page.locator("#search-results li a").first).to_be_visible(timeout=30_000)
        found = page.locator("#search-results li a").all_inner_texts()
        browser.close()
    assert equations > 50
    assert any("Mutual information" in title for title in found)
    assert not outside
    assert not errors
