// Text and usage: raw chunks, the helper's events, whole answers.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { agents, ask, connect, user } from './harness.mjs';

const { client } = connect();
const messages = [user('hi')];
const include_usage = { include_usage: true };
const usage = {
  prompt_tokens: 100,
  completion_tokens: 20,
  total_tokens: 120,
  prompt_tokens_details: { cached_tokens: 10, cache_write_tokens: 3 },
  completion_tokens_details: { reasoning_tokens: 5 },
};

test('chunks', async () => {
  const { chunks } = await ask(client, agents.text, messages, { stream: true });
  assert.deepEqual(
    chunks.map((chunk) => chunk.choices[0].delta),
    [
      { role: 'assistant', content: '' },
      { reasoning_content: 'First ' },
      { reasoning_content: 'this.' },
      { content: 'Hel' },
      { content: 'lo' },
      {},
    ],
  );
  assert.deepEqual(
    chunks.map((chunk) => chunk.choices[0].finish_reason),
    [null, null, null, null, null, 'stop'],
  );
  for (const { id, object, created, model, choices } of chunks) {
    assert.deepEqual(
      [id, object, created, model, choices.length],
      [chunks[0].id, 'chat.completion.chunk', chunks[0].created, agents.text, 1],
    );
  }
});

test('a whole answer', async () => {
  const completion = await client.chat.completions.create({ model: agents.text, messages });
  assert.equal(completion.object, 'chat.completion');
  assert.equal(completion.model, agents.text);
  const message = { role: 'assistant', content: 'Hello', reasoning_content: 'First this.', refusal: null };
  assert.deepEqual(completion.choices, [{ index: 0, message, finish_reason: 'stop', logprobs: null }]);
  assert.ok(completion._request_id.startsWith('req_'));
});

test('the helper', async () => {
  const runner = client.chat.completions.stream({ model: agents.text, messages });
  const contents = [];
  runner.on('content', (delta) => contents.push(delta));
  const completion = await runner.finalChatCompletion();
  assert.equal(contents.join(''), 'Hello');
  assert.equal(await runner.finalContent(), 'Hello');
  const [{ message, finish_reason }] = completion.choices;
  assert.deepEqual([message.role, message.content, finish_reason], ['assistant', 'Hello', 'stop']);
  assert.equal(message.tool_calls, undefined);
});

test('usage in a stream', async () => {
  const fields = { stream: true, stream_options: include_usage };
  const { chunks } = await ask(client, agents.text, messages, fields);
  const last = chunks.pop();
  assert.deepEqual([last.choices, last.usage], [[], usage]);
  assert.ok(chunks.every((chunk) => chunk.usage === null && chunk.choices.length === 1));
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
});

test('usage of a whole answer', async () => {
  assert.deepEqual((await ask(client, agents.text, messages, { stream: false })).usage, usage);
});

test('usage through the helper', async () => {
  const request = { model: agents.text, messages, stream_options: include_usage };
  const completion = await client.chat.completions.stream(request).finalChatCompletion();
  assert.deepEqual(completion.usage, usage);
});

test('no usage unless asked', async () => {
  for (const stream_options of [undefined, null, {}, { include_usage: false }]) {
    const { chunks } = await ask(client, agents.text, messages, { stream: true, stream_options });
    assert.ok(chunks.every((chunk) => !('usage' in chunk) && chunk.choices.length === 1));
  }
});
