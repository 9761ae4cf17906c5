// Clients that leave; test_node.py looks afterwards whether each run was cancelled. The next request works.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { agents, ask, connect, user } from './harness.mjs';

const { client } = connect();
const messages = [user('hi')];

async function checkNext(model) {
  assert.equal((await ask(client, model, 'still there?', { stream: true })).text, 'Hello');
}

test('abort in mid-stream', async () => {
  const stream = await client.chat.completions.create({ model: agents.leaving.aborts, messages, stream: true });
  let text = '';
  for await (const chunk of stream) {
    text += chunk.choices[0].delta.content;
    if (text === 'Hel') stream.controller.abort();
  }
  assert.equal(text, 'Hel');
  await checkNext(agents.leaving.aborts);
});

test('break out of the loop', async () => {
  const stream = await client.chat.completions.create({ model: agents.leaving.breaks, messages, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content === 'Hel') break;
  }
  await checkNext(agents.leaving.breaks);
});

test('abort the helper', async () => {
  const runner = client.chat.completions.stream({ model: agents.leaving.helper, messages });
  runner.on('content', () => runner.abort());
  await assert.rejects(runner.finalChatCompletion(), OpenAI.APIUserAbortError);
  await checkNext(agents.leaving.helper);
});

test('a timeout of a whole answer', async () => {
  const asked = client.chat.completions.create({ model: agents.leaving.whole, messages }, { timeout: 500 });
  await assert.rejects(asked, OpenAI.APIConnectionTimeoutError);
  await checkNext(agents.leaving.whole);
});
