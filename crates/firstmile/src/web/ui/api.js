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

export const token = () => sessionStorage.getItem(STORED);

async function ask(method, path, body) {
  const headers = {};
  const token = sessionStorage.getItem(STORED);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    signal: AbortSignal.timeout(10_000),
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
export const record = (name, on) => ask("PUT", `${feed(name)}/recording`, { on });

/** A QR code as the address of a picture. */
export async function qr(name, place, form, tls) {
  const answer = await ask("GET", `${feed(name)}/qr?place=${place}&form=${form}&tls=${tls}`);
  return `data:image/svg+xml,${encodeURIComponent(await answer.text())}`;
}
