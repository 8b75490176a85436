"""What has to hold for every page, of the book and of a batch run."""

import html
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from helpers import ROOT

from tests.support.browser import Page

MOST_BYTES = 3_000_000  # of a page and the figures that it shows
SLOWEST_PAINT = 1_000  # milliseconds until something is seen
# Where axe-core is looked for, and how to get it: npm install --prefix build axe-core
AXE = Path(os.environ.get("BNN_AXE", ROOT / "build" / "node_modules" / "axe-core" / "axe.min.js"))

# Text with TeX outside of code, formulas that MathJax could not read, and pictures without a text or a file.
LOOK = r"""(async () => {
    const main = document.querySelector("main") || document.body, raw = [];
    const texts = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode;
        if (text.parentElement.closest("pre, code, script, style, mjx-container, textarea")) continue;
        const tex = /\$[^$\s][^$\n]*\$|\\[(\[]|\\(frac|begin|mathrm|mathcal|sigma|sum)\b/;
        if (tex.test(text.data)) raw.push(text.data.trim());
    }
    raw.push(...[...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(node => node.outerHTML));
    const images = [...document.images];
    for (const image of images) { image.loading = "eager"; await image.decode().catch(() => 0); }
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    return {
        raw, paint: paint ? paint.startTime : null,
        formulas: document.querySelectorAll("mjx-container").length,
        unseen: images.filter(image => !image.naturalWidth).map(image => image.src.slice(0, 200)),
        silent: images.filter(image => !image.alt.trim()).map(image => image.src.slice(0, 200)),
        pictures: images.map(image => image.currentSrc || image.src),
        wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    };
})()"""


def look(page: Page, path: Path) -> dict:
    """Open a page from its file, check it, and return what was seen.

    Args:
      page: the browser's tab.
      path: the page's file.

    Returns:
      dict with `formulas`, their number; `paint`, milliseconds to the first contentful paint; `bytes`, of the page and
      the figures that it shows; `wider`, the pixels by which the page is wider than the window.
    """
    page.goto(path.as_uri())
    found = page.evaluate(LOOK)
    assert not page.errors, (path, page.errors)
    foreign = [each for each in page.requests if not each.startswith(("file:", "data:", "blob:", "about:"))]
    assert not foreign, (path, foreign)
    for problem in ("raw", "unseen", "silent"):
        assert not found[problem], (path, problem, found[problem][:5])
    files = {Path(unquote(urlsplit(each).path)) for each in found["pictures"] if each.startswith("file:")}
    found["bytes"] = path.stat().st_size + sum(file.stat().st_size for file in files)
    assert found["bytes"] <= MOST_BYTES, (path, found["bytes"])
    return found


def violations(page: Page) -> list[str]:
    """Return what axe-core says is serious or critical on the page that is open, with the places where it is so."""
    page.evaluate(AXE.read_text(encoding="utf-8") + "; true")
    found = page.evaluate(
        "axe.run({exclude: ['mjx-container svg']}, {resultTypes: ['violations']}).then(found => found.violations"
        ".filter(each => ['serious', 'critical'].includes(each.impact))"
        ".map(each => [each.id, each.help, each.nodes.slice(0, 4).map(node => node.target.join(' '))]))"
    )
    return [f"{name}: {text}: {places}" for name, text, places in found]


def dead_links(folder: Path) -> list[str]:
    """Return the links between the pages of a folder that lead nowhere, each with its page."""
    pages = {path.resolve(): path.read_text(encoding="utf-8") for path in html_files(folder)}
    names = {path: set(re.findall(r'\s(?:id|name)="([^"]+)"', text)) for path, text in pages.items()}
    dead = []
    for path, text in pages.items():
        for address in set(re.findall(r'<(?:a|link|img|script)\b[^>]*?\s(?:href|src)="([^"]*)"', text)):
            parts = urlsplit(html.unescape(address))
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            fragment = unquote(parts.fragment)
            if not goal.exists() or (fragment and goal in names and fragment not in names[goal]):
                dead.append(f"{path.relative_to(folder.resolve())}: {address}")
    return dead


def html_files(folder: Path) -> list[Path]:
    """Return the pages of a folder, without the templates among a theme's files."""
    return sorted(path for path in folder.rglob("*.html") if "_static" not in path.parts)


def reachable(folder: Path, start: str) -> set[str]:
    """Return the pages that a reader reaches from `start` by links."""
    found, left = set(), [start]
    while left:
        name = left.pop()
        if name in found or not (folder / name).is_file():
            continue
        found.add(name)
        for address in re.findall(r'<a\b[^>]*?\shref="([^"#:]+\.html)', (folder / name).read_text(encoding="utf-8")):
            left.append(os.path.normpath(os.path.join(os.path.dirname(name), unquote(html.unescape(address)))))
    return found
