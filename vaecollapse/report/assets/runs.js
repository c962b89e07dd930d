// Many runs: what was found, which differ in what, which are worth having.
const filter = { text: "", verdicts: new Set(), level: {} };
const listeners = [];
const COLUMNS = [["selection", "selection"], ["rate", "R"], ["distortion", "D"], ["gap", "value of z"], ["information_rank", "rank"], ["seconds", "seconds"]];
const SHORT = 300; // rows before "show all"
const SELECTS = 8; // knobs with a filter of their own

DATA.runs.forEach((run, i) => {
  run.at = i;
  run.word = run.verdict || run.state;
  run.haystack = [run.name, run.word, run.state, run.note, run.command, ...run.words.map((word, k) => `${DATA.knobs[k].name}=${word}`)].join(" ").toLowerCase();
});

function passes(run) {
  if (filter.verdicts.size && !filter.verdicts.has(run.word)) return false;
  if (Object.entries(filter.level).some(([k, level]) => DATA.knobs[k].index[run.at] !== level)) return false;
  return filter.text.toLowerCase().split(/\s+/).every((part) => run.haystack.includes(part));
}

function changed() { const kept = DATA.runs.filter(passes); listeners.forEach((listen) => listen(kept)); }

function openRun(run) {
  const box = document.getElementById("opened");
  box.replaceChildren(el("div", { class: "bar" }, el("h1", {}, run.name), el("button", { type: "button", onclick: () => box.close() }, "close")), ...oneRun(run));
  if (!box.open) box.showModal();
  box.scrollTop = 0;
  history.replaceState(null, "", `#run=${run.at}`);
}

document.getElementById("opened").addEventListener("close", () => { hush(); history.replaceState(null, "", "#"); });

function headOf() {
  const counts = new Map();
  for (const run of DATA.runs) counts.set(run.word, (counts.get(run.word) || 0) + 1);
  const words = [...counts].sort((a, b) => b[1] - a[1]);
  const bar = el("div", { class: "share", role: "img", "aria-label": words.map(([word, count]) => `${count} ${word}`).join(", ") });
  for (const [word, count] of words) {
    const part = el("div", {}, count / DATA.runs.length > 0.04 ? look(word)[1] : "");
    part.style.flexGrow = count;
    part.style.background = look(word)[0];
    part.style.color = ink(look(word)[0]);
    bar.append(facts(part, [`${word}: ${count} of ${DATA.runs.length}`, MEANING.get(word) || ""]));
  }
  const chips = words.map(([word, count]) => {
    const chip = el("button", { type: "button", class: "chip", "aria-pressed": "false", "data-word": word, onclick: () => {
      const on = !filter.verdicts.delete(word);
      if (on) filter.verdicts.add(word);
      chip.setAttribute("aria-pressed", String(on));
      changed();
    } }, badge(word, count));
    return MEANING.has(word) ? facts(chip, [MEANING.get(word)]) : chip;
  });
  return [bar, el("div", { class: "chips" }, chips)];
}

function bestOf() {
  if (!DATA.best.length) return el("p", { class: "note" }, "No run is healthy and has a selection value: there is no best one to repeat.");
  return el("div", {}, DATA.best.map(([group, at, line]) => el("div", { class: "best" },
    el("div", { class: "dim" }, DATA.groups.length > 1 ? `best healthy run of ${DATA.groups[group]}` : "best healthy run"),
    el("div", {}, command(line), el("div", { class: "dim" }, `selection ${shown(DATA.runs[at].selection)}, `, el("button", { type: "button", class: "link", onclick: () => openRun(DATA.runs[at]) }, DATA.runs[at].name))))));
}

function filtersOf() {
  const count = el("span", { class: "dim", role: "status" });
  listeners.push((kept) => { count.textContent = `${kept.length} of ${DATA.runs.length} runs`; });
  const text = el("input", { type: "search", id: "filter", placeholder: "name, verdict, beta=8 …", oninput: (event) => { filter.text = event.target.value; changed(); } });
  const levels = DATA.knobs.slice(0, SELECTS).map((knob, k) => el("label", {}, `${knob.name} `, el("select", { "data-knob": knob.name, onchange: (event) => {
    if (event.target.value === "") delete filter.level[k]; else filter.level[k] = Number(event.target.value);
    changed();
  } }, el("option", { value: "" }, "any"), knob.levels.map((level, i) => el("option", { value: i }, level)))));
  return el("div", { class: "filters" }, el("label", {}, "filter ", text), levels, count, clearOf(text));
}

function clearOf(text) { // the way back from any filter; it names those that have no other
  const clear = el("button", { type: "button", class: "clear", onclick: () => {
    filter.text = text.value = "";
    filter.verdicts.clear();
    filter.level = {};
    for (const select of document.querySelectorAll("select[data-knob]")) select.value = "";
    for (const chip of document.querySelectorAll(".chip")) chip.setAttribute("aria-pressed", "false");
    text.focus();
    changed();
  } });
  listeners.push(() => {
    const hidden = Object.entries(filter.level).filter(([k]) => k >= SELECTS).map(([k, level]) => `${DATA.knobs[k].name}=${DATA.knobs[k].levels[level]}`);
    clear.textContent = ["clear", ...hidden].join(" ");
    clear.hidden = !filter.text && !filter.verdicts.size && !Object.keys(filter.level).length;
  });
  return clear;
}

function phaseOf() {
  if (!DATA.knobs.length) return null;
  const first = DATA.knobs.map((knob, k) => k).filter((k) => DATA.knobs[k].name !== "seed");
  const chosen = [first[0] ?? 0, first[1] ?? -1];
  const holder = el("div", { class: "scroll" });
  let kept = DATA.runs;
  const draw = () => {
    holder.replaceChildren(phaseTable(chosen[0], chosen[1], kept));
    whole.classList.toggle("wide", DATA.knobs[chosen[0]].levels.length > 8);
  };
  listeners.push((runs) => { kept = runs; draw(); });
  const pick = (place, label) => el("label", {}, label, el("select", { class: "axis", onchange: (event) => { chosen[place] = Number(event.target.value); draw(); } },
    place ? el("option", { value: -1 }, "none") : null, DATA.knobs.map((knob, k) => el("option", { value: k, selected: k === chosen[place] }, knob.name))));
  const whole = section("Phase diagram", el("div", { class: "filters" }, pick(0, "across "), pick(1, "down ")), holder,
    el("p", { class: "dim" }, "Letter and colour of the commonest verdict, a stripe in proportion to all; a cell opens its only run, or filters to its runs."));
  return whole;
}

function phaseTable(across, down, kept) {
  const columns = DATA.knobs[across], rows = down < 0 ? { name: "", levels: [""], index: DATA.runs.map(() => 0) } : DATA.knobs[down];
  const cells = new Map();
  for (const run of kept) {
    const key = `${columns.index[run.at]},${rows.index[run.at]}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(run);
  }
  const head = el("tr", {}, el("th", { scope: "col" }, `${rows.name} ↓  ${columns.name} →`), columns.levels.map((level) => el("th", { scope: "col" }, brief(level))));
  const body = rows.levels.map((level, j) => el("tr", {}, el("th", { scope: "row" }, level), columns.levels.map((_, i) => el("td", {}, phaseCell(cells.get(`${i},${j}`), `${columns.name}=${columns.levels[i]}${rows.name && ` ${rows.name}=${level}`}`, [[across, i], [down, j]])))));
  return el("table", { class: "phase" }, el("thead", {}, head), el("tbody", {}, body));
}

function brief(level) { // of a number three digits: the cells say all of it
  return level.length > 5 && Number.isFinite(Number(level)) ? shown(Number(level), 3) : level;
}

function phaseCell(runs, where, levels) {
  if (!runs) return "";
  const counts = new Map();
  for (const run of runs) counts.set(run.word, (counts.get(run.word) || 0) + 1);
  const words = [...counts].sort((a, b) => b[1] - a[1]);
  let sum = 0;
  const stops = words.map(([word, count]) => { const from = sum; sum += count; return `${look(word)[0]} ${(100 * from) / runs.length}% ${(100 * sum) / runs.length}%`; });
  const said = words.map(([word, count]) => `${word} ×${count}`);
  const cell = el("button", { type: "button", "aria-label": `${where}: ${said.join(", ")}`, onclick: () => { runs.length === 1 ? openRun(runs[0]) : onlyLevels(levels); } }, el("b", {}, look(words[0][0])[1]), words.length > 1 ? ` ${words[0][1]}/${runs.length}` : "");
  cell.style.background = `linear-gradient(to right, ${stops.join(",")}) bottom / 100% ${words.length > 1 ? 9 : 0}px no-repeat, ${look(words[0][0])[0]}`;
  cell.style.color = ink(look(words[0][0])[0]);
  cell.classList.toggle("mixed", words.length > 1);
  return facts(cell, [where, ...said]);
}

function onlyLevels(levels) {
  for (const [k, level] of levels) {
    if (k < 0) continue;
    filter.level[k] = level;
    const select = [...document.querySelectorAll("select[data-knob]")].find((each) => each.dataset.knob === DATA.knobs[k].name);
    if (select) select.value = String(level);
  }
  hush();
  changed();
}

function planeOf() {
  const counts = DATA.groups.map((_, g) => DATA.runs.filter((run) => run.group === g && run.frontier != null).length);
  const able = DATA.groups.map((_, g) => g).filter((g) => counts[g] > 0).sort((a, b) => counts[b] - counts[a]);
  if (!able.length) return null;
  let group = able[0], kept = DATA.runs, width = 0;
  const holder = redrawn((now) => { width = now; return [plane(group, kept, width)]; });
  const draw = () => { if (width) holder.replaceChildren(plane(group, kept, width)); };
  listeners.push((runs) => { kept = runs; draw(); });
  const pick = able.length > 1 && el("label", {}, "of ", el("select", { onchange: (event) => { group = Number(event.target.value); draw(); } }, able.map((g) => el("option", { value: g }, `${DATA.groups[g]} (${counts[g]})`))));
  return section("Rate–distortion plane", pick && el("div", { class: "filters" }, pick), holder,
    el("p", { class: "dim" }, `Filled: no other run ${able.length > 1 ? "of the same data and distortion " : ""}has at most its R and its D and less of one. Hollow: dominated. Arrow keys go from run to run, Enter opens one.`));
}

function plane(group, kept, width) {
  const height = Math.max(240, Math.min(400, width * 0.62)), left = 58, bottom = 40;
  const runs = DATA.runs.filter((run) => run.group === group && run.frontier != null);
  const [xs, ys] = [extent(runs.map((run) => run.rate)), extent(runs.map((run) => run.distortion))];
  const x = (value) => left + ((value - xs[0]) / (xs[1] - xs[0])) * (width - left - 14);
  const y = (value) => height - bottom - ((value - ys[0]) / (ys[1] - ys[0])) * (height - bottom - 24);
  const figure = svg("svg", { width, height, class: "plane", tabindex: "0", role: "group", "aria-label": "rate-distortion plane: arrow keys go from run to run" });
  for (const value of ticks(xs[0], xs[1], width / 90).filter((each) => each >= 0)) figure.append(svg("line", { x1: x(value), x2: x(value), y1: 20, y2: height - bottom, class: "grid" }), svg("text", { x: x(value), y: height - bottom + 15, class: "tick", "text-anchor": "middle" }, shown(value, 3)));
  for (const value of ticks(ys[0], ys[1], 5)) figure.append(svg("line", { x1: left, x2: width - 14, y1: y(value), y2: y(value), class: "grid" }), svg("text", { x: left - 6, y: y(value) + 4, class: "tick", "text-anchor": "end" }, shown(value, 3)));
  figure.append(svg("text", { x: width - 14, y: height - 6, class: "label", "text-anchor": "end" }, "rate R (nats)"), svg("text", { x: 4, y: 12, class: "label" }, "distortion D"));
  const edge = runs.filter((run) => run.frontier).sort((a, b) => a.rate - b.rate);
  figure.append(svg("path", { class: "frontier", d: edge.map((run, i) => (i ? `H${x(run.rate)}V${y(run.distortion)}` : `M${x(run.rate)},${y(run.distortion)}`)).join("") }));
  const here = new Set(kept), order = runs.filter((run) => here.has(run)).sort((a, b) => a.rate - b.rate);
  const marks = order.map((run) => { // the frontier above what it dominates
    const [colour, , shape] = look(run.word);
    const mark = glyph(shape, x(run.rate), y(run.distortion), runs.length > 300 ? 3.5 : 5, { fill: run.frontier ? colour : "var(--page)", stroke: outline(colour), "stroke-width": run.frontier ? 1.2 : 1.5, class: "mark", "data-run": run.at });
    mark.addEventListener("pointerenter", (event) => tell(run, event));
    mark.addEventListener("pointerleave", hush);
    mark.addEventListener("click", () => openRun(run));
    return mark;
  });
  figure.append(...marks.filter((_, i) => !order[i].frontier), ...marks.filter((_, i) => order[i].frontier));
  let place = -1;
  figure.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if ((!move && event.key !== "Enter") || !order.length) return;
    event.preventDefault(); // else the Enter that opens a run presses its close button
    if (!move) { if (place >= 0) openRun(order[place]); return; }
    if (place >= 0) marks[place].classList.remove("chosen");
    place = (place + move + order.length) % order.length;
    marks[place].classList.add("chosen");
    tell(order[place], { target: marks[place] });
  });
  figure.addEventListener("blur", hush);
  return figure;
}

function tell(run, event) {
  say(event, [run.name, `${run.word}${run.frontier ? ", on the frontier" : run.frontier === false ? ", dominated" : ""}`, `R ${shown(run.rate)}, D ${shown(run.distortion)}`, run.words.map((word, k) => `${DATA.knobs[k].name}=${word}`).slice(0, 8).join("  ")]);
}

function tableOf() {
  const knobs = DATA.knobs.slice(0, 8);
  const keys = [["run", (run) => run.at], ["verdict", (run) => run.word], ...knobs.map((knob, k) => [knob.name, (run) => knob.index[run.at]]), ...COLUMNS.map(([key, title]) => [title, (run) => run[key]]), ["", (run) => (run.frontier == null ? 2 : run.frontier ? 0 : 1)]];
  let column = 0, down = false, kept = DATA.runs, all = false;
  const body = el("tbody", {}), more = el("button", { type: "button", class: "more", onclick: () => { all = true; draw(); } });
  const built = new Map();
  const row = (run) => {
    if (!built.has(run)) {
      const mark = run.frontier ? "frontier" : run.state === "finished" ? (run.frontier === false ? "dominated" : "") : run.state;
      const flag = run.note && facts(el("span", { class: "flag", tabindex: "0", role: "img", "aria-label": run.note }, " ⚑"), [run.note]);
      built.set(run, el("tr", {}, el("th", { scope: "row" }, el("button", { type: "button", class: "link", onclick: () => openRun(run) }, run.name)), el("td", {}, badge(run.word)),
        knobs.map((_, k) => el("td", {}, run.words[k])), COLUMNS.map(([key]) => el("td", { class: "right" }, shown(run[key]))), el("td", { class: "dim" }, mark, flag || "")));
    }
    return built.get(run);
  };
  const draw = () => {
    const value = keys[column][1];
    const order = [...kept].sort((a, b) => ordered(value(a), value(b), down) || a.at - b.at);
    body.replaceChildren(...(all ? order : order.slice(0, SHORT)).map(row));
    more.textContent = `show all ${order.length}`;
    more.hidden = all || order.length <= SHORT;
  };
  const heads = sorters(keys.map(([title]) => title), 2 + knobs.length, (by, way) => { column = by; down = way; draw(); });
  listeners.push((runs) => { kept = runs; draw(); });
  return section("Runs", tall("runs", el("table", { class: "sorted runs" }, el("thead", {}, el("tr", {}, heads)), body)), more);
}

function ordered(a, b, down) { // what is not there comes last, whichever way
  if (a == null || b == null) return (a == null) - (b == null);
  const sign = typeof a === "number" ? a - b : String(a).localeCompare(String(b));
  return down ? -sign : sign;
}

function pairsOf() {
  const { settings, baselines, rows } = DATA.pairs;
  if (!rows.length) return null;
  const bases = [...new Set(rows.map((row) => row.a))];
  const holder = el("div", {});
  const draw = (base) => {
    const those = rows.filter((row) => row.a === base), mean = (row, key) => (row.differences[key] ? row.differences[key][0] : null);
    const lines = new Map(those.map((row) => [row, el("tr", {}, [settings[row.b][0], row.seeds.length, ...DATA.readings.map(([key]) => difference(row.differences[key])), el("div", {}, settings[row.b][2].map(([word, count]) => badge(word, count))),
      row.confounds.length ? el("span", { class: "flag" }, `⚑ ${row.confounds.join("; ")}`) : ""].map((cell, i) => (i ? el("td", {}, cell) : el("th", { scope: "row" }, cell))))]));
    const keys = [(row) => row.b, (row) => row.seeds.length, ...DATA.readings.map(([key]) => (row) => mean(row, key)), (row) => settings[row.b][2][0][0], (row) => row.confounds.join("; ")];
    const body = el("tbody", {}, [...lines.values()]), heads = sorters(["setting", "pairs", ...DATA.readings.map(([, title]) => title), "verdicts", "also differs"], Infinity, (column, down) =>
      body.replaceChildren(...[...those].sort((a, b) => ordered(keys[column](a), keys[column](b), down) || a.b - b.b).map((row) => lines.get(row))));
    holder.replaceChildren(tall("paired comparisons", el("table", { class: "sorted pairs" }, el("thead", {}, el("tr", {}, heads)), body)));
  };
  draw(baselines[0]);
  const pick = el("label", {}, "against ", el("select", { onchange: (event) => draw(Number(event.target.value)) }, bases.map((base) => el("option", { value: base, selected: base === baselines[0] }, settings[base][0]))));
  return section("Paired comparisons", el("div", { class: "filters" }, pick), holder,
    el("p", { class: "dim" }, "The setting minus the one above, mean over pairs of equal seeds with 95 % intervals (Student's t); bold where they exclude 0. ⚑: what else differs, so that the difference may not be the knob's."));
}

function difference(found) {
  if (!found) return "–";
  const [mean, low, high] = found, text = `${mean > 0 ? "+" : ""}${shown(mean, 3)}`;
  if (low == null) return el("span", { class: "dim" }, text);
  return el(low > 0 || high < 0 ? "strong" : "span", { class: "whole" }, `${text} ± ${shown((high - low) / 2, 2)}`);
}

const FIGURES = 12; // columns of the table of evaluations

function evaluationsOf() { // of all runs, made when it is asked for
  const every = DATA.runs.flatMap((run) => run.found.map((each) => [run, each]));
  if (!every.length) return null;
  const holder = el("div", {}), several = el("details", { class: "evaluations", ontoggle: () => { if (!holder.firstChild) holder.append(evaluationTable(every)); } },
    el("summary", {}, `figures and scores of ${every.length} evaluation${every.length > 1 ? "s" : ""}`), holder);
  return section("Evaluations", several);
}

function evaluationTable(every) { // a column for each of the commonest figures and scores
  const told = every.map(([, each]) => new Map(each.tables.flatMap(([, , rows]) => rows.map(([name, value, error]) => [name, [value, error]])))), counts = new Map();
  for (const each of told) for (const name of each.keys()) counts.set(name, (counts.get(name) || 0) + 1);
  const names = [...counts].sort((a, b) => b[1] - a[1]).slice(0, FIGURES).map(([name]) => name);
  const rows = every.map(([run, each], i) => ({ keys: [run.at, each.name, each.what, ...names.map((name) => number(told[i].get(name)))], row: el("tr", {},
    el("th", { scope: "row" }, el("button", { type: "button", class: "link", onclick: () => openRun(run) }, run.name)), el("td", {}, each.name), el("td", {}, each.what),
    names.map((name) => el("td", { class: "right" }, (told[i].get(name) || ["–"]).join(" ")))) }));
  const body = el("tbody", {}), heads = sorters(["run", "directory", "of", ...names], 3, (column, down) =>
    body.replaceChildren(...[...rows].sort((a, b) => ordered(a.keys[column], b.keys[column], down)).map((each) => each.row)));
  body.append(...rows.map((each) => each.row));
  const more = counts.size > FIGURES && el("p", { class: "dim" }, `${counts.size - FIGURES} more figures stand where a run is opened`);
  return el("div", {}, tall("evaluations", el("table", { class: "sorted" }, el("thead", {}, el("tr", {}, heads)), body)), more);
}

function number(told) { const value = told ? parseFloat(told[0]) : NaN; return Number.isNaN(value) ? null : value; }

function tall(label, ...parts) { return el("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": label }, ...parts); }

function sorters(titles, right, draw) { // heads that sort; by the first column it is sorted already
  let column = 0, down = false;
  const heads = titles.map((title, i) => el("th", { scope: "col", class: i >= right && title ? "right" : "", "aria-sort": i ? "none" : "ascending" }, el("button", { type: "button", onclick: () => {
    down = column === i && !down;
    heads[column].setAttribute("aria-sort", "none");
    column = i;
    heads[i].setAttribute("aria-sort", down ? "descending" : "ascending");
    draw(column, down);
  } }, title || "state")));
  return heads;
}

function looseOf() { // of runs that are not among these, or of none
  if (!DATA.loose.length) return null;
  return section("Evaluations of no run here", DATA.loose.map((each) => el("details", { open: DATA.loose.length < 4 },
    el("summary", {}, each.name, el("span", { class: "dim" }, each.of ? ` of the run ${each.of}, which is not among these` : " names no run")), evaluation({ ...each, name: "" }), each.pictures.map(pictured))));
}

function unreadOf() {
  if (!DATA.unread.length) return null;
  return section("Not read", table(["directory", "", "why"], DATA.unread.map(([name, state, note]) => [name, state, note])));
}

function manyRuns() {
  const figures = el("div", { class: "beside" }, phaseOf(), planeOf());
  const leftOut = DATA.left_out && el("p", { class: "note" }, DATA.left_out);
  return [...headOf(), bestOf(), leftOut, filtersOf(), figures, tableOf(), pairsOf(), evaluationsOf(), looseOf(), unreadOf()].filter(Boolean);
}
