// Clients that leave; test_node.py looks at Letta afterwards, where each of these runs must be cancelled.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';

import OpenAI from 'openai';

import { agents, connect, user } from './harness.mjs';

const long = 'slow 0.25\nwords 120';
const { client } = connect();

test('abort in mid-stream', async () => {
  const messages = [user(long)];
  const stream = await client.chat.completions.create({ model: agents['aborts'], messages, stream: true });
  let text = '';
  for await (const chunk of stream) {
    text += chunk.choices[0].delta.content ?? '';
    if (text.includes('w2')) stream.controller.abort();
  }
  assert.ok(text.startsWith('w0 w1 w2'));
});

test('break out of the loop', async () => {
  const messages = [user(long)];
  const stream = await client.chat.completions.create({ model: agents['breaks'], messages, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content?.includes('w1')) break;
  }
});

test('abort the helper', async () => {
  const runner = client.chat.completions.stream({ model: agents['aborts the helper'], messages: [user(long)] });
  runner.on('content', (_, snapshot) => snapshot.includes('w1') && runner.abort());
  await assert.rejects(runner.finalChatCompletion(), OpenAI.APIUserAbortError);
});

test('abort before the first token', async () => {
  const controller = new AbortController();
  const asking = client.chat.completions.create(
    { model: agents['aborts early'], messages: [user('wait 8\nsay Late.')], stream: true },
    { signal: controller.signal },
  );
  const settled = assert.rejects(asking, OpenAI.APIUserAbortError);
  await pause(1500); // there is nothing to wait for: the point is that no byte comes
  controller.abort();
  await settled;
});
