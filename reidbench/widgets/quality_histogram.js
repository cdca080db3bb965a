// How many pictures have which score: a row of bars for each group, one threshold through all of them. Counts come a hundred to the range and one of its end.
function render(context) {
  const ui = frame(context), { get, set } = ui, FINE = 100;
  const rows = h("div.rows", { role: "group", ariaLabel: "histogram" }), note = h("div.caption"), share = h("b.number"), line = h("span.caption");
  const choice = (trait, label, names) => {
    const s = h("select", { ariaLabel: label, onchange: () => set(trait, typeof get(trait) === "number" ? +s.value : s.value) });
    ui.watch([trait], () => s.replaceChildren(...options(names, get(trait))));
    return labelled(label, s);
  };
  const slider = h("input.cutter", { type: "range", min: 0, max: FINE, step: 1, ariaLabel: "threshold", oninput: () => set("threshold", score(+slider.value)) });
  const none = () => { set("picked", []); if (ui.live) ui.ask({ none: true }); }, clear = h("button", { onclick: none }, "select none");
  ui.body.append(h("div.bar", {}, choice("bins", "bins", get("choices")), get("splits").length > 1 ? choice("split", "split by", get("splits")) : null, labelled("threshold", share), ui.live ? clear : null),
    rows, h("div.group", {}, h("span"), h("div.axis", {}, slider, line)), note);

  const score = (k) => get("low") + ((get("high") - get("low")) * k) / FINE, short = (v) => (Number.isFinite(v) ? String(+v.toPrecision(4)) : "–");
  const cut = () => Math.round(((get("threshold") - get("low")) / (get("high") - get("low"))) * FINE), total = (counts, from, to) => counts.slice(from, to).reduce((a, b) => a + b, 0);
  const percent = (counts) => { const all = total(counts); return all ? `${((100 * total(counts, 0, Math.max(0, cut()))) / all).toFixed(0)} %` : "–"; };
  const at = (value) => `left:${((value - get("low")) / (get("high") - get("low"))) * 100}%`, seen = (value) => value !== null && value >= get("low") && value <= get("high");
  const said = (g, word) => { const n = total(g.counts); return n ? `${n.toLocaleString()}${word}, median ${short(g.median)}, ${percent(g.counts)} below` : "none" + word; };
  const mine = (group) => { const p = get("picked"); return p[0] === get("split") && p[1] === group ? p : null; };
  const bars = () => [...rows.querySelectorAll(".rb-bin")];

  function pick(event, group, from, to) {
    const old = mine(group), now = event.shiftKey && old ? [Math.min(old[2], from), Math.max(old[3], to)] : [from, to];
    set("picked", old && now[0] === old[2] && now[1] === old[3] ? [] : [get("split"), group, ...now]);
  }
  function keyed(event) {
    const all = bars(), now = all.indexOf(event.currentTarget), row = get("bins"), jump = { ArrowUp: -row, ArrowDown: row }[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); event.currentTarget.click(); }
    else if (event.key === "Escape") none();
    else stepped(event, now, all.length - 1, (i) => (all[jump ? now + jump : i] ?? all[now]).focus());
  }
  function row(g, part, index) {
    const step = FINE / get("bins"), old = mine(index), box = h("div.bins", { style: `height:${get("groups")[get("split")].length > 1 ? 64 : 170}px` }), counts = Array.from({ length: get("bins") }, (_, b) => total(g.counts, b * step, b === get("bins") - 1 ? FINE + 1 : (b + 1) * step)), top = Math.max(1, ...counts);
    for (let from = 0; from < FINE; from += step) {
      const to = from + step, end = to === FINE ? FINE + 1 : to, count = counts[from / step], inside = part ? total(part.counts, from, end) : count;
      const picked = !!old && old[2] < to && old[3] > from, place = (value) => `height:${(100 * value) / top}%`;
      box.append(h("div.bin" + (picked ? ".picked" : ""), { tabIndex: !index && !from ? 0 : -1, role: "button", ariaPressed: String(picked), onclick: (e) => pick(e, index, from, to), onkeydown: keyed,
        ariaLabel: `${g.name}: ${short(score(from))} to ${short(score(to))}: ${part ? inside + " of " : ""}${count}`, onmouseenter: told, onfocus: told }, h("div.whole", { style: place(count) }), h("div.part" + (to <= cut() ? ".low" : ""), { style: place(inside) })));
    }
    const mark = (kind, value, title) => (seen(value) ? h("div.mark." + kind, { style: at(value), title }) : null);
    box.append(...[mark("median", g.median, "median"), mark("cut", get("threshold"), "threshold"), mark("set", get("marked"), "the score that is set")].filter(Boolean));
    box.append(h("span.top", {}, top));
    return h("div.group", {}, h("div", {}, h("b", {}, g.name), h("div.caption", {}, said(g, "")), part ? h("div.caption.chosen", {}, said(part, " selected")) : null), box);
  }
  function told(event) { note.textContent = event.currentTarget.getAttribute("aria-label"); }
  function draw() {
    const groups = get("groups")[get("split")] ?? [], parts = get("parts")[get("split")], focused = bars().indexOf(document.activeElement);
    slider.value = cut(); slider.setAttribute("aria-valuetext", short(get("threshold")));
    share.textContent = short(get("threshold"));
    line.replaceChildren(h("span", {}, short(get("low"))), h("span", {}, "dotted: median" + (seen(get("marked")) ? `, dashed: the score that is set, ${short(get("marked"))}` : "")), h("span", {}, short(get("high"))));
    clear.disabled = !parts;
    rows.replaceChildren(...groups.map((g, i) => row(g, parts?.[i], i)));
    bars()[focused]?.focus();
  }
  ui.watch(["groups", "parts", "bins", "split", "threshold", "picked", "marked", "low", "high"], draw);
  return ui.close;
}
export default { render };
