// The node's events, followed with `fetch`: an EventSource cannot send the token.

import { follow } from "./api.js";

const FIRST_PAUSE_MS = 1000;
const LAST_PAUSE_MS = 30_000;

// A stream says something at least every 15 s.
const SILENT_MS = 40_000;

/** Calls `told` with each event after number `since`, until `signal`; comes back when it is cut off. */
export async function followEvents(since, told, signal) {
  let last = since;
  let pause = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    const cut = new AbortController();
    const stop = () => cut.abort();
    signal.addEventListener("abort", stop);
    try {
      const answer = await follow(last, cut.signal);
      pause = FIRST_PAUSE_MS;
      for await (const event of read(answer.body, cut)) {
        last = event.id;
        told(event);
      }
    } catch (error) {
      // A wrong token is the page's business, and a lost node is seen by its status.
      if (error.status === 401) return;
    } finally {
      signal.removeEventListener("abort", stop);
    }
    if (!signal.aborted) await sleep(pause, signal);
    pause = Math.min(pause * 2, LAST_PAUSE_MS);
  }
}

async function* read(body, cut) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const silence = setTimeout(() => cut.abort(), SILENT_MS);
    const { done, value } = await reader.read();
    clearTimeout(silence);
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice("data: ".length));
    }
  }
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
