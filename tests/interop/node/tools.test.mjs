// A client's calls: one, three, interleaved, without arguments; and what follows their results.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { agents, ask, connect, tools, user } from './harness.mjs';

const { client } = connect();
const plain = ({ id, function: { name, arguments: text } }) => ({ id, name, arguments: text });

for (const { model, calls, form } of agents.calls) {
  test(`calls, ${model}`, async () => {
    if (form !== 'helper') {
      const answer = await ask(client, model, 'hi', { stream: form === 'streamed', tools });
      assert.deepEqual([answer.text, answer.finish], ['Let me see.', 'tool_calls']);
      assert.deepEqual(answer.calls.map(plain), calls);
      assert.ok(answer.calls.every((call) => call.type === 'function'));
      return;
    }
    const runner = client.chat.completions.stream({ model, messages: [user('hi')], tools });
    const done = new Map();
    runner.on('tool_calls.function.arguments.done', (event) => done.set(event.index, event.name));
    const completion = await runner.finalChatCompletion();
    const [{ message, finish_reason }] = completion.choices;
    assert.equal(finish_reason, 'tool_calls');
    assert.deepEqual(message.tool_calls.map(plain), calls);
    assert.deepEqual([...done.keys()].sort(), [...calls.keys()]);
  });
}

for (const { model, form, results } of agents.trips) {
  test(`a round trip, ${model}`, async () => {
    const stream = form === 'streamed';
    const messages = [user('How is the weather?')];
    const first = await ask(client, model, messages, { stream, tools });
    assert.equal(first.finish, 'tool_calls');
    messages.push({ role: 'assistant', content: first.text, tool_calls: first.calls });
    for (const { id } of first.calls) {
      messages.push({ role: 'tool', tool_call_id: id, content: results[id] });
    }
    const second = await ask(client, model, messages, { stream, tools });
    assert.deepEqual([second.text, second.finish, second.calls], ['Hello', 'stop', []]);
    messages.push({ role: 'assistant', content: second.text }, user('Thanks.'));
    assert.equal((await ask(client, model, messages, { stream, tools })).text, 'Hello');
  });
}

test('runTools', async () => {
  const given = [];
  const run = (args) => {
    given.push(args);
    return '18 C';
  };
  const runnable = tools.map((tool) => ({
    type: 'function',
    function: { ...tool.function, function: run, parse: JSON.parse },
  }));
  const messages = [user('How is the weather?')];
  for (const stream of [false, true]) {
    const model = agents.loops[stream ? 'streamed' : 'whole'];
    const runner = client.chat.completions.runTools({ model, messages, tools: runnable, stream });
    assert.equal(await runner.finalContent(), 'Hello');
  }
  assert.equal(given.length, 6);
});
