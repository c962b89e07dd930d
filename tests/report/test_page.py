"""The page as people use it, in a headless Chromium: by pointer, keyboard and ear, at a desk and on a phone."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from browser import PROGRAM, Browser
from planted_runs import add_evaluation, add_sounds, plant

from vaecollapse.prescriptions import STATES
from vaecollapse.report import report
from vaecollapse.report.knobs import phase
from vaecollapse.report.page import ASSETS

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="there is no chromium on this machine: apt-get install chromium"
)
HOSTILE = "<script>window.hit=1</script><img src=x onerror=window.hit=1>\"'></script>{{7*7}}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    add_sounds(plant(folder / "run", steps=400, looks=20))
    return report([str(folder / "run")], folder, cache=False).file


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """3 × 2 settings at 2 seeds, a directory that is broken, and one that is not ended."""
    folder = tmp_path_factory.mktemp("many")
    for i, (beta, capacity, seed) in enumerate((b, c, s) for b in (0.5, 2, 8) for c in (8, 16) for s in (0, 1)):
        plant(folder / "runs" / str(i), beta=beta, capacity=capacity, seed=seed)
    plant(folder / "runs" / "broken") / "config.yaml"
    (folder / "runs" / "broken" / "config.yaml").unlink()
    (plant(folder / "runs" / "stopped", beta=0.5) / ".running").touch()
    return report([str(folder / "runs")], folder, cache=False).file


def quiet(browser: Browser, page: Path) -> bool:
    """Nothing was complained of, and nothing asked for but the page and what it carries."""
    assert browser.errors == []
    assert {address for address in browser.asked if not address.startswith("data:")} == {page.as_uri()[:80]}
    return True


def middle(browser: Browser, selector: str) -> tuple[float, float]:
    place = f"document.querySelector({json.dumps(selector)})"
    browser.run(f"{place}.scrollIntoView({{block: 'center'}})")
    box = browser.run(
        f"(() => {{ const b = {place}.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }})()"
    )
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def column(browser: Browser, number: int) -> list[str]:
    return browser.run(
        f"[...document.querySelectorAll('table.runs tbody tr')].map((row) => row.cells[{number}].innerText)"
    )


def embedded(browser: Browser) -> dict:
    return browser.run("DATA")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["one", "many"])
def test_it_draws_without_a_complaint_and_fits_the_screen(browser, request, page, width, dark):
    file = request.getfixturevalue(page)
    browser.open(file, width=width, dark=dark)
    assert quiet(browser, file)
    assert browser.run("document.documentElement.scrollWidth") <= width
    colour = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) < 120) is dark


def test_one_run_tells_its_verdict_first_and_its_numbers_under_the_pointer(browser, one):
    browser.open(one)
    assert browser.run("document.querySelector('main section').innerText").split()[1] == "healthy"
    assert browser.run("document.querySelectorAll('.stack svg.panel').length") >= 8
    browser.point(*middle(browser, ".stack svg.panel:nth-of-type(3)"))
    told = browser.run("document.getElementById('tip').innerText")
    assert "value of z (gap): " in told and told.startswith("step ")
    browser.point(*middle(browser, "canvas.heat"))
    assert "KL " in browser.run("document.getElementById('tip').innerText")
    shown = browser.run("[...document.querySelector('canvas.heat').getContext('2d').getImageData(200, 4, 1, 1).data]")
    assert shown[3] == 255 and quiet(browser, one)


def test_the_course_can_be_walked_by_keyboard(browser, one):
    browser.open(one)
    browser.run("document.querySelector('.stack').focus()")
    steps = []
    for _ in range(3):
        browser.press("ArrowRight")
        steps.append(browser.run("document.getElementById('tip').innerText.split('\\n')[0]"))
    assert steps == ["step 0", "step 4", "step 8"]


def test_sounds_play_and_commands_are_copied(browser, one):
    browser.open(one)
    assert browser.run("document.querySelectorAll('audio').length") == 3
    browser.run("document.querySelector('audio').play()")
    assert browser.run("document.querySelector('audio').duration") == 1
    browser.until("document.querySelector('audio').currentTime > 0")
    browser.run("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
    browser.run("document.querySelector('.copy').click()")
    assert browser.run("window.copied") == "vaecollapse-train model=linear seed=1"


def test_the_table_sorts_by_every_column_and_back(browser, many):
    browser.open(many)
    heads = browser.run("[...document.querySelectorAll('table.runs thead th')].map((each) => each.innerText)")
    place = heads.index("R")
    for sign in (1, -1):
        browser.run(f"document.querySelectorAll('table.runs thead button')[{place}].click()")
        values = [float(text) for text in column(browser, place) if text != "–"]
        assert len(values) == 13 and values == sorted(values, key=lambda value: sign * value)
    assert browser.run("document.querySelector('th[aria-sort=descending]').innerText").startswith("R")


def test_text_chips_and_levels_filter_table_plane_and_phase_diagram(browser, many):
    browser.open(many)
    dead = [run["name"] for run in embedded(browser)["runs"] if run["verdict"] == "posterior_collapse"]
    browser.run("document.querySelector('[data-word=posterior_collapse]').click()")
    assert column(browser, 0) == dead and len(dead) == 4
    assert browser.run("document.querySelectorAll('.plane .mark').length") == 4
    assert browser.run("document.querySelectorAll('.phase button').length") == 2
    browser.run("document.getElementById('filter').value = 'capacity=16 seed=1'")
    browser.run("document.getElementById('filter').dispatchEvent(new Event('input'))")
    assert len(column(browser, 0)) == 1
    assert "1 of 13 runs" in browser.run("document.querySelector('.filters').innerText")


def test_a_filter_of_the_phase_diagram_can_be_taken_off_where_its_knob_has_no_other(browser, tmp_path):
    for i in range(6):
        config = plant(tmp_path / str(i), seed=0) / "config.yaml"
        knobs = (f"knob_{k}: {int(i in pair)}\n" for k, pair in enumerate(itertools.combinations(range(6), 2)))
        config.write_text(config.read_text() + "".join(knobs))
    browser.open(report([str(tmp_path)], tmp_path, cache=False).file)
    assert browser.run("document.querySelectorAll('select[data-knob]').length") < 12
    browser.run("document.querySelectorAll('select.axis').forEach((s, i) => { s.value = [12, -1][i];"
                " s.dispatchEvent(new Event('change')); })")  # fmt: skip
    clear = "document.querySelector('button.clear')"
    assert browser.run(f"{clear}.hidden") and len(column(browser, 0)) == 6
    browser.run("document.querySelector('.phase tbody td:nth-of-type(1) button').click()")
    assert len(column(browser, 0)) == 4 and browser.run(f"{clear}.innerText") == "clear knob_12=0"
    browser.run(f"{clear}.focus()")
    browser.press("Enter")
    assert len(column(browser, 0)) == 6 and browser.run(f"{clear}.hidden")


def test_the_phase_diagram_counts_as_the_numbers_do_for_any_two_knobs(browser, many):
    browser.open(many)
    data = embedded(browser)
    choose = ("document.querySelectorAll('select.axis').forEach((s, i) => {{ s.value = {}[i];"
              " s.dispatchEvent(new Event('change')); }})")  # fmt: skip
    words = [run["verdict"] for run in data["runs"]]
    for across, down in ((0, 1), (2, 0)):
        browser.run(choose.format([across, down]))
        expected = phase(data["knobs"][across]["index"], data["knobs"][down]["index"], words)
        told = browser.run("[...document.querySelectorAll('.phase button')].map((each) => each.ariaLabel)")
        found = {label.partition(": ")[0]: label.partition(": ")[2] for label in told}
        assert len(found) == len(expected)
        for (x, y), counts in expected.items():
            where = " ".join(
                f"{data['knobs'][k]['name']}={data['knobs'][k]['levels'][i]}" for k, i in ((across, x), (down, y))
            )
            parts = Counter({part.split(" ×")[0]: int(part.split(" ×")[1]) for part in found[where].split(", ")})
            assert parts == counts


def test_the_plane_marks_the_frontier_and_opens_a_run_by_keyboard(browser, many):
    browser.open(many)
    runs = {run["name"]: run for run in embedded(browser)["runs"]}
    assert runs["stopped"]["frontier"] is None, "a run that has not ended is not compared"
    hollow = browser.run("[...document.querySelectorAll('.plane .mark[fill=\"var(--page)\"]')].length")
    assert hollow == sum(run["frontier"] is False for run in runs.values()) > 0
    browser.point(*middle(browser, ".plane .mark"))
    assert " R " in f" {browser.run('document.getElementById(`tip`).innerText')}".replace("\n", " ")
    browser.run("document.querySelector('.plane').focus()")
    browser.press("ArrowRight")
    browser.press("Enter")
    name = min((run for run in runs.values() if run["frontier"] is not None), key=lambda run: run["rate"])["name"]
    assert browser.run("document.querySelector('dialog[open] h1').innerText") == name
    browser.until("document.querySelectorAll('dialog .stack svg').length > 4")
    browser.press("Escape")
    browser.until("!document.querySelector('dialog[open]')")
    assert quiet(browser, many)


def test_an_address_opens_a_run_and_what_is_broken_is_named(browser, many):
    browser.open(many, query="#run=3")
    assert browser.run("document.querySelector('dialog[open] h1').innerText") == embedded(browser)["runs"][3]["name"]
    assert "has no config.yaml" in browser.run("document.getElementById('main').innerText")
    rows = browser.run("[...document.querySelectorAll('table.pairs tbody tr')].map((row) => row.innerText)")
    assert len(rows) == 5 and any("±" in row for row in rows)


def test_what_runs_hold_is_never_carried_out(browser, tmp_path):
    for name in ("a", f"b {HOSTILE.replace('/', '∕')}"):
        run = plant(tmp_path / "runs" / name, beta=2 if name == "a" else 1, more=f"x='{HOSTILE}'")
        add_sounds(run)
        (run / "samples" / "epoch_009" / f"{HOSTILE.replace('/', '∕')[:200]}.txt").write_text(HOSTILE)
        row = {"step": 1, f"val/{HOSTILE}": 2.0, "__proto__": 1, "constructor": 1.0}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        with (run / "events.jsonl").open("a") as file:
            file.write(json.dumps({"step": 1, "event": HOSTILE, "__proto__": HOSTILE}) + "\n")
        add_evaluation(tmp_path / "runs" / f"of {name}", run, more=HOSTILE)
        (run / "pictures").mkdir()
        picture = {"file": f"{HOSTILE}.png", "title": HOSTILE, "caption": HOSTILE}
        (run / "pictures" / "pictures.json").write_text(json.dumps([picture]))
    for runs, query in (
        ([str(tmp_path / "runs" / "a"), str(tmp_path / "runs" / "of a")], ""),
        ([str(tmp_path / "runs")], "#run=1"),
    ):
        page = report(runs, tmp_path, cache=False).file
        browser.open(page, query=query)
        browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert browser.run("window.hit") is None and quiet(browser, page)
        assert browser.run("document.querySelectorAll('script').length") == 2
        assert HOSTILE in browser.run("document.body.innerText")
        assert browser.run("document.querySelectorAll('table.found').length") == 2


def test_evaluations_of_many_runs_are_a_table_that_sorts_by_keyboard(browser, tmp_path):
    """Not drawn until it is asked for; a run that lacks a figure comes last, whichever way."""
    for i in range(10):
        run = plant(tmp_path / "runs" / str(i), seed=i)
        if i < 9:
            figures = {"iw_nll": {"value": float(i * 7 % 9), "se": 0.1, "status": "measured", "note": ""}}
            add_evaluation(tmp_path / "runs" / f"of_{i}", run, figures=figures if i else {})
    add_evaluation(tmp_path / "runs" / "elsewhere", tmp_path / "gone")
    page = report([str(tmp_path / "runs")], tmp_path, cache=False).file
    browser.open(page)
    assert browser.run("!document.querySelector('.evaluations table')")
    browser.run("document.querySelector('.evaluations summary').focus()")
    browser.press("Enter")
    browser.until("!!document.querySelector('.evaluations table')")
    last = "document.querySelector('.evaluations thead th:last-child button')"
    for sign in (1, -1):
        browser.run(f"{last}.focus()")
        browser.press("Enter")
        cells = browser.run(
            "[...document.querySelectorAll('.evaluations tbody td:last-child')].map((e) => e.innerText)"
        )
        values = [float(cell.split()[0]) for cell in cells[:-1]]
        assert len(values) == 8 and values == sorted(values, key=lambda value: sign * value) and cells[-1] == "–"
    assert "of the run" in browser.run("document.getElementById('main').innerText") and quiet(browser, page)
    assert "elsewhere" not in browser.run("document.querySelector('.evaluations').innerText")


def test_what_is_wrong_with_a_run_is_flagged_and_told_by_keyboard(browser, many):
    browser.open(many)
    flagged = browser.run("[...document.querySelectorAll('table.runs tr')].filter((row) => row.querySelector('.flag'))"
                          ".map((row) => row.cells[0].innerText)")  # fmt: skip
    assert flagged == ["stopped"]
    browser.run("document.querySelector('table.runs .flag').focus()")
    assert "not finished" in browser.run("document.getElementById('tip').innerText")


def test_units_are_walked_by_keyboard_as_the_pointer_reads_them(browser, one):
    browser.open(one)
    heat = embedded(browser)["runs"][0]["heat"]
    browser.run("document.querySelector('.stack').focus()")
    for unit, row in list(zip(heat["units"], heat["kl"], strict=True))[:2]:
        browser.press("ArrowDown")
        told = browser.run("document.getElementById('tip').innerText").split("\n")
        assert told[1] == f"unit {unit}: KL {row[-1]:.3g} nats" and told[0] == f"step {heat['steps'][-1]}"


# ---- colours

LOOKS = {
    word: (colour, letters, shape)
    for word, colour, letters, shape in re.findall(
        r'(\w+): \["(#\w{6})", "(\S+)", "(\w+)"\]', (ASSETS / "base.js").read_text()
    )
}
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
SEEN = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour) -> np.ndarray:
    part = np.asarray(colour, float)
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB, white D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    x, y, z = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 1e-9))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", SEEN)
def test_verdicts_are_told_apart_without_full_colour_vision(seen):
    """By letters always; on the plane by shape, or else by colours that are far from each other to everybody."""
    assert set(LOOKS) == set(STATES) and len({letters for _, letters, _ in LOOKS.values()}) == len(STATES)
    colours = {word: linear([int(look[0][at : at + 2], 16) / 255 for at in (1, 3, 5)]) for word, look in LOOKS.items()}
    for a, b in itertools.combinations(LOOKS, 2):
        if LOOKS[a][2] == LOOKS[b][2]:
            apart = np.linalg.norm(lab(np.array(SEEN[seen]) @ colours[a]) - lab(np.array(SEEN[seen]) @ colours[b]))
            assert apart > 20, (a, b, apart)


@pytest.mark.parametrize("dark", [False, True])
def test_every_mark_stands_out_from_the_page(browser, tmp_path, dark):
    """Its edge by 3 : 1, as WCAG 2.2 asks of graphics; a dominated run is hollow, one on the frontier is not."""
    for i, word in enumerate(STATES):
        plant(tmp_path / str(i), beta=0.1 * (i + 1), verdict=word)
    browser.open(report([str(tmp_path)], tmp_path, cache=False).file, dark=dark)
    mix = ("(c) => { const p = document.createElement('canvas').getContext('2d'); p.fillStyle = c;"
           " p.fillRect(0, 0, 1, 1); const d = p.getImageData(0, 0, 1, 1).data;"
           " return [d[0], d[1], d[2]].map((v) => v / 255); }")  # fmt: skip
    edges = browser.run(
        f"[...document.querySelectorAll('.plane .mark')].map((m) => ({mix})(getComputedStyle(m).stroke))"
    )
    page = browser.run(f"({mix})(getComputedStyle(document.body).backgroundColor)")
    light = [0.2126, 0.7152, 0.0722] @ linear(page)
    for edge in edges:
        found = [0.2126, 0.7152, 0.0722] @ linear(edge)
        assert (max(found, light) + 0.05) / (min(found, light) + 0.05) >= 3, edge
    assert len(edges) == len(STATES)
    hollow = browser.run(
        "[...document.querySelectorAll('.plane .mark[fill=\"var(--page)\"]')].map((m) => m.dataset.run)"
    )
    runs = embedded(browser)["runs"]
    assert sorted(map(int, hollow)) == [i for i, run in enumerate(runs) if run["frontier"] is False]


def test_comparisons_sort_by_the_mean_difference(browser, many):
    browser.open(many)
    rows = "[...document.querySelectorAll('table.pairs tbody tr')].map((row) => row.cells[5].innerText)"
    browser.run("document.querySelectorAll('table.pairs thead button')[5].click()")
    means = [float(cell.split()[0]) for cell in browser.run(rows)]
    assert browser.run("document.querySelectorAll('table.pairs thead th')[5].innerText").startswith("D")
    assert len(means) == 5 and means == sorted(means) and quiet(browser, many)


def test_the_keyboard_passes_everything_in_order_and_is_seen_to(browser, one, many):
    """Tab reaches the controls in the page's order, each with a ring; alarms are told where the arrow keys walk."""
    for page in (one, many):
        browser.open(page)
        places = []
        for _ in range(60):
            browser.press("Tab")
            found = browser.run(
                "(() => { const e = document.activeElement;"
                " return e === document.body ? null : [[...document.querySelectorAll('*')].indexOf(e),"
                " e.tagName === 'AUDIO' ? 'its own' : getComputedStyle(e).outlineStyle]; })()"
            )
            if found is None:
                break
            places.append(found)
        assert len(places) > 8 and all(ring != "none" for _, ring in places)
        assert [place for place, _ in places] == sorted(place for place, _ in places)
    browser.open(one)
    events = [(step, f"{kind}: {text}".strip()) for step, kind, text in embedded(browser)["runs"][0]["events"]]
    browser.run("document.querySelector('.stack').focus()")
    told = set()
    for _ in range(110):
        browser.press("ArrowRight")
        told |= {*browser.run("document.getElementById('tip').innerText").split("\n")}
    assert {line for _, line in events} <= told and len(events) == 2
