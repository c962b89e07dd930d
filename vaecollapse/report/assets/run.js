// One run: the verdict with its evidence, its course, its samples, where it comes from.
const LEFT = 54, RIGHT = 12, PANEL = 92, SAID = 4; // pixels; events told at one step

function verdictOf(run) {
  const found = run.evidence;
  const [colour] = look(run.verdict);
  const box = el("section", { class: "verdict" });
  box.style.borderColor = colour;
  box.append(el("h2", {}, badge(run.verdict), el("span", { class: "meaning" }, MEANING.get(run.verdict) || "")));
  if (run.note) box.append(el("p", { class: "note" }, `${run.state}: ${run.note}`));
  if (!run.verdict) return box;
  box.append(el("p", { class: "dim" }, `confidence ${found.confidence}`));
  const head = ["reading", "value", "95 %", "matters at", ""];
  const rows = [...found.deciding.map((row) => row.map((cell) => el("strong", {}, cell))), ...found.beside];
  box.append(el("div", { class: "deciding" }, found.deciding.map(([name, value, error, limit, word]) => el("div", { class: "number" },
    el("div", { class: "dim" }, name), el("div", { class: "big" }, value), el("div", {}, error), el("div", { class: "dim" }, [limit && `matters at ${limit}`, word].filter(Boolean).join(" · "))))));
  for (const [label, lines] of [["why", found.findings], ["also", found.mechanisms], ["ruled out", found.refuted], ["missing", found.missing]]) {
    if (lines.length) box.append(el("div", { class: "said" }, el("div", { class: "dim" }, label), el("ul", {}, lines.map((line) => el("li", {}, line)))));
  }
  found.commands.forEach(([line, why], i) => box.append(el("div", { class: "said" }, el("div", { class: "dim" }, i ? "or" : "try next"), el("div", {}, command(line), el("div", { class: "dim" }, why)))));
  box.append(el("details", {}, el("summary", {}, `every reading (${rows.length + (found.others || []).length})`), table(head, [...rows, ...(found.others || [])], "readings")));
  return box;
}

function lastStep(run) {
  let last = run.step || 1;
  for (const [steps] of Object.values(run.series)) if (steps.length) last = Math.max(last, steps[steps.length - 1]);
  for (const step of run.heat.steps) last = Math.max(last, step);
  for (const [step] of run.events) if (step != null) last = Math.max(last, step);
  return last;
}

function named(name) { return Object.hasOwn(DATA.names, name) ? DATA.names[name] : name; }

function courseOf(run) {
  const panels = DATA.panels.map(([title, names, zero]) => [title, names.filter((name) => run.series[name]), zero]).filter(([, names]) => names.length);
  const drawn = new Set(DATA.panels.flatMap(([, names]) => names));
  const others = Object.keys(run.series).filter((name) => !drawn.has(name)).sort();
  if (!panels.length && !run.heat.units.length && !run.events.length) return null;
  let chosen = "";
  const holder = redrawn((width) => course(run, chosen ? [...panels, [chosen, [chosen]]] : panels, width));
  const choice = others.length > 0 && el("label", {}, "another series ", el("select", { onchange: (event) => {
    chosen = event.target.value;
    holder.replaceChildren(...course(run, chosen ? [...panels, [named(chosen), [chosen]]] : panels, Math.floor(holder.clientWidth)));
  } }, el("option", { value: "" }, "none"), others.map((name) => el("option", { value: name }, named(name)))));
  return section("Course of training", holder, choice, eventsOf(run));
}

function eventsOf(run) {
  if (!run.events.length) return null;
  return el("details", {}, el("summary", {}, `alarms and decisions (${run.events.length})`),
    table(["step", "what", ""], run.events.map(([step, kind, text]) => [shown(step, 9), kind, text])));
}

function course(run, panels, width) { // panels under each other, on one axis of steps
  const last = lastStep(run), inner = Math.max(40, width - LEFT - RIGHT);
  const x = (step) => LEFT + (step / last) * inner;
  const parts = [], cursors = [];
  if (run.events.length) parts.push(strip(run, x, width));
  if (run.heat.units.length) parts.push(heatMap(run.heat, x, width, last));
  for (const [title, names, zero] of panels) parts.push(panel(run, title, names, zero, x, width, last, cursors));
  parts.push(axis(x, width, last));
  const stack = el("div", { class: "stack", tabindex: "0", role: "group", "aria-label": "course of training: left and right move along the steps, up and down from unit to unit" }, parts);
  const happened = run.events.filter(([step]) => step != null);
  const times = [...new Set([...happened.map(([step]) => step), ...run.heat.steps, ...panels.flatMap(([, names]) => names.flatMap((name) => run.series[name][0]))])].sort((a, b) => a - b);
  let place = -1, unit = -1; // the unit that the keyboard is at
  const at = (step, event) => {
    for (const cursor of cursors) { cursor.setAttribute("x1", x(step)); cursor.setAttribute("x2", x(step)); cursor.style.display = ""; }
    const kl = unit < 0 ? [] : [`unit ${run.heat.units[unit]}: KL ${shown(near([run.heat.steps, run.heat.kl[unit]], step), 3)} nats`];
    const events = happened.filter(([when]) => when === step).slice(0, SAID).map(([, kind, text]) => `${kind}: ${text}`.slice(0, 200));
    say(event, [`step ${shown(step, 9)}`, ...kl, ...events, ...panels.flatMap(([, names]) => names.map((name) => `${named(name)}: ${shown(near(run.series[name], step))}`))]);
  };
  const leave = () => { cursors.forEach((cursor) => { cursor.style.display = "none"; }); hush(); };
  stack.addEventListener("pointermove", (event) => {
    if (event.target.closest(".own")) return;
    const step = ((event.clientX - stack.getBoundingClientRect().left - LEFT) / inner) * last;
    if (!times.length || step < 0 || step > last) return leave();
    unit = -1;
    place = times.reduce((best, time, i) => (Math.abs(time - step) < Math.abs(times[best] - step) ? i : best), 0);
    at(times[place], event);
  });
  stack.addEventListener("pointerleave", leave);
  stack.addEventListener("blur", leave);
  stack.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity }[event.key];
    const down = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if ((move == null && (down == null || !run.heat.units.length)) || !times.length) return;
    event.preventDefault();
    if (down != null) {
      unit = Math.max(-1, Math.min(run.heat.units.length - 1, unit + down));
      if (place < 0) place = times.length - 1;
    } else place = Math.max(0, Math.min(times.length - 1, place + move));
    at(times[place], { target: stack });
  });
  return [stack];
}

function near([steps, values], step) { // the last value at or before a step
  let found = null;
  for (let i = 0; i < steps.length && steps[i] <= step; i += 1) found = values[i];
  return found;
}

// the size that matters belongs on the axis of the value of z: what is far below it is nothing
function barred(name) { return name === "val/latent/gap"; }

function panel(run, title, names, zero, x, width, last, cursors) {
  const limits = (run.evidence && run.evidence.limits) || {}, bar = Object.hasOwn(limits, names[0]) ? limits[names[0]] : null;
  const every = names.flatMap((name) => run.series[name][1]), range = extent(zero ? [...every, 0, barred(names[0]) ? bar : null] : every);
  const figure = svg("svg", { width, height: PANEL, class: "panel", role: "img", "aria-label": title });
  if (!range) return figure;
  if (range[0] < 0 && every.every((value) => value == null || value >= 0)) range[0] = 0;
  const counts = every.every((value) => value == null || Number.isInteger(value));
  const y = (value) => PANEL - 6 - ((value - range[0]) / (range[1] - range[0])) * (PANEL - 26);
  for (const value of ticks(range[0], range[1], 3).filter((each) => !counts || Number.isInteger(each))) {
    figure.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, class: "tick", "text-anchor": "end" }, shown(value, 3)));
  }
  if (zero && bar != null && bar > range[0] && bar < range[1]) figure.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(bar), y2: y(bar), class: "bar-line" }), svg("text", { x: width - RIGHT, y: y(bar) < 30 ? y(bar) + 12 : y(bar) - 3, class: "tick", "text-anchor": "end" }, `matters at ${shown(bar, 3)}`));
  names.forEach((name, i) => {
    const [steps, values] = run.series[name];
    let path = "", open = false;
    steps.forEach((step, j) => {
      if (values[j] == null) { open = false; return; }
      path += `${open ? "L" : "M"}${x(step).toFixed(1)},${y(values[j]).toFixed(1)}`;
      open = true;
    });
    figure.append(svg("path", { d: path, class: `line line${i + 1}`, stroke: LINES[i % 2] }));
    if (steps.length <= 12) steps.forEach((step, j) => { if (values[j] != null) figure.append(glyph(i ? "square" : "circle", x(step), y(values[j]), 2.5, { fill: LINES[i % 2] })); });
  });
  const label = svg("text", { x: LEFT, y: 12, class: "label" }, title);
  if (names.length > 1) names.forEach((name, i) => label.append(svg("tspan", { dx: 12, fill: LINES[i % 2], class: `key${i + 1}` }, `${i ? "┄" : "—"} ${name.startsWith("val/") ? "held out" : name.endsWith("declared") ? "declared" : name.endsWith("penalty") ? "penalty" : name.endsWith("applied") ? "applied" : name.endsWith("total") ? "objective" : "training"}`)));
  const cursor = svg("line", { y1: 16, y2: PANEL - 4, class: "cursor" });
  cursor.style.display = "none";
  cursors.push(cursor);
  figure.append(label, cursor);
  return figure;
}

function axis(x, width, last) {
  const figure = svg("svg", { width, height: 30, class: "panel" });
  for (const step of ticks(0, last, Math.max(2, width / 110))) figure.append(svg("text", { x: x(step), y: 14, class: "tick", "text-anchor": step > last * 0.95 ? "end" : "middle" }, step.toLocaleString("en")));
  figure.append(svg("text", { x: LEFT - 6, y: 14, class: "tick", "text-anchor": "end" }, "step"));
  return figure;
}

function strip(run, x, width) { // alarms and decisions
  const shapes = { alarm: ["up", "var(--bad)"], verdict: ["diamond", "var(--line1)"], intervention: ["square", "var(--line2)"], spike: ["down", "var(--dim)"] };
  const figure = svg("svg", { width, height: 40, class: "panel own", role: "img", "aria-label": "alarms and decisions" });
  figure.append(svg("text", { x: LEFT, y: 12, class: "label" }, "alarms ▲  verdicts ◆  interventions ■  else ●"), svg("line", { x1: LEFT, x2: width - RIGHT, y1: 28, y2: 28, class: "grid" }));
  for (const [step, kind, text] of run.events) {
    if (step == null) continue;
    const [shape, colour] = Object.hasOwn(shapes, kind) ? shapes[kind] : ["circle", "var(--dim)"];
    const mark = glyph(shape, x(step), 28, 5, { fill: colour, class: "mark", role: "img", "aria-label": `step ${step}: ${kind} ${text}` });
    const speak = (event) => say(event, [`step ${shown(step, 9)}: ${kind}`, text]);
    for (const name of ["pointerenter", "click"]) mark.addEventListener(name, speak);
    mark.addEventListener("pointerleave", hush);
    figure.append(mark);
  }
  return figure;
}

function ramp(share) {
  const at = Math.max(0, Math.min(1, share)) * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(at));
  const parts = [1, 3, 5].map((i) => [parseInt(RAMP[low].slice(i, i + 2), 16), parseInt(RAMP[low + 1].slice(i, i + 2), 16)]);
  return `rgb(${parts.map(([a, b]) => Math.round(a + (b - a) * (at - low))).join(",")})`;
}

function heatMap(heat, x, width, last) {
  const rows = heat.units.length, size = Math.max(3, Math.min(14, Math.floor(260 / rows))), height = rows * size;
  const top = Math.max(...heat.kl.flat().filter((value) => value != null), 0.1), floor = 1e-3;
  const share = (value) => Math.log(Math.max(value, floor) / floor) / Math.log(top / floor);
  const canvas = el("canvas", { width: width * 2, height: height * 2, class: "own heat", role: "img", "aria-label": `KL of ${heat.of} units over training` });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(2, 2);
  const once = heat.steps.length === 1; // says nothing of the time before
  const edges = heat.steps.map((step, j) => (j ? (heat.steps[j - 1] + step) / 2 : Math.max(0, once ? Math.min(step, last * 0.95) - last * 0.05 : step - (heat.steps[1] - step) / 2)));
  edges.push(last);
  heat.kl.forEach((row, i) => row.forEach((value, j) => {
    if (value == null) return;
    pen.fillStyle = ramp(share(value));
    pen.fillRect(x(edges[j]), i * size, Math.max(1, x(edges[j + 1]) - x(edges[j]) + 0.3), size > 5 ? size - 1 : size);
  }));
  pen.fillStyle = getComputedStyle(document.body).color;
  pen.font = "11px sans-serif";
  pen.textAlign = "right";
  if (size >= 10) heat.units.forEach((unit, i) => pen.fillText(`unit ${unit}`, LEFT - 6, i * size + size - 3));
  else { pen.fillText(`unit ${heat.units[0]}`, LEFT - 6, 10); pen.fillText(`unit ${heat.units[rows - 1]}`, LEFT - 6, height - 2); }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect(), i = Math.floor((event.clientY - box.top) / size);
    const step = ((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT)) * last;
    const j = edges.findIndex((edge, n) => n < heat.steps.length && step >= edge && step <= edges[n + 1]);
    if (i < 0 || i >= rows || j < 0) return hush();
    say(event, [`unit ${heat.units[i]}, step ${shown(heat.steps[j], 9)}`, `KL ${shown(heat.kl[i][j], 3)} nats`]);
  });
  canvas.addEventListener("pointerleave", hush);
  const scale = el("span", { class: "ramp" });
  scale.style.background = `linear-gradient(to right, ${RAMP.join(",")})`;
  const more = heat.of > rows ? `, ${rows} of ${heat.of} shown` : "";
  const when = once ? `, read once at step ${shown(heat.steps[0], 9)}` : "";
  return el("div", {}, el("div", { class: "legend" }, `KL of each unit${heat.exact ? "" : " in the flow's base space"} (nats), highest at the end first${more}${when}`,
    el("span", { class: "dim" }, "0.001 ", scale, ` ${shown(top, 2)}`)), canvas);
}

function samplesOf(run) {
  const found = run.samples;
  if (!found || !(found.sounds.length || found.pictures.length || found.texts.length || found.left_out)) return null;
  const parts = [];
  for (const [kind, clips] of found.sounds) {
    parts.push(el("div", { class: "sounds" }, el("div", { class: "dim" }, kind), el("div", { class: "clips" }, clips.map(([name, source]) => el("audio", { controls: true, preload: "metadata", src: source, title: name, "aria-label": name })))));
  }
  parts.push(...found.pictures.map(pictured));
  for (const [title, , text] of found.texts) parts.push(el("details", { open: found.texts.length < 4 }, el("summary", {}, title), el("pre", {}, text)));
  if (found.alone) parts.push(el("p", { class: "dim" }, `${found.left_out} files, which a page of so many runs does not hold. They are in ${run.path}, and on its own page:`), command(found.alone));
  else if (found.left_out) parts.push(el("p", { class: "dim" }, `${found.left_out} more are in the run directory: too large for this page`));
  return section(`Samples${found.folder ? ` (${found.folder})` : ""}`, parts);
}

function pictured([title, caption, source]) {
  return el("figure", {}, source && el("img", { src: source, alt: caption || title }), el("figcaption", {}, el("strong", {}, title), " ", caption));
}

function foundOf(run) { // by evaluations
  if (!run.found.length) return null;
  return section("Evaluations", run.found.map(evaluation));
}

function evaluation(each) {
  return el("div", {}, each.name && el("h3", {}, each.name), el("p", {}, each.what),
    each.tables.flatMap(([what, head, rows]) => [what && el("p", { class: "dim" }, what), table(head, rows, "found")]).filter(Boolean),
    each.notes.map((note) => el("p", {}, note)));
}

function provenanceOf(run) {
  return section("Where it comes from", command(run.command), table(null, run.plan.map(([label, text]) => [label, text]), "facts"), table(null, run.facts, "facts"));
}

function oneRun(run) {
  return [verdictOf(run), courseOf(run), foundOf(run), samplesOf(run), provenanceOf(run)].filter(Boolean);
}
