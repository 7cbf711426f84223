// The page in headless Chromium, with an audio file beside it: prints the text, and takes a picture where asked.
//
//     node try_page.mjs SITE "index.html?wav=speech.wav" [PICTURE.png]
//
// $CHROMIUM names the browser (default: chromium). It is spoken to over a pipe, in the DevTools protocol.

import { spawn } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { mkdtempSync, rmSync } from "node:fs";
import { extname, join, normalize } from "node:path";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const SECONDS = 120; // to load the model and to recognize

const [site, page, picture] = process.argv.slice(2);

/** A web server for the folder, on a free port. */
async function serve(folder) {
  const server = createServer(async (request, response) => {
    const path = join(folder, normalize(new URL(request.url, "http://localhost").pathname));
    try {
      const content = await readFile(path);
      response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}

/** A browser: {send(method, params, session), end()}. */
function browse(profile) {
  const options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=760,520", "--remote-debugging-pipe"];
  const browser = spawn(process.env.CHROMIUM ?? "chromium", [...options, `--user-data-dir=${profile}`], {
    stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
  });
  const waiting = new Map();
  let rest = "";
  browser.stdio[4].on("data", (data) => {
    const messages = (rest + data).split("\0");
    rest = messages.pop();
    for (const message of messages.map((text) => JSON.parse(text))) {
      const { done, failed } = waiting.get(message.id) ?? {};
      if (message.error) failed?.(new Error(message.error.message));
      else done?.(message.result);
    }
  });
  browser.on("error", (error) => waiting.forEach(({ failed }) => failed(error)));
  let id = 0;
  const send = (method, params = {}, sessionId = undefined) =>
    new Promise((done, failed) => {
      waiting.set(++id, { done, failed });
      browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    });
  // Closed rather than killed, so that none of its processes still writes to the profile.
  const close = () => send("Browser.close").catch(() => browser.kill());
  return { send, end: () => new Promise((done) => (browser.on("exit", done), close())) };
}

/** Text and status of the page once it is done, or has failed. */
async function outcome(evaluate) {
  for (let waited = 0; waited < SECONDS * 10; waited++) {
    const { text, status } = await evaluate();
    if (/^(Done|Failed)/.test(status)) return { text, status };
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`the page was not done within ${SECONDS} s`);
}

const profile = mkdtempSync(join(tmpdir(), "page-"));
const server = await serve(site);
const { send, end } = browse(profile);
try {
  const url = `http://127.0.0.1:${server.address().port}/${page}`;
  const { targetId } = await send("Target.createTarget", { url });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const expression = `({text: document.getElementById("text")?.textContent ?? "",
    status: document.getElementById("status")?.textContent ?? ""})`;
  const evaluate = async () =>
    (await send("Runtime.evaluate", { expression, returnByValue: true }, sessionId)).result.value;
  const { text, status } = await outcome(evaluate);
  console.log(text);
  console.error(status);
  if (picture) {
    const { data } = await send("Page.captureScreenshot", { format: "png" }, sessionId);
    await writeFile(picture, Buffer.from(data, "base64"));
  }
  process.exitCode = status.startsWith("Done") ? 0 : 1;
} finally {
  await end();
  server.close();
  rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}
