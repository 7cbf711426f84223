// A page in headless Chromium, as wide as is asked for: takes a picture of all of it, and prints what a test asks, in
// one line of JSON for each width. The pictures are FOLDER/400.png, FOLDER/400-dark.png, ...
//
//     node look.mjs PAGE.html FOLDER 400 1600 400-dark 760-print
//
// $CHROMIUM names the browser (default: chromium). It is spoken to over a pipe, in the DevTools protocol.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [page, folder, ...looks] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "look-"));
const options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", `--user-data-dir=${profile}`];
const browser = spawn(process.env.CHROMIUM ?? "chromium", options, {
  stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
});
const waiting = new Map();
let requests = [];
let rest = "";
browser.stdio[4].on("data", (data) => {
  const messages = (rest + data).split("\0");
  rest = messages.pop();
  for (const message of messages.map((text) => JSON.parse(text))) {
    if (message.method === "Network.requestWillBeSent") requests.push(message.params.request.url.slice(0, 200));
    const { done, failed } = waiting.get(message.id) ?? {};
    if (message.error) failed?.(new Error(message.error.message));
    else done?.(message.result);
  }
});
let id = 0;
const send = (method, params = {}, sessionId = undefined) =>
  new Promise((done, failed) => {
    waiting.set(++id, { done, failed });
    browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  });

/** In the page: its widths, what reaches beyond them, how long each audio is (null: it cannot be played). */
async function measure() {
  const inside = document.documentElement.clientWidth;
  const tables = [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth + 1);
  const beyond = [...document.querySelectorAll("body *")]
    .filter((one) => !one.closest(".scroll, thead") && one.getBoundingClientRect().right > inside + 1)
    .map((one) => `${one.tagName}.${one.getAttribute("class") ?? ""}: ${one.textContent.slice(0, 60)}`);
  const duration = (audio) =>
    new Promise((done) => {
      audio.onloadedmetadata = () => done(audio.duration);
      audio.onerror = () => done(null);
      audio.load();
    });
  const audios = [...document.querySelectorAll("audio")];
  audios.forEach((audio) => (audio.preload = "metadata"));
  return {
    inside,
    scroll: document.documentElement.scrollWidth,
    tables: tables.map((box) => box.textContent.trim().slice(0, 60)),
    beyond,
    durations: await Promise.all(audios.map(duration)),
    background: getComputedStyle(document.body).backgroundColor,
    scripts: window.spoiled ?? null,
  };
}

/** The page as `look` says, in a new tab. */
async function seen(look) {
  const [width, kind] = look.split("-");
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const ask = (method, params) => send(method, params, sessionId);
  requests = [];
  await ask("Network.enable");
  await ask("Page.enable");
  const phone = Number(width) < 600;
  await ask("Emulation.setDeviceMetricsOverride", { width: +width, height: 900, deviceScaleFactor: 1, mobile: phone });
  const features = [{ name: "prefers-color-scheme", value: kind === "dark" ? "dark" : "light" }];
  await ask("Emulation.setEmulatedMedia", { media: kind === "print" ? "print" : "screen", features });
  const { errorText } = await ask("Page.navigate", { url: pathToFileURL(resolve(page)).href });
  if (errorText) throw new Error(`${page}: ${errorText}`);
  for (let state = ""; state !== "complete"; ) {
    await new Promise((done) => setTimeout(done, 50));
    const expression = "location.protocol === 'file:' ? document.readyState : ''";
    state = (await ask("Runtime.evaluate", { expression })).result.value;
  }
  const expression = `(${measure})()`;
  const { result } = await ask("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  const { cssContentSize } = await ask("Page.getLayoutMetrics");
  const height = Math.min(cssContentSize.height, 16000); // of textures
  const area = { x: 0, y: 0, width: +width, height, scale: 1 };
  const shot = await ask("Page.captureScreenshot", { format: "png", captureBeyondViewport: true, clip: area });
  await writeFile(join(folder, `${look}.png`), Buffer.from(shot.data, "base64"));
  await send("Target.closeTarget", { targetId });
  return { look, ...result.value, requests: requests.filter((url) => !url.startsWith("data:")) };
}

try {
  for (const look of looks) console.log(JSON.stringify(await seen(look)));
} finally {
  // Closed rather than killed, so that none of its processes still writes to the profile.
  await new Promise((done) => (browser.on("exit", done), send("Browser.close").catch(() => browser.kill())));
  rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}
