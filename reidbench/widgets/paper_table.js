// Papers' tables: what was printed, what came out here, how far apart the two are, and what was different.
const [ROW, COLUMN, METRIC, UNIT, PAPER, OURS, SD, SEEDS, GAP, SAME, QUOTED, WHY, DOUBT, NOTES, RUNS, AWAY] = Array(16).keys();
function render(context) {
  const ui = frame(context), { get, set, watch, live } = ui, bar = h("div.bar"), said = h("div.said"), lines = h("tbody"), card = h("div.card"), work = h("div.card"), notes = h("div.caption");
  let shown = [], at = 0;
  const page = () => get("pages")[`${get("name")}|${get("place")}`], heads = () => ["all", ...new Set((page()?.lines ?? []).map((v) => v[COLUMN]))];
  const choice = (trait, label, all) => {
    const s = h("select", { ariaLabel: label, onchange: () => set(trait, s.value) });
    watch([trait, "name", "place", "pages"], () => s.replaceChildren(...options(all(), get(trait))));
    bar.append(labelled(label, s));
  };
  choice("name", "table", () => get("names"));
  choice("place", "run on", () => get("places"));
  choice("head", "column", heads);
  const within = h("input", { type: "number", min: 0, max: 100, step: 0.5, value: get("tolerance"), oninput: () => set("tolerance", +within.value) });
  const quoted = h("input", { type: "checkbox", onchange: () => set("quoted", quoted.checked) });
  bar.append(labelled("within ±", within), labelled("quoted rows", quoted));
  ui.body.append(bar, said, h("div", {}, h("table.table", {}, h("thead", {}, h("tr", {}, ...["", "metric", "paper", "here", "difference", ""].map((t) => h("th", {}, t)))), lines)), card, work, notes);

  const digits = (v) => (v[UNIT] === "%" ? 1 : 2), tidy = (x) => (x === null ? "–" : String(x));
  function gap(v) {
    const d = v[GAP];
    if (d === null) return h("td", {}, v[OURS] === null ? "" : "–");
    const near = Math.abs(d) <= get("tolerance"), text = (d < 0 ? "−" : "+") + number(Math.abs(d), digits(v));
    return v[SAME] ? h(near ? "td.right" : "td.wrong", {}, (near ? "✓ " : "✗ ") + text) : h("td.quiet", {}, "≠ " + text);
  }
  const here = (v) => (v[OURS] === null ? h("td.quiet", {}, "–") : h("td", {}, number(v[OURS], digits(v)) + (v[SD] === null ? "" : " ± " + number(v[SD], digits(v)))));
  const remark = (v) => (v[OURS] === null ? v[WHY] : `${v[SEEDS]} seed${v[SEEDS] > 1 ? "s" : ""}${v[NOTES] ? " *" : ""}`);
  const button = (text, onclick) => h("button.quiet", { onclick }, text);
  function draw() {
    const p = page(), head = heads().includes(get("head")) ? get("head") : "all", body = [];
    shown = [];
    for (const [i, v] of (p?.lines ?? []).entries()) {
      if ((head !== "all" && v[COLUMN] !== head) || (v[QUOTED] && !get("quoted"))) continue;
      if (v[ROW] !== shown.at(-1)?.[1][ROW]) body.push(h("tr.rowhead", {}, h("th", { colSpan: 5 }, v[ROW]), h("th", {}, p.commands[v[ROW]] ? button(live ? "run this row" : "its command", () => set("asked", v[ROW])) : null)));
      const k = shown.push([i, v]) - 1;
      body.push(h("tr", { tabIndex: k === at ? 0 : -1, ariaSelected: get("opened") === i, onclick: () => { at = k; toggle(i); }, onkeydown: keyed },
        h("td", {}, v[COLUMN]), h("td", {}, v[METRIC]), h("td", {}, tidy(v[PAPER]) + (v[DOUBT] && v[PAPER] !== null ? " †" : "")), here(v), gap(v), h("td.quiet", {}, remark(v))));
    }
    const focus = lines.contains(document.activeElement) && document.activeElement.tagName === "TR";
    lines.replaceChildren(...body);
    if (focus) rows()[at]?.focus();
    said.replaceChildren(p ? p.title : live ? "reading…" : "not in this copy", p?.different ? h("div.warn", {}, "≠ Not the paper’s experiment: " + p.different) : "");
    notes.textContent = [`✓ within ± ${get("tolerance")} of the paper, ✗ farther, ≠ another experiment, † see the line`, ...(p?.notes ?? [])].join(". ");
    open();
  }
  const rows = () => [...lines.querySelectorAll("[aria-selected]")], toggle = (i) => set("opened", get("opened") === i ? -1 : i);
  function keyed(e) {
    if (e.key === "Escape") set("opened", -1);
    else if (/^( |Enter)$/.test(e.key)) { e.preventDefault(); e.stopPropagation(); toggle(shown[at][0]); }
    else stepped(e, at, shown.length - 1, (i) => { rows()[at].tabIndex = -1; at = i; rows()[i].tabIndex = 0; rows()[i].focus(); });
  }
  async function record(file) {
    const [, buffers] = await ui.ask({ record: file });
    if (buffers?.length) download(file.split("/").pop(), [buffers[0]], "application/json");
  }
  function open() {
    const v = page()?.lines[get("opened")];
    card.hidden = !v;
    if (!v) return;
    const runs = v[RUNS].map(([seed, figure, file, seconds, when]) => h("div", {}, `seed ${seed}: ${number(figure, digits(v))}, ${seconds} s, ${when}, `, live ? h("a", { href: "#", tabIndex: 0, onclick: (e) => { e.preventDefault(); record(file); } }, file) : file));
    card.replaceChildren(h("strong", {}, `${v[ROW]}, ${v[COLUMN]}, ${v[METRIC]}`), ...runs, ...[v[AWAY] && "≠ " + v[AWAY], v[DOUBT] && "† " + v[DOUBT], v[NOTES] && "* " + v[NOTES], v[WHY]].filter(Boolean).map((t) => h("div.caption", {}, t)));
  }
  function order() {
    const command = page()?.commands[get("asked")], busy = get("running");
    work.hidden = !command && !busy;
    work.replaceChildren(h("code", {}, busy || command || ""), h("div.bar", {}, button("copy", () => navigator.clipboard?.writeText(command)),
      live ? (busy ? button("cancel", () => ui.ask({ cancel: true })) : button("start", () => ui.ask({ run: get("asked") }))) : null), get("printed").length ? h("pre.log", {}, get("printed").join("\n")) : "");
  }
  watch(["pages", "name", "place", "head", "quoted", "tolerance"], draw);
  watch(["opened"], draw);
  watch(["asked", "running", "printed", "name", "place", "pages"], order);
  return ui.close;
}
export default { render };
