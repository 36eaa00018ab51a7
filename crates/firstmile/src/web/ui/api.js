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

// What the program says of this browser: whether there is a password, and whether it was given.
let session = { password: false, owner: false };
// How often it let this browser in after it had shut it out, here or in another tab.
let [admissions, isOut] = [0, false];

/** Whether this page may see keys and change something, as far as it knows. */
export function hasToken() {
  return sessionStorage.getItem(STORED) !== null || session.owner;
}

export const hasPassword = () => session.password;
/** Whether the program has said that this page is its owner's. */
export const isOwner = () => session.owner;

/** Forgets the token; says whether there was one. */
export function dropToken() {
  const had = sessionStorage.getItem(STORED) !== null;
  setToken(null);
  return had;
}
export const isLoggedIn = () => session.owner && sessionStorage.getItem(STORED) === null;

/** Asks anew whether this browser has logged in. */
export async function refresh() {
  session = await (await ask("GET", "/api/v1/session")).json();
}

/** Whether the password was right; fails if it cannot be asked. */
export async function logIn(password) {
  try {
    await ask("POST", "/api/v1/login", { password });
  } catch (error) {
    if (error.status !== 401) throw error;
    return false;
  }
  await refresh();
  return true;
}

export async function logOut() {
  await ask("POST", "/api/v1/logout");
  await refresh();
}

export const token = () => sessionStorage.getItem(STORED);
/** Something else whenever this page may be let in where it was not before. */
export const credentials = () => `${token() ?? ""} ${admissions}`;

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

export async function status() {
  try {
    const answer = await (await ask("GET", "/api/v1/status")).json();
    if (isOut) [admissions, isOut] = [admissions + 1, false];
    return answer;
  } catch (error) {
    isOut ||= error.status === 401;
    throw error;
  }
}
export const addFeed = (name) => ask("POST", "/api/v1/feeds", { name });
export const removeFeed = (name) => ask("DELETE", feed(name));
export const rotate = (name) => ask("POST", `${feed(name)}/rotate`);
export const pause = (name, on) => ask("PUT", `${feed(name)}/pause`, { on });
/** `{ until_s }`, `{ for_s }`, or neither for ever. */
export const limit = (name, valid) => ask("PUT", `${feed(name)}/validity`, valid);
/** `timing` has what is to be set of `play_delay_ms` and `play_max_delay_ms`; null: as for all feeds. */
export const setTiming = (name, timing) => ask("PATCH", feed(name), timing);
export const record = (name, on) => ask("PUT", `${feed(name)}/recording`, { on });

export const joinRelay = (link) => ask("POST", "/api/v1/relays", { link });
export const leaveRelay = (key) => ask("DELETE", `/api/v1/relays/${encodeURIComponent(key)}`);
export const admit = (key, on) => ask("PUT", `/api/v1/studios/${encodeURIComponent(key)}/admission`, { on });
export const invite = async (body) => (await ask("POST", "/api/v1/invites", body)).json();
export const revokeInvite = (id) => ask("DELETE", `/api/v1/invites/${encodeURIComponent(id)}`);

const list = async (what) => (await ask("GET", `/api/v1/${what}`)).json();

/** What only those see who may change it: relays, or studios and invites. */
export async function lists(role) {
  if (role !== "relay") return { relays: await list("relays") };
  const [studios, invites] = await Promise.all([list("studios"), list("invites")]);
  return { studios, invites };
}

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
