// The node's API, and the token that opens it.

const STORED = "firstmile-token";

/** Takes the token out of the address, so that it is in no history and no screenshot. */
export function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname);
  setToken(token);
}

export function setToken(token) {
  if (token) sessionStorage.setItem(STORED, token.trim());
  else sessionStorage.removeItem(STORED);
}

export function hasToken() {
  return sessionStorage.getItem(STORED) !== null;
}

async function ask(method, path, body, more = {}) {
  const headers = { ...more.headers };
  const token = sessionStorage.getItem(STORED);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    signal: more.signal ?? AbortSignal.timeout(10_000),
  });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ error: `it answers ${answer.status}`, hint: "" }));
  const error = new Error(told.hint ? `${told.error}: ${told.hint}` : told.error);
  error.status = answer.status;
  throw error;
}

const feed = (name) => `/api/v1/feeds/${encodeURIComponent(name)}`;

export const status = async () => (await ask("GET", "/api/v1/status")).json();
/** Fails with 401 if the token is wrong, and with 421 at a relay. */
export const check = () => ask("GET", "/api/v1/feeds");
export const addFeed = (name) => ask("POST", "/api/v1/feeds", { name });
export const removeFeed = (name) => ask("DELETE", feed(name));
export const rotate = (name) => ask("POST", `${feed(name)}/rotate`);
/** `timing` has what is to be set of `play_delay_ms` and `play_max_delay_ms`; null: as for all feeds. */
export const setTiming = (name, timing) => ask("PATCH", feed(name), timing);
export const record = (name, on) => ask("PUT", `${feed(name)}/recording`, { on });
export const recordings = async () => (await ask("GET", "/api/v1/recordings")).json();
export const removeRecording = (name) => ask("DELETE", `/api/v1/recordings/${encodeURIComponent(name)}`);
/** Where a file of a recording can be fetched once, without the token. */
export async function ticket(name, number) {
  const answer = await ask("POST", `/api/v1/recordings/${encodeURIComponent(name)}/files/${number}/ticket`);
  return (await answer.json()).path;
}

const EVENTS = "/api/v1/events";

export const events = async () => (await ask("GET", `${EVENTS}?limit=500`)).json();
/** An open stream of what happens after this number. */
export const follow = (since, signal) =>
  ask("GET", EVENTS, undefined, { headers: { Accept: "text/event-stream", "Last-Event-ID": String(since) }, signal });

export async function eventsFile(format, feed, severity) {
  const query = new URLSearchParams({ format, severity, limit: 2000 });
  if (feed) query.set("feed", feed);
  return (await ask("GET", `${EVENTS}?${query}`)).blob();
}

/** A QR code as the address of a picture. */
export async function qr(name, place, form, tls) {
  const answer = await ask("GET", `${feed(name)}/qr?place=${place}&form=${form}&tls=${tls}`);
  return `data:image/svg+xml,${encodeURIComponent(await answer.text())}`;
}
