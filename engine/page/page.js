/* The page of a run. All it shows is in window.MANGROVES (see engine/page/__init__.py), its words in window.TEXTS.
   Strings of the run are set as text, never as markup. */
"use strict";
(function () {
  const data = window.MANGROVES, texts = window.TEXTS;
  const $ = (id) => document.getElementById(id);
  const state = { kind: null, left: 0, right: 0, compare: false, split: 0.5, opacity: 1, lang: "en", sort: ["area_ha", -1], series: 0, points: new Set() };

  // --- words and numbers --------------------------------------------------------------------------------------------

  const text = (key) => (texts[state.lang] || {})[key] ?? texts.en[key] ?? key;
  const fill = (key, values) => text(key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
  const formats = new Map();
  function number(value, digits = 0) {
    if (value === null || value === undefined) return "–";
    const key = state.lang + digits;
    if (!formats.has(key)) formats.set(key, new Intl.NumberFormat(state.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits }));
    return formats.get(key).format(value);
  }
  const year = (value) => new Intl.NumberFormat(state.lang, { useGrouping: false }).format(value);
  const hectares = (value) => number(value, value !== null && Math.abs(value) < 100 ? 1 : 0);
  function bytes(value) {
    return value >= 1e6 ? number(value / 1e6, 1) + " MB" : number(Math.max(1, value / 1e3)) + " kB";
  }
  const label = (key) => (/^\d+$/.test(key) ? year(Number(key)) : text(key));

  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
      else if (name === "colour") made.style.background = value;
      else if (value !== null && value !== false) made.setAttribute(name, value);
    }
    made.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
    return made;
  }
  function svg(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  const clear = (node, ...children) => { node.replaceChildren(...children); return node; };

  // --- map ----------------------------------------------------------------------------------------------------------

  const map = L.map("map", { attributionControl: false, zoomSnap: 0.25, zoomDelta: 0.5, wheelPxPerZoomLevel: 90, minZoom: 2, maxZoom: 18, worldCopyJump: false });
  window.MANGROVES_MAP = map;
  L.control.scale({ imperial: false, maxWidth: 140 }).addTo(map);
  const sides = ["left", "right"].map((name, index) => {
    map.createPane(name).style.zIndex = 350 + index;
    return { pane: name, shown: new Map(), layer: null };
  });
  map.createPane("graticule").style.zIndex = 340;

  const box = (edges) => L.latLngBounds(edges);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const fly = (edges, most) => map.flyToBounds(box(edges), { padding: [30, 30], maxZoom: most || 18, animate: !still, duration: 0.9 });
  const everything = data.regions.map((region) => region.box).concat(...data.layers.map((layer) => (layer.images || [layer.tiles]).map((one) => one.box)));
  const kinds = [...new Set(data.layers.map((layer) => layer.kind))];
  const layerOf = (kind, at) => data.layers.find((layer) => layer.kind === kind && (layer.year === null || layer.year === data.years[at]));
  const yearly = (kind) => data.layers.some((layer) => layer.kind === kind && layer.year !== null);

  // Shows of a layer what is in sight, and drops what it replaces once that has come.
  function show(side, layer) {
    const wanted = new Map();
    const sight = map.getBounds().pad(0.4);
    if (layer && layer.tiles) wanted.set(layer.tiles.url, () => L.tileLayer(layer.tiles.url, { pane: side.pane, bounds: box(layer.tiles.box), minNativeZoom: layer.tiles.min_zoom || 0, maxNativeZoom: layer.tiles.max_zoom, maxZoom: 18, opacity: state.opacity, className: "pixels" }));
    for (const image of (layer && layer.images) || []) {
      if (sight.intersects(box(image.box))) wanted.set(image.url, () => L.imageOverlay(image.url, box(image.box), { pane: side.pane, opacity: state.opacity, className: "pixels", alt: "" }));
    }
    const old = [...side.shown].filter(([url]) => !wanted.has(url));
    let waiting = 0;
    const drop = () => { for (const [, overlay] of old) overlay.remove(); };
    for (const [url, make] of wanted) {
      if (side.shown.has(url)) continue;
      waiting += 1;
      const overlay = make().addTo(map);
      overlay.on("load error", () => { if ((waiting -= 1) === 0) drop(); });
      side.shown.set(url, overlay);
    }
    for (const [url] of old) side.shown.delete(url);
    if (waiting === 0 || !layer || side.layer !== null && side.layer !== layer && side.layer.kind !== layer.kind) drop();
    else window.setTimeout(drop, 1500);
    side.layer = layer || null;
  }

  function draw() {
    const years = yearly(state.kind), two = state.compare && years;
    show(sides[0], layerOf(state.kind, state.left));
    show(sides[1], two ? layerOf(state.kind, state.right) : null);
    $("swipe").hidden = $("right-year").hidden = !two;
    $("left-year").hidden = !years;
    if (years) $("left-year").textContent = year(data.years[state.left]);
    if (two) $("right-year").textContent = year(data.years[state.right]);
    clip();
  }

  function clip() {
    const two = !$("swipe").hidden, size = map.getSize();
    const corner = (x, y) => { const at = map.containerPointToLayerPoint([x, y]); return `${at.x}px ${at.y}px`; };
    const span = (from, to) => `polygon(${corner(from, 0)}, ${corner(to, 0)}, ${corner(to, size.y)}, ${corner(from, size.y)})`;
    const middle = size.x * state.split;
    map.getPane("left").style.clipPath = two ? span(0, middle) : "";
    map.getPane("right").style.clipPath = two ? span(middle, size.x) : "";
    $("swipe").style.left = `${100 * state.split}%`;
    $("swipe").setAttribute("aria-valuenow", Math.round(100 * state.split));
  }
  map.on("move zoom resize", clip);
  map.on("moveend", draw);

  function split(share) { state.split = Math.min(1, Math.max(0, share)); clip(); }
  $("swipe").addEventListener("pointerdown", (event) => { $("swipe").setPointerCapture(event.pointerId); event.preventDefault(); $("swipe").focus(); });
  $("swipe").addEventListener("pointermove", (event) => {
    if (!$("swipe").hasPointerCapture(event.pointerId)) return;
    const stage = $("stage").getBoundingClientRect();
    split((event.clientX - stage.left) / stage.width);
  });
  $("swipe").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
    if (step) { split(state.split + step); event.preventDefault(); }
  });

  // Lines of latitude and longitude: there is no base map, as none may be fetched.
  const graticule = L.layerGroup().addTo(map);
  function drawGraticule() {
    graticule.clearLayers();
    const sight = map.getBounds(), step = [45, 30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01].find((one) => sight.getEast() - sight.getWest() > 3 * one) || 0.01;
    const line = (points) => L.polyline(points, { pane: "graticule", interactive: false, className: "grat", weight: 1, color: "#b9c6c9" }).addTo(graticule);
    for (let lon = Math.floor(sight.getWest() / step) * step; lon <= sight.getEast(); lon += step) line([[sight.getSouth(), lon], [sight.getNorth(), lon]]);
    for (let lat = Math.max(-85, Math.floor(sight.getSouth() / step) * step); lat <= Math.min(85, sight.getNorth()); lat += step) line([[lat, sight.getWest()], [lat, sight.getEast()]]);
  }
  map.on("moveend", drawGraticule);

  // From afar a region is a dot with its name.
  const dots = L.layerGroup();
  for (const region of data.regions) {
    L.circleMarker(box(region.box).getCenter(), { radius: 7, color: "#fff", weight: 2, fillColor: "#0b5a4b", fillOpacity: 1, bubblingMouseEvents: false })
      .bindTooltip(el("span", null, region.name), { className: "place", direction: "top", offset: [0, -6] })
      .on("click", () => choosePlace(region)).addTo(dots);
  }
  function drawDots() {
    const small = data.regions.length > 1 && data.regions.every((region) => map.latLngToLayerPoint(region.box[0]).distanceTo(map.latLngToLayerPoint(region.box[1])) < 60);
    if (small) dots.addTo(map); else dots.remove();
  }
  map.on("zoomend", drawDots);
  function choosePlace(region) {
    $("place").value = String(data.regions.indexOf(region));
    fly(region.box);
  }

  // Where the pointer is, or on a phone the middle of the map.
  function degrees(at) {
    const lon = L.Util.wrapNum(at.lng, [-180, 180], true);
    return `${number(Math.abs(at.lat), 5)}° ${text(at.lat < 0 ? "south" : "north")}, ${number(Math.abs(lon), 5)}° ${text(lon < 0 ? "west" : "east")}`;
  }
  map.on("mousemove", (event) => { $("where").textContent = degrees(event.latlng); });
  map.on("mouseout", () => { $("where").textContent = ""; });
  if (!window.matchMedia("(hover: hover)").matches) map.on("move", () => { $("where").textContent = degrees(map.getCenter()); });

  // A click tells coordinates; with a story, what made the pixel.
  const nested = (value) => value !== null && typeof value === "object";
  const nameOf = (key) => (texts.en[`story.${key}`] ? text(`story.${key}`) : key.replaceAll("_", " "));
  const wordOf = (key, value) => { const word = (data.words[key.startsWith("class") ? "class" : key] || {})[value]; return word ? text(word).toLocaleLowerCase(state.lang) : value; };
  function told(value, key = "") {
    if (Array.isArray(value) && value.length > 1 && value.every((one) => nested(one) && Object.keys(one).join() === Object.keys(value[0]).join())) return rowsOf(value);
    if (Array.isArray(value)) return el("ol", null, ...value.map((one) => el("li", null, told(one))));
    if (nested(value)) return el("dl", null, ...Object.entries(value).flatMap(([key, one]) => [el("dt", null, nameOf(key)), el("dd", null, told(one, key))]));
    return document.createTextNode(typeof value === "number" && !Number.isInteger(value) ? number(value, 4) : wordOf(key, value) ?? "–");
  }
  // Objects of the same keys are a row each; what does not fit a cell is below, to be opened.
  function rowsOf(value) {
    const keys = Object.keys(value[0]), flat = keys.filter((key) => !value.some((one) => nested(one[key]))), rest = keys.filter((key) => !flat.includes(key));
    const cell = (key, one) => (key === "year" ? year(one) : told(one, key));
    const table = el("table", null, el("thead", null, el("tr", null, ...flat.map((key) => el("th", { scope: "col" }, nameOf(key))))), el("tbody", null, ...value.map((one) => el("tr", null, ...flat.map((key) => el("td", null, cell(key, one[key])))))));
    const more = rest.length ? value.map((one) => el("details", null, el("summary", null, ...(flat.length ? [cell(flat[0], one[flat[0]]), ": "] : []), rest.map(nameOf).join(", ")), told(Object.fromEntries(rest.map((key) => [key, one[key]]))))) : [];
    return el("div", null, table, ...more);
  }
  // What each scene of a year saw of a pixel, read from its source once it is opened.
  function scenesOf(of, where, popup) {
    const wait = el("p", null, text("reading"));
    const part = el("details", { class: "scenes" }, el("summary", null, year(of), ": ", nameOf("scenes")), wait);
    part.addEventListener("toggle", async () => {
      try {
        const answer = await fetch(`${where}&year=${of}`, { credentials: "same-origin" }), found = await answer.json();
        wait.replaceWith(told(found.scenes || found));
      } catch (error) {
        wait.textContent = text("no_answer");
      }
      popup.update();
    }, { once: true });
    return part;
  }
  map.on("click", (event) => { if (sketch.on) addVertex(event.latlng); else tell(event.latlng); });
  // Without a mouse: the arrow keys move the map, Enter asks for its middle, Escape goes back to the map.
  map.getContainer().addEventListener("keydown", (event) => {
    if (event.key === "Escape") map.getContainer().focus({ preventScroll: true });
    if (event.key !== "Enter" || event.target !== map.getContainer() || sketch.on) return;
    event.preventDefault();
    tell(map.getCenter()).focus({ preventScroll: true });
  });
  function tell(at) {
    const region = data.regions.find((one) => box(one.box).contains(at));
    const content = el("div", { class: "story", tabindex: "-1", "aria-live": "polite" }, el("h3", null, region ? region.name : text("point")), el("div", null, degrees(at)));
    const width = Math.min(460, map.getSize().x - 70);
    const popup = L.popup({ minWidth: data.story ? width : 50, maxWidth: width }).setLatLng(at).setContent(content).openOn(map);
    if (data.story) readStory(at, content, popup);
    return content;
  }
  async function readStory(at, content, popup) {
    const lon = L.Util.wrapNum(at.lng, [-180, 180], true);
    const wait = content.appendChild(el("p", null, text("reading")));
    try {
      const where = `${data.story}?lon=${lon.toFixed(6)}&lat=${at.lat.toFixed(6)}`;
      const answer = await fetch(where, { credentials: "same-origin" }), found = await answer.json();
      wait.replaceWith(told(found), ...(found.years || []).map((one) => scenesOf(one.year, where, popup)));
    } catch (error) {
      wait.textContent = text("no_answer");
    }
    const read = content.contains(document.activeElement);
    popup.update();
    if (read) content.focus({ preventScroll: true });  // which is taken out and put back
  }

  // --- edits --------------------------------------------------------------------------------------------------------

  // Polygons a reader draws, where the server takes them. Kinds differ in colour (Okabe and Ito 2008) and in dash.
  const sayings = { add: ["#009e73", null], remove: ["#e69f00", "9 5"], unsure: ["#cc79a7", "2 6"] };
  const sketch = { on: false, at: [], line: L.layerGroup().addTo(map), drawn: L.layerGroup().addTo(map), saved: L.layerGroup().addTo(map), busy: false };
  const kindDrawn = () => document.querySelector("#edit-kinds input:checked").value;
  const styleOf = (kind) => { const [color, dashArray] = sayings[kind] || ["#000", null]; return { color, dashArray, weight: 3, fillOpacity: 0.15, bubblingMouseEvents: false }; };
  const say = (...said) => { $("edits-said").textContent = said.join(" "); };

  function drawSketch() {
    sketch.line.clearLayers();
    if (sketch.at.length > 1) L.polyline(sketch.at, { ...styleOf(kindDrawn()), interactive: false, fill: false }).addTo(sketch.line);
    for (const at of sketch.at) L.circleMarker(at, { radius: 4, color: "#1c2b29", weight: 1.5, fillColor: "#fff", fillOpacity: 1, interactive: false }).addTo(sketch.line);
    for (const one of sketch.drawn.getLayers()) one.setStyle(styleOf(kindDrawn()));
    $("stage").classList.toggle("drawing", sketch.on);
    $("edits-hint").hidden = !sketch.on;
    $("edits-draw").setAttribute("aria-pressed", String(sketch.on));
    $("edits-save").disabled = $("edits-discard").disabled = sketch.busy || !sketch.drawn.getLayers().length;
  }
  function addVertex(at) {
    const last = sketch.at[sketch.at.length - 1];
    // The second click of a double click is where the first was.
    if (!last || map.latLngToContainerPoint(last).distanceTo(map.latLngToContainerPoint(at)) > 3) sketch.at.push(at);
    drawSketch();
  }
  function startSketch() {
    sketch.on = true;
    map.closePopup();
    map.doubleClickZoom.disable();
    map.getContainer().focus({ preventScroll: true });
    say();
    drawSketch();
  }
  function endSketch(kept) {
    if (kept && sketch.at.length > 2) L.polygon(sketch.at, styleOf(kindDrawn())).addTo(sketch.drawn);
    else if (kept) say(text("edits.corners"));
    sketch.on = false;
    sketch.at = [];
    map.doubleClickZoom.enable();
    drawSketch();
  }
  function keyOfSketch(event) {
    const elsewhere = event.target.closest && event.target.closest("input, select, button, textarea, a");
    if (!sketch.on || elsewhere && event.key !== "Escape") return;
    const done = { Enter: () => endSketch(true), Escape: () => endSketch(false), Backspace: () => { sketch.at.pop(); drawSketch(); }, " ": () => addVertex(map.getCenter()) }[event.key];
    if (done) { event.preventDefault(); done(); }
  }
  // A ring as GeoJSON has it, begun within 180 degrees however often the reader went around the Earth.
  function ringOf(polygon) {
    const ring = polygon.getLatLngs()[0], turn = L.Util.wrapNum(ring[0].lng, [-180, 180], true) - ring[0].lng;
    return [...ring, ring[0]].map((at) => [Number((at.lng + turn).toFixed(7)), Number(at.lat.toFixed(7))]);
  }
  async function answerOf(options) {
    const answer = await fetch(data.edits.url, { credentials: "same-origin", ...options });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  }
  async function readSaved() {
    const edges = everything.length ? box(everything.flat()) : null;
    const turned = (lng) => (edges && edges.getEast() > 180 && lng < edges.getWest() ? lng + 360 : lng);
    try {
      const found = await answerOf({});
      sketch.saved.clearLayers();
      for (const { geometry, properties } of found.features) {
        const parts = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates;
        L.polygon(parts.map((rings) => rings.map((ring) => ring.map(([lng, lat]) => [lat, turned(lng)]))), { ...styleOf(properties.kind), className: "edit" }).bindPopup(() => aboutEdit(properties)).addTo(sketch.saved);
      }
      sketch.found = { shown: found.features.length, total: found.total, version: found.version };
      drawCount();
    } catch (error) {
      say(text("no_answer"));
    }
  }
  function drawCount() {
    const of = sketch.found || {};
    $("edits-count").textContent = of.total ? fill("edits.count", { shown: number(of.shown), total: number(of.total), version: number(of.version) }) : "";
  }
  function aboutEdit(of) {
    const years = of.from_year === of.to_year ? [of.from_year] : [of.from_year, of.to_year];
    const rows = [["year", years.some((one) => one !== null) ? years.map((one) => (one === null ? "…" : year(one))).join("–") : text("all_years")], ["edits.note", of.note], ["edits.author", of.author], ["edits.version", number(of.version)]];
    return el("div", { class: "story" }, el("h3", null, text(`edits.${of.kind}`)), el("dl", null, ...rows.filter(([, said]) => said).flatMap(([key, said]) => [el("dt", null, text(key)), el("dd", null, said)])));
  }
  async function saveSketch() {
    const yearIn = (id) => ($(id).value === "" ? null : Number($(id).value));
    const properties = { kind: kindDrawn(), from_year: yearIn("edit-from"), to_year: yearIn("edit-to"), note: $("edit-note").value };
    const features = sketch.drawn.getLayers().map((polygon) => ({ type: "Feature", properties, geometry: { type: "Polygon", coordinates: [ringOf(polygon)] } }));
    sketch.busy = true;
    drawSketch();
    say(text("edits.saving"));
    try {
      const told = await answerOf({ method: "POST", headers: { "content-type": "application/json", "x-mangroves-token": data.edits.token }, body: JSON.stringify({ type: "FeatureCollection", features }) });
      sketch.drawn.clearLayers();
      say(told.said);
      await readSaved();
    } catch (error) {
      say(text("edits.refused"), error.message);
    }
    sketch.busy = false;
    drawSketch();
  }
  if (data.edits) {
    $("edits").hidden = false;
    $("edits-draw").addEventListener("click", () => { if (sketch.on) endSketch(true); else startSketch(); });
    $("edits-save").addEventListener("click", saveSketch);
    $("edits-discard").addEventListener("click", () => { sketch.drawn.clearLayers(); say(); drawSketch(); });
    $("edit-kinds").addEventListener("change", drawSketch);
    document.addEventListener("keydown", keyOfSketch);
    map.on("dblclick", () => { if (sketch.on) endSketch(true); });
    drawSketch();
  }

  // --- patches ------------------------------------------------------------------------------------------------------

  const colours = { loss: "#d55e00", gain: "#0072b2" };
  const outlines = L.layerGroup();
  const frame = L.layerGroup().addTo(map);
  function about(patch) {
    return el("div", { class: "story" }, el("h3", null, `${text(patch.direction)} ${year(patch.year)}`),
      el("dl", null, ...[["place", patch.region], ["layer.change", label(patch.kind)], ["hectares", number(patch.area_ha, 1)], ["confidence", number(patch.confidence_pct) + " %"]]
        .flatMap(([key, value]) => [el("dt", null, text(key)), el("dd", null, value)])));
  }
  function outline(patch) {
    return L.polygon(patch.rings, { color: colours[patch.direction] || "#000", weight: 2, fill: false, dashArray: patch.direction === "gain" ? "5 4" : null, bubblingMouseEvents: false }).bindPopup(() => about(patch));
  }
  function goTo(patch, row) {
    frame.clearLayers();
    outline(patch).setStyle({ weight: 3 }).addTo(frame);
    fly(patch.box, 15);
    document.querySelectorAll("#patch-list tr.chosen").forEach((one) => one.classList.remove("chosen"));
    row.classList.add("chosen");
    $("view").scrollIntoView({ block: "start" });
  }
  const columns = [["region", "place"], ["direction", "what"], ["kind", "layer.change"], ["year", "year"], ["area_ha", "hectares"], ["confidence_pct", "confidence"]];
  function drawPatches() {
    const { shown, total, large } = data.patches;
    $("patches-note").textContent = total ? fill("patches_note", { shown: number(shown.length), total: number(total), large: number(large), left: number(total - shown.length) }) : text("no_patches");
    $("patch-list").parentNode.hidden = !shown.length;
    const [by, sign] = state.sort;
    const compare = new Intl.Collator(state.lang).compare;
    const sorted = [...shown].sort((a, b) => sign * (typeof a[by] === "number" ? a[by] - b[by] : compare(a[by], b[by])) || b.area_ha - a.area_ha);
    const numeric = (name) => (["year", "area_ha", "confidence_pct"].includes(name) ? "number" : null);
    const head = el("tr", null, ...columns.map(([name, key]) => el("th", { scope: "col", class: numeric(name), "aria-sort": by === name ? (sign < 0 ? "descending" : "ascending") : "none" },
      el("button", { type: "button", "data-sort": name, on: { click: () => { state.sort = [name, by === name ? -sign : numeric(name) ? -1 : 1]; drawPatches(); document.querySelector(`[data-sort=${name}]`).focus(); } } }, text(key), el("span", { "aria-hidden": "true" }, by === name ? (sign < 0 ? " ▾" : " ▴") : "")))));
    const rows = sorted.map((patch) => {
      const dot = el("span", { class: "dot", colour: colours[patch.direction] || "#000" });
      const row = el("tr", null, el("td", null, el("button", { type: "button", on: { click: () => goTo(patch, row) } }, patch.region || text("point"))), el("td", null, dot, text(patch.direction)), el("td", null, label(patch.kind)),
        el("td", { class: "number" }, year(patch.year)), el("td", { class: "number" }, number(patch.area_ha, 1)), el("td", { class: "number" }, number(patch.confidence_pct) + " %"));
      return row;
    });
    clear($("patch-list"), el("thead", null, head), el("tbody", null, ...rows));
  }

  // --- legend and controls ------------------------------------------------------------------------------------------

  function drawLegend() {
    const of = data.legends[state.kind] || {}, layer = layerOf(state.kind, state.left) || data.layers.find((one) => one.kind === state.kind);
    const [title, body, note] = $("legend").children;
    title.textContent = text(`layer.${state.kind}`);
    body.className = (of.entries || []).length > 9 ? "columns" : "";
    if (of.stops) {
      const low = of.stops[0][0], high = of.stops[of.stops.length - 1][0];
      const stops = of.stops.map(([value, colour]) => svg("stop", { offset: (value - low) / (high - low), "stop-color": colour }));
      const scale = (value) => (of.percent ? number(high <= 1 ? 100 * value : value) + " %" : number(value)) + (value === high && !of.percent ? "+" : "");
      clear(body, svg("svg", { viewBox: "0 0 240 16", width: "100%", height: 16, preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("defs", {}, svg("linearGradient", { id: "ramp" }, ...stops)), svg("rect", { width: 240, height: 16, rx: 3, fill: "url(#ramp)", stroke: "#8a9794" })),
        el("div", { class: "ramp-ends" }, ...[low, (low + high) / 2, high].map((value) => el("span", null, scale(value)))));
    } else {
      clear(body, ...(of.entries || []).map(([key, colour]) => el("div", { class: "entry" }, svg("svg", { width: 18, height: 14, "aria-hidden": "true" }, svg("rect", { x: 0.5, y: 0.5, width: 17, height: 13, rx: 2, fill: colour, stroke: "#76837f" })), el("span", null, label(key)))));
    }
    const metres = layer ? (layer.images ? layer.images.map((one) => one.pixel_m) : [layer.tiles.pixel_m]).filter((one) => one) : [];
    const most = Math.max(...metres);
    note.textContent = [text(`about.${state.kind}`), metres.length ? fill(most > 31 ? "shown_coarser" : "shown_whole", { metres: number(most), hectares: number(most * most / 1e4, 2) }) : ""].join(" ");
  }

  // Once a language: made anew at every choice they would lose the keyboard's focus.
  function drawChoices() {
    clear($("layers"), $("layers").firstElementChild, ...kinds.map((kind) => el("label", { class: "check" }, el("input", { type: "radio", name: "layer", value: kind, ...(kind === state.kind ? { checked: "" } : {}), on: { change: () => { state.kind = kind; update(); } } }), el("span", null, text(`layer.${kind}`)))));
    const extra = (data.points || []).map((points, index) => el("label", { class: "check point-layer" }, el("input", { type: "checkbox", ...(state.points.has(index) ? { checked: "" } : {}), on: { change: (event) => togglePoints(index, event.target.checked) } }), el("span", { class: "dot", colour: points.colour }), el("span", null, label(points.key) + (points.total > points.points.length ? ` (${number(points.points.length)} / ${number(points.total)})` : ""))));
    $("overlays").querySelectorAll(".point-layer").forEach((one) => one.remove());
    $("overlays").append(...extra);
    $("outlines").parentNode.hidden = !data.patches.shown.length;
    $("overlays").hidden = !data.patches.shown.length && !extra.length;
  }
  function drawControls() {
    const years = yearly(state.kind), many = data.years.length > 1;
    $("years").hidden = !data.years.length;
    $("years").setAttribute("aria-disabled", String(!years));
    for (const [id, at, value] of [["year", state.left, "year-value"], ["other-year", state.right, "other-value"]]) {
      $(id).max = data.years.length - 1;
      $(id).value = at;
      $(id).disabled = !years || !many;
      if (data.years.length) { $(id).setAttribute("aria-valuetext", year(data.years[at])); $(value).textContent = years ? year(data.years[at]) : text("all_years"); }
    }
    $("compare").disabled = !years || !many;
    $("compare").checked = state.compare;
    $("other").hidden = !state.compare || !years;
    $("opacity-value").textContent = number(100 * state.opacity) + " %";
  }
  const pointLayers = new Map();
  function togglePoints(index, on) {
    if (!pointLayers.has(index)) {
      const { colour, points } = data.points[index];
      pointLayers.set(index, L.layerGroup(points.map(([lat, lon, said]) => L.circleMarker([lat, lon], { radius: 4, color: "#fff", weight: 1, fillColor: colour, fillOpacity: 1, bubblingMouseEvents: !said }).bindPopup(() => el("div", null, said || degrees(L.latLng(lat, lon)))))));
    }
    if (on) { state.points.add(index); pointLayers.get(index).addTo(map); } else { state.points.delete(index); pointLayers.get(index).remove(); }
  }
  function update() { drawControls(); drawLegend(); draw(); }

  $("year").addEventListener("input", (event) => { state.left = Number(event.target.value); update(); });
  $("other-year").addEventListener("input", (event) => { state.right = Number(event.target.value); update(); });
  $("compare").addEventListener("change", (event) => { state.compare = event.target.checked; if (state.compare && state.left === state.right) state.left = 0; update(); });
  $("opacity").addEventListener("input", (event) => { state.opacity = event.target.value / 100; for (const side of sides) for (const [, overlay] of side.shown) overlay.setOpacity(state.opacity); drawControls(); });
  $("outlines").addEventListener("change", (event) => { if (event.target.checked) { if (!outlines.getLayers().length) for (const patch of data.patches.shown) if (patch.rings.length) outline(patch).addTo(outlines); outlines.addTo(map); } else outlines.remove(); });
  $("place").addEventListener("change", (event) => fly(event.target.value === "" ? box(everything.flat()) : data.regions[Number(event.target.value)].box));
  $("panel").addEventListener("submit", (event) => event.preventDefault());

  // --- area ---------------------------------------------------------------------------------------------------------

  const placeName = (one) => (one.by === "total" ? text("whole") : one.where);
  function drawSeries() {
    const one = data.series[state.series];
    $("area").hidden = !one;
    if (!one) return;
    const rows = one.rows, assessed = rows.some((row) => row.estimated_ha !== null), changes = rows.some((row) => row.loss_ha !== null);
    const head = ["year", "mangrove_ha", ...(assessed ? ["estimated_ha", "interval"] : []), ...(changes ? ["loss_ha", "gain_ha"] : [])];
    clear($("areas"), el("thead", null, el("tr", null, ...head.map((key) => el("th", { scope: "col", class: key === "year" ? null : "number" }, text(`column.${key}`))))),
      el("tbody", null, ...rows.map((row) => el("tr", null, ...head.map((key) => key === "year" ? el("td", null, year(row.year) + (row.provisional ? " *" : ""))
        : el("td", { class: "number" }, key === "interval" ? (row.low_ha === null ? "–" : `${hectares(row.low_ha)} – ${hectares(row.high_ha)}`) : hectares(row[key])))))));
    $("chart-note").textContent = [text(assessed ? "chart_assessed" : "chart_mapped"), rows.some((row) => row.provisional) ? "* " + text("provisional") : ""].join(" ");
    chart(rows, assessed, changes, placeName(one));
  }
  function ticks(low, high, count) {
    const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(Number(at.toPrecision(12)));
    return found;
  }
  function chart(rows, assessed, changes, name) {
    const width = Math.max(280, Math.min(620, $("chart").clientWidth || 560)), left = 64, right = 14, tall = 210, below = changes ? 110 : 0, height = 22 + tall + below + 26;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${text("area")}: ${name}` });
    const first = rows[0].year, last = rows[rows.length - 1].year;
    const x = (value) => left + 16 + (width - left - right - 32) * (last === first ? 0.5 : (value - first) / (last - first));
    const told = rows.flatMap((row) => [row.mangrove_ha, row.low_ha, row.high_ha]).filter((value) => value !== null);
    const axis = (low, high, top, size, count) => {
      const y = (value) => top + size - size * (value - low) / (high - low || 1);
      for (const tick of ticks(low, high, count)) picture.append(svg("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), stroke: tick === 0 ? "#7d8a86" : "#e3e8e5" }), label2(left - 8, y(tick) + 4, number(tick), "end"));
      return y;
    };
    const label2 = (at, y, said, anchor) => { const made = svg("text", { x: at, y, "text-anchor": anchor }); made.textContent = said; return made; };
    picture.append(label2(0, 12, text("column.mangrove_ha"), "start"));
    const top = Math.max(...told, 1), low = Math.min(...told), flat = low > 0.6 * top;
    const y = axis(flat ? low - (top - low) * 0.5 - top * 0.01 : 0, top + (top - (flat ? low : 0)) * 0.08 + top * 0.005, 24, tall - 12, 4);
    if (rows.length > 1) picture.append(svg("polyline", { points: rows.map((row) => `${x(row.year)},${y(row.mangrove_ha)}`).join(" "), fill: "none", stroke: "#0b5a4b", "stroke-width": 2.5 }));
    for (const row of rows) {
      if (assessed && row.low_ha !== null) {
        const at = x(row.year);
        for (const [x1, y1, x2, y2] of [[at, y(row.low_ha), at, y(row.high_ha)], [at - 5, y(row.low_ha), at + 5, y(row.low_ha)], [at - 5, y(row.high_ha), at + 5, y(row.high_ha)]]) picture.append(svg("line", { x1, y1, x2, y2, stroke: "#6b4a00", "stroke-width": 2 }));
        picture.append(svg("rect", { x: at - 4, y: y(row.estimated_ha) - 4, width: 8, height: 8, fill: "#e69f00", stroke: "#6b4a00" }));
      }
      const dot = svg("circle", { cx: x(row.year), cy: y(row.mangrove_ha), r: 4.5, fill: row.provisional ? "#fff" : "#0b5a4b", stroke: "#0b5a4b", "stroke-width": 2 }, svg("title", {}));
      dot.firstChild.textContent = `${year(row.year)}: ${hectares(row.mangrove_ha)} ha`;
      picture.append(dot);
    }
    if (changes) {
      const most = Math.max(1, ...rows.map((row) => Math.max(row.loss_ha || 0, row.gain_ha || 0))), start = 30 + tall;
      const z = axis(-most * 1.1, most * 1.1, start, below - 14, 3);
      const wide = Math.min(26, (width - left - right) / rows.length / 2);
      for (const row of rows) {
        if (row.loss_ha === null) continue;
        picture.append(svg("rect", { x: x(row.year) - wide / 2, y: z(row.gain_ha), width: wide, height: Math.max(0, z(0) - z(row.gain_ha)), fill: colours.gain }),
          svg("rect", { x: x(row.year) - wide / 2, y: z(0), width: wide, height: Math.max(0, z(-row.loss_ha) - z(0)), fill: colours.loss }));
      }
      picture.append(label2(0, start - 4, `${text("column.gain_ha")} ↑   ${text("column.loss_ha")} ↓`, "start"));
    }
    const every = Math.ceil(rows.length / Math.floor((width - left) / 44));
    const apart = rows.filter((row, index) => index % every === 0).filter((row, index, kept) => index === 0 || index === kept.length - 1 || x(row.year) - x(kept[index - 1].year) >= 34);
    for (const row of apart) picture.append(label2(x(row.year), height - 6, year(row.year), "middle"));
    clear($("chart"), picture);
  }
  $("series").addEventListener("change", (event) => { state.series = Number(event.target.value); drawSeries(); });
  window.addEventListener("resize", () => drawSeries());

  // --- downloads, provenance ----------------------------------------------------------------------------------------

  function drawFiles() {
    $("downloads").hidden = !data.downloads.length;
    clear($("files"), el("thead", null, el("tr", null, ...["file", "shows", "size", "in_run"].map((key) => el("th", { scope: "col", class: key === "size" ? "number" : null }, text(key))))),
      el("tbody", null, ...data.downloads.map((file) => el("tr", null,
        el("td", null, file.url ? el("a", { href: file.url, download: "" }, file.name) : file.name),
        el("td", null, [texts.en[`layer.${file.kind}`] ? text(`layer.${file.kind}`) : text(`file.${file.kind}`), file.year ? year(file.year) : ""].join(" ")),
        el("td", { class: "number" }, bytes(file.bytes)), el("td", { class: "path" }, file.where)))));
  }
  function drawProvenance() {
    const of = data.provenance, scenes = of.items;
    $("citation").textContent = of.citation;
    const rows = [["run", data.name], ["software", `mangroves ${of.version}`], ["code", of.engine_sha256], ["configuration", of.config_sha256],
      ["scenes", [number(scenes.count), scenes.platforms.map(([name, count]) => `${name} ${number(count)}`).join(", "), scenes.first ? `${scenes.first} – ${scenes.last}` : ""].filter(Boolean).join(" · ")],
      ["scene_list", scenes.sha256], ["lost", fill("lost_refused", { lost: number(of.lost), refused: number(of.refused) })], ["begun", of.created]];
    for (const mask of of.masks) rows.push(["mask", [mask.name, mask.year, mask.citation].filter(Boolean).join(" · ")]);
    clear($("provenance"), ...rows.filter(([, said]) => said).flatMap(([key, said]) => [el("dt", null, text(key)), el("dd", null, said)]));
    clear($("licences"), ...of.licences.map(([what, licence]) => el("li", null, `${what}: ${licence}`)));
  }

  // --- the whole ----------------------------------------------------------------------------------------------------

  function drawWords() {
    document.documentElement.lang = state.lang;
    document.querySelectorAll("[data-text]").forEach((node) => { node.textContent = text(node.dataset.text); });
    document.querySelectorAll("[data-label]").forEach((node) => node.setAttribute("aria-label", text(node.dataset.label)));
    for (const [name, key] of [["in", "zoom_in"], ["out", "zoom_out"]]) { const button = document.querySelector(`.leaflet-control-zoom-${name}`); button.title = text(key); button.setAttribute("aria-label", text(key)); }
    $("map").setAttribute("aria-label", `${text("map")}. ${text("story.hint")}`);
    // What a simulated run says of itself, also in the reader's language.
    if (data.notice.toUpperCase().startsWith("SIMULATED")) $("notice").textContent = `${text("notice.simulated")} (${data.notice})`;
    const span = data.years.length ? (data.years.length > 1 ? `${year(data.years[0])}–${year(data.years[data.years.length - 1])}` : year(data.years[0])) : "";
    $("subtitle").textContent = fill("subtitle", { years: span, places: number(data.regions.length) });
    const chosen = $("place").value;
    clear($("place"), el("option", { value: "" }, text("all_places")), ...data.regions.map((region, index) => el("option", { value: index }, region.name)));
    $("place").value = chosen;
    clear($("series"), ...data.series.map((one, index) => el("option", { value: index }, placeName(one))));
    $("series").value = state.series;
    drawPatches(); drawSeries(); drawFiles(); drawProvenance(); drawChoices(); drawCount(); update();
    document.dispatchEvent(new Event("page-drawn"));
  }
  clear($("language"), ...Object.entries(texts).map(([code, words]) => el("option", { value: code, lang: code }, words.name)));
  const asked = (navigator.languages || [navigator.language || "en"]).map((one) => one.slice(0, 2)).find((one) => texts[one]);
  state.lang = asked || "en";
  $("language").value = state.lang;
  $("language").addEventListener("change", (event) => { state.lang = event.target.value; drawWords(); });

  state.kind = kinds.includes("class") ? "class" : kinds[0];
  state.left = 0;
  state.right = Math.max(0, data.years.length - 1);
  state.left = state.right;
  // Where most mangrove is, so that the first sight is a map and not dots.
  const richest = data.series.filter((one) => one.by === "region").map((one) => [one.rows[one.rows.length - 1].mangrove_ha || 0, data.regions.find((region) => region.name === one.where)]).filter(([, region]) => region).sort((a, b) => b[0] - a[0])[0];
  const home = richest ? richest[1] : data.regions[0];
  map.fitBounds(home ? box(home.box) : everything.length ? box(everything.flat()) : [[-40, -180], [40, 180]]);
  drawWords();
  if (home) $("place").value = String(data.regions.indexOf(home));
  drawGraticule(); drawDots();
  if (data.edits) readSaved();
})();
