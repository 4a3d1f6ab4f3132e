// The explorer. Everything that came through a proxy is put on the page as text,
// never as markup.
import { verifyInclusion } from "/explorer/proof.js";

const $ = (id) => document.getElementById(id);
const state = { rows: new Map(), next: "", filters: "", selected: "", newest: -1 };

async function call(path) {
  const r = await fetch(path, { headers: { Accept: "application/json" } });
  const body = await r.json().catch(() => ({}));
  if (!r.ok) throw new Error(body.detail || `${path}: ${r.status}`);
  return body;
}

function el(tag, text, cls) {
  const e = document.createElement(tag);
  if (text !== undefined && text !== null) e.textContent = text;
  if (cls) e.className = cls;
  return e;
}

// plain shows a value that may be sealed.
function plain(v) {
  if (v === undefined || v === null) return "";
  if (typeof v !== "object") return String(v);
  if (Array.isArray(v)) return v.map(plain).join(", ");
  return v.value !== undefined ? `${v.value} (sealed)` : "(sealed)";
}

const when = (t) => (t || "").replace("T", " ").slice(0, 23);

// short leaves the date out where it is today's.
const short = (t) => (t && t.startsWith(new Date().toISOString().slice(0, 10)) ? t.slice(11, 23) : when(t).slice(0, 19));

function answer(r) {
  const p = (r && r.response) || {};
  if (p.outcome !== "complete") return [p.outcome || "…", "bad"];
  if (!p.received_sha256) return ["by the proxy", "dim"];
  const same = p.received_sha256 === p.sent_sha256 && p.received_size === p.size;
  return same ? ["unchanged", "ok"] : ["CHANGED", "bad"];
}

// asks is what the request was for in the words of its protocol.
const asks = (r) => { const o = r.operation || {}; return [o.kind, o.name, o.target].filter(Boolean).join(" "); };

// target is the path of a request, with its operation where that says more.
function target(r) {
  const path = plain(r.path) || r.authority, op = asks(r);
  return op && path !== "/" + op ? `${path}  ${op}` : path;
}

function filters() {
  const q = new URLSearchParams();
  for (const [k, v] of new FormData($("search"))) if (v.trim()) q.set(k, v.trim());
  return q;
}

async function search(cursor) {
  const q = filters();
  state.filters = q.toString();
  q.set("limit", "100");
  q.set("stage", "response");
  if (cursor) q.set("cursor", cursor);
  const page = await call("/v1/records?" + q);
  if (!cursor) state.rows.clear();
  const fresh = page.records.filter((r) => !state.rows.has(r.exchange));
  for (const r of page.records) state.rows.set(r.exchange, { response: r, request: (state.rows.get(r.exchange) || {}).request });
  state.next = page.next || "";
  await requests(fresh, cursor);
  draw();
}

// requests finds what the exchanges of some responses asked for.
async function requests(responses, cursor) {
  if (!responses.length) return;
  const q = new URLSearchParams(state.filters);
  q.set("limit", "200");
  q.set("stage", "request");
  if (!cursor) for (const r of (await call("/v1/records?" + q)).records) join(r);
  const missing = responses.filter((r) => !state.rows.get(r.exchange).request);
  await Promise.all(missing.map(async (r) => (await call("/v1/records?stage=request&exchange=" + r.exchange)).records.forEach(join)));
}

function join(r) {
  const row = state.rows.get(r.exchange);
  if (row) row.request = r;
}

function draw() {
  const body = $("rows");
  const list = [...state.rows.entries()].sort((a, b) => b[1].response.index - a[1].response.index);
  body.replaceChildren(...list.map(([id, x]) => line(id, x)));
  $("more").hidden = !state.next;
  const m = $("message");
  m.className = "";
  m.textContent = list.length ? `${list.length} exchanges` : "Nothing was found. Send a request through the proxy.";
}

function line(id, x) {
  const q = x.request || {}, tr = el("tr");
  const [text, cls] = answer(x.response);
  const who = q.who ? plain(q.who.id) + (q.who.verified ? "" : " ?") : "";
  tr.append(el("td", short(q.time || x.response.time)), el("td", who), el("td", q.method), el("td", target(q)),
    el("td", (x.response.response || {}).status), el("td", text, cls), el("td", q.service, "dim"));
  tr.tabIndex = 0;
  tr.setAttribute("aria-selected", id === state.selected);
  tr.title = id;
  const open = () => show(id).catch(failed);
  tr.addEventListener("click", open);
  tr.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); open(); } });
  return tr;
}

function facts(pairs) {
  const dl = el("dl");
  for (const [k, v, cls] of pairs) if (v !== "" && v !== undefined && v !== null) dl.append(el("dt", k), el("dd", v, cls));
  return dl;
}

const body = (b) => (b ? `${b.size} bytes, SHA-256 ${b.sha256}` : "");

function described(r) {
  const p = r.response || {};
  const pairs = [["index", r.index], ["producer", `${r.producer} #${r.sequence}`], ["time", when(r.time)]];
  if (r.who) {
    pairs.push(["who", `${plain(r.who.id)}, by ${r.who.how}, ${r.who.verified ? "verified" : "not verified"}`]);
    if (r.who.certificate_sha256) pairs.push(["certificate", plain(r.who.certificate_sha256)]);
    if (r.who.issuer) pairs.push(["issuer", plain(r.who.issuer)]);
    for (const [name, value] of Object.entries(r.who.claims || {})) pairs.push(["claim " + name, plain(value)]);
  }
  if (r.method) pairs.push(["asked", `${r.method} ${r.scheme ? r.scheme + "://" : ""}${r.authority}${plain(r.path)}`]);
  if (r.operation) pairs.push(["operation", `${r.operation.protocol} ${asks(r)}`]);
  if (r.decision) pairs.push(["decision", `${r.decision.allowed ? "allowed" : "denied"} by ${r.decision.rule}`]);
  pairs.push(["template", r.template], ["query", plain(r.query)], ["source", plain(r.source)], ["trace", r.trace], ["body", body(r.request)]);
  if (r.response) {
    const [text, cls] = answer(r);
    pairs.push(["status", p.status], ["answer", text, cls], ["detail", p.detail]);
    if (p.received_sha256) pairs.push(["received", body({ size: p.received_size, sha256: p.received_sha256 })]);
    if (p.sent_sha256) pairs.push(["sent", body({ size: p.size, sha256: p.sent_sha256 })]);
    for (const a of p.attempts || []) {
      const how = [a.status, a.detail, `${(a.duration_ns / 1e6).toFixed(2)} ms`, a.certificate_sha256 && `certificate SHA-256 ${a.certificate_sha256}`];
      pairs.push(["attempt", [a.upstream, ...how.filter(Boolean)].join(", ")]);
    }
    pairs.push(["took", `${(p.duration_ns / 1e6).toFixed(2)} ms`]);
  }
  for (const [name, v] of Object.entries(r.headers || {})) pairs.push([name, plain(v), "mono"]);
  for (const [name, v] of Object.entries(r.credentials || {})) pairs.push([name, `keyed digest ${v}`, "mono"]);
  return facts(pairs);
}

async function show(exchange) {
  state.selected = exchange;
  history.replaceState(null, "", "#" + exchange); // a link to it
  for (const tr of $("rows").children) tr.setAttribute("aria-selected", tr.title === exchange);
  const found = (await call("/v1/records?exchange=" + exchange)).records.reverse();
  const records = await Promise.all(found.map((r) => call("/v1/records/" + r.index)));
  const box = $("detail");
  box.replaceChildren(el("h2", "Exchange"), el("p", exchange, "mono"));
  for (const r of records) {
    const proof = el("p", "checking the proof…", "dim");
    const link = el("a", "evidence file");
    link.href = `/v1/records/${r.index}/evidence`;
    link.download = `${r.index}.evidence`;
    const page = el("a", "check it in the verifier");
    page.href = "/verifier";
    box.append(el("h3", r.stage), proof, described(r), link, " · ", page);
    verifyInclusion(r.index, r.leaf_hash).then(
      (p) => { proof.className = "ok"; proof.textContent = `✓ included: this browser hashed the entry and ${p.steps} nodes up to the root of the log's checkpoint of ${p.size} entries, which carries ${p.cosigners} cosignatures`; },
      (e) => { proof.className = "bad"; proof.textContent = `✗ ${e.message}`; });
  }
}

async function parties() {
  const r = await fetch("/checkpoint");
  if (r.ok) {
    const lines = (await r.text()).split("\n");
    const signers = lines.filter((l) => l.startsWith("— ")).map((l) => l.split(" ")[1]);
    const pair = (k, v) => { const d = el("div"); d.append(el("dt", k), el("dd", v)); return d; };
    $("head").replaceChildren(pair("log", lines[0]), pair("entries", lines[1]), pair("cosigned by", signers.filter((s) => s !== lines[0]).map((s) => s.split("/").pop()).join(", ") || "nobody"));
    if (lines[1] !== state.newest) { state.newest = lines[1]; return true; }
  }
  return false;
}

async function tables() {
  const [p, w] = await Promise.all([call("/v1/producers"), call("/v1/witnesses")]);
  $("producers").replaceChildren(...p.producers.map((x) => {
    const tr = el("tr"), sum = (k) => x.incarnations.reduce((n, i) => n + i[k], 0), last = x.incarnations.at(-1);
    tr.append(el("td", x.name), el("td", sum("records")), el("td", sum("sealed")), el("td", last && last.last ? when(last.last.time) : ""));
    return tr;
  }));
  $("witnesses").replaceChildren(...(w.witnesses || []).map((x) => {
    const tr = el("tr");
    tr.append(el("td", x.name), el("td", x.size), el("td", x.lag || (x.error ? "not answering" : "")), el("td", when(x.time)));
    if (x.error) tr.title = x.error;
    return tr;
  }));
}

function failed(e) {
  $("message").className = "bad";
  $("message").textContent = e.message;
}

async function follow() {
  try {
    if ((await parties()) && $("live").checked && document.visibilityState === "visible") {
      await Promise.all([search(), tables()]);
    }
  } catch (e) { failed(e); }
  setTimeout(follow, 2000);
}

$("search").addEventListener("submit", (e) => { e.preventDefault(); search().catch(failed); });
$("more").addEventListener("click", () => { $("live").checked = false; search(state.next).catch(failed); });
const linked = location.hash.slice(1);
if (/^[0-9a-f-]{36}$/.test(linked)) show(linked).catch(failed);
follow();
