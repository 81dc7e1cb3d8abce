"""The page of a report: its data, and in a real browser what a reader can do with it."""

import json
import re
import shutil
import time
import zlib
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch

from barklite import Bark, Clip, SamplingConfig
from barklite.analysis.report import MAPS, View, page
from barklite.analysis.trace import Call, Trace
from barklite.inspect import look, trace
from barklite.storage import atomic

EVIL = 'Hello </script><script>document.title = "broken"</script> & <img src=x onerror="alert(1)"> {{data}}'


@pytest.fixture(scope="module")
def voice() -> Bark:
    return Bark.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def views(voice) -> tuple[View, View]:
    """Two of the same text, and everything that is known of them."""
    text = "Good morning! It is 7:30."
    hot = replace(voice.config.generation, semantic=SamplingConfig(0.9))
    clips = [voice.generate(text, "low", 0), voice.generate(text, "low", 3, hot)]
    return tuple(look(voice, clip, "low", label=f"seed {clip.seed}") for clip in clips)


def data_of(html: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    )


def array_of(packed: dict) -> np.ndarray:
    return np.frombuffer(zlib.decompress(b64decode(packed["data"])), packed["dtype"]).reshape(packed["shape"])


def made_up(voice, seconds: float) -> Clip:
    """A clip of noise of some length."""
    random, t = np.random.default_rng(0), voice.config.tokens
    n, frames = round(seconds * t.semantic_rate), round(seconds * t.frame_rate)
    audio = random.normal(0, 0.1, round(seconds * 24_000)).astype(np.float32)
    codes = random.integers(0, t.codebook_size, (t.n_codebooks, frames))
    semantic = random.integers(0, t.semantic_vocab_size, n)
    return Clip(
        audio, 24_000, semantic, codes, "Noise.", 1, "length", eos_p=np.zeros(n, np.float32), tokens=t
    )


# --- the file -----------------------------------------------------------------------------------------------


def test_the_page_holds_what_is_known_of_the_clip(views, tmp_path):
    view, clip = views[0], views[0].clip
    report = clip.report(tmp_path / "clip.html", words=view.words, scores=view.scores, trace=view.trace)
    assert (tmp_path / "clip.html").read_text(encoding="utf-8") == report.html
    (data,) = data_of(report.html)["views"]
    assert data["text"] == clip.text
    assert b64decode(data["wav"]) == clip.wav()
    assert (array_of(data["semantic"]) == clip.semantic).all()
    assert (array_of(data["codes"]) == clip.codes).all()
    assert (array_of(data["eosP"]) == clip.eos_p).all()
    assert (array_of(data["coarseP"]) == view.scores.coarse).all()
    assert [word[0] for word in data["words"]] == ["Good", "morning", "It", "is", "7:30"]
    L, H, _, columns = data["attention"]["maps"]["shape"]
    k, n = data["attention"]["text"], len(clip.semantic)
    assert (L, H, columns) == (len(view.trace.attentions), view.trace.attentions[0].shape[1], n)
    layer, head = data["attention"]["shown"]
    maps = (array_of(data["attention"]["maps"]) / 255.0) ** 2
    first = clip.tokens.n_prompt - 1
    shown = view.trace.attentions[layer][0, head, first : first + n, :k].numpy()  # (N, k)
    assert abs(maps[layer, head, :k].T - shown).max() < 0.01
    assert k == len(view.words.tokens)


def test_a_page_alone_needs_only_the_clip(views):
    (data,) = data_of(views[0].clip.report().html)["views"]
    assert not {"words", "semanticP", "attention"} & data.keys()


def test_ten_seconds_are_less_than_three_megabytes(voice):
    clip = made_up(voice, 10)
    n_text, first = voice.config.tokens.n_text, voice.config.tokens.n_prompt - 1
    positions = first + 1 + len(clip.semantic)
    maps = torch.rand(1, 12, positions, positions)  # noise does not shrink
    large = Trace()
    large.calls = [Call(attentions=[maps] * 12)]
    html = clip.report(trace=large, scores=voice.score(clip)).html
    assert len(html) < 3e6
    (data,) = data_of(html)["views"]
    assert len(data["attention"]["maps"]["data"]) <= MAPS
    assert data["attention"]["maps"]["shape"][:2] == [12, 12]
    assert data["attention"]["text"] == n_text


def test_nothing_in_a_text_is_read_as_html(views):
    view = View(replace(views[0].clip, text=EVIL), label=EVIL)
    html = view.report().html
    assert html.count("</script>") == 2
    assert "<img" not in html
    assert data_of(html)["views"][0]["text"] == EVIL
    assert data_of(html)["views"][0]["label"] == EVIL
    assert "<script>document" not in view.clip._repr_html_()


def test_the_page_asks_for_nothing(views):
    html = views[0].report(other=views[1]).html
    assert "http:" not in html
    assert "https:" not in html
    assert "default-src 'none'" in html


def test_a_notebook_shows_the_page_in_a_frame(views):
    frame = views[0].report()._repr_html_()
    assert frame.startswith("<iframe")
    assert frame.count("<") == 2  # the frame and its end


def test_what_does_not_belong_to_the_clip_is_refused(voice, views, tmp_path):
    other = made_up(voice, 1)
    with pytest.raises(ValueError, match="scores"):
        other.report(scores=views[0].scores)
    with pytest.raises(ValueError, match=r"its last call must be bark\.score"):
        other.report(trace=views[0].trace)
    with trace(voice.coarse) as wrong:
        pass
    with pytest.raises(ValueError, match="has not been called"):
        other.report(trace=wrong)
    with pytest.raises(ValueError, match=r"written as \.html, not .*clip.png"):
        other.report(tmp_path / "clip.png")
    with pytest.raises(ValueError, match="one clip or two"):
        page()
    assert not list(tmp_path.iterdir())


def test_an_empty_clip_has_a_page(voice):
    clip = replace(made_up(voice, 1), semantic=np.zeros(0, np.int64), codes=np.zeros((6, 0), np.int64))
    clip = replace(clip, audio=np.zeros(0, np.float32))
    view = look(voice, clip)
    assert view.words is view.scores is None
    assert data_of(view.report().html)["views"][0]["semantic"]["shape"] == [0]


def test_the_page_appears_whole(views, tmp_path, monkeypatch):
    (tmp_path / "clip.html").write_text("before")

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(atomic, "write_bytes", fails)
    with pytest.raises(OSError, match="disk full"):
        views[0].report(tmp_path / "clip.html")
    assert (tmp_path / "clip.html").read_text() == "before"


def test_maps_are_left_out_where_they_would_take_a_gigabyte(voice, views, monkeypatch):
    monkeypatch.setattr("barklite.analysis.report.TRACED", 1e5)
    assert look(voice, views[0].clip, "low").trace is None
    assert look(voice, views[0].clip, "low", attention=True).trace is not None


# --- in a browser -------------------------------------------------------------------------------------------

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason='needs pip install ".[browser-test]"')
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens reports in new pages; no page may complain or ask the network for anything."""
    wrong, contexts = [], []

    def open(report, **options):
        report.save(tmp_path / "page.html")
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "blob:", "data:")) else wrong.append(r.url),
        )
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_selector("body[data-ready]")
        return tab

    yield open
    for context in contexts:
        context.close()
    assert wrong == []


def spot(tab, t: float, panel: int = 2, stack: int = 0) -> tuple[float, float]:
    """Where in the window a time of a panel is."""
    canvas = tab.locator(".stack").nth(stack).locator("canvas").nth(panel)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    begin, end = tab.evaluate("[from, to]")
    return box["x"] + (t - begin) / (end - begin) * box["width"], box["y"] + box["height"] / 2


def wait_for(tab, expression: str, seconds: float = 10) -> None:
    """Until something is true; playwright's own way would need `eval`, which the page forbids."""
    end = time.monotonic() + seconds
    while not tab.evaluate(expression):
        assert time.monotonic() < end, expression
        tab.wait_for_timeout(20)


COLOURS = """panel => {
  const copy = new OffscreenCanvas(900, 200).getContext("2d", { willReadFrequently: true });
  copy.drawImage(document.querySelectorAll(".stack canvas")[panel], 0, 0);
  return new Set(new Uint32Array(copy.getImageData(0, 0, 900, 200).data.buffer)).size;
}"""


def test_the_page_draws_every_panel(views, opened):
    tab = opened(views[0].report())
    assert tab.title().startswith("Good morning! It is 7:30. - ")
    names = tab.locator(".stack .name b").all_inner_texts()
    assert names == [
        "Words",
        "Sound",
        "Spectrogram",
        "Semantic tokens",
        "Log-probability",
        "Codes",
        "Attention",
    ]
    colours = [tab.evaluate(COLOURS, panel) for panel in range(len(names))]
    assert min(colours) > 3, colours
    assert colours[2] > 30  # the spectrogram


def test_a_click_plays_from_there(views, opened):
    tab = opened(views[0].report())
    tab.evaluate("$('speed').options[0].value = '.1'")  # a busy machine is slower than the sound
    tab.get_by_label("Speed").select_option(index=0)
    tab.mouse.click(*spot(tab, 1.0))
    assert 0.98 <= tab.evaluate("view().audio.currentTime") < 1.5
    wait_for(tab, "view().audio.currentTime > 1.03")
    wait_for(tab, "view().cursor.offsetLeft > view().gutter + view().width * (1.02 - from) / (to - from)")
    assert tab.locator("#play").inner_text() == "Pause"
    tab.keyboard.press(" ")
    assert tab.evaluate("view().audio.paused && !view().audio.ended")
    assert tab.locator("#play").inner_text() == "Play"
    tab.get_by_role("button", name="morning").click()
    wait_for(tab, "!view().audio.paused && document.querySelector('.text .now')")
    word = next(word for word in views[0].words.words if word.text == "morning")
    assert word.start - 0.01 <= tab.evaluate("view().audio.currentTime") < word.end
    assert tab.locator(".text .now").inner_text() == "morning"
    tab.evaluate("play(view().seconds - .05)")
    wait_for(tab, "view().audio.ended && $('play').textContent === 'Play'")


def test_what_is_under_the_mouse_is_told(views, opened):
    view, clip = views[0], views[0].clip
    tab = opened(view.report())
    i, rate = 40, clip.tokens.semantic_rate
    tab.mouse.move(*spot(tab, (i + 0.5) / rate, 3))
    told = tab.locator("#tip").inner_text()
    assert f"token {i}: id {clip.semantic[i]}" in told
    assert f"log-probability: {view.scores.semantic[i]:.3f}" in told
    assert "probability of the end" in told
    x, y = spot(tab, (i + 0.5) / clip.tokens.frame_rate, 5)
    tab.mouse.move(x, y + 30)
    k = 4
    assert f"frame {i}, codebook {k} (fine): code {clip.codes[k, i]}" in tab.locator("#tip").inner_text()
    x, y = spot(tab, (i + 0.5) / rate, 6)
    tab.mouse.move(x, y)
    assert re.search(r"token 40 to text token \d+: .*\nattention: ", tab.locator("#tip").inner_text())
    tab.mouse.move(5, 5)
    assert not tab.locator("#tip").is_visible()


def test_keys_move_zoom_and_switch(views, opened):
    tab = opened(views[0].report(other=views[1]))
    token = 1 / views[0].clip.tokens.semantic_rate
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("view().audio.currentTime") == pytest.approx(2 * token, abs=1e-3)
    tab.keyboard.press("Shift+ArrowRight")
    assert tab.evaluate("view().audio.currentTime") == pytest.approx(1 + 2 * token, abs=1e-3)
    whole = tab.evaluate("to - from")
    tab.keyboard.press("+")
    assert tab.evaluate("to - from") == pytest.approx(whole / 1.6)
    tab.keyboard.press("0")
    assert tab.evaluate("to - from") == pytest.approx(whole)
    tab.keyboard.press("x")
    assert tab.evaluate("[current, view().audio.currentTime]") == [1, pytest.approx(1 + 2 * token, abs=1e-3)]
    tab.keyboard.press("Home")
    assert tab.evaluate("view().audio.currentTime") == 0
    tab.keyboard.press("?")
    assert tab.get_by_role("dialog", name="Keys").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.get_by_role("dialog", name="Keys").is_visible()


def test_dragging_zooms(views, opened):
    tab = opened(views[0].report())
    tab.mouse.move(*spot(tab, 0.5))
    tab.mouse.down()
    tab.mouse.move(*spot(tab, 1.0), steps=4)
    tab.mouse.up()
    assert tab.evaluate("[from, to]") == pytest.approx([0.5, 1.0], abs=0.02)
    assert tab.evaluate("view().audio.paused")
    tab.get_by_role("button", name="Fit").click()
    assert tab.evaluate("from") == 0


def test_light_and_dark(views, opened):
    def background(tab) -> str:
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = (opened(views[0].report(), color_scheme=scheme) for scheme in ("light", "dark"))
    assert background(light) != background(dark)
    light.get_by_role("button", name="Dark").click()
    assert background(light) == background(dark)


def test_two_clips_show_where_they_differ(views, opened):
    one, two = (view.clip for view in views)
    tab = opened(views[0].report(other=views[1]), viewport={"width": 1600, "height": 900})
    boxes = [section.bounding_box() for section in tab.locator("main > section:not(.compare)").all()]
    assert boxes[0]["y"] == boxes[1]["y"]  # side by side
    n = max(len(one.semantic), len(two.semantic))
    same = sum(a == b for a, b in zip(one.semantic, two.semantic, strict=False))
    assert 0 < same < n
    told = tab.get_by_role("region", name="Comparison").inner_text()
    assert f"({same} of {n})" in told
    parted = next(i for i in range(n) if one.semantic[i] != two.semantic[i])
    frames = (one.codes[:, : two.codes.shape[1]] != two.codes[:, : one.codes.shape[1]]).any(0)
    at = min(parted / one.tokens.semantic_rate, int(np.argmax(frames)) / one.tokens.frame_rate)
    assert f"{at:.2f} s" in told
    assert tab.evaluate("Array.from(views[1].differs.tokens)") == [
        int(i >= min(len(one.semantic), len(two.semantic)) or one.semantic[i] != two.semantic[i])
        for i in range(n)
    ]
    tab.mouse.move(*spot(tab, (parted + 0.5) / one.tokens.semantic_rate, 3))
    assert "differs from the other clip" in tab.locator("#tip").inner_text()
    narrow = opened(views[0].report(other=views[1]), viewport={"width": 420, "height": 900})
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 420


def test_the_same_clip_twice_differs_nowhere(views, opened):
    tab = opened(views[0].report(other=views[0].clip))
    told = tab.get_by_role("region", name="Comparison").inner_text()
    assert "none: all tokens and codes are the same" in told
    assert not tab.locator(".parted").first.is_visible()


def test_layers_heads_and_colours_can_be_chosen(views, opened):
    tab = opened(views[0].report())
    canvas = "document.querySelectorAll('canvas')"
    before = tab.evaluate(f"[5, 6].map(i => {canvas}[i].toDataURL())")
    layer, head = views[0].words.heads[0]
    assert tab.locator("#layer").input_value() == str(layer)
    tab.get_by_label("Head").select_option(str((head + 1) % 6))
    tab.get_by_label("Colour codes by").select_option("log-probability")
    tab.wait_for_timeout(100)
    after = tab.evaluate(f"[5, 6].map(i => {canvas}[i].toDataURL())")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_screen_reader_gets_names_values_and_tables(views, opened):
    view, clip = views[0], views[0].clip
    tab = opened(view.report())
    slider = tab.get_by_role("slider", name="Position")
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuenow") == "0.02"
    assert f"semantic token 1: {clip.semantic[1]}" in slider.get_attribute("aria-valuetext")
    unnamed = "document.querySelectorAll('button:not([hidden]), select')"
    assert tab.evaluate(f"Array.from({unnamed}).every(e => e.textContent || e.ariaLabel || e.labels?.length)")
    tab.get_by_text("As tables").click()
    rows = tab.get_by_role("region", name="Semantic tokens").get_by_role("row")
    assert rows.count() == 1 + len(clip.semantic)
    assert str(clip.semantic[7]) in rows.nth(8).inner_text()
    words = tab.get_by_role("region", name="Words").get_by_role("row").nth(2).inner_text().split()
    assert words[0] == "morning"


def test_a_text_with_html_stays_text(views, opened):
    words = views[0].words
    clip = replace(views[0].clip, text=EVIL)
    shown = replace(
        words,
        words=[replace(words.words[0], text="</script>", first=6, last=15)],
        tokens=["<b>"] * len(words.tokens),
    )
    tab = opened(View(clip, shown, label=EVIL).report())
    assert tab.title().startswith("Hello </script>")
    assert EVIL in tab.locator(".text").inner_text()
    assert tab.locator("img, main script, b b").count() == 0


def test_a_clip_without_anything(voice, opened):
    clip = made_up(voice, 0)
    tab = opened(clip.report())
    assert tab.locator(".stack canvas").count() >= 4
    tab.keyboard.press(" ")
