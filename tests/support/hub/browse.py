"""Users in a browser, at the same time: each logs in, opens a notebook with the course's kernel, and runs all cells.

For tests/services/test_hub.py, with a Python that has playwright. Says `ran` on standard output, with what the users
saw, as JSON; at the next line on standard input the first stops the server, and the last logs out.
"""

import json
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

# Of root's Chromium, and of one that is not to call anybody.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
PATIENCE = 120_000  # milliseconds for anything but a notebook's cells
# Lab keeps what is out of sight out of the page, so that one has to scroll to see all.
SCROLL = """async () => {
    const pane = document.querySelector('.jp-WindowedPanel-outer'), seen = new Set(), said = new Set();
    for (let y = 0; y <= pane.scrollHeight; y += pane.clientHeight / 2) {
        pane.scrollTop = y;
        await new Promise(done => setTimeout(done, 150));
        pane.querySelectorAll('.jp-OutputArea img').forEach(i => i.naturalWidth && seen.add(i.src));
        pane.querySelectorAll('.jp-OutputArea pre').forEach(text => said.add(text.innerText));
    }
    return {figures: seen.size, said: [...said].join('\\n')};
}"""


def run_all(page, url, name, password):
    """Log in, take the kernel for the notebook that opens, and choose Run All Cells."""
    page.goto(f"{url}/hub/login")
    page.fill("#username_input", name)
    page.fill("#password_input", password)
    page.click("#login_submit")
    # A switch to another kernel, once Lab has taken one of the hub's own.
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    page.locator(".jp-KernelName").click()
    dialog = page.locator(".jp-Dialog")
    dialog.locator("select").select_option(label="BNN course")
    dialog.locator(".jp-mod-accept").click()
    page.locator(".jp-KernelName", has_text="BNN course").wait_for()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def ran(page, file):
    """Whether all of the notebook's cells are done, or one has failed; as it lies on the disk."""
    page.keyboard.press("Control+s")
    try:
        notebook = json.loads(file.read_text())
    except json.JSONDecodeError:
        return False  # it is just being written
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    failed = any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    return failed or bool(cells[-1]["outputs"] and cells[-1]["execution_count"])


def main(chromium, url, password, homes, notebook, patience, *names):
    """The users `names`, whose notebook lies in folders of these names below `homes`."""
    until = time.monotonic() + float(patience)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        pages = {name: browser.new_context(viewport={"width": 1280, "height": 900}).new_page() for name in names}
        for name, page in pages.items():
            page.set_default_timeout(PATIENCE)
            run_all(page, url, name, password)
        left = dict(pages)
        while left and time.monotonic() < until:
            time.sleep(5)
            left = {name: page for name, page in left.items() if not ran(page, Path(homes, name, notebook))}
        shown = {}
        for name, page in pages.items():
            page.screenshot(path=Path(homes, f"{name}.png"))
            shown[name] = page.evaluate(SCROLL)
        print("ran", json.dumps(shown), flush=True)
        sys.stdin.readline()
        pages[names[0]].goto(f"{url}/hub/home")
        pages[names[0]].click("#stop")
        pages[names[0]].locator("#start", has_text="Start My Server").wait_for()
        pages[names[-1]].goto(f"{url}/hub/logout")
        pages[names[-1]].locator("#username_input").wait_for()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
