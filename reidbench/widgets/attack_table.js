// Queries under attack: a table that sorts and filters; a row opens to what the model saw before and after.
const PAGE = 12, HEADS = ["query", "clean", "adversarial", "d(clean)", "d(adv)", "Δ", "ε/255", "steps"];
function render(context) {
  const ui = frame(context), { get, set, watch, live } = ui, heads = h("tr"), lines = h("tbody"), card = h("div.card"), where = h("span.number"), bar = h("div.bar");
  let rows = [], order = [], at = 0;
  const add = (label, all, value, change) => {
    const s = h("select", { ariaLabel: label, onchange: () => change(s.value) });
    watch(["attack", "eps", "metric", "side", "which"], () => s.replaceChildren(...options(all(), value())));
    bar.append(labelled(label, s));
  };
  const choice = (trait, label, all) => add(label, all, () => get(trait), (v) => set(trait, trait === "eps" ? +v : v));
  const level = () => (get("fixed").includes(get("attack")) ? 0 : get("eps")), start = () => `${get("attacks").indexOf(get("attack"))}|${level()}|`;
  if (live) {
    choice("attack", "attack", () => get("attacks"));
    choice("eps", "ε / 255", () => get("epses"));
    choice("metric", "metric", () => ["euclidean", "cosine"]);
  } else {
    const name = (a, e, m) => `${get("attacks")[a]}, ε ${+e || "–"}, ${m}`, made = {};
    for (const k of Object.keys(get("chunks"))) made[name(...k.split("|"))] = k.split("|");
    add("computed", () => Object.keys(made), () => name(...(start() + get("metric")).split("|")), (v) => {
      const [a, e, m] = made[v];
      set("attack", get("attacks")[a]); set("metric", m); set("eps", +e || get("eps"));
    });
  }
  choice("side", "distance to", () => get("sides"));
  choice("which", "show", () => get("whiches"));
  const filter = h("input", { type: "search", size: 9, oninput: () => set("filter", filter.value) });
  const go = h("button", { onclick: () => ui.ask({ [get("busy") ? "cancel" : "go"]: true }) });
  bar.append(labelled("filter", filter), go);
  const turn = (by, text, label) => h("button", { ariaLabel: label, onclick: () => draw(at + by) }, text);
  const enter = (e, call) => /^( |Enter)$/.test(e.key) && (e.preventDefault(), e.stopPropagation(), call(), true);
  const sortBy = (i) => (get("sort") === i ? set("falling", !get("falling")) : set("sort", i));
  heads.append(...HEADS.map((name, i) => h("th", { tabIndex: 0, onclick: () => sortBy(i), onkeydown: (e) => enter(e, () => sortBy(i)) }, name)));
  ui.body.append(bar, h("div.row", {}, h("div", {}, h("table.table", {}, h("thead", {}, heads), lines), h("div.bar", {}, turn(-PAGE, "‹", "page back"), where, turn(PAGE, "›", "page on"))), card));

  const mark = (r) => ["✗", "✓"][r] ?? number(r);
  const cell = (r) => h("td." + (["wrong", "right"][r] ?? "number"), {}, mark(r));
  const toggle = (q) => set("opened", get("opened") === q ? -1 : q);
  function collect() {
    const s = start() + get("metric") + "|", own = 3 + 2 * get("sides").indexOf(get("side")), steps = get("steps")[get("attack")], eps = level() || null;
    rows = Object.entries(get("chunks")).flatMap(([k, c]) => (k.startsWith(s) ? c : [])).map((v) => [v[0], v[1], v[2], v[own], v[own + 1], v[own + 1] === null ? null : v[own + 1] - v[own], eps, steps]);
    sift();
  }
  function sift() {
    const s = get("sort"), sign = get("falling") ? -1 : 1, end = 9e9 * sign, text = get("filter").toLowerCase(), w = get("whiches").indexOf(get("which"));
    order = rows.filter((v) => (!w || (w > 2 ? v[1] === 0 : v[1] === 1 && v[2] === w - 1)) && (!text || `${v[0]} ${get("people")[v[0]]}`.toLowerCase().includes(text)));
    order.sort((a, b) => sign * ((a[s] ?? end) - (b[s] ?? end)) || a[0] - b[0]);
    [...heads.children].forEach((th, i) => { th.ariaSort = i !== s ? "none" : sign > 0 ? "ascending" : "descending"; });
    draw(order.findIndex((v) => v[0] === get("opened")));
  }
  function draw(to, focus = lines.contains(document.activeElement)) {
    at = Math.max(0, Math.min(to, order.length - 1));
    const first = at - (at % PAGE), page = order.slice(first, first + PAGE);
    lines.replaceChildren(...page.map((v, i) => h("tr", { tabIndex: first + i === at ? 0 : -1, ariaSelected: v[0] === get("opened"), onclick: () => { at = first + i; toggle(v[0]); }, onkeydown: keyed },
      h("td", {}, v[0] + " ", h("span.caption", {}, get("people")[v[0]])), cell(v[1]), cell(v[2]), ...v.slice(3).map((d, j) => h("td", {}, number(d, j > 2 ? 0 : 3))))));
    where.textContent = `${page.length && first + 1}–${first + page.length} of ${order.length}` + (rows.length > order.length ? `, ${rows.length} unfiltered` : "");
    if (focus) lines.children[at - first]?.focus();
    open();
  }
  function keyed(e) {
    if (e.key === "Escape") set("opened", -1);
    else enter(e, () => toggle(order[at][0])) || stepped(e, at, order.length - 1, (i) => draw(i, true), PAGE);
  }
  function open() {
    const q = get("opened"), v = rows.find((r) => r[0] === q), p = get("pictures")[start() + q];
    const figure = (i, name, text) => h("figure.figure", {}, h("img.shot", { alt: name, src: p[i] }), ...[name, text].map((t) => h("span.caption", {}, t)));
    const said = (i) => `${mark(v[i])} ${number(v[i + 2])}`;
    card.hidden = q < 0;
    card.replaceChildren(h("strong", {}, "query " + q), h("div.caption", {}, get("people")[q] ?? ""), !v || v[2] === null ? "not attacked" : !p ? (live ? "…" : "no pictures of it in this copy")
      : h("div.row", {}, figure(0, "clean", said(1)), figure(1, "adversarial", said(2)), figure(2, "change × 10", "grey: none")));
  }
  watch(["chunks", "attack", "eps", "metric", "side"], collect);
  watch(["sort", "falling", "filter", "which"], sift);
  watch(["opened"], () => { const i = order.findIndex((v) => v[0] === get("opened")); draw(i < 0 ? at : i); });
  watch(["pictures"], open);
  watch(["busy", "left"], () => { go.hidden = !live || !get("left"); go.textContent = get("busy") ? "cancel" : "go on"; });
  return ui.close;
}
export default { render };
