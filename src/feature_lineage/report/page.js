// The report's figures and its feature browser. Text of corpora, tokens and language models only ever becomes a text node.
"use strict";

// --- data: each file is a script that calls lineage(), as a page opened from disk may not fetch ---------------

const KEPT = 40; // shards held
const arrived = new Map(); // name -> { promise, resolve }

function expect(name) {
  if (!arrived.has(name)) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    arrived.set(name, entry);
  }
  return arrived.get(name);
}

function lineage(name, content) {
  const entry = expect(name);
  entry.done = true;
  entry.resolve(content);
}

function script(source) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = source;
    element.onload = () => resolve(element.remove());
    element.onerror = () => reject(new Error(`${source} is missing: was the report's folder copied as a whole?`));
    document.head.append(element);
  });
}

function load(name) {
  if (!arrived.has(name)) {
    const entry = expect(name);
    script(`data/${name}.js`).catch(entry.reject);
    const shards = [...arrived.keys()].filter((key) => /\.\d+$/.test(key) && arrived.get(key).done); // one under way is waited for
    if (shards.length >= KEPT) arrived.delete(shards[0]);
  }
  return arrived.get(name).promise;
}

// --- elements --------------------------------------------------------------------------------------------------

function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// What has no shape of its own or turns the direction of writing, as `logs.printable` writes it out.
const UNPRINTABLE = /[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
function printable(character) {
  const number = character.charCodeAt(0);
  return number < 256 ? `\\x${number.toString(16).padStart(2, "0")}` : `\\u${number.toString(16).padStart(4, "0")}`;
}

// A token with its line breaks, tabs and other control characters drawn, and its blanks where there is nothing else.
function visible(text) {
  const drawn = text.replaceAll("\r", "␍").replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(UNPRINTABLE, printable);
  return /[^↵⇥␍ ]/.test(drawn) ? drawn : drawn.replaceAll(" ", "·");
}

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)}%`);
const code = (text) => el("code", { class: "token" }, visible(text).replaceAll(" ", "·"));
const address = (model, seed, feature) => `#feature=${model}/${seed}/${feature}`;

// --- figures ---------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");

function layout(figure, place) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true,
    title: { standoff: 8 },
  };
  const narrow = place.clientWidth < 560;
  const own = structuredClone(figure.layout);
  const sankey = figure.data.some((trace) => trace.type === "sankey");
  if (sankey) own.font = { size: narrow ? 10 : 13 };
  own.margin = sankey ? { l: 4, r: 4, t: 12, b: 16 } : { l: 48, r: 12, t: 32, b: 40 };
  own.legend = { orientation: "h", yanchor: "top", y: -0.16, x: 0, ...own.legend };
  own.height = sankey ? (narrow ? 300 : 380) : own.height;
  own.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink") };
  own.template = {
    layout: {
      font: { family: "system-ui, sans-serif", size: 13, color: colour("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
    },
  };
  return own;
}

const BUTTONS = [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]];
const PLAIN = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS };
const config = (place) => (["sankey", "verdicts"].includes(place.id) ? { ...PLAIN, modeBarButtons: [["toImage"]] } : PLAIN);

async function drawFigures() {
  const [study] = await Promise.all([expect("study").promise, script("assets/plotly.min.js")]);
  const drawn = new Map();
  const draw = async (place) => {
    const figure = study.figures[place.dataset.figure];
    drawn.set(place, figure);
    await Plotly.newPlot(place, figure.data, layout(figure, place), config(place));
    const opens = { sankey: openBand, verdicts: openVerdict }[place.id];
    if (opens) place.on("plotly_click", (event) => opens(study, figure.data[0], event.points[0]));
  };
  const watch = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        watch.unobserve(target);
        draw(target);
      }
    },
    { rootMargin: "400px" },
  );
  for (const place of document.querySelectorAll("[data-figure]")) {
    place.style.minHeight = `${layout(study.figures[place.dataset.figure], place).height}px`; // nothing moves when it is drawn
    watch.observe(place);
  }
  dark.addEventListener("change", () =>
    drawn.forEach((figure, place) => Plotly.react(place, figure.data, layout(figure, place), config(place))),
  );
}

// A band of the Sankey opens the browser at the features in it; a node, at those of its origin.
function openBand(study, trace, point) {
  const seed = study.autoencoders[0].seed;
  const band = "source" in point;
  const [model, origin, via] = band
    ? [trace.link.customdata[point.index][1], trace.link.customdata[point.index][2], trace.link.customdata[point.index][0]]
    : [trace.node.customdata[point.index][3], trace.node.customdata[point.index][4], ""];
  location.hash = `browse?${new URLSearchParams(via ? { model, seed, via, origin } : { model, seed, origin })}`;
}

// A band by verdict opens it at that verdict; a node, at the model's features.
function openVerdict(study, trace, point) {
  const seed = study.autoencoders[0].seed;
  if (!("source" in point)) {
    if (study.models.includes(point.label)) location.hash = `browse?${new URLSearchParams({ model: point.label, seed })}`;
    return;
  }
  const [parent, child, verdict] = trace.link.customdata[point.index];
  const wanted = verdict === "new" ? { model: child, seed, verdict } : { model: parent, seed, verdict, edge: child };
  location.hash = `browse?${new URLSearchParams(wanted)}`;
}

// --- by verdict, or by the paper's measure ----------------------------------------------------------------------

function measureBy(by) {
  document.documentElement.dataset.by = by;
  for (const button of document.querySelectorAll(".switch button")) button.setAttribute("aria-pressed", button.dataset.by === by);
}

for (const button of document.querySelectorAll(".switch button")) {
  button.addEventListener("click", () => {
    measureBy(button.dataset.by);
    const there = [...document.querySelectorAll(`.switch [data-by=${button.dataset.by}]`)].find((other) => other.offsetParent);
    if (!button.offsetParent && there) there.focus({ preventScroll: true }); // the one that was pressed is hidden now
  });
}

// --- the feature browser ---------------------------------------------------------------------------------------

const FATES = ["dead", "persisting", "disappearing", "emerging", "unmatched"];
const VERDICTS = ["kept", "found", "drifted", "lost"];
const WORDS = { kept: "kept", found: "found again", drifted: "drifted", lost: "lost" };
const SHARD = 256;
const PAGE = 100;
const form = document.getElementById("filters");
const pane = document.getElementById("feature");

let study, vocabulary, table;
let filters = {}; // those of the address
let hits = []; // [index, feature] of what the filters leave, in the table's order
let open = null; // name of the open feature

const index = (model, seed) => load(`${model}.seed${seed}`);

let starting;
function startBrowser() {
  starting ||= (async () => {
    study = await expect("study").promise;
    fillFilters();
    [vocabulary] = await Promise.all([load("vocabulary"), stylesheet("assets/tabulator_simple.min.css"), script("assets/tabulator.min.js")]);
    await makeTable();
  })();
  return starting;
}

function stylesheet(source) {
  return new Promise((resolve, reject) => {
    const link = el("link", { rel: "stylesheet", href: source });
    link.onload = resolve;
    link.onerror = reject;
    document.querySelector("link[rel=stylesheet]").before(link); // before the page's own, which has the last word
  });
}

function fillFilters() {
  const add = (name, values, text = (value) => value) =>
    form.elements[name].append(...values.map((value) => el("option", { value }, text(value))));
  const seeds = [...new Set(study.autoencoders.map((one) => one.seed))];
  const names = study.autoencoders.map((one) => `${one.model}/${one.seed}`);
  add("model", names, (name) => (seeds.length > 1 ? name.replace("/", ", seed ") : name.split("/")[0]));
  add("model", seeds.map((seed) => `*/${seed}`), (name) => (seeds.length > 1 ? `all, seed ${name.slice(2)}` : "all models"));
  add("category", study.categories);
  add("corpus", study.corpora);
  add("origin", study.models);
  add("edge", study.models);
}

// Which features the filters leave, per index: one pass over columns, no object per feature.
function sieve(one) {
  const number = (names, name) => (name ? names.indexOf(name) : null);
  const category = number(study.categories, filters.category);
  const corpus = number(study.corpora, filters.corpus);
  const origin = number(study.models, filters.origin);
  const via = number(study.models, filters.via);
  const below = one.edges.filter((edge) => edge.side === "parent");
  const above = one.edges.filter((edge) => edge.side === "child");
  const dead = (i) => one.origin[i] < 0;
  const along = below.filter((edge) => !filters.edge || edge.child === filters.edge);
  const became = (word) => (i) => along.some((edge) => edge.verdict[i] === VERDICTS.indexOf(word));
  const there = (i) => above.some((edge) => edge.verdict[i] === 0);
  const verdict = { dead, there, new: (i) => one.new[i] === 1 }[filters.verdict] || (filters.verdict ? became(filters.verdict) : null);
  const persists = (i) => below.some((edge) => edge.fate[i] === 1);
  const inherited = (i) => above.some((edge) => edge.fate[i] === 1);
  const fate = {
    dead,
    persisting: persists,
    disappearing: (i) => below.some((edge) => edge.fate[i] === 2) && !persists(i),
    inherited,
    emerging: (i) => above.some((edge) => edge.fate[i] === 3) && !inherited(i),
  }[filters.fate];
  const words = wanted();
  const tests = [
    category === null ? null : (i) => one.category[i] === category,
    corpus === null ? null : (i) => one.corpus[i] === corpus,
    filters.single ? (i) => one.single[i] === 1 : null,
    ...(filters.by === "paper"
      ? [
          origin === null ? null : (i) => one.origin[i] === origin,
          via === null ? null : (i) => one.via[i] === via,
          fate || null,
        ]
      : [verdict, filters.reproducible ? (i) => one.reproducible[i] === 1 : null]),
    words && ((i) => words.id === i || one.tokens[i].some((token) => words.tokens[token]) || words.explains(one, i)),
  ].filter(Boolean);
  const found = [];
  for (let i = 0; i < one.size; i++) if (tests.every((test) => test(i))) found.push(i);
  return found;
}

// What the search box asks for: a feature's number, tokens that contain the text, explanations that do.
function wanted() {
  const text = filters.q || "";
  if (!text) return null;
  if (/^#\d+$/.test(text)) return { id: Number(text.slice(1)), tokens: [], explains: () => false };
  const low = text.toLowerCase();
  const tokens = vocabulary.map((token) => visible(token).toLowerCase().includes(low) || token.toLowerCase().includes(low));
  const explains = (one, i) => (one.interpretations[i]?.explanation || "").toLowerCase().includes(low);
  return { id: /^\d+$/.test(text) ? Number(text) : -1, tokens, explains };
}

const strongest = (one, i, side, measure = "r") => {
  let best = null;
  for (const edge of one.edges) if (edge.side === side && edge[measure][i] !== null && (best === null || edge[measure][i] > best)) best = edge[measure][i];
  return best;
};

// What became of a feature in each child, or of one in a model without children where it comes from, in a few words.
function verdictWords(one, i) {
  const below = one.edges.filter((edge) => edge.side === "parent" && edge.verdict[i] >= 0);
  if (below.length) return below.map((edge) => [below.length > 1 ? `${edge.child}: ` : "", VERDICTS[edge.verdict[i]]]);
  if (one.new[i] === 1) return [["", "new"]];
  return one.new[i] === 0 ? [["", "there"]] : [];
}
const word = (name) => ({ ...WORDS, new: "new", there: "already there" })[name];

const COLUMNS = {
  feature: (one, i) => i,
  density: (one, i) => one.density[i],
  drift: (one, i) => strongest(one, i, "parent", "drift") ?? strongest(one, i, "child", "drift"),
  above: (one, i) => strongest(one, i, "child"),
  below: (one, i) => strongest(one, i, "parent"),
  score: (one, i) => one.interpretations[i]?.simulation ?? one.interpretations[i]?.token_mean ?? null,
};

function sortHits({ field, dir }) {
  const key = COLUMNS[field];
  const values = new Map(hits.map((hit) => [hit, key(hit[0], hit[1])]));
  const sign = dir === "desc" ? -1 : 1;
  hits.sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x === null || y === null) return (x === null) - (y === null); // what has no value comes last either way
    return sign * (x - y) || a[1] - b[1];
  });
}

function rowOf([one, i]) {
  return {
    id: `${one.model}/${one.seed}/${i}`, one, i, feature: i, density: one.density[i],
    drift: COLUMNS.drift(one, i), above: COLUMNS.above(one, i), below: COLUMNS.below(one, i), score: COLUMNS.score(one, i),
    tokens: one.tokens[i].slice(0, 3), category: study.categories[one.category[i]] || "–",
  };
}

function makeTable() {
  const cell = (make) => (found) => make(found.getRow().getData(), found.getValue());
  const r = (edge) => cell(({ one, i }, value) =>
    value === null ? "–" : el("span", { class: `fate ${one.edges.some((e) => e.side === edge && e.fate[i] === 1) ? "persisting" : ""}` }, value.toFixed(2)));
  const drift = cell((_, value) => (value === null ? "–" : value.toFixed(2)));
  const paper = filters.by === "paper";
  const columns = [
    { title: "feature", field: "feature", width: 118, formatter: cell(({ one, i, id }) => el("a", { class: "number", href: `#feature=${id}`, title: `${one.model} #${i}` }, el("span", {}, one.model), ` #${i}`)) },
    { title: "tokens", field: "tokens", minWidth: 100, widthGrow: 2, headerSort: false, formatter: cell((_, tokens) => el("span", {}, tokens.map((t) => [code(vocabulary[t] ?? `#${t}`), " "]).flat())) },
    { title: "category", field: "category", minWidth: 84, headerSort: false, formatter: "plaintext" },
    { title: "density", field: "density", width: 74, formatter: cell((_, value) => value.toPrecision(2)) },
    { title: "verdict", field: "verdict", width: 92, visible: !paper, headerSort: false, formatter: cell(({ one, i }) => el("span", {}, verdictWords(one, i).flatMap(([model, name], k) => [k ? ", " : "", model, el("span", { class: `fate ${name}` }, word(name))]))) },
    { title: "r", field: "drift", width: 54, visible: !paper, headerTooltip: "between what it does on its own model and on a child, or else on a parent, by its own dictionary", formatter: drift },
    { title: "r, parent", field: "above", width: 66, visible: paper, headerTooltip: "correlation with its closest feature in a parent", formatter: r("child") },
    { title: "r, child", field: "below", width: 62, visible: paper, headerTooltip: "correlation with its closest feature in a child", formatter: r("parent") },
  ];
  if (study.interpreted) columns.push({ title: "score", field: "score", width: 62, headerTooltip: "how well an explanation, or else the token statistics, predict it", formatter: cell((_, value) => (value === null ? "–" : value.toFixed(2))) });
  return new Promise((resolve) => {
    table = new Tabulator("#table", {
      layout: "fitColumns", height: "36rem", columns, index: "id", columnDefaults: { headerSortTristate: true },
      // Pages come from memory: the library never holds, sorts or filters more than one.
      pagination: true, paginationMode: "remote", paginationSize: PAGE, sortMode: "remote", ajaxURL: "memory",
      ajaxRequestFunc: async (_, __, { page, sort }) => {
        if (sort?.length) sortHits(sort[0]);
        return { last_page: Math.max(1, Math.ceil(hits.length / PAGE)), data: hits.slice((page - 1) * PAGE, page * PAGE).map(rowOf) };
      },
      rowFormatter: (row) => row.getElement().classList.toggle("open", row.getData().id === open),
    });
    table.on("rowClick", (event, row) => {
      if (!event.target.closest("a")) location.hash = `feature=${row.getData().id}`;
    });
    table.on("tableBuilt", () => {
      for (const header of document.querySelectorAll("#table .tabulator-col.tabulator-sortable")) {
        header.tabIndex = 0;
        header.addEventListener("keydown", (event) => {
          if (event.key === "Enter" && event.target === header) header.click();
        });
      }
      resolve();
    });
  });
}

async function browse() {
  await startBrowser();
  const [model, seed] = (form.elements.model.value || "").split("/");
  const names = study.autoencoders.filter((one) => String(one.seed) === seed && (model === "*" || one.model === model));
  const indices = await Promise.all(names.map((one) => index(one.model, one.seed)));
  const start = performance.now();
  hits = indices.flatMap((one) => sieve(one).map((i) => [one, i]));
  for (const name of ["verdict", "drift"]) table[filters.by === "paper" ? "hideColumn" : "showColumn"](name);
  for (const name of ["above", "below"]) table[filters.by === "paper" ? "showColumn" : "hideColumn"](name);
  await table.setData();
  const band = filters.by === "paper" && filters.via ? ` that persist from ${filters.via}` + (filters.origin ? `, first seen in ${filters.origin}` : "") : "";
  const total = indices.reduce((sum, one) => sum + one.size, 0);
  document.getElementById("found").textContent = `${hits.length.toLocaleString("en")} of ${total.toLocaleString("en")} features${band}`;
  form.dataset.milliseconds = (performance.now() - start).toFixed(0);
}

// --- one feature -----------------------------------------------------------------------------------------------

function link(model, seed, feature) {
  return el("a", { href: address(model, seed, feature) }, `${model} #${feature}`);
}

const fateWord = (edge, i) => (edge.side === "child" && edge.fate[i] === 1 ? "inherited" : FATES[edge.fate[i]]);

// By verdict: what became of it in each child, and what its own dictionary reads on each parent, with the evidence.
function verdictItems(one, i, side, evidence) {
  const items = one.edges.map((edge, place) => [edge, evidence[place]]).filter(([edge]) => edge.side === side && edge.verdict[i] >= 0);
  if (!items.length) return null;
  return el("ul", { class: "tree" }, items.map(([edge, [direction, decoder, encoder, best, margin, held]]) => {
    const other = side === "parent" ? edge.child : edge.parent;
    const name = VERDICTS[edge.verdict[i]];
    const two = (value) => (value === null ? "–" : value.toFixed(2));
    const said = side === "child" && name === "kept" ? "there" : name;
    const facts = [
      ["r of its own dictionary", two(edge.drift[i])],
      [`best match in ${other}`, edge.match[i] < 0 ? "–" : el("span", {}, link(other, one.seed, edge.match[i]), ` r = ${two(edge.r[i])}`)],
      ["direction of the match", name === "found" ? direction ?? "not measured" : null],
      ["cosine with it: decoder, encoder", decoder === null && encoder === null ? null : `${two(decoder)}, ${two(encoder)}`],
      [`highest decoder cosine in ${other}`, best === null ? null : two(best)],
      ["r of the match less r in other dictionaries", margin === null ? null : two(margin)],
      ["verdict on the held-out half", held === null ? null : word(held)],
    ].filter(([, value]) => value !== null);
    return el("li", {}, `${other}: `, el("span", { class: `fate ${said}` }, word(said)), el("dl", { class: "facts evidence" }, facts.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)])));
  }));
}

// What became of it further down, by what it does.
function tracedItems(one, links) {
  if (!links.length) return null;
  return el("p", {}, links.flatMap(([model, name, feature, r], k) => [
    k ? " · " : "", `${study.models[model]}: `, el("span", { class: `fate ${name}` }, word(name)),
    ...(name === "found" ? [" as ", link(study.models[model], one.seed, feature)] : []), r === null ? "" : ` (r ${r.toFixed(2)})`,
  ]));
}

// What a feature corresponds to on one side, and what that corresponds to in turn as long as it persists.
async function relatives(one, i, side) {
  const items = [];
  for (const edge of one.edges.filter((edge) => edge.side === side)) {
    const other = side === "parent" ? edge.child : edge.parent;
    const persists = edge.fate[i] === 1;
    const word = fateWord(edge, i);
    const item = el("li");
    if (edge.fate[i] === 0) item.append(`${other}: dead here`);
    else if (edge.match[i] < 0) item.append(`${other}: no match stored `);
    else item.append(persists ? "" : `closest in ${other}: `, link(other, one.seed, edge.match[i]), ` r = ${edge.r[i] === null ? "–" : edge.r[i].toFixed(2)} `);
    if (edge.fate[i] !== 0) item.append(el("span", { class: `fate ${persists ? "persisting" : word}` }, word));
    if (persists) {
      const further = await relatives(await index(other, one.seed), edge.match[i], side);
      if (further) item.append(further);
    }
    items.push(item);
  }
  return items.length ? el("ul", { class: "tree" }, items) : null;
}

function context([corpus, tokens, positions, values], highest, corpora) {
  const at = new Map(positions.map((position, k) => [position, values[k]]));
  const line = el("p", { class: "context" }, el("span", { class: "corpus" }, corpora[corpus] ?? ""));
  tokens.forEach((token, position) => {
    // Tokens that only together are a character come as their text.
    const span = el("span", {}, visible(typeof token === "string" ? token : (vocabulary[token] ?? `#${token}`)));
    if (at.has(position)) {
      span.className = "on";
      span.title = at.get(position).toPrecision(3);
      span.style.setProperty("--a", Math.min(1, at.get(position) / highest).toFixed(3));
    }
    line.append(span);
  });
  return line;
}

const weighed = (token, weight) => el("span", {}, code(vocabulary[token] ?? `#${token}`), el("small", {}, weight));

function effects(title, found) {
  if (!found) return null;
  return el("p", { class: "list" }, el("small", {}, title), found.map(([token, value]) => weighed(token, value.toFixed(2))));
}

function interpretation(found) {
  if (!found) return [];
  const names = { simulation: "simulation", shuffled: "shuffled explanation", token_mean: "token statistics", detection: "detection" };
  const scores = Object.entries(names).filter(([name]) => name in found).map(([name, title]) => [el("dt", {}, title), el("dd", {}, found[name].toFixed(2))]);
  return [
    el("h4", {}, "Explanation and scores"),
    ...(found.explanation ? [el("p", {}, found.explanation)] : []),
    ...(found.without || []).map((sentence) => el("p", { class: "note" }, sentence)),
    el("dl", { class: "facts" }, scores.flat()),
  ];
}

async function show(name) {
  const [, model, seed, text] = /^([^/]+)\/(\d+)\/(\d+)$/.exec(name) || [];
  await startBrowser();
  if (!study.autoencoders.some((one) => one.model === model && String(one.seed) === seed)) return fail(`There is no ${name}.`);
  const i = Number(text);
  const one = await index(model, seed);
  if (i >= one.size) return fail(`${model}, seed ${seed} has ${one.size} features: there is no #${i}.`);
  const [shard, above, below] = await Promise.all([
    load(`${model}.seed${seed}.${Math.floor(i / SHARD)}`), relatives(one, i, "child"), relatives(one, i, "parent"),
  ]);
  if (!location.hash.endsWith(name)) return; // another was opened meanwhile
  const k = i % SHARD;
  const category = study.categories[one.category[i]];
  const share = shard.category_share[k];
  const [looking, back] = ["parent", "child"].map((side) => verdictItems(one, i, side, shard.evidence.map((rows) => rows[k])));
  const traced = tracedItems(one, shard.traced[k]);
  const facts = {
    density: one.origin[i] < 0 && !one.density[i] ? "never fires in the sample" : `${one.density[i].toPrecision(3)} (${shard.active[k].toLocaleString("en")} tokens)`,
    reproducible: { 1: "yes", 0: "no" }[one.reproducible[i]] ?? "not measured",
    ...(one.new[i] < 0 ? {} : { new: one.new[i] ? "yes" : "no" }),
    category: category ? `${category}${share === null ? "" : ` (${percent(share)} of its activation)`}${one.single[i] ? ", single token" : ""}` : "–",
    corpus: study.corpora[one.corpus[i]] ? `${study.corpora[one.corpus[i]]} (${percent(shard.corpus_share[k])})` : "–",
    "highest activation": shard.max[k].toPrecision(3),
  };
  const step = (to, title, text) => el("a", { href: to >= 0 && to < one.size ? address(model, seed, to) : null, title, "aria-label": title }, text);
  pane.replaceChildren(
    el("span", { class: "steps" }, step(i - 1, "previous feature", "←"), step(i + 1, "next feature", "→")),
    el("h3", {}, `${model} #${i}`),
    study.autoencoders.some((other) => other.seed !== one.seed) ? el("p", { class: "note" }, `autoencoder seed ${seed}`) : "",
    el("dl", { class: "facts" }, Object.entries(facts).flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)])),
    ...(looking ? [el("h4", {}, "What became of it"), looking] : []),
    ...(traced ? [el("h4", {}, "Down the lineage"), traced] : []),
    ...(back ? [el("h4", {}, "Whether it was there before"), back] : []),
    el("details", { open: filters.by === "paper" || null }, el("summary", {}, "By the paper's measure"),
      el("p", {}, `First seen in ${study.models[one.origin[i]] ?? "–"}.`),
      ...(above ? [el("h4", {}, "Comes from"), above] : []),
      ...(below ? [el("h4", {}, "Goes on as"), below] : [])),
    ...interpretation(one.interpretations[i]),
    el("h4", {}, "Tokens it fires on"),
    el("p", { class: "list" }, one.tokens[i].map((token, n) => weighed(token, percent(shard.shares[k][n])))),
    el("h4", {}, "Strongest contexts"),
    ...(shard.contexts[k].length ? shard.contexts[k].map((found) => context(found, shard.max[k], study.corpora)) : [el("p", { class: "note" }, "None.")]),
    ...(one.not_weighed ? [el("h4", {}, "Effect on the logits"), el("p", { class: "note" }, `Not measured: ${one.not_weighed}.`)] : []),
    ...(shard.promoted[k] ? [el("h4", {}, "Effect on the logits"), effects("raises", shard.promoted[k]), effects("lowers", shard.suppressed[k])] : []),
  );
  pane.classList.add("shown");
  open = name;
  table.getRows().forEach((row) => row.reformat());
}

function fail(message) {
  pane.replaceChildren(el("p", { role: "alert" }, message));
  const found = document.getElementById("found");
  if (found.textContent === "Loading…") found.textContent = "The features could not be loaded.";
  pane.classList.add("shown");
}

// --- the address says what is shown -----------------------------------------------------------------------------

async function route() {
  const hash = location.hash.slice(1);
  try {
    if (hash.startsWith("feature=")) {
      const name = decodeURIComponent(hash.slice(8));
      const first = !table;
      await startBrowser();
      if (first) await select({ model: name.split("/").slice(0, 2).join("/") });
      await show(name);
      const place = matchMedia("(max-width: 60rem)").matches ? pane : document.getElementById("browse");
      const { top } = pane.getBoundingClientRect();
      if (first || place === pane || top < 0 || top > 0.6 * innerHeight) place.scrollIntoView();
      pane.focus({ preventScroll: true });
    } else if (hash.startsWith("browse?")) {
      const { model, seed, ...others } = Object.fromEntries(new URLSearchParams(hash.slice(7)));
      await startBrowser();
      await select({ ...others, model: model && `${model}/${seed ?? study.autoencoders[0].seed}` });
      if (document.activeElement?.form !== form) document.getElementById("browse").scrollIntoView();
    }
  } catch (error) {
    fail(error.message);
  }
}

function select(given) {
  const paper = ["fate", "origin", "via"].some((name) => given[name]); // which are of the paper's measure
  const wanted = paper ? { ...given, by: "paper" } : given;
  form.reset();
  for (const [name, value] of Object.entries(wanted)) {
    const field = form.elements[name];
    if (!field || !value) continue;
    if (field.type === "checkbox") field.checked = true;
    else field.value = value;
  }
  if (!form.elements.model.value) form.elements.model.selectedIndex = 0;
  form.elements.via.value = wanted.via || "";
  return filter();
}

function filter() {
  filters = Object.fromEntries(new FormData(form));
  form.dataset.by = filters.by;
  return browse();
}

function filtersToAddress() {
  const [model, seed] = form.elements.model.value.split("/");
  const others = [...new FormData(form)].filter(([name, value]) => value && name !== "model");
  history.replaceState(null, "", `#browse?${new URLSearchParams([["model", model], ["seed", seed], ...others])}`);
  return filter().catch((error) => fail(error.message));
}

let typing;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  if (event.target.name === "model" || event.target.name === "origin") form.elements.via.value = "";
  clearTimeout(typing);
  typing = setTimeout(filtersToAddress, event.target.type === "search" ? 60 : 0);
});
form.addEventListener("reset", () => {
  form.elements.via.value = "";
  if (table && document.activeElement?.form === form) setTimeout(filtersToAddress);
});
addEventListener("hashchange", route);

for (const place of document.querySelectorAll(".scroll")) {
  const name = place.querySelector("caption")?.textContent.split(/[.;] /)[0] ?? place.querySelector("[role=img]")?.getAttribute("aria-label");
  for (const [key, value] of Object.entries({ tabindex: 0, role: "region", "aria-label": name })) place.setAttribute(key, value);
}
drawFigures();
if (/^#(feature=|browse\?)/.test(location.hash)) {
  route();
} else {
  const section = document.getElementById("browse");
  new IntersectionObserver((entries, watch) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    if (!table) startBrowser().then(() => (table && !open && !hits.length ? select({}) : null)).catch((error) => fail(error.message));
  }, { rootMargin: "600px" }).observe(section);
}
