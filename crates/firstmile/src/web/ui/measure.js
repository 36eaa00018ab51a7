// Measures this device's way to the relay that served the page, and leads on to the other relays.
//
// What is behind # is `others`, hosts still to be measured, and `had`, what the pages before this one
// measured: HOST~ROUND TRIP IN MS~KILOBITS A SECOND. Both are lists with commas, and no server sees them.

const PINGS = 12;
// Each upload is larger than the one before, until one took long enough to say something.
const SIZES = [64, 256, 1024, 4096, 8192].map((kib) => kib * 1024);
const ENOUGH_MS = 2500;
const PATIENCE_MS = 20000;

const show = (id, text) => {
  document.getElementById(id).textContent = text;
};

const ask = async (path, options = {}) => {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS), ...options });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ error: `it answers ${answer.status}`, hint: "" }));
  throw new Error(told.hint ? `${told.error}: ${told.hint}` : told.error);
};

async function timed(path, options) {
  const start = performance.now();
  await ask(path, options);
  return performance.now() - start;
}

/** Milliseconds there and back: the median, of a connection that is open already. */
async function roundTrip() {
  await ask("/measure/ping");
  const times = [];
  for (let ping = 0; ping < PINGS; ping += 1) times.push(await timed("/measure/ping"));
  times.sort((a, b) => a - b);
  return times[PINGS / 2];
}

/** What does not get smaller on the way. */
function noise(size) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
}

/** Kilobits a second that this device sends. */
async function upload(most, trip) {
  let kbps = 0;
  for (const size of SIZES.filter((size) => size <= most)) {
    const took = await timed("/measure/upload", { method: "POST", body: noise(size) });
    // The last byte takes half a round trip, and so does the answer.
    kbps = (size * 8) / Math.max(1, took - trip);
    show("rate", `${rate(kbps)} …`);
    if (took > ENOUGH_MS) break;
  }
  return kbps;
}

const rate = (kbps) => (kbps < 1000 ? `${Math.round(kbps)} kb/s` : `${(kbps / 1000).toFixed(1)} Mb/s`);

function advice(kbps, trip) {
  const most = `Set the encoder's bitrate to ${rate(kbps * 2 / 3)} or less here.`;
  return trip > 150 ? `${most} The way is long: look for a relay that is nearer.` : most;
}

const list = (name) => (new URLSearchParams(location.hash.slice(1)).get(name) ?? "").split(",").filter(Boolean);

/** Another relay's page; nothing if it is no host. */
function pageOf(host) {
  const page = new URL(location.pathname, location.href);
  // A host without a port would keep this one's.
  page.port = "";
  page.host = host;
  return page.host === host.toLowerCase() ? page : null;
}

/** What was measured, the best upload first, and the way on. */
function lead(trip, kbps) {
  const had = list("had").map((entry) => entry.split("~"))
    .filter((entry) => entry.length === 3 && entry[0] !== location.host);
  had.push([location.host, String(Math.round(trip)), String(Math.round(kbps))]);
  const rows = [...had].sort((a, b) => b[2] - a[2]).map(([host, trip, kbps]) => {
    const row = document.createElement("li");
    row.textContent = `${host}: ${Math.round(trip)} ms, ${rate(Number(kbps))}`;
    return row;
  });
  const place = document.getElementById("had");
  place.replaceChildren(...rows);
  place.hidden = had.length < 2;
  const [next, ...others] = list("others").filter(pageOf);
  const link = document.getElementById("next");
  link.hidden = next === undefined;
  if (link.hidden) return;
  const page = pageOf(next);
  page.hash = new URLSearchParams({ others: others.join(","), had: had.map((entry) => entry.join("~")).join(",") });
  link.href = page.href;
  link.textContent = `Measure the way to ${next}`;
}

async function measure() {
  const again = document.getElementById("again");
  again.disabled = true;
  show("advice", "Measuring …");
  show("trip", "–");
  show("rate", "–");
  try {
    const about = await (await ask("/measure/about")).json();
    show("relay", [about.host, about.region].filter(Boolean).join(", "));
    const trip = await roundTrip();
    show("trip", `${Math.round(trip)} ms`);
    const kbps = await upload(about.upload, trip);
    show("rate", rate(kbps));
    show("advice", advice(kbps, trip));
    lead(trip, kbps);
  } catch (error) {
    show("advice", `It could not be measured: ${error.message}`);
  }
  again.disabled = false;
}

document.getElementById("again").addEventListener("click", measure);
measure();
