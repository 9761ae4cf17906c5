// Open WebUI in a browser, as a user has it before them: what one of the scenarios below has seen, printed as JSON.
// test_open_webui.py runs it. Each look at the page is kept as two pictures, light and dark.

import { chromium } from 'playwright-core';

const [browserPath, url, agent, pictures, scenario, given] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
page.setDefaultTimeout(30_000);
// What is new in this version; nobody knows when it comes.
await page.addLocatorHandler(page.getByRole('button', { name: "Okay, Let's Go!" }), (button) => button.click());

const answers = page.locator('.chat-assistant');
const questions = page.locator('.chat-user');
const stop = page.getByRole('button', { name: 'Stop', exact: true });

async function look(name) {
  await page.getByText("You're now logged in.").waitFor({ state: 'hidden' });
  for (const colorScheme of ['dark', 'light']) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: `${pictures}/${scenario}-${name}-${colorScheme}.png`, animations: 'disabled' });
  }
}

async function openChat() {
  await page.goto(url);
  await page.locator('#model-selector-model-button').click();
  await page.getByRole('option', { name: `Select ${agent} model` }).click();
}

async function send(text) {
  await page.locator('#chat-input').click();
  for (const [number, line] of text.split('\n').entries()) {
    if (number) await page.keyboard.press('Shift+Enter');
    await page.keyboard.insertText(line);
  }
  await page.keyboard.press('Enter');
}

/** Wait until the newest answer, which has this in it, is over; return all of its text. */
async function answered(text) {
  await answers.last().getByText(text).first().waitFor();
  await stop.waitFor({ state: 'hidden' });
  return answers.last().innerText();
}

async function interrupt(text) {
  await answers.last().getByText(text).waitFor();
  await stop.click();
  await stop.waitFor({ state: 'hidden' });
  return answers.last().innerText();
}

async function regenerate(how) {
  await answers.last().hover();
  await page.getByRole('button', { name: 'Regenerate', exact: true }).last().click();
  await page.getByText(how, { exact: true }).click();
}

async function edit(text, question = questions.last()) {
  await question.hover();
  await question.getByRole('button', { name: 'Edit' }).click();
  await questions.getByRole('textbox').fill(text);
  await questions.getByRole('button', { name: 'Send' }).click();
}

/** What a user does in a chat; each step returns the text of the newest answer afterwards. */
const steps = {
  async say({ text, end }) {
    await send(text);
    return answered(end);
  },
  /** Stop when the answer has `behind` in it; without that, before there is an answer. */
  async stop({ text, behind }) {
    await send(text);
    await questions.last().getByText(text.split('\n').at(-1)).waitFor();
    if (behind) return interrupt(behind);
    await stop.click();
    await stop.waitFor({ state: 'hidden' });
    return answers.last().innerText();
  },
  async edit({ old, text, end }) {
    await edit(text, questions.filter({ has: page.getByText(old, { exact: true }) }));
    return answered(end);
  },
  async regenerate({ end }) {
    await regenerate('Try Again');
    return answered(end);
  },
  /** Show the answer before a regeneration again. */
  async goBack({ end }) {
    await page.getByRole('button', { name: 'Previous message' }).last().click();
    return answered(end);
  },
};

const scenarios = {
  /** Two chats; in the first an answer that grows, whose reasoning is folded, and one that is stopped. */
  async chats({ first, second, long }) {
    await openChat();
    await send(first.said);
    const seen = [];
    for (;;) {
      const text = (await answers.count()) ? await answers.last().innerText() : '';
      if (text !== seen.at(-1)) seen.push(text);
      if (text.endsWith(first.end)) break;
      await page.waitForTimeout(50); // a user's eye: there is no event for a text that grows
    }
    const folded = await answered(first.end);
    await look('folded');
    await answers.last().getByText('Thought for').click();
    await answers.last().getByText(first.thought).waitFor();
    const unfolded = await answers.last().innerText();
    await look('unfolded');

    await send(long.said);
    await answers.nth(1).waitFor();
    const stopped = await interrupt(long.end);
    await look('stopped');
    const firstChat = page.url();

    await openChat();
    await send(second.said);
    await answered(second.end);
    const secondChat = page.url();

    await page.goto(firstChat);
    await answers.nth(1).getByText(long.end).waitFor();
    const kept = await answers.allInnerTexts();
    return { growth: seen.length, folded, unfolded, stopped, chats: [firstChat, secondChat], kept };
  },

  /** A tool of a tool server is called. */
  async tool({ server, said, end }) {
    await openChat();
    await page.getByRole('button', { name: 'Integrations' }).click();
    await page.getByRole('menuitem', { name: /^Tools/ }).click();
    await page.getByRole('menuitemcheckbox', { name: server }).click();
    await look('chosen');
    await page.keyboard.press('Escape');
    await send(said);
    const answer = await answered(end);
    await answers.last().getByText('View Result from').click();
    await answers.last().getByText('Output').waitFor();
    const opened = await answers.last().innerText();
    await look('answered');
    return { answer, opened };
  },

  /** An answer is asked for again, and once more with a wish. */
  async regenerate({ said, ends, wish }) {
    await openChat();
    await send(said);
    const seen = [await answered(ends[0])];
    await regenerate('Try Again');
    seen.push(await answered(ends[1]));
    await page.getByText('2/2', { exact: true }).waitFor();
    await look('second');
    await page.getByRole('button', { name: 'Previous message' }).click();
    seen.push(await answered(ends[0]));
    await page.getByRole('button', { name: 'Next message' }).click();
    await answered(ends[1]);
    await regenerate(wish);
    seen.push(await answered(ends[2]));
    await page.getByText('3/3', { exact: true }).waitFor();
    await look('third');
    return { seen };
  },

  /** A chat, step by step. Between two steps the proxy is restarted, if there is something that does so. */
  async talk({ name, script, restartUrl }) {
    await page.setViewportSize({ width: 1280, height: 1800 }); // messages out of sight are not in the page
    await openChat();
    const seen = [];
    for (const { step, ...given } of script) {
      if (seen.length && restartUrl) {
        const { status } = await fetch(restartUrl, { method: 'POST' });
        if (status !== 204) throw new Error(`no restart: ${status}`);
      }
      seen.push(await steps[step](given));
    }
    await look(name);
    return { seen };
  },

  /** An answer is stopped, then asked for again; the next is stopped, and its question changed. */
  async stopped({ said, end, wholeEnd, edited, editedEnd }) {
    await openChat();
    await send(said);
    const stopped = [await interrupt(end)];
    await regenerate('Try Again');
    const again = await answered(wholeEnd);
    await look('again');
    await send(said);
    await answers.nth(1).waitFor();
    stopped.push(await interrupt(end));
    await edit(edited);
    const changed = await answered(editedEnd);
    await look('changed');
    return { stopped, again, changed };
  },

  /** A picture is attached. */
  async image({ file, said, end }) {
    await openChat();
    await page.locator('input[type=file]').first().setInputFiles(file);
    await page.getByRole('button', { name: 'Remove File' }).waitFor();
    await send(said);
    const answer = await answered(end);
    await look('answered');
    return { answer };
  },

  /** A title, tags and follow-up questions are made up. */
  async title({ said, end, title, tag, question }) {
    await openChat();
    await page.getByRole('button', { name: 'Open Sidebar' }).first().click();
    await send(said);
    const answer = await answered(end);
    await page.getByRole('button', { name: `Follow up: ${question}` }).waitFor();
    await page.locator('#sidebar').getByText(title).first().waitFor();
    await page.locator('#chat-context-menu-button').click();
    await page.getByText(tag, { exact: true }).waitFor();
    await look('menu');
    return { title: await page.locator('#sidebar').getByText(title).first().innerText(), answer };
  },

  /** The agent runs a tool of its own. */
  async status({ said, running, done, end }) {
    await openChat();
    await send(said);
    await answers.last().getByText(running).waitFor();
    await look('running');
    await answered(end);
    await answers.last().getByText(done).click(); // the list of all that was shown
    await answers.last().getByText(running).waitFor();
    await look('done');
    return { answer: await answers.last().innerText() };
  },

  /** The user's message is edited and sent. */
  async edit({ said, edited, firstEnd, secondEnd }) {
    await openChat();
    await send(said);
    const first = await answered(firstEnd);
    await edit(edited);
    const second = await answered(secondEnd);
    await page.getByText('2/2', { exact: true }).waitFor();
    await look('second');
    return { first, second };
  },

  /** What the agent cannot do is said in the page, and the chat goes on behind it. */
  async refusals({ first, refused, broken, last }) {
    await openChat();
    await send(first.said);
    await answered(first.end);
    await page.getByRole('button', { name: 'Continue Response' }).click();
    const seen = [await answered(refused)];
    await send(broken.said);
    await answers.nth(1).waitFor();
    seen.push(await answered(broken.error));
    await look('errors');
    await send(last.said);
    await answers.nth(2).waitFor();
    seen.push(await answered(last.end));
    return { seen };
  },
};

const seen = await scenarios[scenario](JSON.parse(given)).catch(async (failure) => {
  await page.screenshot({ path: `${pictures}/${scenario}-failed.png` });
  throw failure;
});
await browser.close();
console.log(JSON.stringify(seen));
