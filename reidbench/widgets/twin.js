// Wakes the static copies: the widget's own `render` on a model that is nothing but the stored values.
for (const place of document.querySelectorAll('[data-twin="TWIN"]:not([data-awake])')) {
  const values = JSON.parse(place.querySelector("script").textContent), calls = {};
  for (const name of values.bytes) values[name] = new DataView(Uint8Array.from(atob(values[name]), (c) => c.charCodeAt(0)).buffer);
  place.dataset.awake = "";
  place.replaceChildren();
  render({ el: place, model: {
    get: (name) => values[name],
    set: (name, value) => { if (values[name] !== value) { values[name] = value; for (const call of calls["change:" + name] ?? []) call(); } },
    save_changes: () => {}, send: () => {},
    on: (event, call) => { (calls[event] ??= []).push(call); },
    off: (event, call) => { calls[event] = (calls[event] ?? []).filter((c) => c !== call); },
  } });
}
