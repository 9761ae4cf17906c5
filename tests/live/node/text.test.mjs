// Text, reasoning and usage: created with and without streaming, and through the stream helper.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { agents, ask, baseURL, connect } from './harness.mjs';

const greeting = 'Good morning, Sam. It is 7:30.';
const thought = 'He asks for the time of day.';
const script = `think ${thought}\nsay ${greeting}`;
const { client } = connect();

for (const stream of [false, true]) {
  const form = stream ? 'streamed' : 'whole';

  test(`text and reasoning, ${form}`, async () => {
    const answer = await ask(client, agents.text, script, { stream });
    assert.equal(answer.text, greeting);
    assert.equal(answer.reasoning, thought);
    assert.equal(answer.finish, 'stop');
    assert.deepEqual(answer.calls, []);
  });

  test(`a megabyte, ${form}`, async () => {
    const piece = 'é😀\u2028'.repeat(450);
    const answer = await ask(client, agents.long, `repeat 256 ${piece}`, { stream });
    assert.ok(answer.text === piece.repeat(256));
  });

  test(`a server tool is not the client's business, ${form}`, async () => {
    const note = 'say Noting.\ncall memory_insert {"label": "human", "new_string": "Likes tea."}';
    const answer = await ask(client, agents.text, note, { stream });
    assert.deepEqual(answer.calls, []);
    assert.equal(answer.finish, 'stop');
    assert.ok(answer.text.startsWith('Noting.\n\nresults: '));
  });
}

test('usage only where it is asked for', async () => {
  const whole = await ask(client, agents.text, script, { stream: false });
  assert.equal(whole.usage.total_tokens, 120);
  const asked = await ask(client, agents.text, script, { stream: true, stream_options: { include_usage: true } });
  assert.deepEqual(asked.usage, whole.usage);
  assert.deepEqual(asked.chunks.at(-1).choices, []);
  assert.ok(asked.chunks.slice(0, -1).every((chunk) => chunk.usage === null));
  const unasked = await ask(client, agents.text, script, { stream: true });
  assert.ok(unasked.chunks.every((chunk) => !('usage' in chunk)));
});

test('the stream helper', async () => {
  const stream_options = { include_usage: true };
  const messages = [{ role: 'user', content: script }];
  const runner = client.chat.completions.stream({ model: agents.text, messages, stream_options });
  let seen = '';
  runner.on('content', (delta) => (seen += delta));
  const completion = await runner.finalChatCompletion();
  assert.equal(seen, greeting);
  assert.equal(completion.choices[0].message.role, 'assistant');
  assert.equal(completion.choices[0].message.content, greeting);
  assert.equal(completion.choices[0].finish_reason, 'stop');
  assert.equal((await runner.totalUsage()).total_tokens, 120);
});

for (const ending of ['', '/', '/v1', '/v1/']) {
  test(`the base URL may end in '${ending}'`, async () => {
    const { client: other } = connect({ base: baseURL.replace(/\/v1$/, ending) });
    assert.equal((await ask(other, agents.text, 'say Hello.', { stream: true })).text, 'Hello.');
    assert.equal((await other.models.retrieve(agents.text)).id, agents.text);
  });
}
