"""The page of `barklite serve` in a real browser."""

import os
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
import scipy.io.wavfile

from barklite import Bark, GenerationConfig

for package in ("fastapi", "uvicorn", "prometheus_client", "soundfile"):
    pytest.importorskip(package, reason="needs barklite[serve]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs barklite[browser-test]")

from barklite.serve import Settings, create_app  # noqa: E402
from tests.serving import running, until  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
FLAGS += ["--autoplay-policy=no-user-gesture-required"]
SHORT = GenerationConfig(max_seconds=0.4)
TEXT = "One is here. Two is here."


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that may not complain, nor ask anybody but the server."""
    page, wrong = browser.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda one: wrong.append(one.url) if not re.match(OWN, one.url) else None)
    page.wrong = wrong
    yield page
    page.close()


OWN = r"http://127\.0\.0\.1:|blob:http://127\.0\.0\.1:|data:"


@pytest.fixture(scope="module")
def address(tiny):
    with running(create_app(tiny, Settings(config=SHORT))) as address:
        yield address


def status(page, words: str):
    playwright.expect(page.get_by_role("status")).to_contain_text(words, timeout=60_000)


def samples(page) -> np.ndarray:
    """The sound that the newest link downloads."""
    with page.expect_download() as download:
        page.get_by_role("link", name="Download WAV").first.click()
    rate, sound = scipy.io.wavfile.read(download.value.path())
    assert rate == 24_000
    return sound


def test_a_real_generation(page):
    bark = Bark.from_pretrained(device="cpu")
    if not bark.voices:
        pytest.skip("the built-in model is not here")
    with running(create_app(bark)) as address:
        page.goto(address)
        page.get_by_label("Text").fill("Yes, it works.")
        page.get_by_label("Voice").select_option(bark.voices[0])
        page.get_by_label("Seed").fill("1")
        page.get_by_role("button", name="Speak").click()
        status(page, "Done")
        clip = bark.generate("Yes, it works.", bark.voices[0], 1)
        assert np.array_equal(samples(page), np.frombuffer(clip.wav()[44:], "<i2"))
        item = page.get_by_role("listitem").first
        playwright.expect(item).to_contain_text(f"{clip.seconds:.1f} s, voice {bark.voices[0]}, seed 1")
        seconds = "document.querySelector('audio').duration"
        until(lambda: page.evaluate(seconds))
        assert page.evaluate(seconds) == pytest.approx(clip.seconds, abs=0.02)
        if folder := os.environ.get("BARKLITE_SCREENSHOTS"):
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=f"{folder}/{scheme}.png", full_page=True)
            page.set_viewport_size({"width": 360, "height": 800})
            page.screenshot(path=f"{folder}/narrow.png", full_page=True)
    assert page.wrong == []


def test_it_is_heard_while_it_streams(page, address, tiny):
    page.add_init_script(
        """window.heard = [];
        const start = AudioBufferSourceNode.prototype.start;
        AudioBufferSourceNode.prototype.start = function (at) {
          heard.push([at, this.buffer.duration, document.getElementById("status").textContent]);
          start.call(this, at);
        };"""
    )
    page.goto(address)
    page.get_by_label("Text").fill(TEXT * 3)
    page.get_by_label("Seed").fill("0")
    page.keyboard.press("Control+Enter")
    status(page, "Done")
    heard = page.evaluate("heard")
    assert len(heard) >= 2
    assert all("speaking" in words for _, _, words in heard)
    for (at, seconds, _), (then, *_) in pairwise(heard):
        assert then > at + seconds - 1e-6  # one after the other
    clips = list(tiny.stream(TEXT * 3, seed=0, config=SHORT))
    assert sum(seconds for _, seconds, _ in heard) == pytest.approx(sum(clip.seconds for clip in clips))
    assert len(samples(page)) == sum(len(clip.audio) for clip in clips)
    assert page.wrong == []


def test_keyboard_alone(page, address):
    page.goto(address)
    names = ["text", "voice", "seed", "speak"]
    assert page.evaluate("document.activeElement.id") == "text"
    for name in names[1:]:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == name
    page.get_by_label("Text").fill(TEXT * 20)
    page.keyboard.press("Control+Enter")
    status(page, "First sound")
    page.keyboard.press("Escape")
    status(page, "Stopped")
    playwright.expect(page.get_by_role("listitem").first).to_contain_text("stopped")
    assert page.evaluate("document.activeElement.id") == "text"
    assert page.get_by_role("button", name="Speak").is_enabled()


def test_every_control_has_a_name(page, address):
    page.goto(address)
    named = page.evaluate(
        """() => [...document.querySelectorAll("textarea, select, input, button, canvas, ol")].map((one) =>
          Boolean(one.labels?.length || one.ariaLabel || one.textContent.trim() ||
            one.getAttribute("aria-labelledby")))"""
    )
    assert all(named)
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out(page, address, scheme):
    """WCAG's contrast of text and what is behind it is at least 4.5."""
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    colours = page.evaluate(
        """(names) => Object.fromEntries(names.map((name) =>
          [name, getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim()]))""",
        ["ground", "card", "ink", "soft", "accent", "on-accent", "bad"],
    )

    def light(name: str) -> float:
        parts = (int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [(a, b) for a in ("ink", "soft", "accent", "bad") for b in ("ground", "card")]
    for one, other in [*pairs, ("on-accent", "accent")]:
        low, high = sorted((light(one), light(other)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (one, other)


def test_what_goes_wrong_is_said(page, address):
    page.goto(address)
    page.get_by_label("Text").fill(" \u200b ")
    page.get_by_role("button", name="Speak").click()
    status(page, "empty")
    page.get_by_label("Text").fill("x" * 5000)
    page.get_by_role("button", name="Speak").click()
    status(page, "at most 4096 are allowed")
    assert "bad" in page.get_by_role("status").get_attribute("class")


def test_a_key_is_asked_for(page, tiny):
    with running(create_app(tiny, Settings(config=SHORT, api_key="secret"))) as address:
        page.goto(address)
        status(page, "key")
        page.get_by_label("Key").fill("secret")
        page.get_by_label("Text").fill("Hello there.")
        page.keyboard.press("Control+Enter")
        status(page, "Done")


def test_a_report_opens(page, address):
    """The real one, under the policy that keeps it from the server's other pages."""
    page.goto(address)
    page.get_by_label("Text").fill(TEXT)
    page.get_by_role("button", name="Speak").click()
    status(page, "Done")
    page.context.on("weberror", lambda error: page.wrong.append(str(error.error)))
    page.context.on("console", lambda line: page.wrong.append(line.text) if line.type == "error" else None)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Report of sentence 2").click()
    report = opened.value
    report.wait_for_selector("body[data-ready]")
    assert report.title().startswith("Two is here.")
    assert "Semantic tokens" in report.locator(".stack .name b").all_inner_texts()
    until(lambda: report.evaluate("view().audio.duration") > 0)  # the sandbox lets it play
    assert page.request.get(f"{address}/reports/nothing/0").status == 404
    assert page.wrong == []
