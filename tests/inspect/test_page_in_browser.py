"""The page as a person uses it: real keys and clicks in headless Chromium, and not one complaint on its console."""

from __future__ import annotations

import numpy as np
import pytest
from browser_for_tests import DOWN, END, ENTER, ESCAPE, LEFT, RIGHT, UP, Browser
from maps_for_tests import STRANGE, some_maps, three_kinds


def test_arrows_walk_the_grid_and_enter_opens_a_head_and_escape_comes_back(page: Browser) -> None:
    page.show(three_kinds(2, 3))
    page.run("document.querySelector('.thumb').focus()")
    page.press(RIGHT, DOWN, DOWN, DOWN, DOWN)
    assert page.focused().startswith("decoder.0.cross, head 1, ")
    page.press(END, ENTER)
    page.until("return document.activeElement.id === 'plot'")
    assert (page.text("where"), page.text("layer"), page.text("nth")) == (
        "Decoder · cross-attention",
        "layer 0",
        "head 2",
    )
    page.press(ESCAPE)
    assert page.run("return document.getElementById('head').hidden")
    assert page.focused().startswith("decoder.0.cross, head 2, ")


def test_the_crosshair_gives_the_exact_tokens_and_weight(page: Browser) -> None:
    maps = three_kinds(1, 2)
    page.show(maps[2:])  # cross: other tokens on the two axes
    page.open_first()
    page.press("0", *[LEFT] * 12, *[UP] * 12, DOWN, DOWN, RIGHT)
    cross = maps[2]
    weight = float(np.float16(cross.weights[0, 2, 1]))
    assert page.chosen() == (f"{cross.query_tokens[2]}2", f"{cross.key_tokens[1]}1", f"{weight:.4f}")
    page.until("return document.getElementById('live').textContent.startsWith('Query 2, quick. Key 1, quick. Weight ')")
    page.press("m")
    best = int(cross.weights[0, 2].argmax())
    assert page.text("key") == f"{cross.key_tokens[best]}{best}"


def test_brackets_change_the_layer_and_commas_the_head(page: Browser) -> None:
    page.show(some_maps(3, 2))
    page.open_first()
    page.press("]", "]", "]", ".", ".")
    page.until("return document.getElementById('nth').textContent === 'head 1'")
    assert page.text("layer") == "layer 2" and page.run("return document.getElementById('layer+').disabled")
    page.press("[", ",")
    page.until("return document.getElementById('nth').textContent === 'head 0'")
    assert page.text("layer") == "layer 1"
    page.run("history.back()")
    page.until("return document.getElementById('nth').textContent === 'head 1'")


def test_the_pointer_reads_cells_and_a_click_holds_one(page: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    maps = some_maps(1, 1)
    page.show(maps)
    page.driver.find_element("css selector", ".thumb").click()
    page.until("return document.activeElement.id === 'plot'")
    plot = page.driver.find_element("id", "plot")
    for dx, dy in [(40, 0), (41, 30)]:
        ActionChains(page.driver, duration=0).move_to_element_with_offset(plot, dx, dy).perform()
    held = page.chosen()
    q, k = (int("".join(c for c in part if c.isdigit())) for part in held[:2])
    assert float(held[2]) == pytest.approx(float(maps[0].weights[0, q, k]), abs=5e-4)
    ActionChains(page.driver, duration=0).click().perform()
    assert "held" in page.text("unit")
    ActionChains(page.driver, duration=0).move_to_element_with_offset(plot, -80, 60).perform()
    assert page.chosen() == held
    page.press(ENTER)
    ActionChains(page.driver, duration=0).move_to_element_with_offset(plot, -81, 61).perform()
    assert page.chosen() != held


def test_strange_tokens_are_text_and_nothing_else(page: Browser) -> None:
    page.show(some_maps(1, 1, STRANGE), title="</title><script>window.bad = 1</script>", dark=True)
    page.open_first()
    assert page.run("return window.bad === undefined && document.querySelectorAll('script').length === 2")
    assert page.run("return document.querySelector('h1').textContent") == "</title><script>window.bad = 1</script>"
    assert page.run("return [...document.querySelectorAll('.words bdi')].map(b => b.textContent)")[0] == "</script>"
    assert page.run("return document.querySelectorAll('.words b, .words script').length") == 0


def test_right_to_left_text_reads_from_the_right(page: Browser) -> None:
    page.show(some_maps(1, 1, ["השועל", "הקטן", "פגש", "ינשוף", "🦊", "."]))
    assert page.run("return document.querySelector('.text').dir") == "rtl"
    assert page.run("const [a, b] = document.querySelectorAll('.text bdi'); return a.offsetLeft > b.offsetLeft")


def test_theme_scale_and_help_work_by_key(page: Browser) -> None:
    page.show(some_maps(1, 2), dark=True)
    colour = "return getComputedStyle(document.body).backgroundColor"
    dark = page.run(colour)
    page.press("t")
    assert page.run(colour) != dark and page.run("return document.documentElement.dataset.theme") == "light"
    page.press("s")
    assert page.run("return document.getElementById('curve').value") == "linear"
    page.press("r")
    assert "highest of each head" in page.run("return document.getElementById('legend').getAttribute('aria-label')")
    page.press("?")
    assert page.run("return document.getElementById('keys').open")
    page.press(ESCAPE)
    assert not page.run("return document.getElementById('keys').open")


def test_every_cell_of_a_thumbnail_has_its_colour(page: Browser) -> None:
    """Darker where the weight is higher, over the whole map: decoding, orientation and scale in one."""
    maps = some_maps(1, 1, list("abcdefgh"), stack="encoder")
    page.show(maps)
    light = page.run(
        "const c = document.querySelector('.thumb canvas'), out = [];"
        "const all = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "for (let q = 0; q < 8; q++) for (let k = 0; k < 8; k++) {"
        "  const at = 4 * (((q + .5) * c.height / 8 | 0) * c.width + ((k + .5) * c.width / 8 | 0));"
        "  out.push(.2126 * all[at] + .7152 * all[at + 1] + .0722 * all[at + 2]); } return out"
    )
    order = np.argsort(maps[0].weights.ravel())
    assert (np.diff(np.array(light)[order]) <= 1e-6).all()


def test_a_long_text_is_drawn_in_tiles_and_scrolls(page: Browser) -> None:
    page.show(some_maps(1, 2, [f"w{i}" for i in range(1600)]))
    page.open_first()
    assert "tile" in page.text("unit") and "–" in page.text("query")
    page.press("+", "+", "+", "+", "+", "+", *[DOWN] * 3)
    assert page.run("const p = document.getElementById('plot'); return p.scrollHeight > p.clientHeight")


@pytest.mark.parametrize("width", [360, 700, 1600])
def test_no_window_size_makes_the_page_scroll_sideways(page: Browser, width: int) -> None:
    metrics = {"width": width, "height": 780, "deviceScaleFactor": 2, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.show(some_maps(2, 12), title="A rather long title of a rather long text, to see where it breaks")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        page.open_first()
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_is_white_and_the_screen_stays_dark(page: Browser) -> None:
    page.show(some_maps(1, 2), dark=True)
    page.open_first()
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("return document.documentElement.dataset.theme") == "light"
    pixel = "return [...document.getElementById('ramp').getContext('2d').getImageData(0, 0, 1, 1).data]"
    assert page.run(pixel) == [255, 255, 255, 255]
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("return document.documentElement.dataset.theme") == "dark"
