// Open WebUI in a browser, as a user has it before them; prints what was seen as JSON. test_open_webui.py runs it.

import { chromium } from 'playwright-core';

const [browserPath, url, agent, chats] = process.argv.slice(2);
const { first, second, long } = JSON.parse(chats); // of each: what is said, and the end of the answer

const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] });
const page = await browser.newPage();
page.setDefaultTimeout(60_000);
const answers = page.locator('.chat-assistant');
const stop = page.getByRole('button', { name: 'Stop', exact: true });

async function send(text) {
  await page.locator('#chat-input').click();
  for (const [number, line] of text.split('\n').entries()) {
    if (number) await page.keyboard.press('Shift+Enter');
    await page.keyboard.insertText(line);
  }
  await page.keyboard.press('Enter');
  await stop.waitFor();
}

async function openChat() {
  await page.goto(url);
  await page.locator('#model-selector-model-button').click();
  await page.getByRole('option', { name: `Select ${agent} model` }).click();
}

/** The text of the newest answer, each time it has changed, until it ends as it should. */
async function watch(end) {
  const seen = [];
  for (;;) {
    const text = (await answers.count()) ? await answers.last().innerText() : '';
    if (text !== seen.at(-1)) seen.push(text);
    if (text.endsWith(end)) return seen;
    await page.waitForTimeout(50); // a user's eye: there is no event for a text that grows
  }
}

await page.goto(url);
await page.getByRole('button', { name: "Okay, Let's Go!" }).click(); // what is new in this version

await openChat();
await send(first.said);
const seen = await watch(first.end);
await stop.waitFor({ state: 'hidden' });
const folded = await answers.last().innerText();
await answers.last().getByText('Thought for').click();
await answers.last().getByText(first.thought).waitFor();
const unfolded = await answers.last().innerText();

await send(long.said);
await answers.nth(1).getByText(long.end).waitFor();
await stop.click();
await stop.waitFor({ state: 'hidden' });
const stopped = await answers.last().innerText();
const firstChat = page.url();

await openChat();
await send(second.said);
await watch(second.end);
await stop.waitFor({ state: 'hidden' });
const secondChat = page.url();

await page.goto(firstChat);
await answers.nth(1).getByText(long.end).waitFor();
const kept = await answers.allInnerTexts();
await browser.close();
console.log(JSON.stringify({ growth: seen.length, folded, unfolded, stopped, chats: [firstChat, secondChat], kept }));
