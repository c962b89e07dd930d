const main = document.getElementById("main");
const only = DATA.runs.length === 1;
main.append(el("h1", {}, only ? DATA.runs[0].name : `${DATA.runs.length} runs`));
main.append(...(only ? [...oneRun(DATA.runs[0]), looseOf(), unreadOf()].filter(Boolean) : DATA.runs.length ? manyRuns() : [looseOf(), unreadOf()].filter(Boolean)));
main.append(el("footer", { class: "dim" }, `vaecollapse ${DATA.version}, ${DATA.made}`, command(DATA.command)));
if (!only) {
  changed();
  const asked = DATA.runs[Number(/^#run=(\d+)$/.exec(location.hash)?.[1] ?? -1)];
  if (asked) openRun(asked);
}
