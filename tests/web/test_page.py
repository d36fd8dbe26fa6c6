"""The page in a headless Chromium, on a simulated cohort."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import contextmanager

import pytest

from lymphinfer.orion.cohort import open_cohort
from lymphinfer.orion.gates_file import read_gates, write_gates
from lymphinfer.orion.gating import apply_gates, propose_cohort
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.simulate.cohort import simulate_cohort
from tests.export.browser import FLAGS, NAMES

uvicorn = pytest.importorskip("uvicorn", reason="the web extra is not installed")

# Ends a test that hangs; no test measures it.
WAIT_MS = 600_000


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, browser):
    out = tmp_path_factory.mktemp("gating") / "cohort"
    simulate_cohort(out, slides=2, size=640, seed=3, imbalance="rich", workers=1)
    cohort = open_cohort(out)
    return cohort, propose_cohort(cohort, TCELL_PANEL)[0]


@contextmanager
def served(cohort, path):
    """Address of the page, served by a thread."""
    from lymphinfer.web.access import allowed_names
    from lymphinfer.web.app import make_app
    from lymphinfer.web.session import GatingSession

    session = GatingSession(cohort, path, TCELL_PANEL, "A. Pathologist")
    app = make_app(session, "token", allowed_names("127.0.0.1"))
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/?token=token"
    finally:
        server.should_exit = True
        thread.join(20)
        session.close()


@pytest.fixture
def opened(browser, simulated, tmp_path):
    """Page, gates file, cohort, and what the page asked for and complained of."""
    cohort, gates = simulated
    path = tmp_path / "gates.toml"
    write_gates(path, gates)
    asked, said = [], []
    with served(cohort, path) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        at_gate(page, "CD45 on CRC01")
        yield page, path, cohort, asked, said
        page.close()


def wait(page, condition, arg=None):
    """Wait until a condition holds; playwright's own way needs eval, which the page forbids."""
    wait_until(page, lambda: page.evaluate(condition, arg), condition)


def wait_until(page, holds, name):
    end = time.monotonic() + WAIT_MS / 1000
    while not holds():
        assert time.monotonic() < end, f"still not: {name}"
        page.wait_for_timeout(50)


def at_gate(page, name):
    wait(
        page,
        "name => document.getElementById('gate-name').textContent === name"
        " && !document.body.classList.contains('loading')"
        " && document.querySelector('.cell img')",
        arg=name,
    )


def shown(page, marker, kind):
    cell = page.locator(f'[data-count="{marker} {kind}"] b')
    return int(cell.inner_text().replace(",", ""))


def saved(page):
    wait(page, "document.getElementById('saved').dataset.kind === 'ok'")


def labels(cohort, path):
    gated = apply_gates(cohort, read_gates(path), TCELL_PANEL)
    return {s.folder: {c.marker: c for c in s.labels.counts} for s in gated}


def check_counts(page, cohort, path, folder):
    for marker, counts in labels(cohort, path)[folder].items():
        for kind in ("positive", "negative", "curated", "uncertain", "overexposed"):
            assert shown(page, marker, kind) == getattr(counts, kind), (marker, kind)


def test_a_dragged_threshold_changes_counts_and_is_still_there_after_reload(opened):
    page, path, cohort, asked, said = opened
    check_counts(page, cohort, path, "CRC01")
    before = shown(page, "CD45", "positive")
    handle = page.get_by_role("slider").nth(1)
    box = handle.locator(".tag").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 70, y, steps=4)
    wait(
        page,
        "old => Number(document.querySelector('[data-count=\"CD45 positive\"] b')"
        ".textContent.replace(',', '')) < old",
        arg=before,
    )
    assert read_gates(path).slides["CRC01"].markers["CD45"].set_by != "A. Pathologist"
    page.mouse.up()
    saved(page)
    after = shown(page, "CD45", "positive")
    gate = read_gates(path).slides["CRC01"].markers["CD45"]
    assert gate.set_by == "A. Pathologist" and after < before
    check_counts(page, cohort, path, "CRC01")
    page.reload()
    at_gate(page, "CD45 on CRC01")
    assert shown(page, "CD45", "positive") == after
    value = page.get_by_role("slider").nth(1).get_attribute("aria-valuenow")
    assert float(value) == gate.positive_min
    assert page.locator("#progress-text").inner_text().startswith("1 of 8")
    wait(page, "[...document.querySelectorAll('.cell img')].every(i => i.complete)")
    assert page.evaluate("document.querySelector('.cell img').naturalWidth") == 112
    assert said == []
    assert {url.split("/")[2] for url in asked} == {page.url.split("/")[2]}


def test_keys_nudge_undo_accept_and_go_on(opened):
    page, path, _, _, said = opened
    first = read_gates(path).slides["CRC01"].markers["CD45"]
    page.keyboard.press("2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    saved(page)
    moved = read_gates(path).slides["CRC01"].markers["CD45"]
    assert moved.positive_min == pytest.approx(first.positive_min * 1.005 * 1.05, rel=0.01)
    page.keyboard.press("u")
    wait(page, "document.getElementById('undo').disabled")
    assert read_gates(path).slides["CRC01"].markers["CD45"] == first
    page.keyboard.press("a")
    at_gate(page, "CD3e on CRC01")
    kept = read_gates(path).slides["CRC01"].markers["CD45"]
    assert (kept.positive_min, kept.set_by) == (first.positive_min, "A. Pathologist")
    page.keyboard.press("p")
    at_gate(page, "CD45 on CRC01")
    page.keyboard.press("Shift+N")
    at_gate(page, "CD45 on CRC11")
    page.keyboard.press("s")
    wait(
        page, "() => document.querySelectorAll('#slides-table [data-state=reviewed]').length === 1"
    )
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    page.keyboard.press("Escape")
    assert said == []


def test_a_slide_is_loading_until_it_is_there_whatever_arrives_before(opened):
    page, _, _, _, said = opened
    held = {}
    page.route("**/CRC01/CD3e/histogram", lambda route: held.update(gate=route))
    page.route("**/api/slides/CRC11", lambda route: held.update(slide=route))
    page.keyboard.press("n")
    page.keyboard.press("Shift+N")
    wait_until(page, lambda: len(held) == 2, "both asked for")
    with page.expect_response("**/CRC01/CD3e/histogram"):
        held.pop("gate").continue_()
    page.wait_for_timeout(200)
    assert page.evaluate("document.body.classList.contains('loading')")
    held.pop("slide").continue_()
    at_gate(page, "CD3e on CRC11")
    assert said == []


def test_a_file_changed_by_someone_else_is_told_and_both_changes_can_stand(opened):
    page, path, cohort, _, _ = opened
    text = path.read_text()
    path.write_text(text.replace('set_by = "lymphinfer gate propose', 'set_by = "Dr B', 4))
    page.locator("#overexposure_min").fill("9000")
    page.locator("#overexposure_min").press("Enter")
    dialog = page.get_by_role("dialog", name="The gates file has changed")
    dialog.wait_for()
    assert "CRC01 CD45" in dialog.inner_text() and "9000" not in path.read_text()
    page.locator("#conflict-mine").click()
    saved(page)
    own = read_gates(path).slides["CRC01"].markers
    assert own["CD45"].overexposure_min == 9000 and own["CD45"].set_by == "A. Pathologist"
    assert own["CD3e"].set_by.startswith("Dr B")
    at_gate(page, "CD45 on CRC01")
    check_counts(page, cohort, path, "CRC01")
