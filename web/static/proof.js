// RFC 6962 inclusion, checked in the browser from the bytes of the entry.

const width = 256;

const bytes = (b64) => Uint8Array.from(atob(b64), (c) => c.charCodeAt(0));
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

async function sha256(...parts) {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) { all.set(p, at); at += p.length; }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", all));
}

// tilePath is the path of C2SP tlog-tiles.
export function tilePath(n, w) {
  let path = String(n % 1000).padStart(3, "0");
  for (n = Math.floor(n / 1000); n > 0; n = Math.floor(n / 1000)) path = "x" + String(n % 1000).padStart(3, "0") + "/" + path;
  return `/tile/entries/${path}` + (w < width ? `.p/${w}` : "");
}

// entryAt fetches the bundle that holds an entry and cuts the entry out.
async function entryAt(index, size) {
  const n = Math.floor(index / width), w = Math.min(width, size - n * width);
  const r = await fetch(tilePath(n, w));
  if (!r.ok) throw new Error(`the log does not serve entry ${index}`);
  const data = new Uint8Array(await r.arrayBuffer());
  let at = 0;
  for (let i = n * width; at + 2 <= data.length; i++) {
    const end = at + 2 + data[at] * 256 + data[at + 1];
    if (i === index && end <= data.length) return data.slice(at + 2, end);
    at = end;
  }
  throw new Error(`the log's bundle does not hold entry ${index}`);
}

// rootOf follows an audit path from a leaf to the root (RFC 9162, section 2.1.3.2).
// Sizes stay below 2^53, where numbers are exact.
export async function rootOf(leaf, index, size, path) {
  const one = new Uint8Array([1]);
  let fn = index, sn = size - 1, r = leaf;
  for (const p of path) {
    if (sn === 0) throw new Error("the proof is too long");
    if (fn % 2 === 1 || fn === sn) {
      r = await sha256(one, p, r);
      while (fn % 2 === 0 && fn !== 0) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2); }
    } else {
      r = await sha256(one, r, p);
    }
    fn = Math.floor(fn / 2);
    sn = Math.floor(sn / 2);
  }
  if (sn !== 0) throw new Error("the proof is too short");
  return r;
}

// verifyInclusion proves that the entry at the index is the one with this leaf
// hash, and stands under the log's checkpoint.
export async function verifyInclusion(index, leafHash) {
  const r = await fetch(`/v1/records/${index}/proof`);
  if (!r.ok) throw new Error(`the log gives no proof of entry ${index}`);
  const text = await r.text();
  const gap = text.indexOf("\n\n");
  const lines = text.slice(0, gap).split("\n"), checkpoint = text.slice(gap + 2).split("\n");
  if (lines[0] !== "c2sp.org/tlog-proof@v1" || lines[1] !== `index ${index}`) throw new Error("this is not the proof that was asked for");
  const size = Number(checkpoint[1]), root = bytes(checkpoint[2]);
  const leaf = await sha256(new Uint8Array([0]), await entryAt(index, size));
  if (!same(leaf, bytes(leafHash))) throw new Error(`entry ${index} does not hash to its leaf: it has been altered`);
  const path = lines.slice(2).map(bytes);
  if (!same(await rootOf(leaf, index, size, path), root)) throw new Error(`entry ${index} does not stand under the log's checkpoint`);
  const cosigners = checkpoint.filter((l) => l.startsWith("— ")).length - 1;
  return { size, steps: path.length, cosigners };
}
